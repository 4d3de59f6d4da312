"""The servers that `benchmarks.remote` measures against, as processes of their own."""

import contextlib
import http.client
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.events import NARROW, events_file
from benchmarks.remote import bytes_needed, ceiling_mbs, served

FAST = {"rtt_ms": 1.0, "mb_per_s": 1_000.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return events_file(tmp_path, replace(NARROW, cluster=500, clusters=10))


def test_a_file_behind_the_line_has_its_bytes_and_its_requests_are_counted(path: Path) -> None:
    with served(path, "http", fail=0.0, **FAST) as (url, counts), urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == path.read_bytes()
    assert counts == {"requests": 1, "503": 0, "reset": 0, "short": 0}


def test_requests_fail_where_they_are_told_to(path: Path) -> None:
    with served(path, "http", fail=1.0, **FAST) as (url, counts):
        assert [got(url, path) for _ in range(5)] == [False] * 5
    assert counts["requests"] == counts["503"] + counts["reset"] + counts["short"] == 5


def got(url: str, path: Path) -> bool:
    """Whether the file comes whole."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        try:
            connection.request("GET", urlsplit(url).path)
            return connection.getresponse().read() == path.read_bytes()
        except (http.client.IncompleteRead, ConnectionError):
            return False


def test_curl_gets_the_whole_file_each_time(path: Path) -> None:
    assert len(ceiling_mbs(path, repeats=2, **FAST)) == 2


def test_the_branches_of_the_stream_are_nearly_the_whole_file(path: Path) -> None:
    assert 0.8 * path.stat().st_size < bytes_needed(path) < path.stat().st_size
