"""Memory is used again, and never while anything still looks at it."""

from __future__ import annotations

import gc
import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data.recycled import recycled

MB = 2**20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * MB), st.integers(1, 6)), min_size=1, max_size=30))
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
    def places(count: int) -> set[int]:
        return {np.frombuffer(recycled(3 * MB), np.uint8).__array_interface__["data"][0] for _ in range(count)}

    found: list[set[int]] = []
    worker = threading.Thread(target=lambda: found.append(places(200)))
    worker.start()
    worker.join()
    gc.collect()
    assert len(found[0]) <= 4
