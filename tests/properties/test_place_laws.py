"""Far places under a server that goes wrong: identical bytes or an error that accounts for them, and no endless wait.

Wrong bytes of the right length are not among the faults: no place can see them. Formats have checksums for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas4hep.data.places import open_place, persist
from mlaas4hep.data.places.persist import Patience
from mlaas4hep.data.places.ranges import Fetch, bundles, join
from mlaas4hep.errors import DataError
from tests.fault_server import KINDS, Faults, fault_server

CONTENT = np.random.default_rng(3).bytes(700_000)
SEEN = tuple(kind for kind in KINDS if kind != "wrong_bytes")
_LONG_S = 60

ranges_of = st.lists(
    st.tuples(st.integers(0, 2_000), st.integers(0, 300)).map(lambda one: (one[0], one[0] + one[1])), max_size=30
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("far")
    (path / "a.root").write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times less than for real servers, so that a test takes as much less."""
    monkeypatch.setattr(persist, "PATIENCE", Patience(stall_s=0.1, most_stall_s=0.2, pause_s=0.005, attempts=4))


def outcome(url: str, replicas: tuple[str, ...] = ()) -> str:
    """``identical`` or the error; fails for wrong bytes, and for a wait that does not end."""
    told: list[str] = []

    def read() -> None:
        try:
            place = open_place(url, replicas=replicas)
            for at in range(0, 600_000, 97_000):
                ranges = [(at, at + 50_000), (at + 90_000, at + 190_000), (0, 100), (690_000 - at, 700_000 - at)]
                ranges = [one for one in ranges if one[1] <= len(CONTENT)]
                wanted = [CONTENT[start:stop] for start, stop in ranges]
                told.extend([] if [bytes(one) for one in place.read(ranges)] == wanted else ["wrong"])
            told.append("identical")
        except DataError as error:
            told.append(str(error))

    in_time(read)
    assert told, "ended with another error"
    return told[0]


def in_time(act: Callable[[], None]) -> None:
    helper = threading.Thread(target=act, daemon=True)
    helper.start()
    helper.join(_LONG_S)
    assert not helper.is_alive(), f"still waiting after {_LONG_S} s"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    rates=st.dictionaries(st.sampled_from(SEEN), st.floats(0.01, 0.3), max_size=3),
    at_most=st.sampled_from([1, 1_000]),
)
def test_what_comes_back_is_identical_or_accounted_for(
    folder: Path, seed: int, rates: dict[str, float], at_most: int
) -> None:
    with fault_server(folder, Faults(rates, seed=seed, at_most=at_most)) as server:
        found = outcome(f"{server.url}/a.root")
        assert found == "identical" or (found.startswith(server.url) and ("asked" in found or "changed" in found))
        if at_most == 1 and "no_http" not in rates:
            assert found == "identical"


@pytest.mark.parametrize("kind", SEEN)
def test_every_fault_that_ends_is_overcome_and_counted(folder: Path, kind: str) -> None:
    with fault_server(folder, Faults({kind: 1.0}, at_most=1)) as server:
        place = open_place(f"{server.url}/a.root")
        assert bytes(place.read([(300_000, 500_000)])[0]) == CONTENT[300_000:500_000]
        assert server.met[kind] >= 2
        assert place.effort.retries == server.met[kind]  # type: ignore[attr-defined]
        assert sum(place.effort.reasons.values()) == server.met[kind]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", SEEN)
def test_a_fault_without_end_is_an_error_with_its_reason_or_the_next_replica(folder: Path, kind: str) -> None:
    with fault_server(folder, Faults({kind: 1.0})) as bad, fault_server(folder) as good:
        told = outcome(f"{bad.url}/a.root")
        assert "asked 4 times" in told
        assert outcome(f"{bad.url}/a.root", (f"{bad.url}/a.root", f"{good.url}/a.root")) == "identical"


def test_a_server_that_never_answers_is_given_up(folder: Path) -> None:
    with fault_server(folder, Faults(dead=True)) as server:
        assert "nothing came for too long (asked 4 times)" in outcome(f"{server.url}/a.root")


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_file_that_changes_is_never_mixed(folder: Path, after: int) -> None:
    with fault_server(folder, Faults(changes_after=after)) as server:
        assert "was changed while it was read" in outcome(f"{server.url}/a.root")


def test_wrong_bytes_of_the_right_length_are_for_checksums_to_see(folder: Path) -> None:
    with fault_server(folder, Faults({"wrong_bytes": 1.0})) as server:
        assert outcome(f"{server.url}/a.root") == "wrong"


def test_a_replica_of_another_size_is_refused_and_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.root").write_bytes(CONTENT[:-1])
    with (
        fault_server(folder, Faults({"error": 1.0})) as bad,
        fault_server(folder) as good,
        fault_server(tmp_path) as odd,
    ):
        first = f"{good.url}/a.root"
        place = open_place(first, replicas=[first, f"{odd.url}/a.root", f"{bad.url}/a.root"])
        good.close()
        with pytest.raises(DataError) as refused:
            place.read([(300_000, 500_000)])
        told = str(refused.value)
        assert f"{odd.url}/a.root: is no replica: it has 699999 bytes, not 700000" in told
        assert f"{bad.url}/a.root: the server answered HTTP 503 (asked 4 times)" in told


def test_the_same_faults_give_the_same_bytes_whoever_is_asked_first(folder: Path) -> None:
    faults = Faults({"reset": 0.2, "short": 0.2}, seed=5, at_most=2)
    with fault_server(folder, faults) as one, fault_server(folder, faults) as other:
        urls = (f"{one.url}/a.root", f"{other.url}/a.root")
        assert outcome(urls[0], urls) == outcome(urls[1], urls[::-1]) == "identical"


@given(ranges=ranges_of, gap=st.integers(0, 50), piece=st.integers(1, 200))
def test_every_byte_asked_for_is_in_exactly_one_piece(ranges: list[tuple[int, int]], gap: int, piece: int) -> None:
    content = bytes(np.arange(3_000, dtype=np.uint32).astype(np.uint8))
    fetch = Fetch(ranges, gap_bytes=gap, piece_bytes=piece)
    times = np.zeros(3_000, int)
    for one in fetch.pieces:
        assert 0 < len(one.view) <= piece
        one.view[:] = content[one.start : one.stop]
        times[one.start : one.stop] += 1
    assert times.max(initial=0) <= 1
    assert [bytes(one) for one in fetch.results()] == [content[start:stop] for start, stop in ranges]


@given(ranges=ranges_of, gap=st.integers(0, 50))
def test_joined_ranges_hold_no_more_than_the_gaps(ranges: list[tuple[int, int]], gap: int) -> None:
    joined = join(ranges, gap)
    wanted = {at for start, stop in ranges for at in range(start, stop)}
    covered = {at for start, stop in joined for at in range(start, stop)}
    assert wanted <= covered
    assert len(covered) == sum(stop - start for start, stop in joined)
    assert len(covered) - len(wanted) <= gap * len(ranges)
    assert all(later[0] - before[1] > gap for before, later in pairwise(joined))


@given(ranges=ranges_of, most=st.integers(1, 5), most_bytes=st.integers(1, 500))
def test_requests_of_several_pieces_keep_their_bounds(
    ranges: list[tuple[int, int]], most: int, most_bytes: int
) -> None:
    pieces = Fetch(ranges, gap_bytes=0, piece_bytes=100).pieces
    found = bundles(pieces, most=most, most_bytes=most_bytes)
    assert [one for some in found for one in some] == pieces
    for some in found:
        assert 0 < len(some) <= most
        assert len(some) == 1 or sum(len(one.view) for one in some) <= most_bytes
