"""``mlaas4hep score``: which words are bundles and which are files, what is told, and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.cli import run
from tests.scored import write_input
from tests.small_bundle import write_small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_input(tmp_path / f"a{number}.root", 100, seed=number)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> str:
    assert run(list(map(str, arguments))) == status
    captured = capsys.readouterr()
    return captured.err if status == 2 else captured.out


def test_files_are_scored_and_verified(bundle: Bundle, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "score", bundle.path.parent, "a*.root", "-o", "out")
    assert "scored by tth" in told
    assert "2 outputs, 200 entries" in told
    again = json.loads(said(capsys, "score", bundle.path, "a0.root", "a1.root", "-o", "out", "--json"))
    assert [one["finished_before"] for one in again["outputs"]] == [True, True]
    assert [one["entries"] for one in again["outputs"]] == [100, 100]
    assert "same events    a0.root  out/a0_scores.root  (100 entries; tth" in said(
        capsys, "score", "--verify", "out", "a0.root"
    )
    shutil.copy("a1.root", "a0.root")
    told = said(capsys, "score", "--verify", "out", "a0.root", status=1)
    assert told.startswith("NOT THE SAME  a0.root  out/a0_scores.root\n  - the first event is run 1")
    assert not json.loads(said(capsys, "score", "--verify", "out", "a0.root", "--json", status=1))["equal"]


def test_a_run_stands_for_its_model(bundle: Bundle, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bundle.path.parent, here / "runs" / "x" / "model" / "tth")
    assert "scored by tth" in said(capsys, "score", "runs/x", "a0.root", "-o", "out")


def test_a_run_of_several_models_is_asked_which(bundle: Bundle, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tth", "ttz"):
        shutil.copytree(bundle.path.parent, here / "runs" / "x" / "model" / name)
    told = said(capsys, "score", "runs/x", "a0.root", "-o", "out", status=2)
    assert "'runs/x' holds several models" in " ".join(told.split())
    assert "runs/x/model/ttz" in told
    assert "in runs lie runs/x" in " ".join(said(capsys, "score", "runs", "a0.root", "-o", "out", status=2).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a0.root", "-o", "out"], "no BUNDLE is given: name the folder of a model"),
        (["runs/nothere", "a0.root", "-o", "out"], "'runs/nothere' is not there; wants the folder of a model"),
        (["BUNDLE", "-o", "out"], "no FILES are given"),
        (["BUNDLE", "a0.root"], "no -o OUT is given"),
        (["BUNDLE", "a0.root", "-o", "out", "--fill", "none"], "'none' is not a number"),
        (["BUNDLE", "a0.root", "-o", "out", "--on-error", "go on"], "'go on' is not known"),
        (["BUNDLE", "b0.root", "-o", "out"], "no such file; did you mean 'a0.root'"),
        (["BUNDLE", "a0.root", "a1.root", "-o", "x.root"], "2 inputs have 2 outputs; give a folder"),
        (["--verify", "out", "a0.root", "-o", "out"], "--verify takes the outputs itself"),
        (["BUNDLE", "a0.root", "-o", "x.parquet"], "--format parquet would make it"),
        (["BUNDLE", "a0.root", "-o", "out", "--drop", "x"], "--drop is of copies"),
        (["--verify", "out"], "no FILES are given to hold against it"),
    ],
)
def test_mistakes_are_told_in_words(
    bundle: Bundle, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = ["score", *(str(bundle.path) if one == "BUNDLE" else one for one in arguments)]
    assert words in said(capsys, *given, status=2)
    assert not (here / "out").exists()
