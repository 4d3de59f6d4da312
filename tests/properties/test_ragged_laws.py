"""Lists in their true lengths are those of the padded stream: the same events, order and bits, nothing cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mlaas4hep.data.batches import Batch
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.filling import Filling
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.ragged import RaggedBatch, RaggedSlots, ReadRagged
from mlaas4hep.data.reads import ReadColumns
from mlaas4hep.data.rows import Rows, writer
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.padding import Assembled, Collection, sorted_order
from mlaas4hep.testing import make_events, same_bits

Stream = Callable[..., EventDataset]
LENGTH = 3


def pads_to(batch: RaggedBatch, other: Batch, *, length: int = LENGTH) -> bool:
    """Whether padding gives another batch, bit for bit."""
    return (
        same_bits(batch.event, np.ascontiguousarray(other.inputs["event"]))
        and same_bits(batch.collections["jets"].padded(length), np.ascontiguousarray(other.inputs["jets"]))
        and same_bits(batch.labels, other.labels)
        and same_bits(batch.weights, other.weights)
        and np.array_equal(batch.entries, other.entries)
    )


class File:
    """One file of clusters of 7 entries."""

    sample = index = 0
    strata = ()

    def __init__(self, size: int) -> None:
        self.clusters = np.unique([*range(0, size, 7), size])


@st.composite
def events(draw: st.DrawFn) -> Assembled:
    """Up to 40 events with a variable, and lists of up to 6 objects with two variables each, sorted or not."""
    counts = np.array(draw(st.lists(st.integers(0, 6), min_size=1, max_size=40)))
    total = int(counts.sum())
    odd = st.sampled_from([np.nan, -0.0, 0.0, 1e300, -np.inf, 1.5, 2.5])
    flat, pt = (draw(arrays(np.float64, size, elements=odd)) for size in (len(counts), total))
    lists = [Jagged.from_counts(counts, pt), Jagged.from_counts(counts, np.arange(total))]
    order = sorted_order(lists[0], lists[0]) if draw(st.booleans()) else None
    kept = draw(arrays(np.bool_, len(counts)))
    return Assembled(None, kept, [flat], [Collection("jets", LENGTH, lists, order)])


@settings(max_examples=80)
@given(
    whole=events(),
    window=st.integers(1, 50),
    chunk_entries=st.integers(1, 30),
    ahead=st.integers(0, 60),
    shuffle=st.booleans(),
    threads=st.sampled_from([0, 2]),
)
def test_a_window_of_lists_pads_to_the_window_of_rows(
    whole: Assembled, window: int, chunk_entries: int, ahead: int, shuffle: bool, threads: int
) -> None:
    """Laws 1, 2 and 5, for lists: whatever was kept, whoever filled the window."""
    size = len(whole.kept)
    plan = Plan([File(size)], window, shuffle=shuffle, seed=3, chunk_entries=chunk_entries)

    def read(chunk: Chunk) -> Iterator[ReadColumns]:
        at = slice(chunk.start, chunk.stop)
        sides = np.arange(size)[at], np.arange(size, dtype=np.float64)[at]
        yield ReadColumns(0, np.arange(size)[at], whole.part(chunk.start, chunk.stop), *sides, writer(0))

    with (
        Filling(plan, read, slots=lambda many: Rows.empty(many, whole.width)) as padded,
        Filling(
            plan, lambda chunk: map(ReadRagged, read(chunk)), slots=RaggedSlots, threads=threads, ahead=ahead
        ) as ragged,
    ):
        for one, other in zip(padded, ragged, strict=True):
            assert len(one) == len(other)
            for low in range(0, len(one), 4):
                rows = one.pick(low, min(low + 4, len(one)))
                lists = other.pick(low, min(low + 4, len(one)))
                table = np.concatenate([lists.event, lists.lists[0].padded(LENGTH).reshape(len(lists), -1)], axis=1)
                assert same_bits(table, rows.table)
                assert same_bits(lists.labels, rows.labels)
                assert np.array_equal(lists.lists[0].counts, whole.collections[0].lists[0].counts[rows.labels])


@pytest.mark.parametrize("format", ["ttree", "rntuple", "parquet"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_padding_a_ragged_batch_gives_the_padded_one(small_stream: Stream, format: str, shuffle: bool) -> None:
    dataset = small_stream(format, shuffle=shuffle, shuffle_window=120, part="train", batch_size=50)
    with dataset.ragged(2) as ragged, dataset.epoch(2) as padded:
        both = list(zip(ragged, padded, strict=True))
        assert ragged.counts == padded.counts, "law 8"
    assert len(both) > 5
    assert all(pads_to(one, other) for one, other in both)


def test_no_object_is_cut_and_each_list_is_sorted_as_declared(small_stream: Stream) -> None:
    sources = {0: make_events(350, seed=0), 1: make_events(85, seed=1), 2: make_events(223, seed=10)}
    longest = 0
    for batch in small_stream(shuffle=True, shuffle_window=300).ragged(0):
        jets = batch.collections["jets"]
        for row, (file, entry) in enumerate(batch.entries.tolist()):
            written = sources[file]["Jet_pt"][entry : entry + 1].tolist()[0]
            found = jets.values[jets.offsets[row] : jets.offsets[row + 1], 0]
            assert found.tolist() == sorted(written, reverse=True)
            longest = max(longest, len(found))
    assert longest > LENGTH, "the events must have longer lists than are padded to"


def test_a_place_in_the_stream_is_the_same_for_rows_and_lists(small_stream: Stream) -> None:
    """Law 3: stopped while padded, resumed in lists."""
    dataset = small_stream(shuffle=True, shuffle_window=90, batch_size=20)
    with dataset.epoch(1) as padded, dataset.ragged(0) as ragged:
        for _ in range(7):
            next(padded)
        ragged.load_state_dict(padded.state_dict())
        assert all(pads_to(one, other) for one, other in zip(ragged, padded, strict=True))


def test_batches_of_lists_are_the_consumers_own_and_leave_no_thread(small_stream: Stream) -> None:
    before = set(threading.enumerate())
    dataset = small_stream(shuffle=True, shuffle_window=70, batch_size=30)

    def values(batch: RaggedBatch) -> NDArray[np.float32]:
        return batch.collections["jets"].values

    with dataset.ragged(0) as batches:
        first = next(batches)
        copy = values(first).copy()
        values(first)[:] = 0
    assert set(threading.enumerate()) <= before
    with dataset.ragged(0) as batches:
        assert same_bits(values(next(batches)), copy)
