"""How rows share the memory that a stream may take: windows, rows that wait for theirs, chunks being read.

A strand has at most one chunk of which some rows wait, and one more where chunks are read early; a thread has at most
one that it reads. Invariant: windows, waiting rows and chunks together stay within the memory, whatever the epoch, or
the stream is refused with what would fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlaas4hep.data.plan import EARLY, Plan
from mlaas4hep.data.room import enough_in_words, in_words
from mlaas4hep.errors import DataError

LEAST_CHUNK = 1_024
"""Fewer entries are not read at once where a cluster has more: most of what is inflated would be thrown away."""


@dataclass(frozen=True)
class Shares:
    """What each has of the memory.

    Parameters
    ----------
    window
        Entries of a window.
    chunk
        The most that are read at once.
    early
        As of `mlaas4hep.data.plan.Plan`.
    beside
        Rows that fit beside the windows; None for as many as there are.
    """

    window: int
    chunk: int
    early: int = EARLY
    beside: int | None = None


def for_rows(max_memory: int) -> int:
    """The part of the memory that rows may take; the rest is for columns while they are read."""
    return max_memory - max_memory // 4


def buffers(plan: Plan, threads: int) -> int:
    """Windows held at a time: one that is consumed, and those being filled."""
    return 2 if plan.shuffle else threads + 2


def share_memory(
    plan: Plan, *, unit: int, threads: int, max_memory: int | None, row_bytes: int, asked: int | None = None
) -> Shares:
    """Window and chunks of a stream.

    Parameters
    ----------
    plan
        Of any epoch, with chunks of any size. Its window is part of the order where it is shuffled, else the largest
        that makes sense.
    unit
        Entries of the largest chunk that makes sense.
    threads
        That read.
    max_memory
        Bytes, a part of which is for rows; None sets no bound.
    row_bytes
        Of one row.
    asked
        Entries of a chunk where somebody wants so many, whatever fits.

    Raises
    ------
    DataError
        The window does not fit, with the largest that does, and with the memory that is needed for this one.
    """
    unit = asked or unit
    if max_memory is None:
        return Shares(plan.window, unit)
    memory = _Memory(plan, unit, threads, max_memory, row_bytes)
    return memory.shuffled(asked) if plan.shuffle else memory.unshuffled(asked)


@dataclass(frozen=True)
class _Memory:
    """What is to be shared among whom: see `share_memory`."""

    plan: Plan
    unit: int
    threads: int
    max_memory: int
    row_bytes: int

    def unshuffled(self, asked: int | None) -> Shares:
        """Windows mean nothing: they are as large as fits."""
        windows, chunks = buffers(self.plan, self.threads), 1 + self._readers
        size = min(self.plan.window, self._fits // (windows + chunks))
        if size < self._least:
            needed = self._memory_for(self._least * (windows + chunks))
            raise DataError(
                f"max_memory {in_words(self.max_memory)} is not enough for {self.threads} threads that read "
                f"{self._least} entries each, at {self.row_bytes} bytes a row; {needed} is, or fewer "
                "threads"
            )
        return Shares(size, asked or min(self.unit, size), beside=self._fits - windows * size)

    def shuffled(self, asked: int | None) -> Shares:
        """The window is part of the order: chunks are as large as fits beside two of them."""
        windows, strands = buffers(self.plan, self.threads), self.plan.most_strands
        held, chunks = min(self.plan.window, self.plan.num_entries), strands + self._readers
        beside = self._fits - windows * held
        chunk = min(self.unit, beside // chunks)
        if chunk < self._least:
            largest = max((self._fits - chunks * self._least) // windows, 0)
            rows, allowed = in_words(windows * self.row_bytes * held), in_words(for_rows(self.max_memory))
            smaller = f"the largest window that fits is {largest}" if largest else "no window fits"
            needed = self._memory_for(windows * held + chunks * self._least)
            raise DataError(
                f"shuffle_window {held} needs {rows} at {self.row_bytes} bytes a row, and "
                f"{in_words(chunks * self.row_bytes * self._least)} for {chunks} chunks of {self._least} entries, more "
                f"than rows may take of max_memory ({allowed} of {in_words(self.max_memory)}); {smaller}; max_memory "
                f"{needed} is enough for this one"
            )
        chunk = asked or chunk
        # What is read early is a chunk more of each strand, and the windows until then.
        early = (2 * strands + self._readers) * chunk + EARLY * held <= beside
        return Shares(self.plan.window, chunk, EARLY if early else 0, beside)

    def _memory_for(self, rows: int) -> str:
        """The least ``max_memory`` in which so many rows fit, in words."""
        return enough_in_words(-(-4 * rows * self.row_bytes // 3))

    @property
    def _fits(self) -> int:
        return for_rows(self.max_memory) // self.row_bytes

    @property
    def _readers(self) -> int:
        return max(self.threads, 1)

    @property
    def _least(self) -> int:
        return min(LEAST_CHUNK, self.unit, max(self.plan.largest_cluster, 1))
