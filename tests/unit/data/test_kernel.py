"""The compiled loops give the bits of their numpy twins, and never leave the arrays that they were given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.data import exact, kernel, packing
from mlaas4hep.data.hashing import permuted
from mlaas4hep.data.rows import Beside, Permute, Rows, write_beside
from mlaas4hep.errors import DataError
from mlaas4hep.spec import padding
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.padding import Assembled, Collection

KINDS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
DTYPES = ["bool", *(order + kind for kind in KINDS for order in "<>")]


@st.composite
def assembled(draw: st.DrawFn) -> Assembled:
    """Up to 40 events: every number type, extreme values, lists of 0 to 6 objects, some sorted, some not wanted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    events = draw(st.integers(0, 40))

    def values(count: int) -> NDArray[np.generic]:
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        if dtype.kind == "b":
            return rng.random(count) < 0.5
        return np.frombuffer(rng.bytes(count * dtype.itemsize), dtype)

    collections = []
    for number in range(draw(st.integers(0, 3))):
        counts = rng.integers(0, 7, events)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        lists = [Jagged(offsets, values(int(offsets[-1]))) for _ in range(draw(st.integers(1, 3)))]
        order = None
        if draw(st.booleans()):
            shuffled = [rng.permutation(int(count)) + start for count, start in zip(counts, offsets, strict=False)]
            order = np.concatenate([np.zeros(0, np.int64), *shuffled]).astype(np.int64)
        collections.append(Collection(f"c{number}", draw(st.integers(1, 5)), lists, order))
    flats = [values(events) for _ in range(draw(st.integers(0, 4)))]
    return Assembled(None, rng.random(events) < 0.7, flats, collections)


@settings(max_examples=150, deadline=None)
@given(rows=assembled(), seed=st.integers(0, 99))
def test_rows_are_written_as_by_numpy(rows: Assembled, seed: int) -> None:
    events = len(rows.kept)
    slots = np.random.default_rng(seed).permutation(events + 3)[:events].astype(np.int64)
    tables = [np.full((events + 3, rows.width), -1, dtype=np.float32) for _ in range(2)]
    with np.errstate(invalid="ignore"):
        padding.write_rows(rows, tables[0], slots)
    packing.write_rows(rows, tables[1], slots)
    kept = ~np.isnan(tables[0])
    assert np.array_equal(np.isnan(tables[1]), ~kept)
    assert tables[0][kept].tobytes() == tables[1][kept].tobytes()


@settings(max_examples=100, deadline=None)
@given(kept=st.lists(st.booleans(), max_size=30), seed=st.integers(0, 99))
def test_what_stands_beside_is_written_as_by_numpy(kept: list[bool], seed: int) -> None:
    size, rng = len(kept), np.random.default_rng(seed)
    slots = rng.permutation(size + 3)[:size].astype(np.int64)
    beside = Beside(np.array(kept, np.bool_), rng.integers(0, 9, size), rng.random(size), 7, rng.integers(0, 99, size))
    written = []
    for write in (write_beside, packing.write_beside):
        rows = Rows.empty(size + 3, 0)
        rows.labels[:], rows.weights[:], rows.entries[:] = -1, -1, (-1, -1)
        write(rows, slots, beside)
        written.append((rows.labels.tolist(), rows.weights.tolist(), rows.entries.tolist()))
    assert written[0] == written[1]


@settings(max_examples=100, deadline=None)
@given(rows=assembled(), bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_a_part_of_the_events_is_written_as_among_all(rows: Assembled, bounds: tuple[int, int]) -> None:
    low, high = sorted(min(one, len(rows.kept)) for one in bounds)
    whole = np.zeros((len(rows.kept), rows.width), dtype=np.float32)
    part = np.zeros((high - low, rows.width), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        padding.write_rows(rows, whole, np.arange(len(whole)))
        padding.write_rows(rows.part(low, high), part, np.arange(len(part)))
    assert whole[low:high].tobytes() == part.tobytes()


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permutations_are_those_of_numpy_and_leave_nothing_out(size: int, key: int) -> None:
    images = permuted(np.arange(size), size, key)
    assert sorted(images.tolist()) == list(range(size))
    assert np.array_equal(images, kernel.permuted(np.arange(size), size, key))


@pytest.mark.parametrize("permute", [permuted, kernel.permuted])
@pytest.mark.parametrize(("place", "size"), [(5, 5), (-1, 5), (2**62, 10), (1, 1), (0, 0), (3, -4)])
def test_a_place_outside_an_order_is_refused_and_not_looked_for_without_end(
    permute: Permute, place: int, size: int
) -> None:
    with pytest.raises(DataError, match=f"in an order of {size}: some count of entries is damaged"):
        permute(np.array([0, place]), size, 3)
    assert permute(np.zeros(0, np.int64), size, 3).tolist() == []


def test_permutations_are_those_of_every_version_before() -> None:
    assert permuted(np.arange(8), 10, 3).tolist() == [7, 5, 1, 2, 6, 8, 4, 3]
    assert permuted(np.array([0, 1, 999_999, 10**12]), 10**12 + 1, 7).tolist() == [
        372790817310,
        909054144876,
        450699133615,
        84811793835,
    ]


def test_neighbours_are_torn_apart() -> None:
    """Where an entry goes says nothing of where the next one goes: correlations vanish as 1 / sqrt(n)."""
    size = 100_000
    images = np.stack([permuted(np.arange(size), size, key).astype(float) for key in range(8)])
    for shift in (1, 2, 317, 50_000):
        for one in images:
            assert abs(np.corrcoef(one[:-shift], one[shift:])[0, 1]) < 5 / np.sqrt(size - shift)
    assert np.abs(np.corrcoef(images) - np.eye(8)).max() < 5 / np.sqrt(size)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=12),
    key=st.integers(0, 2**64 - 1),
    ranks=st.integers(1, 3),
)
def test_rows_are_gathered_as_by_numpy(sizes: list[tuple[int, int]], key: int, ranks: int) -> None:
    tables = [np.arange(200, dtype=np.uint32).reshape(100, 2) + 1000 * file for file in range(3)]
    sides = [np.arange(300, dtype=np.int64).reshape(100, 3) + 1000 * file for file in range(3)]
    counts = np.array([count for _, count in sizes], dtype=np.int64)
    ends = np.cumsum(counts)
    firsts = np.arange(len(sizes)) * 8 - (ends - counts)
    blocks = (ends, firsts, np.array([file for file, _ in sizes], dtype=np.int64), tables, sides)
    for rank in range(ranks):
        asked = (rank, len(range(rank, int(ends[-1]), ranks)), ranks, key)
        found, expected = kernel.Gatherer(*blocks).gather(*asked), exact.Gatherer(*blocks).gather(*asked)
        for name in ("table", "labels", "weights", "entries"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


def test_what_lies_outside_is_refused() -> None:
    offsets = np.array([0, 2, 1], dtype=np.int64)
    falling = Collection("c", 2, [Jagged(offsets, np.zeros(1, np.float32))], None)
    table = np.zeros((2, 2), dtype=np.float32)
    everything = np.ones(2, dtype=np.bool_)
    with pytest.raises(DataError, match="do not fit its values"):
        packing.write_rows(Assembled(None, everything, [], [falling]), table, np.arange(2))
    long = Collection("c", 2, [Jagged(np.array([0, 2, 9]), np.zeros(4, np.float32))], None)
    with pytest.raises(DataError, match="do not fit its values"):
        packing.write_rows(Assembled(None, everything, [], [long]), table, np.arange(2))
    with pytest.raises(DataError, match="row 5 is outside a table of 2 rows"):
        packing.write_rows(Assembled(None, everything, [np.zeros(2)] * 2, []), table, np.array([0, 5]))
    with pytest.raises(DataError, match="of 2 events differ in length"):
        packing.write_rows(Assembled(None, everything, [np.zeros(2), np.zeros(3)], []), table, np.arange(2))
    with pytest.raises(DataError, match="rows of 1 numbers do not fit a table"):
        packing.write_rows(Assembled(None, everything, [np.zeros(2)], []), table, np.arange(2))
    astray = Collection("c", 2, [Jagged(np.array([0, 1, 2]), np.zeros(2, np.float32))], np.array([0, 2]))
    with pytest.raises(DataError, match="the order of the collection 'c' does not fit"):
        packing.write_rows(Assembled(None, everything, [], [astray]), table, np.arange(2))
    beside = Beside(everything, np.zeros(2, np.int64), np.zeros(2), 0, np.arange(2))
    with pytest.raises(DataError, match="rows 0 to 9 asked for of 2"):
        packing.write_beside(Rows.empty(2, 0), np.array([9, 0]), beside)
    there = [np.zeros((5, 2), np.uint32)], [np.zeros((5, 3), np.int64)]
    for ends in ([9], [4, 3]):
        none = np.zeros(len(ends), np.int64)
        with pytest.raises(DataError, match="rows are counted that are not there"):
            kernel.Gatherer(np.array(ends), none, none, *there)
