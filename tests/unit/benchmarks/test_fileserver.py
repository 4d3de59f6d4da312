import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fileserver import FAULTS, Faults, file_server, parse_ranges

CONTENT = np.random.default_rng(1).bytes(100_000)


class OneFault(Faults):
    """Every request fails in one way."""

    def __init__(self, kind: str) -> None:
        super().__init__(0.0)
        self._kind = kind

    def draw(self) -> str:
        return self._kind


@contextmanager
def served(tmp_path: Path, faults: Faults) -> Iterator[http.client.HTTPConnection]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.root").write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(b"not for you")
    with file_server(folder, faults) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        try:
            yield connection
        finally:
            connection.close()
            server.shutdown()


def get(
    connection: http.client.HTTPConnection, path: str = "/a.root", *, range: str | None = None
) -> tuple[int, bytes]:
    connection.request("GET", path, headers={} if range is None else {"Range": range})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize(
    ("asked", "status", "wanted"),
    [
        (None, 200, CONTENT),
        ("bytes=10-19", 206, CONTENT[10:20]),
        ("bytes=99990-", 206, CONTENT[99_990:]),
        ("bytes=-10", 206, CONTENT[-10:]),
        ("bytes=99990-200000", 206, CONTENT[99_990:]),
        ("nonsense", 200, CONTENT),
    ],
)
def test_a_range_gives_exactly_its_bytes(tmp_path: Path, asked: str | None, status: int, wanted: bytes) -> None:
    with served(tmp_path, Faults(0.0)) as connection:
        assert get(connection, range=asked) == (status, wanted)
        assert get(connection, range=asked) == (status, wanted)  # on the same connection


def test_several_ranges_come_in_one_answer(tmp_path: Path) -> None:
    with served(tmp_path, Faults(0.0)) as connection:
        status, body = get(connection, range="bytes=0-9,500-599")
    assert status == 206
    parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--next-range")]
    assert [part.removesuffix(b"\r\n") for part in parts[1:3]] == [CONTENT[:10], CONTENT[500:600]]


def test_a_range_outside_the_file_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, Faults(0.0)) as connection:
        assert get(connection, range="bytes=100000-")[0] == 416


def test_what_is_not_in_the_folder_is_not_found(tmp_path: Path) -> None:
    with served(tmp_path, Faults(0.0)) as connection:
        assert get(connection, "/../secret")[0] == 404
        connection.close()
        assert get(connection, "/b.root")[0] == 404


def test_size_and_identity_are_told_without_the_bytes(tmp_path: Path) -> None:
    with served(tmp_path, Faults(1.0)) as connection:  # questions of this kind do not fail
        connection.request("HEAD", "/a.root")
        answer = connection.getresponse()
        assert answer.read() == b""
        assert answer.headers["Content-Length"] == "100000"
        assert answer.headers["ETag"]


def test_a_fault_503_says_so_and_the_next_request_may_follow(tmp_path: Path) -> None:
    with served(tmp_path, OneFault("503")) as connection:
        assert get(connection)[0] == 503


def test_a_short_answer_has_the_right_bytes_up_to_its_half(tmp_path: Path) -> None:
    with served(tmp_path, OneFault("short")) as connection, pytest.raises(http.client.IncompleteRead) as caught:
        get(connection, range="bytes=0-9999")
    assert caught.value.partial == CONTENT[:5_000]


def test_a_reset_ends_the_connection_in_the_middle(tmp_path: Path) -> None:
    with served(tmp_path, OneFault("reset")) as connection, pytest.raises(ConnectionResetError):
        get(connection)


def test_the_share_of_faults_is_as_asked_seeded_and_counted() -> None:
    faults = Faults(0.25, seed=3)
    drawn = [faults.draw() for _ in range(4_000)]
    again = Faults(0.25, seed=3)
    assert drawn == [again.draw() for _ in range(4_000)]
    failed = [one for one in drawn if one is not None]
    assert 900 < len(failed) < 1_100
    assert faults.counts == {"requests": 4_000} | {kind: failed.count(kind) for kind in FAULTS}


def test_ranges_that_cannot_be_read_are_ignored_and_empty_ones_are_not_satisfiable() -> None:
    assert parse_ranges("bytes=-", 10) is None
    assert parse_ranges("items=0-1", 10) is None
    assert parse_ranges("bytes=20-30", 10) == []
