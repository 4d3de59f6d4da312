"""``mlaas4hep verify``: what it says and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from mlaas4hep.bundle import verify
from mlaas4hep.cli import run
from mlaas4hep.graph.invariance import Variance
from tests.plain_graph import write_plain_graph

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle_v1"


def test_bundles_that_keep_the_law_are_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(GOLDEN / "network"), str(GOLDEN / "trees" / "1")]
    assert run(["verify", *paths, "--threads", "1", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["ok"], one["name"], one["threads"], one["joined"]) for one in found] == [
        (True, "network", [1], 256),
        (True, "trees", [1], 256),
    ]


def test_one_that_does_not_ends_with_status_1_and_says_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Variance(row=4, threads=1, batch=3, difference=1e-7, rows=2)
    monkeypatch.setattr(verify, "find_company", lambda *_, **__: ([broken], 256))
    assert run(["verify", str(GOLDEN / "network")]) == 1
    said = capsys.readouterr().out
    assert "in batches of 3 on 1 thread 2 rows get other scores than alone, first row 4" in said
    assert "bit-equal" not in said


def test_a_bundle_that_was_changed_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / "network", tmp_path / "network")
    (tmp_path / "network" / "1" / "model.onnx").write_bytes(b"other")
    assert run(["verify", str(tmp_path / "network")]) == 2
    assert "was changed since the bundle was written" in capsys.readouterr().err


def test_several_models_as_one_are_verified_one_by_one_and_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(GOLDEN / "network", tmp_path / "network")
    for name, members in (("both", "{one: network, two: network/latest}"), ("broken", "[network, nobody]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ensemble.yaml").write_text(f"members: {members}\n")
    assert run(["verify", str(tmp_path / "both"), "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["name"], found["variances"]) == (True, "both", [])
    assert found["joined"] in (64, 128, 256), "as many as there is time for"
    assert [(one["ok"], one["name"]) for one in found["members"]] == [(True, "network")]
    assert run(["verify", str(tmp_path / "broken"), "--threads", "1"]) == 2
    assert "no model 'nobody' is served here" in capsys.readouterr().err


def test_a_whole_whose_rows_are_not_alone_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a graph that takes the mean of its rows away."""
    file = write_plain_graph(tmp_path, name="mean", words=["FP32"], max_batch_size=64) / "1" / "model.onnx"
    model = onnx.load(file)
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["FP32"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.append(onnx.helper.make_node("Sub", ["FP32", "mean"], ["same_FP32"]))
    onnx.save(model, file)
    (tmp_path / "two.yaml").write_text("members: {a: mean, b: ./mean}\n")
    assert run(["verify", f"two={tmp_path / 'two.yaml'}", "--threads", "1"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("two: the mean of 2 models: a, b\n")
    assert "in batches of 3 on 1 thread 3 rows get other scores than alone" in said
    assert "mean/1 is a plain graph" in said
    assert "bit-equal" not in said
