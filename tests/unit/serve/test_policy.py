"""What a plain entry's config says beyond its tensors: versions that are served, and runs before they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlaas4hep.errors import BundleError
from mlaas4hep.serve.entries import find_entries
from mlaas4hep.serve.model import ServedModel, load_model
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.pbtxt import parse_json, parse_pbtxt
from tests.plain_graph import write_plain_graph
from tests.small_bundle import write_small_bundle


def entry(place: Path, config: str = "", *, versions: int = 1) -> Path:
    folder = write_plain_graph(place, words=["FP32", "BYTES"])
    (folder / "config.pbtxt").write_text("max_batch_size: 8\n" + config)
    for version in range(2, versions + 1):
        shutil.copytree(folder / "1", folder / str(version))
    return folder


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["1", "2", "3"]),
        ("{ latest: { num_versions: 2 }}", ["2", "3"]),
        ("{ latest { } }", ["3"]),
        ("{ all { } }", ["1", "2", "3"]),
        ("{ specific: { versions: [1, 3, 9] }}", ["1", "3"]),
    ],
)
def test_versions_are_those_that_the_config_asks_for(tmp_path: Path, policy: str, served: list[str]) -> None:
    folder = entry(tmp_path, f"version_policy: {policy}" if policy else "", versions=3)
    assert list(open_repository(tmp_path).versions("plain")) == served
    # Who names a version gets it.
    ((one,), _) = find_entries(folder / "2")
    assert list(one.stamps()) == ["2"]


def test_all_versions_of_a_bundle_are_served_since_its_config_is_for_triton(tmp_path: Path) -> None:
    write_small_bundle(tmp_path)
    assert "version_policy" in (tmp_path / "tth" / "config.pbtxt").read_text()
    shutil.copytree(tmp_path / "tth" / "1", tmp_path / "tth" / "2")
    ((one,), _) = find_entries(tmp_path)
    assert list(one.stamps()) == ["1", "2"]


SAMPLE = (
    "model_warmup [ {{ name: 'w' {} inputs {{ key: 'FP32' value {{ data_type: TYPE_FP32 dims: [ 2 ] {} }} }} {} }} ]"
)
TEXT = "inputs { key: 'BYTES' value { data_type: TYPE_STRING dims: [ 2 ] zero_data: true } }"


@pytest.mark.parametrize(
    ("counts", "data", "runs", "rows"),
    [
        ("batch_size: 3 count: 2", "zero_data: true", 2, 3),
        ("", "random_data: true", 1, 1),
        ("batch_size: 2", "input_data_file: 'x.raw'", 1, 2),
    ],
)
def test_samples_are_run_before_the_model_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: str, data: str, runs: int, rows: int
) -> None:
    seen: list[int] = []
    run = ServedModel.run
    monkeypatch.setattr(
        ServedModel, "run", lambda model, inputs: seen.append(len(inputs["FP32"])) or run(model, inputs)
    )
    folder = entry(tmp_path, SAMPLE.format(counts, data, TEXT))
    (folder / "warmup").mkdir()
    (folder / "warmup" / "x.raw").write_bytes(bytes(16))
    load_model(folder / "1")
    assert seen == [rows] * runs


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("version_policy { newest { } }", "version_policy is one of latest, all, specific"),
        ("version_policy { latest { num_versions: 0 } }", "num_versions is a number from 1, found '0'"),
        ("model_warmup [ 3 ]", "model_warmup 1: asked for inputs, found 3"),
        (SAMPLE.format("count: -1", "zero_data: true", TEXT), "count is a number from 0"),
        (SAMPLE.format("", "zero_data: true", ""), "model_warmup 1: input 'BYTES' .* is missing"),
        (SAMPLE.format("", "", TEXT), "'FP32': asked for zero_data, random_data or input_data_file"),
        (SAMPLE.format("", "input_data_file: '../1/model.onnx'", TEXT), "asked for a file in"),
        (SAMPLE.format("", "input_data_file: 'x.raw'", TEXT), r"shape \[1, 2\] of FP32 needs 8 bytes, found 1"),
        (SAMPLE.format("batch_size: 99999999", "zero_data: true", TEXT), "numbers, and 67108864 may be"),
    ],
)
def test_a_config_that_asks_for_what_cannot_be_done_is_told(tmp_path: Path, config: str, said: str) -> None:
    folder = entry(tmp_path, config)
    (folder / "warmup").mkdir()
    (folder / "warmup" / "x.raw").write_bytes(b"1")
    with pytest.raises(BundleError, match=f"(?s){said}"):
        load_model(folder / "1")


def test_a_config_in_json_says_the_same_as_one_in_text() -> None:
    text = """max_batch_size: 8 input [ { name: "X0" dims: [ 3 ] } ] version_policy { latest { num_versions: 2 } }
              model_warmup [ { batch_size: 2 inputs { key: "X0" value { dims: [ 3 ] zero_data: true } } } ]"""
    json = """{"maxBatchSize": "8", "input": [{"name": "X0", "dims": ["3"]}],
              "versionPolicy": {"latest": {"numVersions": 2}},
              "modelWarmup": [{"batchSize": 2, "inputs": {"X0": {"dims": [3], "zeroData": true}}}]}"""
    found, same = parse_json(json, where="j"), parse_pbtxt(text, where="t")
    (inputs,) = same["model_warmup"][0].pop("inputs")
    assert found["model_warmup"][0].pop("inputs") == [{inputs["key"][0]: inputs["value"]}]
    assert found == same


@pytest.mark.parametrize("config", ["", "3", "[", '{"input": ' * 40 + "1" + "}" * 40, "{" * 100_000])
def test_what_is_no_config_in_json_is_told(tmp_path: Path, config: str) -> None:
    folder = entry(tmp_path)
    with pytest.raises(BundleError, match="the given config"):
        load_model(folder / "1", config)


def test_a_given_config_stands_until_the_next_load(tmp_path: Path) -> None:
    entry(tmp_path, versions=2)
    write_small_bundle(tmp_path)
    repository = open_repository(tmp_path)
    config = '{"max_batch_size": 4, "version_policy": {"specific": {"versions": [1]}}}'
    repository.load("plain", config=config).result()
    assert (repository.versions("plain"), repository.get("plain").max_rows) == (("1",), 4)
    repository.refresh()
    assert repository.get("plain").max_rows == 4
    with pytest.raises(BundleError, match="backend 'python'"):
        repository.load("plain", config='{"backend": "python"}').result()
    assert repository.get("plain").max_rows == 4
    repository.load("plain").result()
    assert (repository.versions("plain"), repository.get("plain").max_rows) == (("1", "2"), 8)
    with pytest.raises(BundleError, match="is a bundle, whose contract says all"):
        repository.load("tth", config="{}").result()
    assert repository.get("tth").name == "tth"
