"""``mlaas4hep label`` in a folder of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlaas4hep.cli import run
from mlaas4hep.serve.entries import Entry
from tests.plain_graph import write_plain_graph


def test_versions_are_labelled_shown_and_set_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_plain_graph(tmp_path, name="tth", words=["FP32"])
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"nobody looks inside")
    assert run(["label", str(tmp_path), "tth", "stable", "1"]) == 0
    assert capsys.readouterr().out == "latest: version 2\nstable: version 1\n"
    assert Entry("tth", folder).labels() == {"stable": "1"}
    assert run(["label", str(tmp_path), "tth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"latest": "2", "stable": "1"}
    assert run(["label", str(folder), "tth", "stable", "--remove"]) == 0
    assert capsys.readouterr().out == "latest: version 2\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tt", "stable", "1"], "no entry 'tt'; did you mean 'tth'?"),
        (["tth", "stable", "3"], "model 'tth' has no version 3; versions: 1"),
        (["tth", "latest", "1"], "'latest' is always the newest version"),
        (["tth", "7", "1"], "label '7': asked for a letter"),
        (["tth", "stable"], "which version is 'stable'? Say it, or --remove"),
        (["tth", "stable", "1", "--remove"], "which version is 'stable'?"),
    ],
)
def test_what_cannot_be_labelled_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    write_plain_graph(tmp_path, name="tth", words=["FP32"])
    assert run(["label", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err
