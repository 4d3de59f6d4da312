"""weaver-core learning from the benchmark file: its own loader and its own training loop, one network.

Run by the interpreter of weaver's environment, with a request in JSON as the only argument; prints one JSON line with
the seconds of one epoch over a share of the file, and the events in it. The loader has its usual settings: one process
beside the one that learns, reading ahead in a thread, a cluster a fetch (its default of 1 % of a file would inflate
each basket several times). The inputs are standardised by constants, so that no pass for them is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    """Answer the request."""
    request = json.loads(sys.argv[1])
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(request["threads"])
    tools: Any = importlib.import_module("weaver.utils.nn.tools")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
        json.dump(_data_config(request), written)  # JSON is YAML
        written.flush()
        loader = _loader(torch, request, written.name)
        network = _network(torch, request)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
        counted = _Counting(loader)
        extra = {"args": argparse.Namespace(use_amp=False, amp_dtype=None)}
        loss = torch.nn.CrossEntropyLoss()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            begin = time.perf_counter()
            tools.train_classification(network, loss, optimiser, None, counted, "cpu", 0, extra_args=extra)
            took = time.perf_counter() - begin
    print(json.dumps({"seconds": took, "events": counted.events}))


class _Counting:
    """A loader that counts the events it gives."""

    def __init__(self, loader: Any) -> None:
        self.dataset = loader.dataset
        self.events = 0
        self._loader = loader

    def __len__(self) -> int:
        return 1  # nobody knows

    def __iter__(self) -> Any:
        for batch in self._loader:
            self.events += len(next(iter(batch[1].values())))
            yield batch


def _loader(torch: Any, request: dict[str, Any], config: str) -> Any:
    made: Any = importlib.import_module("weaver.utils.dataset").SimpleIterDataset
    dataset = made(
        {"_": [request["path"]]},
        config,
        for_training=True,
        load_range_and_fraction=((0.0, request["share"]), 1, 1),
        fetch_step=1 / request["clusters"],
        name="train",
    )
    return torch.utils.data.DataLoader(dataset, batch_size=request["batch"], num_workers=1, drop_last=True)


def _network(torch: Any, request: dict[str, Any]) -> Any:
    """The same multi-layer network on everything flattened, with an output a class, as weaver's loop wants it."""
    width = len(request["flat"]) + sum(request["lengths"].values())
    sizes = [width, *request["hidden"]]
    layers = []
    for size, following in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(size, following), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    body = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 2))

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, *inputs: Any) -> Any:
            return self.body(torch.cat([one.flatten(1) for one in inputs], dim=1))

    return Flat()


def _data_config(request: dict[str, Any]) -> dict[str, Any]:
    """Weaver's description of the same columns with the same padding; a column says which class an event is of."""
    inputs: dict[str, Any] = {
        "event": {
            "length": None,
            "pad_mode": "constant",
            "vars": [[name, 50, 0.05, -1e9, 1e9] for name in request["flat"]],
        }
    }
    for name, length in request["lengths"].items():
        group = inputs.setdefault(
            name.partition("_")[0].lower(), {"length": length, "pad_mode": "constant", "vars": []}
        )
        group["vars"].append([name, 40, 0.025, -1e9, 1e9])
    return {
        "treename": request["tree"],
        "new_variables": {"is_signal": "evt_i0>=500", "is_background": "evt_i0<500"},
        "preprocess": {"method": "manual", "params": None},
        "inputs": inputs,
        "labels": {"type": "simple", "value": ["is_background", "is_signal"]},
    }


if __name__ == "__main__":
    main()
