"""Workers that change models together, and who watches them: here in one process, each with a repository of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mlaas4hep.errors import BundleError, MLaaSError, NotFoundError
from mlaas4hep.serve import workers
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.peers import Change, Peers
from mlaas4hep.serve.repository import ModelRepository
from tests.unit.serve.test_repository import Opener, opened, put


@contextmanager
def worker(folder: Path, number: int, count: int, repository: ModelRepository) -> Iterator[Peers]:
    peers = Peers(folder, number, count)
    try:
        peers.join(repository)
        yield peers
    finally:
        peers.close()


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Of models, and for workers."""
    models, folder = tmp_path / "models", tmp_path / "run"
    models.mkdir()
    folder.mkdir()
    put(models, "a", "1")
    put(models, "b", "1")
    return models, folder


@pytest.fixture
def three(places: tuple[Path, Path]) -> Iterator[tuple[list[Peers], list[ModelRepository], list[Opener]]]:
    pairs = [opened(places[0]) for _ in range(3)]
    with ExitStack() as stack:
        peers = [stack.enter_context(worker(places[1], number, 3, pairs[number][0])) for number in range(3)]
        yield peers, [one for one, _ in pairs], [one for _, one in pairs]


def test_a_change_is_everywhere_when_it_is_answered_whoever_was_asked(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]], places: tuple[Path, Path]
) -> None:
    peers, repositories, _ = three
    peers[1].spread(Change("unload", "a"))
    assert [one.names for one in repositories] == [("b",)] * 3
    put(places[0], "a", "2")
    peers[2].spread(Change("load", "a"))
    assert [one.versions("a") for one in repositories] == [("1", "2")] * 3
    peers[0].spread(Change("label", "a", label="stable", version="1"))
    assert [one.labels("a")["stable"] for one in repositories] == ["1"] * 3
    peers[0].spread(Change("label", "a", label="stable"))
    assert ["stable" in one.labels("a") for one in repositories] == [False] * 3
    with pytest.raises(NotFoundError, match="has no entry 'c'; known: a, b"):
        peers[0].spread(Change("load", "c"))
    assert json.loads((places[0] / "a" / "labels.json").read_text()) == {}


def test_what_was_deleted_is_gone_everywhere_and_comes_to_no_harm_when_it_is_put_there_again(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]], places: tuple[Path, Path]
) -> None:
    peers, repositories, _ = three
    peers[0].spread(Change("unload", "a"))
    peers[1].spread(Change("remove", "a"))
    assert [one.index() for one in repositories] == [repositories[0].index()] * 3
    assert {one.name for one in repositories[0].index()} == {"b"}
    put(places[0], "a", "1")  # by hand, without a word to the workers
    peers[2].close()
    with worker(places[1], 2, 3, opened(places[0])[0]):
        assert (places[0] / "a" / "1").is_dir()


def test_who_is_asked_where_nobody_is_named_is_the_same_everywhere_and_later(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]], places: tuple[Path, Path]
) -> None:
    peers, repositories, _ = three
    peers[0].spread(Change("unload", "b"))  # of which a note is kept, too
    threads = [
        threading.Thread(target=peers[one].spread, args=(Change("default", name),)) for one, name in enumerate("aba")
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert len({one.default for one in repositories}) == 1
    peers[2].spread(Change("default", "b"))
    peers[1].close()
    fresh = opened(places[0])[0]
    with worker(places[1], 1, 3, fresh):
        assert (fresh.default, fresh.names) == ("b", ("a",))
    assert [one.default for one in repositories] == ["b"] * 3


def test_what_was_unloaded_stays_so_in_a_worker_that_starts_later(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]], places: tuple[Path, Path]
) -> None:
    peers, repositories, _ = three
    peers[2].close()  # such as one that was killed
    peers[0].spread(Change("unload", "a"))
    peers[0].spread(Change("unload", "b"))
    peers[1].spread(Change("load", "b"))
    fresh = opened(places[0])[0]
    with worker(places[1], 2, 3, fresh):
        assert fresh.names == ("b",)
        peers[1].spread(Change("load", "a"))
        assert fresh.names == repositories[0].names == ("a", "b")


def test_what_some_workers_cannot_do_is_told_with_who_has_it(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]], places: tuple[Path, Path]
) -> None:
    peers, repositories, openers = three
    put(places[0], "a", "2")

    def fail(folder: Path) -> ServedModel:
        raise MemoryError("no room")

    repositories[1]._open = fail
    with pytest.raises(BundleError, match=r"load of model 'a': worker 1: .*no room; workers 0, 2 have it") as failed:
        peers[0].spread(Change("load", "a"))
    assert "asked for" not in str(failed.value)
    assert [one.versions("a") for one in repositories] == [("1", "2"), ("1",), ("1", "2")]
    repositories[1]._open = openers[1]
    put(places[0], "a", "3", b"broken")
    with pytest.raises(BundleError) as broken:
        peers[1].spread(Change("load", "a"))
    assert "have it" not in str(broken.value), "what all say is told once"
    assert [one.versions("a") for one in repositories] == [("1", "2")] * 3


def test_changes_of_one_model_at_one_time_end_everywhere_alike(
    three: tuple[list[Peers], list[ModelRepository], list[Opener]],
) -> None:
    peers, repositories, _ = three
    failed: list[MLaaSError] = []

    def change(number: int, what: str) -> None:
        try:
            for _ in range(10):
                peers[number].spread(Change(what, "a"))
        except MLaaSError as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=one) for one in enumerate(("load", "unload", "load"))]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert failed == []
    assert len({one.names for one in repositories}) == 1


def watch_of(folder: Path, pid: int) -> tuple[workers._Watch, workers._Child]:
    child = workers._Child(0, pid=pid, starts_s=None, words=b"ready")
    return workers._Watch([child], folder, lambda words: None, 1.0), child


@pytest.mark.parametrize("beats", [True, False])
def test_who_does_nothing_for_long_without_being_dead_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "LOOK_S", 0.0)
    monkeypatch.setattr(workers, "STILL", 3)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        watch, child = watch_of(tmp_path, process.pid)
        one = workers.Worker(0, 1, tmp_path, lambda words: None)
        (tmp_path / "beat-0").touch()
        for number in range(5):
            workers._look(watch)
            if beats:
                one.beat()
                os.utime(tmp_path / "beat-0", (number, number))
        assert (process.poll() is None) == beats or process.wait(10) == -9
        assert ("did nothing" in capsys.readouterr().err) != beats
        child.words = b""  # it is starting
        for _ in range(5):
            workers._look(watch)
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def test_who_dies_in_the_middle_of_a_change_holds_up_nobody(places: tuple[Path, Path]) -> None:
    first, second = opened(places[0])[0], opened(places[0])
    with worker(places[1], 0, 2, first) as one:
        dying = Peers(places[1], 1, 2)  # listens, and never gets to answering
        thread = threading.Thread(target=one.spread, args=(Change("unload", "a"),))
        thread.start()
        until(lambda: first.names == ("b",))
        assert thread.is_alive(), "it waits for the other, which is starting"
        dying.close()
        thread.join(20)
        assert not thread.is_alive()
        with worker(places[1], 1, 2, second[0]):
            assert second[0].names == ("b",)
