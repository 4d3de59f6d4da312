"""Events that are in the files more than once: in two samples, twice in one, in a copy of a file in another format.

Two events are the same where what identifies them is equal, and so are values of the inputs: generators number the
events of every sample from one. Compared are 64-bit hashes. Memory is bounded: beyond `MAX_HELD` events the hashes lie
in a temporary folder, 16 bytes each, parted by their upper bits, and one part is looked at after the other. Invariant:
what is found does not hang on order, threads or formats, and no duplicate is missed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import NO_LABEL, FileEntry
from mlaas4hep.data.hashing import UInt64, bits_of, mix
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Columns, Jagged, Nested, cast
from mlaas4hep.spec.preprocess import Preprocessor

MAX_HELD = 1_000_000
# So many values of an event, with its number, are those of no other event.
MAX_COLUMNS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_SEEN = np.dtype([("hash", np.uint64), ("place", np.int64)])
_GROUP = np.dtype(
    [("hash", np.uint64), ("sample", np.int64), ("count", np.int64), ("place", np.int64), ("again", np.int64)]
)
Array = NDArray[Any]
Places = NDArray[np.int64]


class Place(msgspec.Struct, frozen=True):
    """One entry: the name of its file, its tree, its number."""

    file: str
    tree: str
    entry: int

    def __str__(self) -> str:
        return f"{self.file}, tree '{self.tree}', entry {self.entry}"


class Twice(msgspec.Struct, frozen=True):
    """Events that two samples share, or that one holds more than once.

    Parameters
    ----------
    samples
        Twice the same name where it is one sample.
    events
        Of two samples, different events that both hold; of one, how many it holds beyond the first of each.
    classes
        Of the samples; None where a sample's events have each their own.
    first, again
        Where one of them is.
    """

    samples: tuple[str, str]
    events: int
    classes: tuple[str | None, str | None]
    first: Place
    again: Place

    @property
    def contradicts(self) -> bool:
        """Whether one event is learned as two classes."""
        one, other = self.classes
        return one is not None and other is not None and one != other

    def __str__(self) -> str:
        one, other = self.samples
        where = f"such as {self.first} and {self.again}"
        if one == other:
            return f"the sample '{one}' holds {self.events:,} events more than once, {where}: they count too often"
        harm = f"as '{self.classes[0]}' and as '{self.classes[1]}'" if self.contradicts else "and count twice"
        return f"the samples '{one}' and '{other}' share {self.events:,} events, {where}: they are learned {harm}"


class Duplicates(msgspec.Struct, frozen=True):
    """What was found.

    Parameters
    ----------
    events
        Selected events looked at.
    surplus
        How many of them are in the files once more than once.
    by
        What was compared, in words.
    chance
        Expected number of pairs that are taken for the same by chance: two hashes of 64 bits that are equal.
    pairs
        By pair of samples, the most events first.
    """

    events: int
    surplus: int
    by: str
    chance: float
    pairs: tuple[Twice, ...] = ()

    def lines(self) -> Iterator[str]:
        """In words; nothing where there are none."""
        for one in self.pairs:
            yield f"duplicates: {one} (compared by {self.by})"


class EventHasher:
    """Hashes events by what tells whether they are the same.

    Parameters
    ----------
    catalogue, preprocessor
        Identity and inputs.
    """

    def __init__(self, catalogue: Catalogue, preprocessor: Preprocessor) -> None:
        identity = catalogue.identity
        names = [] if identity.origin == "inputs" else _telling(catalogue, preprocessor)
        self._types = {name: catalogue.types[name] for name in names}
        words = str(identity) if identity.origin == "inputs" else ", ".join(identity.columns)
        self.by = f"{words} and the values of {', '.join(names)}" if names else words

    def told_apart(self, hashes: UInt64, columns: Columns) -> UInt64:
        """Hashes of identities, uint64 [N], with values of the inputs: of a list its length and its first value."""
        state = hashes.copy()
        for column in cast(columns, self._types).values():
            state ^= bits_of(column) if isinstance(column, np.ndarray) else _first(column)
            state += np.uint64(_GOLDEN)
            mix(state)
        return state


def _telling(catalogue: Catalogue, preprocessor: Preprocessor) -> list[str]:
    """Columns behind the inputs whose values tell events apart best: those with fractions, one value an event first."""
    kinds = {name: catalogue.types[name] for name in preprocessor.columns - set(catalogue.identity.columns)}
    wanted = [name for name, one in kinds.items() if one.kind != "nested"]
    rank = {name: (not kinds[name].dtype.startswith("float"), kinds[name].kind != "flat", name) for name in wanted}
    return sorted(wanted, key=rank.__getitem__)[:MAX_COLUMNS]


def _first(column: Jagged | Nested) -> UInt64:
    """Length and first value of each list as one word."""
    if isinstance(column, Nested):
        raise DataError("lists of lists tell no events apart")
    counts = column.counts.astype(np.uint64)
    words = np.zeros(len(counts), dtype=np.uint64)
    filled = counts > 0
    words[filled] = bits_of(column.values[column.offsets[:-1][filled]])
    words ^= counts << np.uint64(48)
    return words


class DuplicateFinder:
    """Collects hashes of events, and finds those that came more than once.

    Parameters
    ----------
    catalogue
        Files and samples.
    by
        What is compared, in words.
    max_held
        Events whose hashes may be in memory, 16 bytes each; half as much again while a part is looked at.
    """

    def __init__(self, catalogue: Catalogue, by: str, *, max_held: int = MAX_HELD) -> None:
        self._catalogue = catalogue
        self._by = by
        self._max_held = max_held
        sizes = [file.num_entries for file in catalogue.files]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._held: list[Array] = []
        self._num_held = 0
        self._events = 0
        # Twice as many parts as would just do: they are of one size up to chance.
        self._num_parts = 1 + 2 * catalogue.num_entries // max_held
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, file: FileEntry, entries: NDArray[np.int64], hashes: UInt64) -> None:
        """Some events of a file.

        Raises
        ------
        DataError
            The disk is full.
        """
        seen = np.empty(len(entries), dtype=_SEEN)
        seen["hash"], seen["place"] = hashes, entries + self._begins[file.number]
        self._held.append(seen)
        self._num_held += len(seen)
        self._events += len(seen)
        if self._num_held >= self._max_held:
            self._spill()

    def find(self) -> Duplicates:
        """What came more than once, of all that was added."""
        counts: dict[tuple[int, int], int] = {}
        places: dict[tuple[int, int], tuple[int, int]] = {}
        surplus = 0
        for groups in self._groups():
            surplus += int(groups["count"].sum()) - len(np.unique(groups["hash"]))
            for pair, events, first, again in _pairs(groups):
                counts[pair] = counts.get(pair, 0) + events
                places[pair] = min(places.get(pair, (first, again)), (first, again))
        order = sorted(counts, key=lambda pair: (-counts[pair], pair))
        return Duplicates(
            self._events,
            surplus,
            self._by,
            self._events * (self._events - 1) / 2.0**65,
            tuple(self._twice(pair, counts[pair], places[pair]) for pair in order),
        )

    def close(self) -> None:
        """Remove what lies on disk."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spill(self) -> None:
        """What is held, to the files of the parts."""
        seen = np.concatenate(self._held)
        self._held, self._num_held = [], 0
        part = ((seen["hash"] >> np.uint64(32)) * np.uint64(self._num_parts)) >> np.uint64(32)
        seen = seen[np.argsort(part, kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(part.astype(np.int64), minlength=self._num_parts))])
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="mlaas4hep-duplicates-")
            for number in range(self._num_parts):
                with (Path(self._folder.name) / str(number)).open("ab") as file:
                    seen[bounds[number] : bounds[number + 1]].tofile(file)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: no room to look for duplicate events, which takes 16 bytes each for "
                f"{self._catalogue.num_entries:,} entries: {error.strerror}; set TMPDIR, or duplicates: ignore"
            ) from error

    def _groups(self) -> Iterator[Array]:
        """Hashes that came more than once, part by part: their samples, how often each holds them, and where first."""
        if self._folder is None:
            yield from self._repeated(iter([np.concatenate(self._held)] if self._held else []))
            return
        if self._held:
            self._spill()
        for number in range(self._num_parts):
            yield from self._repeated(_pieces(Path(self._folder.name) / str(number), self._max_held))

    def _repeated(self, pieces: Iterator[Array]) -> Iterator[Array]:
        """Of one part. Piece by piece, so that an event that is there a billion times takes no memory."""
        groups = np.empty(0, dtype=_GROUP)
        first = next(pieces, None)
        if first is not None:
            second = next(pieces, None)
            begun = [_only_repeated(first)] if second is None else [first, second]
            for seen in itertools.chain(begun, pieces):
                groups = _joined(np.concatenate([groups, self._single(seen)]))
        same = groups["hash"][1:] == groups["hash"][:-1]
        repeated = groups["count"] > 1
        repeated[1:] |= same
        repeated[:-1] |= same
        if repeated.any():
            yield groups[repeated]

    def _single(self, seen: Array) -> Array:
        """Each event as a group of its own."""
        groups = np.empty(len(seen), dtype=_GROUP)
        groups["hash"], groups["place"] = seen["hash"], seen["place"]
        groups["count"], groups["again"] = 1, np.iinfo(np.int64).max
        groups["sample"] = self._samples(seen["place"])
        return groups

    def _samples(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        samples = np.array([file.sample for file in self._catalogue.files], dtype=np.int64)
        return samples[np.searchsorted(self._begins, places, side="right") - 1]

    def _twice(self, pair: tuple[int, int], events: int, places: tuple[int, int]) -> Twice:
        samples = [self._catalogue.samples[number] for number in pair]
        names = [None if one.label == NO_LABEL else self._catalogue.classes[one.label] for one in samples]
        first, again = (self._place(one) for one in places)
        return Twice((samples[0].name, samples[1].name), events, (names[0], names[1]), first, again)

    def _place(self, place: int) -> Place:
        number = int(np.searchsorted(self._begins, place, side="right")) - 1
        file = self._catalogue.files[number]
        return Place(Path(file.path).name, file.tree, int(place - self._begins[number]))


def _only_repeated(seen: Array) -> Array:
    """Events whose hash is there more than once: mostly none, so that the rest costs nothing."""
    hashes = np.sort(seen["hash"])
    return seen[np.isin(seen["hash"], hashes[1:][hashes[1:] == hashes[:-1]])]


def _pieces(path: Path, most: int) -> Iterator[Array]:
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, dtype=_SEEN, count=most)):
            yield piece


def _joined(groups: Array) -> Array:
    """One row a hash and sample, by hash, then sample: counts added, the two smallest places kept."""
    groups = groups[np.lexsort((groups["place"], groups["sample"], groups["hash"]))]
    begins = np.ones(len(groups), dtype=np.bool_)
    begins[1:] = (groups["hash"][1:] != groups["hash"][:-1]) | (groups["sample"][1:] != groups["sample"][:-1])
    starts = np.flatnonzero(begins)
    done = groups[starts]
    if len(starts):
        done["count"] = np.add.reduceat(groups["count"], starts)
        several = np.flatnonzero(np.diff(np.append(starts, len(groups))) > 1)
        done["again"][several] = np.minimum(done["again"][several], groups["place"][starts[several] + 1])
    return done


def _pairs(groups: Array) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    """Pairs of samples, how many events, and two places of one of them; groups lie by hash, then sample."""
    own = groups[groups["count"] > 1]
    yield from _counted(own["sample"], own["sample"], own["count"] - 1, own["place"], own["again"])
    shift = 1
    while len(one := np.flatnonzero(groups["hash"][shift:] == groups["hash"][:-shift])):
        first, again = groups[one], groups[one + shift]
        once = np.ones(len(one), dtype=np.int64)
        yield from _counted(first["sample"], again["sample"], once, first["place"], again["place"])
        shift += 1


def _counted(
    one: Places, other: Places, events: Places, first: Places, again: Places
) -> Iterator[tuple[tuple[int, int], int, int, int]]:
    for pair in np.unique(np.stack([one, other], axis=1), axis=0).tolist():
        own = np.flatnonzero((one == pair[0]) & (other == pair[1]))
        where = own[np.argmin(first[own])]
        yield (pair[0], pair[1]), int(events[own].sum()), int(first[where]), int(again[where])
