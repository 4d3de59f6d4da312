"""Memory is used again, and never while anything still looks at it."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data.recycled import forget, recycled

MB = 2**20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9 * MB), st.integers(1, 6)), min_size=1, max_size=30))
def test_what_was_written_stays_as_long_as_anything_looks_at_it(asked: list[tuple[int, int]]) -> None:
    alive: list[tuple[int, int, np.ndarray]] = []
    for number, (size, lives) in enumerate(asked):
        alive = [(one, left - 1, array) for one, left, array in alive if left]
        memory = recycled(size)
        assert len(memory) == size
        memory[:] = bytes([number % 251]) * size
        # A slice, or an array of another type over some of it, is enough to keep the whole.
        alive.append((number, lives, np.frombuffer(memory[size // 2 :], np.uint8)[: 1 + size // 4]))
        del memory
        assert all((array == one % 251).all() for one, _, array in alive)


def test_memory_that_nobody_looks_at_is_given_out_again() -> None:
    found: set[int] = set()

    def take(size: int) -> None:
        for _ in range(20):
            found.add(np.frombuffer(recycled(size), np.uint8).__array_interface__["data"][0])

    forget()
    for size in (3 * MB, 40 * MB):
        found.clear()
        for _ in range(10):  # threads that end leave theirs to those that follow
            worker = threading.Thread(target=take, args=(size,))
            worker.start()
            worker.join()
        assert len(found) <= 4


def test_threads_never_share_a_piece() -> None:
    wrong: list[int] = []

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        alive = []
        for turn in range(150):
            size = int(rng.integers(1, 6 * MB))
            memory = np.frombuffer(recycled(size), np.uint8)
            memory[:] = number
            alive = [*alive, memory][-(turn % 5) - 1 :]
            wrong.extend(number for one in alive if (one != number).any())

    workers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
