"""Threads that work ahead: order, errors, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass

import pytest

from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.errors import DataError


@dataclass(frozen=True)
class Task:
    number: int
    num_entries: int = 10


TASKS = tuple(Task(number) for number in range(40))


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mlaas4hep-read")]


def slow_start(task: Task) -> int:
    """Early tasks take longest: results arrive in another order than that of the tasks."""
    time.sleep(0.004 if task.number % 4 == 0 else 0)
    return task.number**2


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_results_come_in_the_order_of_the_tasks(threads: int) -> None:
    results = list(Prefetch(slow_start, TASKS, threads=threads, ahead=50))
    assert results == [(task, task.number**2) for task in TASKS]
    assert readers() == []


@pytest.mark.parametrize("ahead", [0, 10, 35])
def test_no_more_is_worked_ahead_than_allowed(ahead: int) -> None:
    started: list[int] = []
    with Prefetch(lambda task: started.append(task.number), TASKS, threads=3, ahead=ahead) as results:
        time.sleep(0.05)
        assert len(started) == max(ahead // 10, 1)
        for _ in range(5):
            next(results)
        time.sleep(0.05)
        assert len(started) == 5 + max(ahead // 10, 1)


def test_a_task_larger_than_allowed_is_let_in_alone() -> None:
    tasks = (Task(0, 1000), Task(1, 1000), Task(2, 1))
    assert len(list(Prefetch(slow_start, tasks, threads=2, ahead=10))) == 3


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_at_its_turn_and_ends_the_threads(threads: int) -> None:
    def fail_at_five(task: Task) -> int:
        if task.number == 5:
            raise DataError("five")
        return slow_start(task)

    results = Prefetch(fail_at_five, TASKS, threads=threads, ahead=100)
    assert [next(results)[0].number for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="five"):
        next(results)
    assert readers() == []
    with pytest.raises(StopIteration):
        next(results)


def test_a_consumer_that_stops_raises_or_forgets_leaves_no_thread() -> None:
    with Prefetch(slow_start, TASKS, threads=2, ahead=30) as results:
        next(results)
    assert readers() == []
    with pytest.raises(KeyboardInterrupt), Prefetch(slow_start, TASKS, threads=2, ahead=30) as results:
        raise KeyboardInterrupt
    assert readers() == []
    for _ in Prefetch(slow_start, TASKS, threads=2, ahead=30):
        break
    gc.collect()
    assert readers() == []
