"""ROOT's RDataLoader on the benchmark file: lazy, shuffled, 200 batches in memory.

Run by the interpreter of ROOT's environment, with a request in JSON as the only argument; prints one JSON line. The
first epoch of a fresh process includes what ROOT compiles for these columns, as its users see it. The dataset is the
file as often as asked for, so that an epoch has enough events to be timed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def main() -> None:
    """Answer the request."""
    request = json.loads(sys.argv[1])
    root: Any = importlib.import_module("ROOT")
    frame = root.RDataFrame(request["tree"], [request["path"]] * request["passes"])
    loader = root.Experimental.ML.RDataLoader(
        frame,
        batch_size=request["batch"],
        batches_in_memory=200,
        columns=[*request["flat"], *request["lengths"]],
        max_vec_sizes=request["lengths"],
        vec_padding=0,
        shuffle=True,
        drop_remainder=False,
        load_eager=False,
        set_seed=1,
    )
    rates = {"rdataloader_first_eps": _epoch(loader), "rdataloader_eps": _epoch(loader)}
    check = {}
    if request["check"]:
        batches = [(len(batch), float(batch.sum(dtype="float64"))) for batch in loader.as_numpy()]
        check = {
            name: sum(values) / request["passes"]
            for name, values in zip(("events", "sum"), zip(*batches, strict=True), strict=True)
        }
    print(json.dumps({"rates": rates, "check": check}))


def _epoch(loader: Any) -> tuple[float, float]:
    """Events a second and processor nanoseconds an event."""
    begin, cpu = time.perf_counter(), time.process_time()
    events = sum(len(batch) for batch in loader.as_numpy())
    return events / (time.perf_counter() - begin), (time.process_time() - cpu) * 1e9 / events


if __name__ == "__main__":
    main()
