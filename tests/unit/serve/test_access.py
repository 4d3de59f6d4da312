"""The access log: a line a request, no secret in it, no line too many, new files on demand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.errors import UserError
from mlaas4hep.serve.access import AccessLog
from mlaas4hep.serve.hooks import Seen
from tests.unit.serve.test_metrics import model

SECRET = b"Bearer eyJhbGciOiJFUzI1NiJ9.secret.signature"


def seen(path: str = "/v2/models/tth/infer", *, status: int = 200, **headers: bytes) -> Seen:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    who = model() if status == 200 else None
    return Seen("POST", path, status, "10.0.0.1", "infer", who, 3, 100, 50, 0.004, 0.001, 0.002, named)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_request_is_one_line_with_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(str(path), subject=lambda authorization: "tester" if authorization == SECRET else None)
    log.seen(seen(authorization=SECRET, x_request_id=b"id-1\nforged"))
    log.seen(seen("/nothing", status=404))
    log.close()
    first, second = lines(path)
    assert first.pop("time").endswith("Z")
    assert first == {
        "client": "10.0.0.1", "method": "POST", "path": "/v2/models/tth/infer", "status": 200, "model": "tth",
        "version": "1", "rows": 3, "bytes_in": 100, "bytes_out": 50, "ms": 4.0, "queue_ms": 1.0, "run_ms": 2.0,
        "id": "id-1\\x0aforged", "subject": "tester",
    }  # fmt: skip
    assert set(second) == {"time", "client", "method", "path", "status", "bytes_in", "bytes_out", "ms"}


def test_no_secret_is_written(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(str(path), subject=lambda authorization: None)
    log.seen(seen("/v2/models/tth/infer?access_token=hidden&authz=hidden", authorization=SECRET, cookie=b"hidden"))
    log.seen(seen("/" + "x" * 100_000, status=404, authorization=SECRET))
    log.close()
    text = path.read_text()
    assert "hidden" not in text
    assert "secret" not in text
    assert len(text) < 2000


def test_nothing_that_a_client_chooses_does_anything_to_a_terminal_or_makes_a_line_of_its_own(tmp_path: Path) -> None:
    path, nasty = tmp_path / "access.jsonl", "/\x1b[2J\r\n{}\x9b31m\x7f\u202e\u2028\ud800é"
    log = AccessLog(str(path))
    log.seen(seen(nasty, status=404, x_request_id=b"\x9b31m\x1b]0;x\x07"))
    log.close()
    (line,) = path.read_bytes().decode().splitlines()
    assert line.isprintable()
    assert json.loads(line)["path"] == r"/\x1b[2J\x0d\x0a{}\x9b31m\x7f\x202e\x2028\xd800é"
    assert json.loads(line)["id"] == r"\x9b31m\x1b]0;x\x07"


def test_lines_that_wait_long_keep_only_what_is_written_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.serve.access.WRITE_S", 1000.0)
    monkeypatch.setattr("mlaas4hep.serve.access._WHOLE_WAITING", 3)
    log = AccessLog(str(tmp_path / "access.jsonl"))
    for _ in range(5):
        strange = {"cookie": b"y" * 60_000, "authorization": b"Bearer " + b"z" * 60_000}
        log.seen(seen("/" + "x" * 60_000, status=404, x_request_id=b"7" * 60_000, **strange))
    kept = [sum(map(len, (one.path, *one.headers.values()))) for _, one in log._waiting]
    log.close()
    assert max(kept[3:]) <= 1024 < 100_000 < min(kept[:3])
    assert {(one["id"], len(one["path"])) for one in lines(tmp_path / "access.jsonl")} == {("7" * 512, 512)}


def test_whose_token_it_was_is_told_of_lines_that_wait_long_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.serve.access.WRITE_S", 1000.0)
    monkeypatch.setattr("mlaas4hep.serve.access._WHOLE_WAITING", 1)
    log = AccessLog(str(tmp_path / "access.jsonl"), subject={b"Bearer good": "alice"}.get)
    for token in (b"Bearer good", b"Bearer good", b"Bearer bad"):
        log.seen(seen(authorization=token))
    assert [b"authorization" in one.headers for _, one in log._waiting] == [True, True, False]
    log.close()
    assert [one.get("subject") for one in lines(tmp_path / "access.jsonl")] == ["alice", "alice", None]


def test_lines_that_find_no_room_are_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.serve.access.WRITE_S", 1000.0)
    monkeypatch.setattr("mlaas4hep.serve.access.MAX_WAITING", 10)
    path = tmp_path / "access.jsonl"
    log = AccessLog(str(path))
    for _ in range(25):
        log.seen(seen())
    assert log.dropped == 15
    log.close()
    found = lines(path)
    assert len([one for one in found if "path" in one]) == 10
    assert [one["dropped"] for one in found if "dropped" in one] == [15]


def test_a_log_that_was_moved_away_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.jsonl", tmp_path / "access.jsonl.1"
    log = AccessLog(str(path))
    log.seen(seen("/before"))
    path.rename(moved)
    log.reopen()
    while not path.exists():
        pass
    log.seen(seen("/after"))
    log.close()
    assert [one["path"] for one in lines(moved)] == ["/before"]
    assert [one["path"] for one in lines(path)] == ["/after"]


def test_a_log_that_cannot_be_written_is_refused_and_one_that_fails_later_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"--access-log .*cannot be written"):
        AccessLog(str(tmp_path / "no" / "folder"))
    log = AccessLog("/dev/full")
    log.seen(seen())
    log.close()
    assert log.dropped == 1
    assert "No space left" in capfd.readouterr().err


def test_standard_output_takes_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-")
    log.seen(seen())
    log.close()
    assert json.loads(capfd.readouterr().out)["status"] == 200
