"""Where a model comes from: files, settings and the packages that made it.

Invariant: nothing in it names a folder of this machine.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.backends.registry import Choice
from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue

_PACKAGES = ("mlaas4hep", "numpy", "onnx", "onnxruntime", "scikit-learn", "torch", "uproot", "xgboost", "xgboost-cpu")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what comes out, those that are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def provenance(config: Config, choice: Choice, catalogue: Catalogue) -> dict[str, Any]:
    """What the contract tells beside what it fixes."""
    files = [
        {
            "sample": catalogue.samples[file.sample].name,
            "file": Path(file.path).name,
            "tree": file.tree,
            "entries": file.num_entries,
        }
        for file in catalogue.files
    ]
    return {
        "model": choice.model,
        "files": files,
        "skipped": [one.as_plain() for one in catalogue.quarantine.records],
        "split_by": str(catalogue.identity),
        **({} if catalogue.hook is None else {"preprocessing_sha256": catalogue.hook.sha256}),
        "seed": config.training.seed,
        "training": msgspec.to_builtins(config.training),
        "versions": versions(),
    }
