"""The story of a user, through the command line as it is installed: inspect, draft, train, serve, predict."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import warm

EXAMPLE = Path(__file__).parents[2] / "examples" / "tth"


def mlaas4hep(*arguments: str | Path, started: Sequence[str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command, from a process of `tests.warm` if not ``started`` otherwise."""
    command = [*(started or warm.command()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def done(*arguments: str | Path, started: Sequence[str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    result = mlaas4hep(*arguments, started=started)
    assert result.returncode == 0, result.stderr
    return result.stdout


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("quickstart")
    return last_json(done("quickstart", "--json", "--seed", "2", "-o", folder / "runs"))


def test_quickstart_serves_the_offline_scores_bit_for_bit(quickstart: dict[str, Any]) -> None:
    assert quickstart["served_minus_offline_max"] == 0
    assert quickstart["events_served"] >= 1000


def test_quickstart_is_as_good_as_default_boosting(quickstart: dict[str, Any]) -> None:
    assert quickstart["events_test"] >= 1500
    assert quickstart["auc_bdt"] >= quickstart["auc_reference"] - 2 * quickstart["auc_err"]
    assert quickstart["auc"] > 0.9


def test_quickstart_leaves_a_page_with_its_pictures(quickstart: dict[str, Any]) -> None:
    page = Path(quickstart["report"])
    assert page.is_absolute()
    text = page.read_text()
    assert f"{quickstart['auc']:.4f}" in text
    kinds = ("roc", "loss", "score_0", "confusion", "significance_0", "importance", "inputs_1_read", "inputs_1_seen")
    for kind in kinds:
        assert f'src="pictures/{kind}' in text
    for picture in re.findall(r'src="([^"]+)"', text):
        assert (page.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_quickstart_compares_its_models_on_one_page(quickstart: dict[str, Any]) -> None:
    text = Path(quickstart["comparison"]).read_text()
    assert f"{quickstart['auc']:.4f}" in text
    assert f"{quickstart['auc_bdt']:.4f}" in text
    assert 'href="../mlp/report.html"' in text


def test_a_second_evaluation_does_not_open_the_test_part_again(quickstart: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "mlp"
    shutil.copytree(Path(quickstart["report"]).parent, run)
    again = mlaas4hep("evaluate", run, "--json", "--background-uncertainty", "0.2")
    assert again.returncode == 0, again.stderr
    assert "the test part was opened before" in again.stderr
    found = last_json(again.stdout)
    assert (found["auc"], found["test_part_opened"]) == (quickstart["auc"], False)


def test_evaluating_what_is_no_run_is_one_message_and_status_2(tmp_path: Path) -> None:
    result = mlaas4hep("evaluate", tmp_path / "runs", started=warm.REAL)
    assert result.returncode == 2
    assert "is no run directory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_two_runs_of_one_config_and_seed_give_equal_hashes(tmp_path: Path) -> None:
    short = ["--set", "training.epochs=2", "--json"]
    one, other = (
        last_json(done("train", EXAMPLE / "config.yaml", "-o", tmp_path / name, *short)) for name in ("one", "other")
    )
    assert one["spec_sha256"] == other["spec_sha256"]
    assert one["model_sha256"] == other["model_sha256"]
    assert one["auc"] == other["auc"]
    assert one["auc_part"] == "validation"


def test_a_drafted_config_trains(tmp_path: Path) -> None:
    files = [EXAMPLE / "data" / name for name in ("ttH_0.root", "ttbar_0.root")]
    draft = tmp_path / "draft.yaml"
    draft.write_text(done("inspect", *files, "--draft"))
    short = ["--set", "training.epochs=1", "--max-events", "2000", "--evaluate", "--json"]
    # A process of its own, and painted pictures.
    assert last_json(done("train", draft, "-o", tmp_path / "run", *short, started=warm.REAL))["events"] > 1000


BAD = {
    "a branch that is not there": ("inputs: {event: [HTT]}", "'HTT'", "did you mean 'HT'"),
    "a tree that is not there": ("tree: Event", "'Event'", "Events"),
    "a jagged branch as flat": ("inputs: {event: [Jet_pt]}", "'Jet_pt' is jagged", "max(Jet_pt)"),
    "a flat branch in a collection": ("inputs: {jets: {vars: [HT], length: 3}}", "'HT' is flat", "inputs.event"),
    "a file that is not there": ("samples.ttH.files: data/no_*.root", "no_*.root", "samples.ttH"),
    "a selection that leaves one class": ("samples.ttH.selection: HT > 1e9", "no training events of 'signal'", "check"),
    "a model that is not known": ("model: mlpp", "mlpp", "did you mean 'mlp'"),
    "a dial that is not known": ("model: {name: mlp, hiden: [3]}", "hiden", "did you mean 'hidden'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_status_2(case: str, tmp_path: Path) -> None:
    change, *said = BAD[case]
    key, _, value = change.partition(": ")
    result = mlaas4hep("train", EXAMPLE / "config.yaml", "-o", tmp_path / "run", "--set", f"{key}={value}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_three_mistakes_in_a_config_are_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text((EXAMPLE / "config.yaml").read_text().replace("tree:", "tre:").replace("test: 0.2", "test: 2"))
    result = mlaas4hep("train", config, "--set", "weights.training=balancd")
    assert result.returncode == 2
    for words in ("tre: unknown key", "split.test", "weights.training"):
        assert words in result.stderr


def test_a_truncated_file_or_one_that_is_not_root_is_named(tmp_path: Path) -> None:
    whole = (EXAMPLE / "data" / "ttH_0.root").read_bytes()
    (tmp_path / "cut.root").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.root").write_text("this is not a ROOT file\n")
    (tmp_path / "empty.root").write_bytes(b"")
    for name in ("cut.root", "text.root", "empty.root"):
        result = mlaas4hep("inspect", tmp_path / name)
        assert result.returncode == 2
        assert name in result.stderr
        assert "Traceback" not in result.stderr


def test_a_bundle_with_one_changed_byte_is_not_served(quickstart: dict[str, Any], tmp_path: Path) -> None:
    bundle = tmp_path / "tth"
    shutil.copytree(Path(quickstart["report"]).parent / "model" / "tth", bundle)
    model = bundle / "1" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    result = mlaas4hep("serve", bundle, "--port", "0")
    assert result.returncode == 2
    assert "model.onnx" in result.stderr
    assert "Traceback" not in result.stderr
