"""Work done ahead of the consumer by threads, handed over in order.

Reading inflates and copies outside Python's global lock, so two threads keep two cores busy. Invariant: results come in
the order of the tasks, whatever the number of threads; when the consumer stops, fails or forgets the iterator, no
thread is left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from mlaas4hep.data.crew import Crew


class Sized(Protocol):
    """A task that knows how many entries it covers."""

    @property
    def num_entries(self) -> int:
        """Entries covered."""


T = TypeVar("T", bound=Sized)
R = TypeVar("R")


class Prefetch(Generic[T, R]):
    """Apply a function to tasks in threads; an iterator over ``(task, result)`` in the order of the tasks.

    Parameters
    ----------
    work
        Called with each task, by several threads at a time.
    tasks
        In the order in which the results are wanted.
    threads
        0 works in the consumer's thread when asked for the next result.
    ahead
        Entries that may be worked on or wait finished; the task that comes next is always let in.

    Raises
    ------
    Whatever ``work`` raised, when its turn comes; the iterator is then closed.
    """

    def __init__(self, work: Callable[[T], R], tasks: Sequence[T], *, threads: int, ahead: int) -> None:
        self._shared = _Shared(work, tasks, ahead)
        self._crew = Crew(self, self._shared, threads=threads)

    def __iter__(self) -> Iterator[tuple[T, R]]:
        return self

    def __next__(self) -> tuple[T, R]:
        try:
            return self._shared.wait_for_next() if self._crew else self._shared.work_out_next()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop and join the threads; may be called twice."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shared(Generic[T, R]):
    """What the threads and the consumer share; guarded by one condition."""

    def __init__(self, work: Callable[[T], R], tasks: Sequence[T], ahead: int) -> None:
        self._work = work
        self._tasks = tasks
        self._ahead = ahead
        self._changed = threading.Condition()
        self._done: dict[int, R] = {}
        self._failed: dict[int, BaseException] = {}
        self._claimed = 0
        self._taken = 0
        self._in_flight = 0
        self._stopped = False

    def run(self) -> None:
        """Body of a thread."""
        while (number := self._claim()) is not None:
            try:
                result = self._work(self._tasks[number])
            except BaseException as error:
                with self._changed:
                    self._failed[number] = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._done[number] = result
                self._changed.notify_all()
            del result  # or it would live on here until the next one is done

    def wait_for_next(self) -> tuple[T, R]:
        """The next result in order."""
        with self._changed:
            number = self._taken
            if self._stopped or number == len(self._tasks):
                raise StopIteration
            while number not in self._done and number not in self._failed:
                if self._stopped:
                    raise StopIteration
                self._changed.wait()
            if number in self._failed:
                raise self._failed.pop(number)
            self._taken += 1
            self._in_flight -= self._tasks[number].num_entries
            self._changed.notify_all()
            return self._tasks[number], self._done.pop(number)

    def work_out_next(self) -> tuple[T, R]:
        """The next result, worked out in the thread that asks."""
        if self._stopped or self._taken == len(self._tasks):
            raise StopIteration
        task = self._tasks[self._taken]
        self._taken += 1
        return task, self._work(task)

    def stop(self) -> None:
        """Let no thread claim more, and wake all that wait."""
        with self._changed:
            self._stopped = True
            self._done.clear()
            self._changed.notify_all()

    def _claim(self) -> int | None:
        with self._changed:
            while not self._stopped and self._claimed < len(self._tasks):
                size = self._tasks[self._claimed].num_entries
                if self._in_flight == 0 or self._in_flight + size <= self._ahead:
                    self._claimed += 1
                    self._in_flight += size
                    return self._claimed - 1
                self._changed.wait()
            return None
