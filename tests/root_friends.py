"""Run by ROOT's own Python, not by pytest: reads inputs with their friends as an analysis does, and keeps what it saw.

Its argument is a JSON object: ``inputs`` and ``outputs``, ``tree`` and ``table``, ``columns`` of inputs and ``scores``
of the outputs, ``kind`` of the outputs (``ttree``, ``rntuple``), ``into`` an .npz file. The last line of its output is
JSON with the numbers of entries.
"""

import json
import sys

import numpy as np
import ROOT


def joined_trees(asked):
    """A chain with its friend chain, through RDataFrame; and the same events through a plain loop over entries."""
    chain, friend = ROOT.TChain(asked["tree"]), ROOT.TChain(asked["table"])
    for path in asked["inputs"]:
        chain.Add(path)
    for path in asked["outputs"]:
        friend.Add(path)
    chain.AddFriend(friend)
    names = {one: one for one in asked["columns"]} | {one: f"{asked['table']}.{one}" for one in asked["scores"]}
    found = ROOT.RDataFrame(chain).AsNumpy(list(names.values()))
    scanned = []
    for _ in chain:
        scanned.append(float(getattr(chain, asked["scores"][0])))
    entries = {"main": int(chain.GetEntries()), "friend": int(friend.GetEntries()), "scanned": len(scanned)}
    values = {name: found[shown] for name, shown in names.items()} | {"scanned": np.array(scanned)}
    return values, entries


def joined_ntuples(asked):
    """RNTuples side by side, file by file, as RNTupleProcessor joins them; and the friends alone, by RDataFrame."""
    experimental = ROOT.Experimental
    values = {name: [] for name in (*asked["columns"], asked["scores"][0])}
    for main, friend in zip(asked["inputs"], asked["outputs"], strict=True):
        specs = [experimental.RNTupleOpenSpec(*one) for one in ((asked["tree"], main), (asked["table"], friend))]
        joined = experimental.RNTupleProcessor.CreateJoin(*specs, ROOT.std.vector["std::string"]())
        fields = {name: joined.RequestField["float"](name) for name in asked["columns"]}
        shown = asked["scores"][0]
        fields[shown] = joined.RequestField["float"](f"{asked['table']}.{shown}")
        for _ in joined:
            for name, field in fields.items():
                values[name].append(field.__deref__())
    frame = ROOT.RDataFrame(asked["table"], asked["outputs"])
    scanned = np.array(values.pop(asked["scores"][0]))
    entries = {"main": len(scanned), "friend": int(frame.Count().GetValue()), "scanned": len(scanned)}
    return {**values, **frame.AsNumpy(asked["scores"]), "scanned": scanned}, entries


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    values, entries = (joined_trees if asked["kind"] == "ttree" else joined_ntuples)(asked)
    np.savez(asked["into"], **{name: np.asarray(one) for name, one in values.items()})
    print(json.dumps(entries))
