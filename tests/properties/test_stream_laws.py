"""Laws 1, 2, 3, 5, 6 and 8: every entry once, in an exact order, resumable, from any format, with nothing lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.config import Cache, OnError, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch, BatchIterator
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.filling import Filling
from mlaas4hep.data.plan import STRANDS, Chunk, Plan
from mlaas4hep.data.quarantine import Quarantine, Skipped
from mlaas4hep.data.reads import ReadColumns, ReadOfRows
from mlaas4hep.data.rows import Rows, writer
from mlaas4hep.data.scan import scan
from mlaas4hep.data.split import Part
from mlaas4hep.errors import DataError
from mlaas4hep.spec.padding import Assembled
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import FORMATS, Format, assert_resumable, make_events, same_batch, supports_jagged, write_events
from tests.examples import examples

GOLDEN_ORDER = "6849bd24c3ffe9e8c495431fa9bb7377f0c8e9167ac8be5dfd7867d336513d7f"

GOLDEN_STRATIFIED = "b9e15ef94164c231ba42bd4ea929cbebc156c2f52d5e447262afce0dce00f3e7"

Stream = Callable[..., EventDataset]


def digest(batches: BatchIterator[Batch]) -> str:
    """SHA-256 of the stream of (file, entry)."""
    sha = hashlib.sha256()
    with batches:
        for batch in batches:
            sha.update(batch.entries.tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class FakeFile:
    sample: int
    index: int
    clusters: NDArray[np.int64]
    strata: tuple[tuple[int, int], ...] = ()


@st.composite
def fake_files(draw: st.DrawFn) -> tuple[FakeFile, ...]:
    """Up to four files of up to five clusters of 1 to 30 entries, in up to two samples."""
    sizes = draw(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=4))
    clusters = [np.concatenate([[0], np.cumsum(one)]).astype(np.int64) for one in sizes]
    return tuple(FakeFile(place % 2, place // 2, one) for place, one in enumerate(clusters))


def streamed(plan: Plan, *, threads: int = 0, ahead: int = 0, first: int = 0) -> list[tuple[int, int]]:
    """What a plan delivers when it is read, without any inputs."""

    def work(chunk: Chunk) -> Iterator[ReadOfRows]:
        size = chunk.num_entries
        rows = Assembled(None, np.ones(size, dtype=np.bool_), [], [])
        zeros = np.zeros(size)
        entries = np.arange(chunk.start, chunk.stop)
        yield ReadColumns(chunk.file, entries, rows, zeros.astype(np.int64), zeros, writer(0))

    with Filling(
        plan, work, slots=lambda size: Rows.empty(size, 0), threads=threads, ahead=ahead, first=first
    ) as filling:
        parts = [window.pick(0, len(window)).entries.tolist() for window in filling]
    return [tuple(entry) for part in parts for entry in part]


@settings(max_examples=60)
@given(
    files=fake_files(),
    window=st.integers(1, 80),
    chunk_entries=st.integers(1, 60),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_entry_comes_once_in_an_order_that_chunks_do_not_change(
    files: tuple[FakeFile, ...], window: int, chunk_entries: int, seed: int, epoch: int, shuffle: bool
) -> None:
    """Law 1 and law 2, on plans alone."""
    cut = Plan(files, window, shuffle=shuffle, seed=seed, epoch=epoch, chunk_entries=chunk_entries)
    whole = Plan(files, window, shuffle=shuffle, seed=seed, epoch=epoch)
    order = streamed(cut)
    every = [(place, entry) for place, one in enumerate(files) for entry in range(int(one.clusters[-1]))]
    assert sorted(order) == every
    assert order == streamed(whole)
    if not shuffle:
        assert order == every


@settings(max_examples=30)
@given(files=fake_files(), window=st.integers(1, 80), chunk_entries=st.integers(1, 60), seed=st.integers(0, 99))
def test_chunks_stay_in_bounds_and_fill_every_slot_of_every_window_once(
    files: tuple[FakeFile, ...], window: int, chunk_entries: int, seed: int
) -> None:
    plan = Plan(files, window, shuffle=True, seed=seed, chunk_entries=chunk_entries)
    chunks = list(plan.chunks())
    assert all(0 < chunk.num_entries <= chunk_entries for chunk in chunks)
    assert all(one.first_window <= other.first_window for one, other in pairwise(chunks))
    assert all(one.stop == other.start for chunk in chunks for one, other in pairwise(chunk.pieces))
    slots = [(one.window, one.offset + at) for chunk in chunks for one in chunk.pieces for at in range(one.num_entries)]
    assert sorted(slots) == [(one, at) for one in range(plan.num_windows) for at in range(plan.window_size(one))]


@settings(max_examples=30)
@given(files=fake_files(), window=st.integers(1, 80), data=st.data())
def test_a_plan_may_start_at_any_window(files: tuple[FakeFile, ...], window: int, data: st.DataObject) -> None:
    """Law 3, on plans alone."""
    plan = Plan(files, window, shuffle=True)
    first = data.draw(st.integers(0, plan.num_windows))
    assert streamed(plan, first=first) == streamed(plan)[first * window :]


@settings(max_examples=40)
@given(
    files=fake_files(),
    window=st.integers(1, 80),
    ranks=st.integers(1, 5),
    epoch=st.integers(0, 2),
    shuffle=st.booleans(),
)
def test_ranks_have_disjoint_shares_of_equal_size_that_are_complete_together(
    files: tuple[FakeFile, ...], window: int, ranks: int, epoch: int, shuffle: bool
) -> None:
    """Law 1, for several processes."""
    plans = [Plan(files, window, shuffle=shuffle, epoch=epoch, rank=rank, ranks=ranks) for rank in range(ranks)]
    shares = [streamed(plan) for plan in plans]
    every = [(place, entry) for place, one in enumerate(files) for entry in range(int(one.clusters[-1]))]
    assert sorted(entry for share in shares for entry in share) == every
    assert max(map(len, shares)) - min(map(len, shares)) <= STRANDS + len(files)


@settings(max_examples=40)
@given(files=fake_files(), window=st.integers(20, 80), seed=st.integers(0, 99))
def test_every_sample_is_in_every_window_in_its_share(files: tuple[FakeFile, ...], window: int, seed: int) -> None:
    plan = Plan(files, window, shuffle=True, seed=seed)
    order = [files[file].sample for file, _ in streamed(plan)]
    shares = np.bincount(order) / len(order)
    for number in range(plan.num_windows):
        part = order[number * window : (number + 1) * window]
        for sample, share in enumerate(shares):
            assert abs(part.count(sample) - share * len(part)) <= 2 + STRANDS


@st.composite
def stratified_files(draw: st.DrawFn) -> tuple[FakeFile, ...]:
    """The same, with stretches of up to three strata that begin anywhere."""
    found = []
    for one in draw(fake_files()):
        begins = draw(st.sets(st.integers(1, int(one.clusters[-1])), max_size=4)) - {int(one.clusters[-1])}
        numbers = st.integers(0, 2)
        found.append(replace(one, strata=tuple((begin, draw(numbers)) for begin in (0, *sorted(begins)))))
    return tuple(found)


def held_by(file: FakeFile, entry: int) -> tuple[int, int]:
    """Sample and stratum of an entry."""
    return file.sample, [number for begin, number in file.strata if begin <= entry][-1]


@settings(max_examples=60)
@given(files=stratified_files(), window=st.integers(1, 80), seed=st.integers(0, 99), data=st.data())
def test_every_class_of_a_sample_is_in_every_window_in_its_share(
    files: tuple[FakeFile, ...], window: int, seed: int, data: st.DataObject
) -> None:
    """Where strata are classes; samples keep their shares, and so do those of several processes."""
    ranks = data.draw(st.integers(1, 3))
    plan = Plan(files, window, shuffle=True, seed=seed, rank=data.draw(st.integers(0, ranks - 1)), ranks=ranks)
    order = [held_by(files[file], entry) for file, entry in streamed(plan)]
    for number in range(plan.num_windows):
        part = order[number * window : (number + 1) * window]
        for held in set(order):
            expected = order.count(held) / len(order) * len(part)
            assert abs(part.count(held) - expected) <= 1 + plan.num_strands
        for sample in {sample for sample, _ in order}:
            share = sum(one == sample for one, _ in order) / len(order)
            assert abs(sum(one == sample for one, _ in part) - share * len(part)) <= 1 + plan.num_strands


@settings(max_examples=60)
@given(
    files=stratified_files(),
    window=st.integers(1, 80),
    chunk_entries=st.integers(1, 60),
    early=st.integers(0, 3),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_strata_leave_the_laws_of_the_order_as_they_are(
    files: tuple[FakeFile, ...], window: int, chunk_entries: int, early: int, epoch: int, data: st.DataObject
) -> None:
    """Every entry once, in an order that neither chunks nor what is read early change, from any window on."""
    plan = Plan(files, window, shuffle=True, epoch=epoch, chunk_entries=chunk_entries, early=early)
    chunks = list(plan.chunks())
    assert all(0 < chunk.num_entries <= chunk_entries for chunk in chunks)
    assert all(one.first_window <= other.first_window for one, other in pairwise(chunks))
    order = streamed(plan)
    assert sorted(order) == [(place, at) for place, one in enumerate(files) for at in range(int(one.clusters[-1]))]
    assert order == streamed(Plan(files, window, shuffle=True, epoch=epoch, early=0))
    first = data.draw(st.integers(0, plan.num_windows))
    assert streamed(plan, first=first) == order[first * window :]
    largest = max(one.num_entries for one in chunks)
    assert plan.most_held <= 2 * plan.num_strands * largest + early * window


@settings(max_examples=40)
@given(files=stratified_files(), window=st.integers(1, 80), ranks=st.integers(1, 5))
def test_shares_of_ranks_are_complete_with_strata_too(files: tuple[FakeFile, ...], window: int, ranks: int) -> None:
    plans = [Plan(files, window, shuffle=True, rank=rank, ranks=ranks) for rank in range(ranks)]
    shares = [streamed(plan) for plan in plans]
    every = [(place, entry) for place, one in enumerate(files) for entry in range(int(one.clusters[-1]))]
    assert sorted(entry for share in shares for entry in share) == every
    assert max(map(len, shares)) - min(map(len, shares)) <= plans[0].num_strands


def test_parts_of_a_cluster_that_lie_in_two_strata_are_read_at_once() -> None:
    """Twelve files of one cluster each, sorted by class: a cluster cut apart is not inflated twice."""
    strata = ((0, 0), (300, 1))
    files = tuple(FakeFile(0, index, np.array([0, 1000]), strata) for index in range(12))
    together = list(Plan(files, 1500, shuffle=True).chunks())
    apart = list(Plan(files, 1500, shuffle=True, early=0).chunks())
    assert len(together) == len(files) < len(apart)
    assert {piece.window for piece in together[-1].pieces} != {piece.window for piece in together[0].pieces}


@settings(max_examples=20, deadline=None)
@given(files=fake_files(), window=st.integers(1, 80), chunk_entries=st.integers(1, 60), ahead=st.integers(0, 100))
def test_threads_and_read_ahead_change_nothing(
    files: tuple[FakeFile, ...], window: int, chunk_entries: int, ahead: int
) -> None:
    plan = Plan(files, window, shuffle=True, chunk_entries=chunk_entries)
    assert streamed(plan, threads=3, ahead=ahead) == streamed(plan)


@pytest.mark.parametrize("format", FORMATS)
def test_the_order_does_not_hang_on_threads_chunks_or_batches(small_stream: Stream, format: Format) -> None:
    """Law 2 and law 5, on files."""
    found = {
        digest(
            small_stream(
                format, shuffle=True, shuffle_window=120, seed=7, threads=threads, chunk_entries=chunk, batch_size=batch
            ).epoch(3)
        )
        for threads, chunk, batch in [(0, None, 32), (1, 7, 32), (2, 33, 50), (4, 64, 1), (2, None, 1000), (4, 1, 17)]
    }
    assert len(found) == 1


def test_the_order_is_that_of_every_version_before() -> None:
    """The golden hash of one order: two samples, three files, clusters of unequal size."""
    clusters = [np.arange(0, 1001, 50), np.array([0, 7, 300, 301]), np.array([0, 999])]
    files = tuple(FakeFile(*place, one) for place, one in zip([(0, 0), (0, 1), (1, 0)], clusters, strict=True))
    plan = Plan(files, 400, shuffle=True, seed=7, epoch=3)
    order = np.array(streamed(plan), dtype="<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest() == GOLDEN_ORDER
    cut = Plan([replace(files[0], strata=((0, 1), (430, 0))), *files[1:]], 400, shuffle=True, seed=7, epoch=3)
    order = np.array(streamed(cut), dtype="<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest() == GOLDEN_STRATIFIED


def test_seed_epoch_and_window_each_give_another_order(small_stream: Stream) -> None:
    orders = [
        digest(small_stream(shuffle=True, shuffle_window=window, seed=seed, threads=0).epoch(epoch))
        for window, seed, epoch in [(120, 7, 3), (120, 7, 4), (120, 8, 3), (121, 7, 3)]
    ]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("part", [None, "train"])
def test_all_formats_give_bit_equal_batches(
    small_stream: Stream, shuffle: bool, part: str | None, format: Format
) -> None:
    """Laws 5 and 6: the same events with the same clusters."""
    settings = {"shuffle": shuffle, "shuffle_window": 130, "part": part, "batch_size": 64}
    flat = not supports_jagged(format)
    one, other = (list(small_stream(one, flat=flat, **settings).epoch(1)) for one in ("ttree", format))
    assert len(one) == len(other) > 3
    assert all(map(same_batch, one, other))


def test_a_batch_is_full_but_for_the_last(small_stream: Stream) -> None:
    sizes = [len(batch) for batch in small_stream(shuffle=True, shuffle_window=70, batch_size=32)]
    assert set(sizes[:-1]) == {32}
    assert 0 < sizes[-1] <= 32


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_stops_and_resumes_anywhere(small_stream: Stream, shuffle: bool, format: Format) -> None:
    """Law 3."""
    stream = small_stream(format, shuffle=shuffle, shuffle_window=90, part="train", batch_size=21)
    assert_resumable(lambda: stream.epoch(2), stops=range(0, 18, 3))


def test_a_stream_resumes_with_other_threads_and_batches(small_stream: Stream) -> None:
    """Law 3: a state fits wherever the sequence of rows is the same."""
    one = small_stream(shuffle=True, shuffle_window=90, batch_size=20, threads=2).epoch(1)
    other = small_stream(shuffle=True, shuffle_window=90, batch_size=33, threads=0, chunk_entries=11).epoch(0)
    for _ in range(5):
        next(one)
    other.load_state_dict(one.state_dict())
    with one, other:
        rest = np.concatenate([batch.entries for batch in one])
        resumed = np.concatenate([batch.entries for batch in other])
    assert np.array_equal(rest, resumed)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_statistics_are_the_same_bits_from_all_formats(small_stream: Stream, format: Format) -> None:
    """Law 9: with the same clusters, the partials are the same and are folded in the same order."""
    streams = [small_stream(one, flat=not supports_jagged(format)) for one in ("ttree", format)]
    one, other = (scan(stream.catalogue, stream.preprocessor) for stream in streams)
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


@pytest.mark.parametrize("format", FORMATS)
def test_parts_are_disjoint_and_complete_and_every_entry_is_accounted_for(small_stream: Stream, format: Format) -> None:
    """Laws 1 and 8: read = delivered + cut + other part, file by file, and the parts together are all."""
    delivered: dict[str | None, set[tuple[int, int]]] = {}
    for part in (None, "train", "validation", "test"):
        with small_stream(format, part=part).epoch(0) as batches:
            delivered[part] = {tuple(entry) for batch in batches for entry in batch.entries.tolist()}
            counts = batches.counts
        assert [counts[number].read for number in sorted(counts)] == [350, 85, 223]
        for number, one in counts.items():
            assert one == Counts(one.read, one.delivered, one.read - one.delivered - one.other_part, one.other_part)
            assert one.delivered == sum(file == number for file, _ in delivered[part])
    parts = [delivered[part] for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(delivered[None]) == len(set().union(*parts))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Two samples of two files in clusters of 10, with a selection that drops some rows."""
    folder = tmp_path_factory.mktemp("marked")
    for number, size in enumerate((130, 70, 95, 60)):
        write_events(folder / f"{'sb'[number // 2]}{number}.root", make_events(size, seed=number), cluster=10)
    return Catalogue.open(
        parse_config(
            f"samples:\n  signal: {{files: '{folder}/s*.root'}}\n  background: {{files: '{folder}/b*.root'}}\n"
            "preselection: MET_pt > 25\ninputs: {event: [MET_pt]}\non_error: skip\n"
        )
    )


def left_out(catalogue: Catalogue, clusters: set[int], **settings: object) -> EventDataset:
    """A stream in which some clusters, counted over all files, cannot be read."""
    catalogue = replace(catalogue, quarantine=Quarantine(OnError.parse("skip"), catalogue.num_entries))
    every = [(file, *bounds) for file in catalogue.files for bounds in pairwise(file.clusters.tolist())]
    for file, start, stop in (every[number % len(every)] for number in sorted(clusters)):
        catalogue.quarantine.add_range(file.number, Skipped("s", file.path, "bad", file.tree, start, stop, file.index))
    return EventDataset(catalogue, Preprocessor(catalogue.features, catalogue.types), **settings)  # type: ignore[arg-type]


def entries_of(batches: BatchIterator[Batch]) -> list[tuple[int, int]]:
    with batches:
        return [tuple(entry) for batch in batches for entry in batch.entries.tolist()]


@settings(max_examples=examples(40))
@given(
    before=st.sets(st.integers(0, 35), max_size=12),
    later=st.sets(st.integers(0, 35), max_size=12),
    window=st.integers(5, 150),
    shuffle=st.booleans(),
    part=st.sampled_from([None, "train"]),
    taken=st.integers(0, 40),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_stream_resumes_exactly_where_other_events_are_left_out(
    marked: Catalogue,
    before: set[int],
    later: set[int],
    window: int,
    shuffle: bool,
    part: Part | None,
    taken: int,
    sizes: tuple[int, int],
) -> None:
    """Law 3: a place is told in slots, so that what cannot be read any more, or again, moves no event behind it."""
    settings = {"shuffle": shuffle, "shuffle_window": window, "part": part, "threads": 0, "chunk_entries": 7}
    with left_out(marked, before, batch_size=sizes[0], **settings) as stream:
        batches = stream.epoch(1)
        seen = [tuple(entry) for batch in islice(batches, taken) for entry in batch.entries.tolist()]
        state = batches.state_dict()
    with left_out(marked, later, batch_size=sizes[1], **settings) as stream:
        whole = entries_of(stream.epoch(1))
        resumed = stream.epoch(0)
        resumed.load_state_dict(state)
        rest = entries_of(resumed)
    assert not set(seen) & set(rest), "twice"
    assert rest == whole[len(whole) - len(rest) :]
    with left_out(marked, before, batch_size=1000, **settings) as stream:
        every = entries_of(stream.epoch(1))
    assert seen == every[: len(seen)]
    assert not (set(whole) - set(seen) - set(rest)) & set(every), "missing"
    assert before != later or seen + rest == whole


def added(*found: dict[int, Counts]) -> dict[int, Counts]:
    files = sorted(set().union(*found))
    return {file: sum((one.get(file, Counts()) for one in found), Counts()) for file in files}


def told(batches: BatchIterator[Any], at_most: int | None = None, *, whole: bool = False) -> dict[int, Counts]:
    """What is counted when so many batches were taken, or all."""
    seen = Counter(file for batch in islice(batches, at_most) for file in batch.entries["file"].tolist())
    for file, one in batches.counts.items():
        assert one.read == one.delivered + one.cut + one.other_part + one.unlabelled + one.quarantined
        assert not whole or one.delivered == seen[file]
    return dict(batches.counts)


@settings(max_examples=examples(40))
@given(
    bad=st.sets(st.integers(0, 35), max_size=6),
    window=st.integers(5, 150),
    kind=st.sampled_from(["plain", "shuffled", "ragged", "cached", "exact", "exact later"]),
    part=st.sampled_from([None, "train"]),
    stops=st.lists(st.integers(0, 9), max_size=4),
    batch_size=st.integers(1, 60),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_stops_and_shares_count_each_entry_once(
    marked: Catalogue,
    bad: set[int],
    window: int,
    kind: str,
    part: Part | None,
    stops: list[int],
    batch_size: int,
    ranks: int,
    data: st.DataObject,
) -> None:
    """Law 8, over stops and over processes: together they count what one undisturbed stream counts."""
    with TemporaryDirectory() as folder:
        cached = kind in ("cached", "exact", "exact later")
        options = {
            "shuffle": "exact" if kind.startswith("exact") else kind != "plain",
            "shuffle_window": window,
            "part": part,
            "threads": data.draw(st.sampled_from([0, 2])),
            "cache": Cache(folder) if cached else None,
        }
        epoch = 1 if kind == "exact later" else 0

        def begin(stream: EventDataset) -> BatchIterator[Any]:
            return stream.ragged(epoch) if kind == "ragged" else stream.epoch(epoch)

        with left_out(marked, bad, batch_size=50, **{**options, "cache": None, "shuffle": False}) as one:
            whole = told(one.epoch(0), whole=True)
        shares = []
        for rank in range(ranks):
            state, found = None, []
            for stop in [*stops, None]:
                size = data.draw(st.sampled_from([batch_size, batch_size + 7]))
                chunk = data.draw(st.sampled_from([7, 20, None]))
                with (
                    left_out(
                        marked, bad, batch_size=size, chunk_entries=chunk, rank=rank, ranks=ranks, **options
                    ) as stream,
                    begin(stream) as batches,
                ):
                    if state is not None:
                        batches.load_state_dict(state)
                    found.append(told(batches, stop))
                    state = batches.state_dict()
            shares.append(added(*found))
        assert added(*shares) == whole


def test_an_exact_order_of_other_rows_is_not_taken_up(marked: Catalogue, tmp_path: Path) -> None:
    settings = {"shuffle": "exact", "batch_size": 16, "cache": Cache(str(tmp_path))}
    with left_out(marked, {3}, **settings) as stream:
        batches = stream.epoch(1)
        next(batches)
        state = batches.state_dict()
        rest = entries_of(batches)
    with left_out(marked, {3}, **settings) as same:
        resumed = same.epoch(1)
        resumed.load_state_dict(state)
        assert entries_of(resumed) == rest
    with left_out(marked, {3, 5}, **settings) as other, pytest.raises(DataError, match="an exact order of other rows"):
        other.epoch(1).load_state_dict(state)
