"""How long an answer over HTTP is waited for: before it begins, and once it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.data.places import open_place, persist, wire
from mlaas4hep.data.places.persist import Patience
from mlaas4hep.data.places.steady import SteadyPlace
from tests.fault_server import Faults, fault_server

CONTENT = bytes(range(256)) * 8_000


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before an answer begins; short within one."""
    monkeypatch.setattr(persist, "PATIENCE", Patience(stall_s=60.0, quick_s=60.0, pause_s=0.001))
    monkeypatch.setattr(wire, "_BEGUN_S", 0.2)
    monkeypatch.setattr(wire, "_BEGUN_SHARE", 0.001)


def test_silence_within_an_answer_is_not_given_the_patience_for_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with fault_server(tmp_path, Faults({"stall": 1.0}, in_all=3)) as server:
        place = open_place(f"{server.url}/a.bin")
        assert isinstance(place, SteadyPlace)
        assert bytes(place.read([(0, len(CONTENT))])[0]) == CONTENT
        place.close()
        assert server.met == {"stall": 3}
        assert place.effort.reasons == {"no answer: nothing came for too long": 3}


def test_an_answer_that_is_long_in_coming_is_waited_for_on_a_kept_connection_too(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with fault_server(tmp_path, rtt_s=0.5) as server:
        place = open_place(f"{server.url}/a.bin")
        assert isinstance(place, SteadyPlace)
        assert bytes(place.read([(600_000, 1_000_000)])[0]) == CONTENT[600_000:1_000_000]
        place.close()
        assert place.retries == 0
