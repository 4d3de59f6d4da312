"""``mlaas4hep predict`` against a small server that answers as it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlaas4hep.cli import predict, run
from tests.crooked_server import MODELS, Asked, crooked, predicted, reply


def test_many_events_go_in_parts_and_the_next_server_is_asked_where_one_is_dead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(predict, "PART", 3)
    file = tmp_path / "events.json"
    file.write_text(json.dumps([{"x": float(i)} for i in range(8)]))
    with crooked(MODELS, reply(200, {"version": "3"}), predicted) as server:
        asked = ["predict", "--url", "http://127.0.0.1:1", "--url", server.url, "--file", str(file), "--json"]
        assert run(asked) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"model_name": "a", "predictions": [{"s": float(i)} for i in range(8)]}
    assert [len(json.loads(one.body)["instances"]) for one in server.asked[2:]] == [3, 3, 2]
    assert {one.path for one in server.asked[2:]} == {"/v1/models/a/versions/3:predict"}


def test_a_token_is_taken_from_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")

    def judge(asked: Asked) -> bytes:
        known = asked.headers.get("authorization") == "Bearer s3cret"
        return predicted(asked) if known else reply(401, {"error": "who are you"})

    with crooked(judge) as server:
        asked = ["predict", "--url", server.url, "--model", "a", "--event", "x=1.5"]
        assert run([*asked, "--token-file", str(file)]) == 0
        assert capsys.readouterr().out.split() == ["event", "s", "0", "1.5"]
        file.write_text("other")
        assert run([*asked, "--token-file", str(file)]) == 2
    said = capsys.readouterr().err
    assert "who are you; the token that was shown is of no use" in said
    assert "other" not in said


def test_pictures_are_sent_as_they_are_and_the_likeliest_classes_are_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    classes = {f"class{number}": number / 8 for number in range(7)}
    answers = iter([classes, {"boxes": [[1.0, 2.0]]}, classes])
    (tmp_path / "a.png").write_bytes(b"\x89PNG...")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8...")

    def answer(asked: Asked) -> bytes:
        return reply(200, {"predictions": [next(answers)], "model_name": "m", "model_version": "1"})

    with crooked(answer) as server:
        command = ["predict", "--url", server.url, "--model", "m", "--image", str(tmp_path / "a.png")]
        assert run([*command, "--image", str(tmp_path / "b.jpg")]) == 0
        said = capsys.readouterr().out.splitlines()
        assert run([*command, "--json"]) == 0
        assert run([*command, "--event", "x=1"]) == 2
    assert said[1:6] == [f"  {number / 8:.6g}  class{number}" for number in (6, 5, 4, 3, 2)]
    assert said[6:] == [f"{tmp_path / 'b.jpg'}:", '  {"boxes": [[1.0, 2.0]]}']
    assert [one.headers["content-type"] for one in server.asked[:2]] == ["image/png", "image/jpeg"]
    assert json.loads(capsys.readouterr().out) == {"model_name": "m", "predictions": [classes]}


@pytest.mark.parametrize(
    ("start", "kind"), [(b"root\0\0", "a ROOT file"), (b"PAR1", "a Parquet file"), (b"Obj\x01", "an Avro file")]
)
def test_a_file_of_events_that_is_not_json_names_the_command_for_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, start: bytes, kind: str
) -> None:
    file = tmp_path / "events"
    file.write_bytes(start + b"\xff")
    assert run(["predict", "--file", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}: asked for events as JSON, found {kind}; 'mlaas4hep score BUNDLE FILES -o OUT' scores" in said


def test_a_port_is_part_of_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--port", "8765", "--event", "x=1"]) == 2
    assert "no option --port; a server is named with --url http://localhost:8765" in capsys.readouterr().err
