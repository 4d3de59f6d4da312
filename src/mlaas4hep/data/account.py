"""What became of the entries of a stream, file by file (law 8).

An entry counts when the stream has passed its window, not when it is read: what is read ahead and thrown away counts
nothing. Invariant: what is counted before a stop, and after going on from the state of that stop, is together what one
undisturbed stream counts; shares of several processes together count what one process counts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.fates import Fates, tally
from mlaas4hep.data.plan import Chunk
from mlaas4hep.data.split import PARTS, Part


@dataclass(frozen=True)
class Counts:
    """What became of the entries of a file: ``read = delivered + cut + other_part + unlabelled + quarantined`` (law 8).

    Parameters
    ----------
    read
        Entries read.
    delivered
        Rows that came out.
    cut
        Removed by the sample's selection or the preselection.
    other_part
        Belong to another part of the split than the one asked for.
    quarantined
        Could not be read, and were left out (`mlaas4hep.data.quarantine`).
    unlabelled
        Selected, but without a class, or without a value of a target: nothing can be learned from them.
    """

    read: int = 0
    delivered: int = 0
    cut: int = 0
    other_part: int = 0
    quarantined: int = 0
    unlabelled: int = 0

    @classmethod
    def of(cls, fates: Fates, part: int | None = None) -> Counts:
        """Of entries whose fates are known, when rows of one part are asked for, or of all for None."""
        cut, unlabelled, delivered, bad = tally(fates, part)
        return cls(len(fates), delivered, cut, len(fates) - cut - unlabelled - delivered - bad, bad, unlabelled)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.delivered + other.delivered,
            self.cut + other.cut,
            self.other_part + other.other_part,
            self.quarantined + other.quarantined,
            self.unlabelled + other.unlabelled,
        )

    def share(self, rank: int, ranks: int) -> Counts:
        """What one of several processes tells of entries that none of them hands out; together they tell all."""
        rest = [getattr(self, one.name) for one in fields(self)[1:]]
        own = [(rank + 1) * one // ranks - rank * one // ranks for one in rest]
        return Counts(sum(own), *own)


class Account:
    """What became of entries: by window while windows are filled, by file once they are passed. For several threads.

    Parameters
    ----------
    part
        Of the split that is asked for.
    """

    def __init__(self, part: Part | None = None) -> None:
        self._part = None if part is None else PARTS.index(part)
        self._files: dict[int, Counts] = {}
        self._rows = np.zeros(0, dtype=np.int64)
        self._windows: dict[int, dict[int, Counts]] = {}
        self._lock = threading.Lock()

    @property
    def files(self) -> dict[int, Counts]:
        """What counts by now, by number of the file."""
        found = dict(self._files)
        for file in np.flatnonzero(self._rows).tolist():
            rows = int(self._rows[file])
            _add(found, file, Counts(rows, rows))
        return found

    def note(self, chunk: Chunk, start: int, fates: Fates) -> None:
        """What became of the entries of a chunk from ``start`` on: each counts with its window."""
        for piece in chunk.pieces:
            low, high = max(piece.start, start), min(piece.stop, start + len(fates))
            if low < high:
                found = Counts.of(fates[low - start : high - start], self._part)
                with self._lock:
                    _add(self._windows.setdefault(piece.window, {}), chunk.file, found)

    def pass_window(self, window: int) -> None:
        """All of a window has been handed out: what became of its entries counts."""
        with self._lock:
            found = self._windows.pop(window, {})
        for file, counts in found.items():
            self.add(file, counts)

    def add(self, file: int, counts: Counts) -> None:
        """Count entries of a file."""
        _add(self._files, file, counts)

    def add_rows(self, files: NDArray[np.int32]) -> None:
        """Count rows that were handed out, by the numbers of their files."""
        found = np.bincount(files, minlength=len(self._rows))
        found[: len(self._rows)] += self._rows
        self._rows = found


def _add(counts: dict[int, Counts], file: int, more: Counts) -> None:
    counts[file] = counts[file] + more if file in counts else more
