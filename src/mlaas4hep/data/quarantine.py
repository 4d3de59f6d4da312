"""Bad files and bad places in files: left out, listed, and never more of them than allowed.

What cannot be read is left out in units that hang on the file alone: a whole file that cannot be opened, or a cluster
of one (large ones in equal parts). Invariant: every entry that is left out is listed here once, with its reason, before
the first event behind it is delivered (law 8).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import OnError
from mlaas4hep.errors import DataError, told_once

LARGEST_UNIT = 50_000


@dataclass(frozen=True)
class Skipped:
    """One thing that was left out.

    Parameters
    ----------
    sample, path
        Where; the sample may be empty where files are looked at that belong to none.
    reason
        Why, in the words of the error, without the file and tree that it names.
    tree
        None where the file could not be opened.
    start, stop
        Entry range; None where it is not known how many entries there are.
    index
        Place of the file in its sample: names alone may be equal.
    """

    sample: str
    path: str
    reason: str
    tree: str | None = None
    start: int | None = None
    stop: int | None = None
    index: int | None = None

    @property
    def entries(self) -> int | None:
        """How many entries are missing; None where nobody knows."""
        return None if self.start is None or self.stop is None else self.stop - self.start

    def __str__(self) -> str:
        return f"{self.path}{self.rest}"

    @property
    def rest(self) -> str:
        """What is told behind the name of the file."""
        if self.tree is None:
            whose = f" (sample '{self.sample}')" if self.sample else ""
            return f"{whose}: {self.reason}"
        return f", tree '{self.tree}', entries {self.start} to {self.stop}: {self.reason}"

    def as_plain(self) -> dict[str, Any]:
        """For a report."""
        where = {"sample": self.sample, "file": PurePosixPath(self.path).name, "tree": self.tree}
        # Reports go into bundles, which travel: without folders of this machine.
        reason = self.reason.replace(self.path, where["file"] or "")
        return {
            **where,
            "index": self.index,
            "start": self.start,
            "stop": self.stop,
            "entries": self.entries,
            "reason": reason,
        }


@dataclass
class Quarantine:
    """What was left out so far. May be shared by threads.

    Parameters
    ----------
    policy
        How much may be.
    total
        Entries of all files; what percentages are of.
    unopened
        Those of them in files that could not be opened, each taken for an average one of its sample.
    """

    policy: OnError = field(default_factory=OnError)
    total: int = 0
    unopened: int = 0
    _records: list[Skipped] = field(default_factory=list)
    _ranges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy without the lock, which a forked process may have inherited closed; lists are copied in one step."""
        ranges = {file: list(bounds) for file, bounds in list(self._ranges.items())}
        return {
            "policy": self.policy,
            "total": self.total,
            "unopened": self.unopened,
            "_records": list(self._records),
            "_ranges": ranges,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def records(self) -> tuple[Skipped, ...]:
        """Everything left out: files first, then places in the order of samples, files and entries."""
        with self._lock:
            return tuple(sorted(self._records, key=lambda one: (one.tree is not None, one.sample, one.path, one.start)))

    def __len__(self) -> int:
        return len(self._records)

    def ranges(self, file: int) -> tuple[tuple[int, int], ...]:
        """Entry ranges of a file, by its number in the catalogue, that are left out; rising."""
        with self._lock:
            return tuple(sorted(self._ranges.get(file, ())))

    def add_file(self, record: Skipped) -> None:
        """Leave a file out.

        Raises
        ------
        DataError
            The policy does not allow it.
        """
        with self._lock:
            self._records.append(record)
            self._check(record)

    def add_range(self, file: int, record: Skipped) -> None:
        """Leave a unit of a file out; doing so twice changes nothing.

        Raises
        ------
        DataError
            The policy does not allow it.
        """
        assert record.start is not None
        assert record.stop is not None
        bounds = (record.start, record.stop)
        with self._lock:
            if bounds in self._ranges.setdefault(file, []):
                return
            self._ranges[file].append(bounds)
            self._records.append(record)
            self._check(record)

    def check(self) -> None:
        """Once the number of entries is known: refuse where too many are missing."""
        with self._lock:
            if self._records:
                self._check(self._records[-1])

    def _check(self, record: Skipped) -> None:
        policy = self.policy
        if not policy.skips:
            raise DataError(str(record))
        if policy.most is not None and len(self._records) > policy.most:
            raise DataError(f"{self._count()} cannot be read, and on_error allows {policy.most}; the last: {record}")
        missing = self.unopened + sum(one.entries or 0 for one in self._records)
        if policy.most_percent is not None and self.total and 100 * missing > policy.most_percent * self.total:
            raise DataError(
                f"{missing} of {self.total} entries ({100 * missing / self.total:.2g} %) cannot be read, and on_error "
                f"allows {policy.most_percent:g} %; the last: {record}"
            )

    def _count(self) -> str:
        return f"{len(self._records)} file{'s' if len(self._records) > 1 else ''} or clusters"


def told(records: Iterable[Skipped]) -> list[str]:
    """A line for each thing that was left out; what several files have in common is told once."""
    return told_once((one.path, one.rest) for one in records)


def reason_of(error: DataError | str, path: str, tree: str | None = None) -> str:
    """The words of an error about a file, without what stands beside them anyway: its name, and its tree's.

    Examples
    --------
    >>> reason_of("a.root, tree 'Events', branch 'x': is damaged", "a.root", "Events")
    "branch 'x': is damaged"
    """
    words = str(error)
    for begin in (f"{path}, tree '{tree}', ", f"{path}, tree '{tree}': ", f"{path}, tree '{tree}' ", f"{path}: "):
        if words.startswith(begin):
            return words.removeprefix(begin)
    return words


def units(clusters: NDArray[np.int64], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """What is left out together, of the entries from ``start`` to ``stop``: clusters, large ones in equal parts."""
    first = int(np.searchsorted(clusters, start, side="right")) - 1
    for low, high in zip(clusters[first:-1].tolist(), clusters[first + 1 :].tolist(), strict=True):
        if low >= stop:
            return
        parts = -(-(high - low) // LARGEST_UNIT)
        for part in range(parts):
            begin, end = low + part * (high - low) // parts, low + (part + 1) * (high - low) // parts
            if begin < stop and end > start:
                yield begin, end


def outside(start: int, stop: int, ranges: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """What is left of an entry range without some others, which rise and do not overlap."""
    for low, high in ranges:
        if high <= start or low >= stop:
            continue
        if start < low:
            yield start, low
        start = high
    if start < stop:
        yield start, stop
