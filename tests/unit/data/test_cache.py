"""Kept rows: the same bits, without the source, shared, bounded, and safe under kills and two writers."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mlaas4hep.config import Cache, Config, parse_config
from mlaas4hep.data.account import Account, Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.cache import CacheWarning
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.checksum import Checksum
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.journal import line_of
from mlaas4hep.data.scan import scan
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
    least = {"max_memory": 60_000, "batch_size": 64}  # less than a batch is gathered at once
    others = ({"threads": 0, "chunk_entries": 13}, {"threads": 4, "batch_size": 7}, least)
    for number, settings in enumerate(({}, *others)):
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
            list(batches)
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
    with (
        stream(shuffle="exact", limit="1 kB") as small,
        pytest.raises(DataError, match=r"more do not fit.*limit is 1 kB"),
    ):
        read(small, 0)


def test_an_exact_order_that_cannot_fit_is_refused_before_its_first_epoch(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """770 entries in 3 files, 8 numbers a row, nothing cut away: 770 x (8 x 4 + 24) and a few bytes."""
    features = msgspec.structs.replace(config.features, preselection=None)
    samples = {name: msgspec.structs.replace(one, selection=None) for name, one in config.samples.items()}
    catalogue = Catalogue.open(msgspec.structs.replace(config, features=features, samples=samples))
    preprocessor = Preprocessor(features, catalogue.types)

    def opened(limit: str, **settings: object) -> EventDataset:
        cache = Cache(str(tmp_path / "cache"), limit)
        return EventDataset(catalogue, preprocessor, shuffle="exact", cache=cache, **settings)  # type: ignore[arg-type]

    told = (
        r"cache .*/cache: shuffle: exact keeps all 770 rows on disk, which needs 45.8 kB; cache.limit is 45 kB; raise"
    )
    with pytest.raises(DataError, match=told):
        opened("45 kB")
    with opened("46 kB", chunk_entries=100) as exact:
        assert sorted(entries(read(exact, 0))) == sorted(entries(read(exact, 1)))
    with monkeypatch.context() as patched:
        patched.setattr("mlaas4hep.data.room.os.statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=1000))
        opened("46 kB").close()  # all of it is there
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(DataError, match=r"45.8 kB of it still to be written; the disk has 1 kB left for it"):
            opened("50 kB")
    with opened("1 GB") as other:
        other.fill_cache()
        narrow = msgspec.structs.replace(features, inputs=features.inputs[:1])
        taken = Cache(str(tmp_path / "cache"), "60 kB")
        with pytest.raises(DataError, match=r"cache.limit is 60 kB, of which other runs use 4\d.\d kB now"):
            EventDataset(catalogue, Preprocessor(narrow, catalogue.types), shuffle="exact", cache=taken)


def test_rows_that_a_scan_counted_are_known_before_an_exact_order(config: Config, tmp_path: Path) -> None:
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    statistics = scan(catalogue, preprocessor)
    counted = sum(one.train + one.validation + one.test for one in statistics.samples.values())
    assert 0 < counted < 770
    settings = {"statistics": statistics, "cache": Cache(str(tmp_path / "cache"), "30 kB")}
    with pytest.raises(DataError, match=f"keeps all {counted} rows on disk"):
        EventDataset(catalogue, preprocessor, shuffle="exact", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_has_no_room_is_read_each_epoch_and_named(
    stream: Callable[..., EventDataset], tmp_path: Path, shuffle: bool
) -> None:
    with stream(folder=None, shuffle=shuffle) as plain:
        expected = [read(plain, epoch) for epoch in range(2)]
    with stream(shuffle=shuffle, limit="15 kB", chunk_entries=40) as kept:
        for epoch, wanted in enumerate(expected):
            assert all(map(same_batch, wanted, read(kept, epoch)))
        assert kept.not_cached
        assert set(kept.not_cached) <= {str(one) for one in tmp_path.glob("*.root")}
        held = sum(one.stat().st_size for one in (tmp_path / "cache").iterdir() if len(one.name) > 40)
        assert 10_000 < held <= 15_000


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    write, calls = os.pwrite, itertools.count()

    def full(handle: int, data: bytes, offset: int) -> int:
        if next(calls) >= after and "/cache/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, offset)

    monkeypatch.setattr("mlaas4hep.data.kept.os.pwrite", full)


@pytest.mark.parametrize("after", [2, 9])
def test_a_stream_by_windows_goes_on_without_keeping_where_the_disk_is_full(
    stream: Callable[..., EventDataset], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with stream(folder=None, shuffle=True) as plain:
        expected = [read(plain, epoch) for epoch in range(2)]
    full_disk(monkeypatch, after)
    with stream(shuffle=True) as kept:
        with pytest.warns(CacheWarning) as told:
            found = [read(kept, epoch) for epoch in range(2)]
        assert kept.not_cached
    assert len(told) == 1
    for one, other in zip(expected, found, strict=True):
        assert all(map(same_batch, one, other))
    assert re.search(r"cache .*/cache: the disk is full: .*B more were to be kept, .*B are free", str(told[0].message))


def test_an_exact_order_ends_where_the_disk_is_full_and_says_where(
    stream: Callable[..., EventDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, 5)
    told = r"cache .*/cache: the disk is full: .*B more were to be kept, .*B are free; shuffle: exact needs all rows"
    with stream(shuffle="exact") as exact, pytest.raises(DataError, match=told):
        read(exact, 0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_is_removed_while_it_is_used_comes_from_its_source_again(
    stream: Callable[..., EventDataset], tmp_path: Path, shuffle: bool
) -> None:
    with stream(shuffle=shuffle) as kept:
        expected = [read(kept, epoch) for epoch in range(2)]
        for one in (tmp_path / "cache").glob("*.table"):
            one.unlink()
        with pytest.warns(CacheWarning, match="is read from its source again") as told:
            assert all(map(same_batch, expected[1], read(kept, 1)))
        assert len(told) == 1
        remove_sources(tmp_path)
        assert all(map(same_batch, expected[0], read(kept, 0))), "it was kept again"


def flip_a_bit(files: Path, ending: str, seed: int) -> None:
    """Of one byte of one of the files with an ending, anywhere in it."""
    random = np.random.default_rng(seed)
    found = sorted(files.glob(f"*.{ending}"))
    one = found[random.integers(len(found))]
    data = bytearray(one.read_bytes())
    data[random.integers(len(data) - 1)] ^= 1 << int(random.integers(8))  # but the end of the last line
    one.write_bytes(data)


AGAIN = "; it is read from its source again"
DAMAGED = rf"[0-9a-f]{{40}}\.[0-9a-f]{{16}}\.\*: what is kept of the entries \d+ to \d+ is damaged{AGAIN}"


@pytest.mark.parametrize("shuffle", [True, "exact"])
@pytest.mark.parametrize(
    ("ending", "told"),
    [("table", DAMAGED), ("sides", DAMAGED), ("fates", DAMAGED), ("journal", f"its journal is damaged{AGAIN}")],
)
def test_a_bit_that_changes_anywhere_on_the_disk_is_told_and_comes_from_the_source_again(
    stream: Callable[..., EventDataset], tmp_path: Path, shuffle: bool | str, ending: str, told: str
) -> None:
    with stream(folder="whole", shuffle=shuffle, chunk_entries=40) as whole:
        expected = [read(whole, epoch) for epoch in range(2)]
    for seed in range(3):
        folder = f"damaged{seed}"
        shutil.copytree(tmp_path / "whole", tmp_path / folder)
        flip_a_bit(tmp_path / folder, ending, seed)
        with stream(folder=folder, shuffle=shuffle) as kept, pytest.warns(CacheWarning, match="again") as warned:
            assert all(map(same_batch, expected[1], read(kept, 1)))
        assert len(warned) == 1
        assert re.search(f"{folder}/.*{told}", str(warned[0].message))
    remove_sources(tmp_path)
    for seed in range(3):
        with stream(folder=f"damaged{seed}", shuffle=shuffle) as kept:
            for epoch in range(2):
                assert all(map(same_batch, expected[epoch], read(kept, epoch))), "it was kept again"


@pytest.mark.parametrize("shuffle", [True, "exact"])
@pytest.mark.parametrize("ending", ["table", "sides", "fates"])
def test_what_is_cut_off_is_told_and_comes_from_the_source_again(
    stream: Callable[..., EventDataset], tmp_path: Path, shuffle: bool | str, ending: str
) -> None:
    with stream(shuffle=shuffle, chunk_entries=40) as kept:
        expected = [read(kept, epoch) for epoch in range(2)]
    for one in (tmp_path / "cache").glob(f"*.{ending}"):
        os.truncate(one, one.stat().st_size // 2)
    with stream(shuffle=shuffle) as kept:
        with pytest.warns(CacheWarning, match=f"is shorter than its journal says{AGAIN}"):
            assert all(map(same_batch, expected[1], read(kept, 1)))
        remove_sources(tmp_path)
        assert all(map(same_batch, expected[0], read(kept, 0))), "it was kept again"


def test_who_knew_a_block_before_it_was_dropped_looks_for_himself(
    stream: Callable[..., EventDataset], tmp_path: Path
) -> None:
    with stream(shuffle=True) as first:
        expected = read(first, 1)
    early, late = stream(shuffle=True), stream(shuffle="exact")
    assert not late.lacks_rows
    assert not early._delivery.lacking()
    flip_a_bit(tmp_path / "cache", "table", seed=1)
    with pytest.warns(CacheWarning, match="is damaged"):
        late.fill_cache()
    with pytest.warns(CacheWarning, match="is damaged"):
        assert all(map(same_batch, expected, read(early, 1)))
    dropped = [one.read_bytes().count(b'["lost"') for one in (tmp_path / "cache").glob("*.journal")]
    assert sum(dropped) == 1
    early.close()
    late.close()


@pytest.mark.parametrize("shuffle", [True, "exact"])
def test_damage_on_a_disk_that_is_full_ends_only_what_needs_all_rows(
    stream: Callable[..., EventDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: bool | str
) -> None:
    with stream() as kept:
        kept.fill_cache()
    with stream(folder=None, shuffle=True) as plain:
        expected = read(plain, 1)
    flip_a_bit(tmp_path / "cache", "sides", seed=2)
    kept = stream(shuffle=shuffle)
    full_disk(monkeypatch, 0)
    needs_all = pytest.raises(DataError, match=r"the disk is full: .*; shuffle: exact needs all rows")
    with kept, pytest.warns(CacheWarning, match="is damaged"), needs_all if shuffle == "exact" else nullcontext():
        assert all(map(same_batch, expected, read(kept, 1)))


def test_a_stream_and_the_workers_it_starts_look_at_a_block_once(
    stream: Callable[..., EventDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    add_read = Checksum.add_read

    def counted(checksum: Checksum, read: Callable[[int, int], bytes], offset: int, size: int) -> None:
        looks.append(size)
        add_read(checksum, read, offset, size)

    monkeypatch.setattr(Checksum, "add_read", counted)
    with stream(shuffle="exact", chunk_entries=40) as exact:
        read(exact, 0)
        assert not looks
        read(exact, 1)
        once = len(looks)
        assert once >= 3 * 770 / 40  # table, sides and fates
        read(exact, 2)
        with pickle.loads(pickle.dumps(exact)) as worker:
            read(worker, 3)
        assert len(looks) == once
    with stream(shuffle=True) as another:
        read(another, 1)
    assert len(looks) == 2 * once


def test_a_journal_without_checksums_is_not_believed(stream: Callable[..., EventDataset], tmp_path: Path) -> None:
    with stream(chunk_entries=40) as kept:
        expected = read(kept, 0)
    for one in (tmp_path / "cache").glob("*.journal"):
        lines = [json.loads(line.partition(b" ")[2]) for line in one.read_bytes().splitlines()]
        older = [words if isinstance(words[0], str) else words[:3] + words[4:] for words in lines]
        one.write_bytes(b"".join(map(line_of, older)))
    with stream() as kept:
        assert len(kept._delivery.lacking()) == 3
        assert all(map(same_batch, expected, read(kept, 0)))


def test_counts_of_a_part_of_what_is_kept_are_those_of_the_source(stream: Callable[..., EventDataset]) -> None:
    with stream(chunk_entries=50) as kept:
        kept.fill_cache()

    def told(dataset: EventDataset) -> list[dict[int, Counts]]:
        found = []
        for chunk in dataset.plan(0).chunks():
            account = Account(dataset.part)
            for _ in dataset._delivery.read(chunk, account):
                pass
            for piece in chunk.pieces:
                account.pass_window(piece.window)
            found.append(account.files)
        return found

    for part in ("train", "test", None):
        with stream(chunk_entries=13, part=part) as kept, stream(folder=None, chunk_entries=13, part=part) as plain:
            assert told(kept) == told(plain)


FEW_FILES = """
import os, resource, sys
from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor
config = parse_config(sys.stdin.read())
catalogue = Catalogue.open(config)
settings = {"part": "train", "threads": 2, "shuffle_window": 1000, "cache": Cache(sys.argv[1])}
most = len(os.listdir("/proc/self/fd")) + 40  # sources that are kept open, too
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
with EventDataset(catalogue, Preprocessor(config.features, catalogue.types), shuffle="exact", **settings) as stream:
    print(*(sum(len(batch) for batch in stream.epoch(number)) for number in range(3)))
"""


def test_many_cached_files_need_few_handles(tmp_path: Path) -> None:
    for number in range(30):
        write_events(tmp_path / f"s{number}.root", make_events(20, seed=number), cluster=20)
    write_events(tmp_path / "b.root", make_events(310, seed=9, run=2), cluster=50)
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path / "cache")]
    text = CONFIG.format(folder=tmp_path)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, third = map(int, done.stdout.split())
    assert 0 < first == second == third


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
