"""The good files that damage is done to: the same 20,000 events in TTrees and RNTuples, and a wide file.

Values have few bits, as detectors' have, so that every basket and page is stored compressed; all of them are exact in
float32, so that a changed bit shows in a row. The TTree object of ``zlib`` and ``wide`` is compressed as ROOT does it,
the one of ``lz4`` stands in the file as it is, as uproot does it; pages have checksums. Invariant: a jagged list has at
most `LONGEST` elements, so that rows hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from numpy.typing import NDArray

from benchmarks.damage.surgery import TREE, RNTupleFile, RootFile, TTreeFile
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events

EVENTS, CLUSTER = 20_000, 4_000
WIDE_EVENTS, WIDE_CLUSTER, WIDE_BRANCHES = 4_000, 1_000, 150
LONGEST = 24
FLAT = ("x", "y", "n", "ev")
LISTS = ("Jet_pt", "Jet_eta")
NARROW, WIDE = "narrow", "wide"
BASES: Mapping[str, str] = {"zlib": NARROW, "lz4": NARROW, "rntuple": NARROW, "wide": WIDE}
"""Good files by name, and which events they hold."""
_CODECS = {"zlib": lambda: uproot.ZLIB(6), "lz4": lambda: uproot.LZ4(4), "rntuple": lambda: uproot.ZSTD(5)}


def narrow(events: int = EVENTS, seed: int = 1) -> dict[str, NDArray[Any] | Jagged]:
    """Four numbers an event and two lists of one length."""
    chance = np.random.default_rng(seed)
    counts = np.minimum(chance.poisson(3, events), LONGEST)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return {
        "x": _coarse(chance.normal(size=events), 256).astype(np.float32),
        "y": _coarse(chance.normal(size=events), 1024),
        "n": chance.integers(0, 50, events, dtype=np.int32),
        "ev": np.arange(events, dtype=np.int64),
        "Jet_pt": Jagged(offsets, _coarse(chance.exponential(30, offsets[-1]), 16).astype(np.float32)),
        "Jet_eta": Jagged(offsets, _coarse(chance.normal(0, 2, offsets[-1]), 64).astype(np.float32)),
    }


def wide(events: int = WIDE_EVENTS, seed: int = 2) -> dict[str, NDArray[Any]]:
    """Many flat branches."""
    chance = np.random.default_rng(seed)
    columns: dict[str, NDArray[Any]] = {
        f"v{number}": _coarse(chance.normal(size=events), 64).astype(np.float32) for number in range(WIDE_BRANCHES)
    }
    return {"ev": np.arange(events, dtype=np.int64), **columns}


def write_base(name: str, folder: Path) -> Path:
    """Write one good file of `BASES`."""
    path = folder / f"good_{name}.root"
    if name == "wide":
        _write(path, wide(), uproot.ZLIB(1), WIDE_CLUSTER, "ttree")
    else:
        _write(path, narrow(), _CODECS[name](), CLUSTER, "rntuple" if name == "rntuple" else "ttree")
    file = open_base(path)
    if isinstance(file, RNTupleFile):
        file.add_checksums()
    elif isinstance(file, TTreeFile) and name != "lz4":
        file.put_tree()
    path.write_bytes(file.data)
    return path


def write_companion(kind: str, folder: Path) -> Path:
    """A small good file with the columns of a kind, that is read along with the damaged one."""
    columns = narrow(500, seed=3) if kind == NARROW else wide(500, seed=3)
    return write_events(folder / f"companion_{kind}.root", columns, cluster=250)


def open_base(path: Path) -> RootFile:
    """A good file taken apart."""
    with uproot.open(path) as file:
        kind = file.classnames()[f"{TREE};1"]
    return TTreeFile(path) if kind == "TTree" else RNTupleFile(path)


def _coarse(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    return np.round(values * steps) / steps


def _write(path: Path, columns: Mapping[str, Any], codec: Any, cluster: int, format: str) -> None:
    import awkward as ak

    def part(column: Any, start: int) -> Any:
        some = column[start : start + cluster]
        return some if isinstance(some, np.ndarray) else ak.unflatten(some.values, some.counts)

    lists = [name for name, one in columns.items() if isinstance(one, Jagged)]
    types = {name: "var * float32" if name in lists else one.dtype for name, one in columns.items()}
    with uproot.recreate(path, compression=codec) as file:
        if format == "ttree":
            tree = file.mktree(TREE, types, counter_name=lambda counted: f"n{counted.partition('_')[0]}")
        else:
            tree = file.mkrntuple(TREE, types)
        for start in range(0, len(next(iter(columns.values()))), cluster):
            found = {name: part(one, start) for name, one in columns.items()}
            if lists and format == "ttree":
                found["nJet"] = columns[lists[0]][start : start + cluster].counts.astype(np.int32)
            tree.extend(found)
