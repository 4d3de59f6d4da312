"""The file that the streaming benchmark reads: made once, the same bits everywhere.

500,000 distinct events, 25 flat and 20 jagged branches in four collections, clusters of 50,000 entries, zlib level 1.
Jagged values and half of the flat ones have 12-bit mantissas, as NanoAOD stores them, so that zlib has as much to do as
on real files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import uproot
from numpy.typing import NDArray

from mlaas4hep.spec.columns import Jagged

COLLECTIONS = {"Jet": (4.0, 8), "FatJet": (1.5, 4), "Muon": (1.0, 2), "Electron": (0.5, 1)}
"""By name: mean number of objects, and how many of them the model sees."""
VARIABLES = ("pt", "eta", "phi", "mass", "score")
FLOATS = tuple(f"evt_f{number}" for number in range(20))
INTEGERS = tuple(f"evt_i{number}" for number in range(5))
CLUSTER = 50_000


def benchmark_file(folder: Path, *, clusters: int = 10) -> Path:
    """The file, made where it is not there yet (some seconds)."""
    path = folder / f"stream-v1-{clusters * CLUSTER}.root"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        _write(partial, clusters)
        partial.rename(path)
    return path


def _write(path: Path, clusters: int) -> None:
    import awkward as ak

    types: dict[str, Any] = dict.fromkeys(FLOATS, np.dtype("float32"))
    types.update(dict.fromkeys(INTEGERS, np.dtype("int32")))
    types.update({f"{name}_{variable}": "var * float32" for name in COLLECTIONS for variable in VARIABLES})
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree = file.mktree("Events", types, counter_name=lambda counted: f"n{counted.partition('_')[0]}")
        for number in range(clusters):
            columns = _cluster(np.random.default_rng([2026, number]))
            written: dict[str, Any] = {}
            for name, column in columns.items():
                if isinstance(column, Jagged):
                    values = ak.contents.NumpyArray(column.values)
                    written[name] = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(column.offsets), values))
                    written[f"n{name.partition('_')[0]}"] = column.counts.astype(np.int32)
                else:
                    written[name] = column
            tree.extend(written)


def _cluster(rng: np.random.Generator) -> dict[str, NDArray[Any] | Jagged]:
    columns: dict[str, NDArray[Any] | Jagged] = {}
    for number, name in enumerate(FLOATS):
        values = rng.normal(50.0, 20.0, CLUSTER).astype(np.float32)
        columns[name] = _packed(values) if number % 2 else values
    for name in INTEGERS:
        columns[name] = rng.integers(0, 1_000, CLUSTER).astype(np.int32)
    for name, (mean, _) in COLLECTIONS.items():
        counts = rng.poisson(mean, CLUSTER)
        for variable in VARIABLES:
            values = rng.exponential(40.0, int(counts.sum())).astype(np.float32)
            columns[f"{name}_{variable}"] = Jagged.from_counts(counts, _packed(values))
    return columns


def _packed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mantissas cut to 12 bits."""
    return (values.view(np.uint32) & np.uint32(0xFFFFF800)).view(np.float32)
