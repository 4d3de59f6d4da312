"""Windows being filled by threads while the one before is consumed.

A thread reads a chunk and writes its events straight into their slots where the window is open; those of later windows
wait beside until theirs opens. Invariant: what a window holds does not depend on who fills it or when; two windows'
worth of events, those that wait, and one chunk a thread are all that is held.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.crew import Crew
from mlaas4hep.data.hashing import permuted
from mlaas4hep.data.plan import Chunk, Piece, Plan
from mlaas4hep.data.reads import AnyRead, Read
from mlaas4hep.data.rows import Permute, S, Window
from mlaas4hep.errors import DataError

Work = Callable[[Chunk], Iterator[Read[S, Any]]]


class Filling(Generic[S]):
    """Windows of a plan in order, filled ahead by threads. Stops its threads when it is closed, fails, or is forgotten.

    Parameters
    ----------
    plan
        What stands where.
    work
        Reads a chunk; called by several threads at a time.
    slots
        Makes the slots of a window, given how many; windows are used again.
    first
        Number of the first window.
    threads
        0 works in the thread that asks for the next window.
    buffers
        Windows held at a time: one that is consumed, the others being filled.
    ahead
        Entries that may be read before their window is opened; what the next window needs is always read.
    permute
        `mlaas4hep.data.hashing.permuted`, or what gives the same.
    """

    def __init__(
        self,
        plan: Plan,
        work: Work[S],
        *,
        slots: Callable[[int], S],
        first: int = 0,
        threads: int = 2,
        buffers: int = 2,
        ahead: int = 0,
        permute: Permute = permuted,
    ) -> None:
        self._shared = _Shared(plan, work, slots, first, buffers, ahead, permute)
        self._crew = Crew(self, self._shared, threads=threads)
        self._current: Window[S] | None = None

    def __iter__(self) -> Iterator[Window[S]]:
        return self

    def __next__(self) -> Window[S]:
        """The next window, complete; the one before must not be used any more."""
        try:
            if self._current is not None:
                self._shared.give_back(self._current)
                self._current = None
            self._current = self._shared.next_window(works=not self._crew)
        except BaseException:
            self.close()
            raise
        return self._current

    def close(self) -> None:
        """Stop and join the threads; may be called twice."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Waiting:
    """Events whose window is not open yet, and their slots in it."""

    slots: NDArray[np.int64]
    events: Any

    def place(self, window: Window[Any]) -> None:
        """Put them where they belong."""
        window.rows.put(self.slots, self.events)
        window.kept[self.slots] = True


class _Shared(Generic[S]):
    """What the threads and the consumer share; guarded by one condition."""

    def __init__(
        self,
        plan: Plan,
        work: Work[S],
        slots: Callable[[int], S],
        first: int,
        buffers: int,
        ahead: int,
        permute: Permute,
    ) -> None:
        self._plan, self._work, self._make = plan, work, slots
        self._chunks: Sequence[Chunk] = tuple(plan.chunks(first))
        self._ahead = ahead
        self._permute = permute
        self._changed = threading.Condition()
        self._stopped = False
        self._free: list[Window[S]] = []
        self._buffers = buffers
        self._consumed = first  # windows before this one are done with
        self._next_open = first
        self._next_chunk = 0
        self._open: dict[int, Window[S]] = {}
        self._waiting: dict[int, list[_Waiting]] = {}
        self._held = 0
        self._held_for: Counter[int] = Counter()
        self._unfinished = Counter(one.first_window for one in self._chunks)
        self._read_before = min(self._unfinished, default=first)  # all chunks of windows before this one are read
        self._unplaced: set[int] = set()
        self._failed: dict[int, BaseException] = {}
        self._broken: BaseException | None = None

    def run(self) -> None:
        """Body of a thread."""
        try:
            while (job := self._claim(wait=True)) is not None:
                self._do(job)
        except BaseException as error:  # such as no memory for a window: the consumer must not wait for ever
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def stop(self) -> None:
        """Let no thread claim more, and wake all that wait."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def next_window(self, *, works: bool) -> Window[S]:
        """The window after the last one, once all of it is there."""
        number = self._consumed
        while True:
            with self._changed:
                if self._stopped or number >= self._plan.num_windows:
                    raise StopIteration
                self._raise_if_failed(number)
                if self._is_complete(number):
                    window = self._open.pop(number)
                    break
                if not works:
                    self._changed.wait()
                    continue
            job = self._claim(wait=False)
            if job is None:
                raise DataError(f"window {number} cannot be completed")
            self._do(job)
        window.seal(self._plan.window_size(number))
        return window

    def give_back(self, window: Window[S]) -> None:
        """The consumer is done with a window: its memory goes to a later one."""
        with self._changed:
            self._consumed = window.number + 1
            self._free.append(window)
            self._changed.notify_all()

    def _raise_if_failed(self, number: int) -> None:
        if self._broken is not None:
            raise self._broken
        early = [at for at in self._failed if self._chunks[at].first_window <= number]
        if early:
            raise self._failed[min(early)]

    def _is_complete(self, number: int) -> bool:
        if number not in self._open or number in self._unplaced:
            return False
        while self._read_before <= number and not self._unfinished[self._read_before]:
            self._read_before += 1  # never back, so that all windows together cost one walk
        return self._read_before > number

    def _claim(self, *, wait: bool) -> Window[S] | int | None:
        """A window to open, the number of a chunk to read, or None when there is nothing more to do."""
        with self._changed:
            while not self._stopped:
                if self._may_open():
                    return self._opened()
                if self._next_chunk < len(self._chunks) and self._may_read(self._chunks[self._next_chunk]):
                    self._held += self._chunks[self._next_chunk].num_entries
                    self._next_chunk += 1
                    return self._next_chunk - 1
                done = self._next_open == self._plan.num_windows and self._next_chunk == len(self._chunks)
                if done or not wait:
                    return None
                self._changed.wait()
            return None

    def _may_open(self) -> bool:
        return self._next_open < min(self._consumed + self._buffers, self._plan.num_windows)

    def _may_read(self, chunk: Chunk) -> bool:
        return chunk.first_window < self._next_open or self._held + chunk.num_entries <= self._ahead

    def _opened(self) -> Window[S]:
        number, capacity = self._next_open, self._capacity()
        window = self._free.pop() if self._free else Window(capacity, self._make(capacity))
        window.begin(number)
        self._open[number] = window
        self._unplaced.add(number)
        self._next_open += 1
        self._held -= self._held_for.pop(number, 0)
        self._changed.notify_all()
        return window

    def _capacity(self) -> int:
        return min(self._plan.window, self._plan.num_entries)

    def _do(self, job: Window[S] | int) -> None:
        if isinstance(job, Window):
            self._place_waiting(job)
            return
        try:
            self._read(self._chunks[job])
        except BaseException as error:
            with self._changed:
                self._failed[job] = error
                self._changed.notify_all()

    def _place_waiting(self, window: Window[S]) -> None:
        with self._changed:
            blocks = self._waiting.pop(window.number, [])
        while blocks:
            blocks.pop().place(window)
        with self._changed:
            self._unplaced.discard(window.number)
            self._changed.notify_all()

    def _read(self, chunk: Chunk) -> None:
        for read in self._work(chunk):
            for piece in chunk.pieces:
                self._put(piece, read)
            if self._stopped:
                return
        with self._changed:
            self._unfinished[chunk.first_window] -= 1
            for piece in chunk.pieces:
                if piece.window < self._next_open:
                    self._held -= piece.num_entries
                else:
                    self._held_for[piece.window] += piece.num_entries
            self._changed.notify_all()

    def _put(self, piece: Piece, read: AnyRead) -> None:
        """Events of one window: into their slots, or beside until it opens."""
        low, high = np.searchsorted(read.entries, (piece.start, piece.stop)).tolist()
        if low == high:
            return
        part = read.part(low, high)
        slots, kept = self._slots(piece, part.entries), part.kept
        window = self._open.get(piece.window)
        if window is not None:
            part.put(window.rows, slots)
            window.kept[slots if kept.all() else slots[kept]] = True
            return
        block = _Waiting(slots[kept], part.packed())
        with self._changed:
            window = self._open.get(piece.window)
            if window is None:
                self._waiting.setdefault(piece.window, []).append(block)
        if window is not None:  # it was opened meanwhile
            block.place(window)

    def _slots(self, piece: Piece, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        places = entries + (piece.offset - piece.start)
        if not self._plan.shuffle:
            return places
        return self._permute(places, self._plan.window_size(piece.window), self._plan.window_key(piece.window))
