"""Kept rows: the same bits, without the source, shared, bounded, and safe under kills and two writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Cache, Config, parse_config
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.cache import RowCache
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.kept import CachedFile
from mlaas4hep.data.rows import Rows
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import assert_resumable, make_events, same_batch, write_events
from mlaas4hep.train.limit import limit_events

CONFIG = """
samples:
  signal: {{files: '{folder}/s*.root'}}
  background: {{files: '{folder}/b.root', selection: 'MET_pt > 10'}}
preselection: 'MET_pt < 200'
inputs: {{event: [MET_pt, ht], jets: {{vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}}}}
new_variables: {{ht: sum(Jet_pt)}}
weights: {{event: genWeight}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for number in range(2):
        write_events(tmp_path / f"s{number}.root", make_events(230, seed=number), cluster=60)
    write_events(tmp_path / "b.root", make_events(310, seed=9, run=2), cluster=50)
    return parse_config(CONFIG.format(folder=tmp_path))


@pytest.fixture
def stream(config: Config, tmp_path: Path) -> Callable[..., EventDataset]:
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)

    def make(*, folder: str | None = "cache", limit: str = "1 GB", **settings: object) -> EventDataset:
        cache = None if folder is None else Cache(str(tmp_path / folder), limit)
        defaults = {"batch_size": 32, "shuffle_window": 100, "threads": 2, "part": "train"}
        return EventDataset(catalogue, preprocessor, cache=cache, **(defaults | settings))  # type: ignore[arg-type]

    return make


def read(dataset: EventDataset, epoch: int) -> list[Batch]:
    with dataset.epoch(epoch) as batches:
        return list(batches)


def entries(batches: list[Batch]) -> list[tuple[int, int]]:
    return [tuple(one) for batch in batches for one in batch.entries.tolist()]


def remove_sources(folder: Path) -> None:
    for one in folder.glob("*.root"):
        one.unlink()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("part", ["train", None])
def test_kept_rows_are_the_same_bits_in_every_epoch_without_the_source(
    stream: Callable[..., EventDataset], tmp_path: Path, shuffle: bool, part: str | None
) -> None:
    with stream(folder=None, shuffle=shuffle, part=part) as plain:
        expected = [read(plain, epoch) for epoch in range(3)]
        with plain.epoch(0) as batches:
            list(batches)
            counts = batches.counts
    with stream(shuffle=shuffle, part=part) as kept:
        first = read(kept, 0)
        remove_sources(tmp_path)
        found = [first, read(kept, 1), read(kept, 2)]
        with kept.epoch(0) as batches:
            list(batches)
            assert batches.counts == counts
    for one, other in zip(expected, found, strict=True):
        assert len(one) == len(other)
        assert all(map(same_batch, one, other))


def test_another_part_another_order_and_another_run_share_what_is_kept(
    stream: Callable[..., EventDataset], tmp_path: Path
) -> None:
    with stream(folder=None, part="test", seed=5, shuffle=True) as plain:
        expected = read(plain, 3)
    with stream() as one:
        read(one, 0)
    remove_sources(tmp_path)
    with stream(part="test", seed=5, shuffle=True, chunk_entries=17) as other:
        assert all(map(same_batch, expected, read(other, 3)))


def test_an_exact_order_is_a_permutation_of_all_rows_and_another_one_each_epoch(
    stream: Callable[..., EventDataset], tmp_path: Path
) -> None:
    with stream(folder=None) as plain:
        every = sorted(entries(read(plain, 0)))
    with stream(shuffle="exact") as exact:
        windowed = entries(read(exact, 0))
        remove_sources(tmp_path)
        orders = [entries(read(exact, epoch)) for epoch in (1, 2)]
    for order in (windowed, *orders):
        assert sorted(order) == every
    assert orders[0] != orders[1]
    middle = orders[0][: len(every) // 2]
    share = Counter(file for file, _ in every)
    for file, count in Counter(file for file, _ in middle).items():
        assert abs(count - share[file] / 2) < 5 * np.sqrt(share[file])


def test_an_exact_order_does_not_hang_on_how_the_cache_was_filled(
    stream: Callable[..., EventDataset], tmp_path: Path
) -> None:
    found = []
    for number, settings in enumerate([{}, {"threads": 0, "chunk_entries": 13}, {"threads": 4, "batch_size": 7}]):
        with stream(folder=f"cache{number}", shuffle="exact", **settings) as exact:
            found.append(read(exact, 2))  # fills first
    rows = [np.concatenate([batch.inputs["jets"] for batch in one]).tobytes() for one in found]
    assert len({str(entries(one)) for one in found}) == 1
    assert len(set(rows)) == 1


def test_an_exact_order_stops_and_resumes_anywhere(stream: Callable[..., EventDataset]) -> None:
    with stream(shuffle="exact", batch_size=21) as exact:
        read(exact, 0)
        assert_resumable(lambda: exact.epoch(1), stops=range(0, 24, 5))


def test_an_exact_order_holds_what_this_catalogue_reads_not_all_that_is_kept(
    stream: Callable[..., EventDataset], config: Config, tmp_path: Path
) -> None:
    with stream() as whole:
        whole.fill_cache()
    catalogue = limit_events(Catalogue.open(config), 300)
    preprocessor = Preprocessor(config.features, catalogue.types)
    settings = {"batch_size": 32, "part": "train", "cache": Cache(str(tmp_path / "cache"))}
    with EventDataset(catalogue, preprocessor, shuffle="exact", **settings) as some:  # type: ignore[arg-type]
        first, second = read(some, 0), read(some, 1)
        assert sorted(entries(first)) == sorted(entries(second))
        with some.epoch(1) as batches:
            assert sum(one.delivered for one in batches.counts.values()) == len(entries(second))


def test_ranks_share_an_exact_order(stream: Callable[..., EventDataset]) -> None:
    with stream(shuffle="exact") as one:
        every = sorted(entries(read(one, 1)))
    shares = []
    for rank in range(3):
        with stream(shuffle="exact", rank=rank, ranks=3) as part:
            shares.append(entries(read(part, 1)))
    assert sorted(entry for share in shares for entry in share) == every
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_exact_order_needs_a_cache_with_room(stream: Callable[..., EventDataset]) -> None:
    with pytest.raises(DataError, match="shuffle: exact needs a cache"):
        stream(folder=None, shuffle="exact")
    with stream(shuffle="exact", limit="1 kB") as small, pytest.raises(DataError, match="no room in the cache; raise"):
        small.epoch(1)


def test_a_changed_source_is_read_anew(stream: Callable[..., EventDataset], config: Config, tmp_path: Path) -> None:
    with stream() as one:
        before = read(one, 0)
    write_events(tmp_path / "b.root", make_events(310, seed=11, run=2), cluster=50)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    cache = Cache(str(tmp_path / "cache"))
    settings = {"batch_size": 32, "threads": 0}
    with EventDataset(catalogue, preprocessor, part="train", cache=cache, **settings) as other:  # type: ignore[arg-type]
        after = read(other, 0)
    with EventDataset(catalogue, preprocessor, part="train", **settings) as plain:  # type: ignore[arg-type]
        assert all(map(same_batch, read(plain, 0), after))
    assert not all(map(same_batch, before, after))


def rows(first: int, count: int) -> Rows:
    made = Rows.empty(count, 2)
    made.table[:] = np.arange(first, first + count)[:, np.newaxis]
    made.labels[:], made.weights[:] = 1, 0.5
    made.entries["file"], made.entries["entry"] = 0, np.arange(first, first + count)
    return made


def test_several_write_in_turns_and_see_what_the_others_wrote(tmp_path: Path) -> None:
    one, other = CachedFile(tmp_path / "x", 2), CachedFile(tmp_path / "x", 2)
    one.append(0, 10, rows(0, 10), (10, 0, 0), (10, 0, 0))
    other.append(10, 20, rows(10, 10), (10, 0, 0), (10, 0, 0))
    other.append(5, 15, rows(5, 10), (10, 0, 0), (10, 0, 0))  # some of it is there
    one.append(20, 25, rows(20, 5), (5, 0, 0), (5, 0, 0))
    for file in (one, other, CachedFile(tmp_path / "x", 2)):
        assert file.is_whole(((0, 25),))
        found = [(start, stop, block) for start, stop, block in file.segments(3, 23) if block is not None]
        read = np.concatenate([file.read(block, start, stop, 0)[0] for start, stop, block in found])
        assert read.tolist() == rows(3, 20).table.tolist()
        table, sides = file.map()
        assert sorted(sides[:, 0].tolist()) == list(range(25))
        assert table.view(np.float32)[:, 0].tolist() == sides[:, 0].tolist()
        file.close()


@pytest.mark.parametrize("lost", [1, 5, 12])
def test_a_line_that_was_cut_short_does_not_count_and_is_written_anew(tmp_path: Path, lost: int) -> None:
    one = CachedFile(tmp_path / "x", 2)
    one.append(0, 10, rows(0, 10), (10, 0, 0), (10, 0, 0))
    one.append(10, 20, rows(10, 10), (10, 0, 0), (10, 0, 0))
    one.close()
    journal = tmp_path / "x.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-lost])
    again = CachedFile(tmp_path / "x", 2)
    assert [block.start for block in again.blocks] == [0]
    again.append(10, 20, rows(10, 10), (10, 0, 0), (10, 0, 0))
    assert again.is_whole(((0, 20),))
    again.close()
    assert journal.read_bytes() == whole


def test_what_was_written_before_the_machine_stopped_counts_only_once_settled(tmp_path: Path) -> None:
    one = CachedFile(tmp_path / "x", 2)
    one.append(0, 10, rows(0, 10), (10, 0, 0), (10, 0, 0))
    one.close()
    journal = tmp_path / "x.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    from mlaas4hep.data import kept

    another_boot = kept._line(["boot", "another"])
    journal.write_bytes(another_boot + b"".join(lines[1:]))
    assert CachedFile(tmp_path / "x", 2).blocks == ()
    journal.write_bytes(another_boot + b"".join(lines[1:]) + kept._line(["settled"]))
    journal.write_bytes(another_boot + b"".join(lines[1:]))
    lost = CachedFile(tmp_path / "x", 2)
    lost.append(0, 10, rows(0, 10), (10, 0, 0), (10, 0, 0))
    lost.settle()
    assert [block.row for block in CachedFile(tmp_path / "x", 2).blocks] == [10], "settling speaks for its own only"
    lost.close()
    journal.write_bytes(another_boot + b"".join(lines[1:]) + kept._line(["settled"]))
    again = CachedFile(tmp_path / "x", 2)
    assert len(again.blocks) == 1
    again.append(10, 20, rows(10, 10), (10, 0, 0), (10, 0, 0))
    again.settle()
    assert CachedFile(tmp_path / "x", 2).is_whole(((0, 20),))


def test_what_was_not_used_for_longest_goes_first_and_nothing_that_is_written(tmp_path: Path) -> None:
    room = 16_384  # a table and its sides, in blocks of the disk

    def cache(declaration: str) -> RowCache:
        return RowCache(tmp_path, limit_bytes=4 * room, width=2, declaration=declaration)

    for age, name in enumerate(["old", "older"]):
        made = cache(name)
        file = made.file("f", entries=300, name="f")
        assert file is not None
        file.append(0, 300, rows(0, 300), (300, 0, 0), (300, 0, 0))
        made.close()
        for one in tmp_path.glob("*.journal"):
            if one.stat().st_mtime > 2000:
                os.utime(one, (1000 - 100 * age, 1000 - 100 * age))
    writing = cache("writing")
    held = writing.file("f", entries=300, name="f")
    assert held is not None
    held.append(0, 300, rows(0, 300), (300, 0, 0), (300, 0, 0))
    before = {one.name: one.stat().st_mtime for one in tmp_path.glob("*.journal")}
    assert len(before) == 3
    new = cache("new").file("f", entries=800, name="f")
    assert new is not None
    left = {one.name for one in tmp_path.glob("*.journal")}
    assert min(before, key=before.__getitem__) not in left
    assert held.path.with_suffix(".journal").name in left
    too_large = cache("large")
    assert too_large.file("f", entries=10**6, name="f") is None
    assert too_large.too_large == ["f"]


FILL = """
import sys
from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor
config = parse_config(sys.stdin.read())
catalogue = Catalogue.open(config)
with EventDataset(
    catalogue, Preprocessor(config.features, catalogue.types), part="train", batch_size=8, shuffle=True,
    shuffle_window=60, threads=2, chunk_entries=20, cache=Cache(sys.argv[1]),
) as stream:
    for number, batch in enumerate(stream.epoch(0)):
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [0, 9, 30])
def test_a_writer_that_is_killed_leaves_only_whole_blocks(
    stream: Callable[..., EventDataset], tmp_path: Path, after: int
) -> None:
    with stream(folder=None, shuffle=True) as plain:
        expected = read(plain, 1)
    command = [sys.executable, "-c", FILL, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(CONFIG.format(folder=tmp_path))
        process.stdin.close()
        for line in process.stdout:
            if int(line) >= after:
                process.send_signal(signal.SIGKILL)
                break
        process.wait(timeout=60)
    with stream(shuffle=True) as kept:
        assert all(map(same_batch, expected, read(kept, 1)))
        kept.fill_cache()
        remove_sources(tmp_path)
        assert all(map(same_batch, expected, read(kept, 1)))
