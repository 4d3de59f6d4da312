"""The files that the streaming benchmarks read: made once, the same events everywhere.

Narrow: 500,000 distinct events, 25 flat and 20 jagged branches in four collections, clusters of 50,000 entries. Wide:
20,000 events, 584 flat and 346 jagged branches in 20 collections, clusters of 5,000. Jagged values and half of the flat
ones have 12-bit mantissas, as NanoAOD stores them, so that codecs have as much to do as on real files. Written by
uproot, hence without ROOT: one basket a branch and cluster, which is what ROOT's Snapshot writes too when told
50,000-entry clusters and 100 kB baskets (from the second cluster on; sizes agree to 0.2 %).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from numpy.typing import NDArray

from mlaas4hep.spec.columns import Jagged

TREE = "Events"
CODECS: Mapping[str, Callable[[], Any]] = {
    "zlib": lambda: uproot.ZLIB(1),
    "lz4": lambda: uproot.LZ4(4),
    "zstd": lambda: uproot.ZSTD(5),
}
"""The codec and level that ROOT files of each kind usually have."""
_VERSION = 2  # part of the names: raised whenever the events or the layout change


@dataclass(frozen=True)
class Layout:
    """Branches of a file.

    Parameters
    ----------
    floats, integers
        Flat branches.
    collections
        By name: mean number of objects, and how many of them the model sees.
    variables
        By collection: its jagged branches, named ``COLLECTION_VARIABLE``.
    cluster
        Entries a cluster.
    clusters
        How many of them.
    """

    name: str
    floats: tuple[str, ...]
    integers: tuple[str, ...]
    collections: Mapping[str, tuple[float, int]]
    variables: Mapping[str, tuple[str, ...]]
    cluster: int
    clusters: int

    @property
    def events(self) -> int:
        """Entries of a file."""
        return self.cluster * self.clusters

    @property
    def flat(self) -> tuple[str, ...]:
        """Flat branches that are read."""
        return (*self.floats, *self.integers)

    @property
    def lengths(self) -> dict[str, int]:
        """Jagged branches that are read: objects kept of each."""
        return {
            f"{name}_{one}": length for name, (_, length) in self.collections.items() for one in self.variables[name]
        }

    @property
    def branches(self) -> tuple[str, ...]:
        """All that are read; the counters come on top in the file."""
        return (*self.flat, *self.lengths)

    @property
    def width(self) -> int:
        """Values of a padded event."""
        return len(self.flat) + sum(self.lengths.values())


NARROW = Layout(
    name="narrow",
    floats=tuple(f"evt_f{number}" for number in range(20)),
    integers=tuple(f"evt_i{number}" for number in range(5)),
    collections={"Jet": (4.0, 8), "FatJet": (1.5, 4), "Muon": (1.0, 2), "Electron": (0.5, 1)},
    variables=dict.fromkeys(("Jet", "FatJet", "Muon", "Electron"), ("pt", "eta", "phi", "mass", "score")),
    cluster=50_000,
    clusters=10,
)
_WIDE_COLLECTIONS = {f"Obj{number}": (1.0 + 0.47 * number, 8) for number in range(20)}
WIDE = Layout(
    name="wide",
    floats=tuple(f"evt_f{number}" for number in range(500)),
    integers=tuple(f"evt_i{number}" for number in range(84)),
    collections=_WIDE_COLLECTIONS,
    # 346 in all: 18 in each third collection, 17 in the others, one of which has 16.
    variables={
        name: tuple(f"v{one}" for one in range(17 + (number % 3 == 0) - (number == 1)))
        for number, name in enumerate(_WIDE_COLLECTIONS)
    },
    cluster=5_000,
    clusters=4,
)


def events_file(folder: Path, layout: Layout, *, codec: str = "zlib", number: int = 0) -> Path:
    """A file, made where it is not there yet (some seconds).

    Parameters
    ----------
    folder
        Where files are kept.
    layout, codec
        What is in it, and one of `CODECS`.
    number
        Files of another number have other events.
    """
    path = folder / f"{layout.name}-v{_VERSION}-{codec}-{number}.root"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write_events(partial, layout, codec=codec, number=number)
        partial.rename(path)
    return path


def write_events(path: Path, layout: Layout, *, codec: str, number: int = 0) -> None:
    """Write the clusters of one file."""
    types: dict[str, Any] = dict.fromkeys(layout.floats, np.dtype("float32"))
    types.update(dict.fromkeys(layout.integers, np.dtype("int32")))
    types.update(dict.fromkeys(layout.lengths, "var * float32"))
    with uproot.recreate(path, compression=CODECS[codec]()) as file:
        tree = file.mktree(TREE, types, counter_name=_counter, initial_basket_capacity=layout.clusters + 1)
        # ROOT takes the clusters of a tree from here; uproot offers no argument for it, and its default would let
        # ROOT read in steps that straddle them.
        tree._cascading._metadata["fAutoFlush"] = layout.cluster
        for cluster in range(layout.clusters):
            rng = np.random.default_rng([2026, number * layout.clusters + cluster])
            tree.extend(_as_written(_columns(rng, layout)))


def _counter(branch: str) -> str:
    return f"n{branch.partition('_')[0]}"


def _columns(rng: np.random.Generator, layout: Layout) -> Iterable[tuple[str, NDArray[Any] | Jagged]]:
    for number, name in enumerate(layout.floats):
        values = rng.normal(50.0, 20.0, layout.cluster).astype(np.float32)
        yield name, _packed(values) if number % 2 else values
    for name in layout.integers:
        yield name, rng.integers(0, 1_000, layout.cluster).astype(np.int32)
    for name, (mean, _) in layout.collections.items():
        counts = rng.poisson(mean, layout.cluster)
        for variable in layout.variables[name]:
            values = rng.exponential(40.0, int(counts.sum())).astype(np.float32)
            yield f"{name}_{variable}", Jagged.from_counts(counts, _packed(values))


def _as_written(columns: Iterable[tuple[str, NDArray[Any] | Jagged]]) -> dict[str, Any]:
    import awkward as ak

    written: dict[str, Any] = {}
    for name, column in columns:
        if isinstance(column, Jagged):
            values = ak.contents.NumpyArray(column.values)
            written[name] = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(column.offsets), values))
            written[_counter(name)] = column.counts.astype(np.int32)
        else:
            written[name] = column
    return written


def _packed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mantissas cut to 12 bits."""
    return (values.view(np.uint32) & np.uint32(0xFFFFF800)).view(np.float32)
