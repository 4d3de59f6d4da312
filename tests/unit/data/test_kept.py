"""One kept file: written in turns, safe under kills, removal and a full disk, with few files open."""

from __future__ import annotations

import errno
import fcntl
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.data import journal as journals
from mlaas4hep.data import kept as module
from mlaas4hep.data.account import Counts
from mlaas4hep.data.fates import Fates, fates_of
from mlaas4hep.data.journal import line_of
from mlaas4hep.data.kept import CachedFile, LostError
from mlaas4hep.data.rows import Rows
from mlaas4hep.errors import DataError


def rows(first: int, count: int) -> Rows:
    made = Rows.empty(count, 2)
    made.table[:] = np.arange(first, first + count)[:, np.newaxis]
    made.labels[:], made.weights[:] = 1, 0.5
    made.entries["file"], made.entries["entry"] = 0, np.arange(first, first + count)
    return made


def whole(count: int) -> Fates:
    """All in the first part, and a row out of each."""
    return fates_of(np.zeros(count, np.int8), np.zeros(0, np.int64), np.arange(count))


def keep(file: CachedFile, start: int, count: int) -> None:
    file.append(start, rows(start, count), whole(count))


def table_of(file: CachedFile, start: int, stop: int) -> NDArray[np.float32]:
    found = [(low, high, block) for low, high, block in file.segments(start, stop) if block is not None]
    return np.concatenate([file.read(block, low, high, 0)[0] for low, high, block in found])


def test_several_write_in_turns_and_see_what_the_others_wrote(tmp_path: Path) -> None:
    one, other = CachedFile(tmp_path / "x", 2), CachedFile(tmp_path / "x", 2)
    keep(one, 0, 10)
    keep(other, 10, 10)
    keep(one, 20, 5)
    for file in (one, other, CachedFile(tmp_path / "x", 2)):
        assert file.is_whole(((0, 25),))
        assert table_of(file, 3, 23).tolist() == rows(3, 20).table.tolist()
        table, sides = file.map(file.blocks)
        assert sorted(sides[:, 0].tolist()) == list(range(25))
        assert table.view(np.float32)[:, 0].tolist() == sides[:, 0].tolist()


@pytest.mark.parametrize(("start", "count"), [(0, 30), (5, 20), (8, 4), (12, 3), (9, 1), (3, 5)])
def test_of_a_range_that_is_kept_in_part_the_rest_is_kept_too(tmp_path: Path, start: int, count: int) -> None:
    file, other = CachedFile(tmp_path / "x", 2), CachedFile(tmp_path / "x", 2)
    keep(file, 4, 5)
    keep(file, 13, 5)
    keep(other, start, count)
    for one in (file, other, CachedFile(tmp_path / "x", 2)):
        assert one.is_whole(((start, start + count), (4, 9), (13, 18)))
        assert table_of(one, start, start + count).tolist() == rows(start, count).table.tolist()


def test_counts_of_any_range_are_those_of_its_entries(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    parts = random.integers(0, 3, 40).astype(np.int8)
    state = random.integers(0, 3, 40)
    kept = np.flatnonzero(state == 2)
    fates = fates_of(parts, np.flatnonzero(state == 1), kept)
    file = CachedFile(tmp_path / "x", 2)
    file.append(100, rows(100, 40).take(kept), fates)
    (block,) = file.blocks
    for low in range(40):
        for high in range(low, 41):
            held = file.fates(block, 100 + low, 100 + high)
            for part in (None, 0, 1, 2):
                mine = np.ones(high - low, np.bool_) if part is None else parts[low:high] == part
                told = [int(np.count_nonzero(mine & (state[low:high] == one))) for one in (2, 0, 1)]
                expected = Counts(high - low, told[0], told[1], int(np.count_nonzero(~mine)), unlabelled=told[2])
                assert Counts.of(held, part) == expected
                table, _ = file.read(block, 100 + low, 100 + high, part)
                assert len(table) == told[0]


@pytest.mark.parametrize("part", [None, 0, 2])
def test_only_what_is_asked_for_is_taken_from_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int | None
) -> None:
    size, bounds = 3_000, (1_001, 1_031)
    file = CachedFile(tmp_path / "x", 2)
    file.append(0, rows(0, size), fates_of((np.arange(size) % 3).astype(np.int8), np.zeros(0, int), np.arange(size)))
    taken: list[int] = []
    read_all = module.read_all

    def counted(*asked: int) -> bytes:
        data = read_all(*asked)
        taken.append(len(data))
        return data

    monkeypatch.setattr(module, "read_all", counted)
    table, sides = file.read(file.blocks[0], *bounds, part)
    wanted = [one for one in range(*bounds) if part is None or one % 3 == part]
    assert sides[:, 0].tolist() == table[:, 0].tolist() == wanted
    assert sum(taken) < 40 * len(wanted) + 1_000, "all of it would be 96,000 bytes"
    assert [len(one) for one in file.read(file.blocks[0], 0, size, part)] == [size if part is None else size // 3] * 2


@pytest.mark.parametrize("lost", [1, 5, 12])
def test_a_line_that_was_cut_short_does_not_count_and_is_written_anew(tmp_path: Path, lost: int) -> None:
    one = CachedFile(tmp_path / "x", 2)
    keep(one, 0, 10)
    keep(one, 10, 10)
    journal = tmp_path / "x.journal"
    written = journal.read_bytes()
    journal.write_bytes(written[:-lost])
    again = CachedFile(tmp_path / "x", 2)
    assert [block.start for block in again.blocks] == [0]
    keep(again, 10, 10)
    assert again.is_whole(((0, 20),))
    assert journal.read_bytes() == written


def test_what_was_written_before_the_machine_stopped_counts_only_once_settled(tmp_path: Path) -> None:
    keep(CachedFile(tmp_path / "x", 2), 0, 10)
    journal = tmp_path / "x.journal"
    made, _, *rest = journal.read_bytes().splitlines(keepends=True)
    before = made + line_of(["boot", "another"]) + b"".join(rest)
    journal.write_bytes(before)
    lost = CachedFile(tmp_path / "x", 2)
    assert lost.blocks == ()
    keep(lost, 0, 10)
    lost.settle()
    assert [block.row for block in CachedFile(tmp_path / "x", 2).blocks] == [10], "settling speaks for its own only"
    journal.write_bytes(before + line_of(["settled"]))
    again = CachedFile(tmp_path / "x", 2)
    assert len(again.blocks) == 1
    keep(again, 10, 10)
    again.settle()
    assert CachedFile(tmp_path / "x", 2).is_whole(((0, 20),))


def test_what_is_removed_between_opening_and_locking_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(CachedFile(tmp_path / "x", 2), 0, 10)
    other = CachedFile(tmp_path / "x", 2)
    lock = fcntl.flock

    def removed_first(file: int, how: int) -> None:
        monkeypatch.setattr(module.fcntl, "flock", lock)
        for one in tmp_path.glob("x.*"):
            one.unlink()
        lock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    keep(other, 10, 10)
    for file in (other, CachedFile(tmp_path / "x", 2)):
        assert [(block.start, block.stop) for block in file.blocks] == [(10, 20)]
        assert table_of(file, 10, 20).tolist() == rows(10, 10).table.tolist()


def test_a_reader_of_what_was_removed_and_made_anew_never_takes_other_rows(tmp_path: Path) -> None:
    reader = CachedFile(tmp_path / "x", 2)
    keep(reader, 0, 10)
    (old,) = reader.blocks
    for one in tmp_path.glob("x.*"):
        one.unlink()
    keep(CachedFile(tmp_path / "x", 2), 10, 10)  # where the old rows stood
    with pytest.raises(LostError, match=r"x\..*cannot be read"):
        reader.read(old, 0, 10, 0)
    with pytest.raises(DataError, match="cannot be opened"):
        reader.map([old])
    assert [block is None for _, _, block in reader.segments(0, 20)] == [True, False]
    assert table_of(reader, 10, 20).tolist() == rows(10, 10).table.tolist()


@pytest.mark.parametrize("ending", ["table", "sides", "fates"])
@pytest.mark.parametrize("left", [0, 10])
def test_blocks_beyond_the_end_of_what_is_there_do_not_count(tmp_path: Path, ending: str, left: int) -> None:
    first = CachedFile(tmp_path / "x", 2)
    keep(first, 0, 10)
    keep(first, 10, 10)
    (name,) = tmp_path.glob(f"x.*.{ending}")
    os.truncate(name, name.stat().st_size * left // 20)
    file = CachedFile(tmp_path / "x", 2)
    assert [block.start for block in file.blocks] == ([0] if left else [])
    keep(file, 10, 10)
    keep(file, 0, 10)
    for one in (file, CachedFile(tmp_path / "x", 2)):
        assert one.is_whole(((0, 20),))
        assert table_of(one, 0, 20).tolist() == rows(0, 20).table.tolist()


def test_any_number_of_kept_files_and_maps_holds_no_file_open(tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    files = [CachedFile(tmp_path / f"x{number}", 2) for number in range(40)]
    maps = []
    for file in files:
        keep(file, 0, 10)
        maps.append(file.map(file.blocks))
    assert opened() == before
    for table, sides in maps:
        assert table.view(np.float32)[:, 0].tolist() == sides[:, 0].tolist() == list(range(10))
        assert not table.flags.writeable


def test_a_map_stands_after_the_file_is_removed_and_goes_with_its_last_array(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(tmp_path))

    file = CachedFile(tmp_path / "x", 2)
    keep(file, 0, 10)
    table, sides = file.map(file.blocks)
    for one in tmp_path.glob("x.*"):
        one.unlink()
    part = table[3:4]
    del table
    assert part.view(np.float32).tolist() == [[3.0, 3.0]]
    assert sides[9, 0] == 9
    assert mapped() == 2
    del part, sides
    gc.collect()
    assert mapped() == 0


def test_threads_read_and_write_one_file_at_a_time(tmp_path: Path) -> None:
    file = CachedFile(tmp_path / "x", 2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for start in random.permutation(60).tolist():
            keep(file, 5 * start, 5)
            low = 5 * int(random.integers(0, 60))
            for first, last, block in file.segments(low, low + 5):
                if block is not None and file.read(block, first, last, 0)[0].tolist() != rows(low, 5).table.tolist():
                    wrong.append(low)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []
    assert table_of(file, 0, 300).tolist() == rows(0, 300).table.tolist()
    assert len(file.blocks) == 60


def test_a_process_that_is_forked_while_a_file_is_written_holds_no_lock(tmp_path: Path) -> None:
    file = CachedFile(tmp_path / "x", 2)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with file._writing():
        child.start()
    try:
        writer = threading.Thread(target=keep, args=(CachedFile(tmp_path / "x", 2), 0, 10), daemon=True)
        writer.start()
        writer.join(timeout=20)
        assert not writer.is_alive()
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_disk_that_fills_up_leaves_what_was_kept_and_gives_back_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    file = CachedFile(tmp_path / "x", 2)
    keep(file, 0, 10)
    sizes = {one.name: one.stat().st_size for one in tmp_path.iterdir()}
    write, calls = os.pwrite, [0]

    def full(handle: int, data: bytes, offset: int) -> int:
        calls[0] += 1
        if calls[0] == fails:
            return write(handle, data[: len(data) // 2], offset)
        if calls[0] > fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, offset)

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        keep(file, 10, 10)
    monkeypatch.setattr(module.os, "pwrite", write)
    left = {one.name: one.stat().st_size for one in tmp_path.iterdir()}
    grown = {name for name in left if left[name] > sizes[name]}
    assert not any(name.endswith(("table", "sides")) for name in grown) or fails == 4
    for one in (file, CachedFile(tmp_path / "x", 2)):
        assert [block.start for block in one.blocks] == [0]
    keep(file, 10, 10)
    assert table_of(CachedFile(tmp_path / "x", 2), 0, 20).tolist() == rows(0, 20).table.tolist()


def test_what_is_reserved_is_what_is_written_and_nothing_is_written_where_it_is_refused(tmp_path: Path) -> None:
    file = CachedFile(tmp_path / "x", 2)
    asked: list[int] = []
    written: list[int] = []

    @contextmanager
    def refuse(size: int) -> Iterator[None]:
        asked.append(size)
        raise DataError("no")
        yield

    @contextmanager
    def grant(size: int) -> Iterator[None]:
        before = sum(one.stat().st_size for one in tmp_path.iterdir())
        yield
        asked.append(size)
        written.append(sum(one.stat().st_size for one in tmp_path.iterdir()) - before)

    with pytest.raises(DataError, match="no"):
        file.append(0, rows(0, 1000), whole(1000), grant=refuse)
    assert file.blocks == ()
    file.append(0, rows(0, 1000), whole(1000), grant=grant)
    file.append(1000, rows(1000, 1100), whole(100), grant=grant)
    assert asked[0] == asked[1]
    held = sum(one.stat().st_size for one in tmp_path.iterdir())
    assert sum(asked[1:]) - 3 * journals.LINE_BYTES <= held <= sum(asked[1:])
    assert all(least <= most for least, most in zip(written, asked[1:], strict=True))
