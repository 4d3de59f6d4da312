"""The room of a cache folder: a limit that holds, and nothing that is in use goes."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlaas4hep.data.cache import CacheWarning, RowCache, require_folder
from mlaas4hep.data.kept import CachedFile
from mlaas4hep.data.room import NoRoomError, Room
from mlaas4hep.errors import DataError
from tests.unit.data.test_kept import rows, whole

FAILING = ("open", "pwrite", "write")
KEYS = [f"{number:040x}" for number in range(4)]


def put(folder: Path, key: str, size: int, used: float) -> None:
    for ending, share in (("journal", 100), ("a.table", size - 100)):
        (folder / f"{key}.{ending}").write_bytes(b"\0" * share)
    os.utime(folder / f"{key}.journal", (used, used))


def write(room: Room, size: int) -> None:
    with room.granted(size):
        pass


def there(folder: Path) -> set[str]:
    return {one.name.partition(".")[0] for one in folder.glob("*.journal")}


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_needed(tmp_path: Path) -> None:
    for key, used in zip(KEYS, (300, 100, 400, 200), strict=True):
        put(tmp_path, key, 1000, used)
    room = Room(tmp_path, 4500)
    write(room, 500)
    assert there(tmp_path) == set(KEYS)
    write(room, 600)
    assert there(tmp_path) == {KEYS[0], KEYS[2], KEYS[3]}
    room.use(KEYS[3])  # that makes it the youngest
    room.close()
    write(Room(tmp_path, 3000), 1000)
    assert there(tmp_path) == {KEYS[2], KEYS[3]}


def test_what_is_asked_for_is_granted_once_only(tmp_path: Path) -> None:
    one, other = Room(tmp_path, 1000), Room(tmp_path, 1000)
    write(one, 600)
    other.use(KEYS[0])
    (tmp_path / f"{KEYS[0]}.journal").write_bytes(b"\0" * 600)
    with pytest.raises(NoRoomError, match=r"500 B more do not fit: 600 B are in use and cache.limit is 1 kB"):
        write(other, 500)
    write(other, 400)
    with pytest.raises(NoRoomError):
        write(one, 700)


def test_what_a_thread_was_granted_and_has_not_written_yet_is_no_room(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 300, 100)
    room = Room(tmp_path, 1000)
    with room.granted(600):
        with pytest.raises(NoRoomError):
            write(room, 500)  # not even for the 300 that go
        assert there(tmp_path) == set()
        write(room, 400)
    write(room, 1000)


def test_near_the_limit_who_writes_meanwhile_is_waited_for(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 600, 100)
    room = Room(tmp_path, 1500)
    room.use(KEYS[1])
    with ThreadPoolExecutor(1) as other:
        with room.granted(600):
            (tmp_path / f"{KEYS[1]}.journal").write_bytes(b"\0" * 600)
            asked = other.submit(write, room, 500)  # 600 lie there, and the same are not known to be written
            with pytest.raises(TimeoutError):
                asked.result(timeout=0.05)
        asked.result(timeout=30)
        with pytest.raises(NoRoomError):
            other.submit(write, room, 901).result(timeout=30)
    assert there(tmp_path) == {KEYS[1]}


def test_an_entry_that_a_living_reader_uses_is_not_removed(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 1000, 100)
    put(tmp_path, KEYS[1], 1000, 200)
    reader, writer = Room(tmp_path, 10**6), Room(tmp_path, 2000)
    reader.use(KEYS[0])
    write(writer, 900)
    assert there(tmp_path) == {KEYS[0]}
    with pytest.raises(NoRoomError):
        write(writer, 1900)
    assert there(tmp_path) == {KEYS[0]}
    reader.close()
    write(writer, 1900)
    assert there(tmp_path) == set()


USES = """
import sys, time
from mlaas4hep.data.room import Room
room = Room(sys.argv[1], 10**6)
room.use(sys.argv[2])
print("used", flush=True)
time.sleep(60)
"""


@contextmanager
def user(folder: Path, key: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", USES, str(folder), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "used\n"
        yield process
        process.kill()


def test_a_process_that_is_killed_uses_nothing_any_more(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0], 1000, 100)
    writer = Room(tmp_path, 1000)
    with user(tmp_path, KEYS[0]) as process:
        with pytest.raises(NoRoomError):
            write(writer, 500)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        write(writer, 500)
    assert there(tmp_path) == set()
    assert len(list(tmp_path.glob("*.users"))) == 1, "its mark is gone too"


WRITES = """
import sys
from mlaas4hep.data.cache import RowCache
from tests.unit.data.test_kept import rows, whole
folder, name, limit = sys.argv[1:]
cache = RowCache(folder, limit_bytes=int(limit), width=2, declaration=name)
for number in range(30):
    kept = cache.file(f"f{number % 3}")
    cache.keep(kept, 100 * number, rows(100 * number, 100), whole(100), name="f")
sys.exit(0 if cache.not_kept else 3)
"""


def test_the_limit_holds_under_two_writers(tmp_path: Path) -> None:
    limit, block = 60_000, 100 * (4 * 2 + 8 * 3 + 1) + 128
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path), name, str(limit)], env=places)
        for name in ("one", "other")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    held = sum(one.stat().st_size for one in tmp_path.iterdir() if len(one.name) > 40)
    assert limit - 2 * block < held <= limit + 2 * block


def test_the_limit_holds_within_one_stream_and_the_rest_is_not_kept(tmp_path: Path) -> None:
    cache = RowCache(tmp_path, limit_bytes=10_000, width=2, declaration="a")
    files = [cache.file(name) for name in ("f", "g")]
    for start in range(0, 1000, 50):
        for name, file in zip(("f", "g"), files, strict=True):
            cache.keep(file, start, rows(start, 50), whole(50), name=name)
    assert sum(one.stat().st_size for one in tmp_path.iterdir() if len(one.name) > 40) <= 10_000
    assert all(file.blocks for file in files)
    assert sorted(cache.not_kept) == ["f", "g"]


def test_what_a_stream_keeps_is_not_removed_for_another_one(tmp_path: Path) -> None:
    first = RowCache(tmp_path, limit_bytes=12_000, width=2, declaration="a")
    held = first.file("f")
    first.keep(held, 0, rows(0, 300), whole(300), name="f")
    second = RowCache(tmp_path, limit_bytes=12_000, width=2, declaration="b")
    file = second.file("f")
    second.keep(file, 0, rows(0, 300), whole(300), name="f")
    assert second.not_kept == ("f",)
    assert not file.blocks
    assert CachedFile(held.path, 2).is_whole(((0, 300),))
    first.close()
    third = RowCache(tmp_path, limit_bytes=12_000, width=2, declaration="b")
    file = third.file("f")
    third.keep(file, 0, rows(0, 300), whole(300), name="f")
    assert file.is_whole(((0, 300),))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(DataError, match=rf"cache {folder}: cannot be written: "):
            RowCache(folder, limit_bytes=1000, width=2, declaration="a")
        with pytest.raises(DataError, match=rf"cache {folder}: cannot be written: "):
            require_folder(folder)


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_disk_that_is_full_from_the_start_gives_what_is_kept_and_keeps_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    def cache(*, required: bool = False) -> RowCache:
        return RowCache(tmp_path, limit_bytes=10**6, width=2, declaration="a", required=required)

    with closing(cache()) as first:
        first.keep(first.file("f"), 0, rows(0, 10), whole(10), name="f")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlaas4hep.data.room.os", SimpleNamespace(**vars(os) | {FAILING[fails]: full}))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        second = cache()
        held = second.file("f")
        second.keep(held, 10, rows(10, 10), whole(10), name="f")
    assert [one.category for one in told] == [CacheWarning]
    assert re.search("the disk is full: .* free; the stream goes on", str(told[0].message))
    assert [(block.start, block.stop) for block in held.blocks] == [(0, 10)]
    assert second.not_kept == ("f",)
    with pytest.raises(DataError, match=r"the disk is full: .* free; shuffle: exact needs all rows"):
        cache(required=True).file("f")
