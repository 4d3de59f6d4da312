"""weaver-core on the benchmark file: its bulk loading, a cluster a fetch.

Run by the interpreter of weaver's environment, with a request in JSON as the only argument; prints one JSON line. What
is timed is ``weaver.utils.dataset._load_next``, the function that its data loader calls for each fetch: reading,
padding, stacking and shuffling of the fetched events, without standardisation. Its per-event iteration over the result,
an order of magnitude slower, is left out. Fetches of one cluster suit it best; its default of 1 % of a file would
inflate each basket several times.
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
    load = importlib.import_module("weaver.utils.dataset")._load_next
    config = _data_config(request)
    table, _ = _pass(load, config, request)  # warm-up: its kernels are compiled on first use
    begin, cpu = time.perf_counter(), time.process_time()
    events = sum(_pass(load, config, request)[0] for _ in range(request["passes"]))
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    check = {}
    if request["check"]:
        check = {"events": table, "sum": _pass(load, config, request, add=True)[1]}
    print(json.dumps({"rates": {"weaver_eps": [events / took, cpu * 1e9 / events]}, "check": check}))


def _pass(load: Any, config: Any, request: dict[str, Any], *, add: bool = False) -> tuple[int, float]:
    """All fetches of the file; gives the events, and the sum of all padded values where asked."""
    options = {
        "mode": "train",
        "training": True,
        "reweight": False,
        "shuffle": True,
        "up_sample": False,
        "weight_scale": 1,
        "max_resample": 1,
    }
    events, total, fetches = 0, 0.0, request["clusters"]
    for number in range(fetches):
        table, order = load(config, [request["path"]], [(number / fetches, (number + 1) / fetches)], options)
        events += len(order)
        if add:
            total += sum(float(table[f"_{name}"].sum(dtype="float64")) for name in config.input_names)
    return events, total


def _data_config(request: dict[str, Any]) -> Any:
    """Weaver's description of the same columns with the same padding, no scaling, and a column as label."""
    inputs = {"event": {"length": None, "vars": [[name, None] for name in request["flat"]]}}
    for name, length in request["lengths"].items():
        group = inputs.setdefault(name.partition("_")[0].lower(), {"length": length, "vars": []})
        group["vars"].append([name, None])  # type: ignore[union-attr]
    made: Any = importlib.import_module("weaver.utils.data.config").DataConfig
    return made(
        print_info=False,
        treename=request["tree"],
        preprocess={"method": "manual", "params": None},
        inputs=inputs,
        labels={"type": "custom", "value": {"_label_": request["label"]}},
    )


if __name__ == "__main__":
    main()
