"""The service and its repository, without a transport."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mlaas4hep.errors import BundleError, DataError, NotFoundError, RequestError
from mlaas4hep.serve.entries import find_bundles
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.protocol import InferRequest, OutputChoice
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.service import InferenceService, Limits
from tests.small_bundle import as_instances, make_events, write_small_bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tth", "other")):
        write_small_bundle(folder, name=name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> InferenceService:
    return InferenceService(open_repository(models), limits=Limits(max_instances=50))


def test_a_folder_a_bundle_and_a_version_can_be_opened(models: Path) -> None:
    assert open_repository(models).names == ("other", "tth")
    assert open_repository(models / "tth").names == ("tth",)
    assert open_repository(models / "tth" / "1").names == ("tth",)


def test_versions_are_ordered_by_number_and_the_newest_answers(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        (tmp_path / "tth" / version).mkdir(parents=True)
        (tmp_path / "tth" / version / "model.onnx").touch()
    (tmp_path / "tth" / "notes").mkdir()
    (tmp_path / "plots" / "2022").mkdir(parents=True)
    assert [path.name for path in find_bundles(tmp_path)] == ["1", "2", "10"]


@pytest.mark.parametrize("there", [[], ["notes.txt"]])
def test_nothing_to_serve_says_what_was_looked_for(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(BundleError, match=r"asked for NAME/1/model\.onnx in it, found (nothing|notes\.txt)"):
        open_repository(tmp_path)
    with pytest.raises(BundleError, match="no folder"):
        open_repository(tmp_path / "missing")


@pytest.mark.parametrize("asked", [".", "story"])
def test_a_run_is_answered_with_the_bundle_in_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models / "tth", tmp_path / "story" / "model" / "tth")
    (tmp_path / "story" / "pictures").mkdir()
    with pytest.raises(BundleError, match=r"found (story|model, pictures); did you mean story/model/tth\?$"):
        open_repository(asked)
    assert open_repository("story/model").names == open_repository("story/model/tth").names == ("tth",)


def test_a_path_that_is_no_folder_says_what_it_is_or_what_is_near(models: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx is a file; asked for a bundle"):
        open_repository(models / "tth" / "1" / "model.onnx")
    with pytest.raises(BundleError, match=r"no folder .*/tht; .*; did you mean 'tth'"):
        open_repository(models / "tht")


def test_two_versions_are_served_side_by_side(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tth", tmp_path / "tth")
    shutil.copytree(models / "tth" / "1", tmp_path / "tth" / "2")
    service = InferenceService(open_repository(tmp_path))
    assert service.model_metadata("tth").versions == ("1", "2")
    assert service.model_metadata("tth", "1").versions == ("1",)
    assert service.predict_events("tth", b'{"instances": []}').model_version == "2"
    assert service.predict_events("tth", b'{"instances": []}', version="1").model_version == "1"


def test_a_copy_under_another_folder_name_does_not_hide_the_first(models: Path) -> None:
    first = open_repository(models / "tth").get("tth")
    with pytest.raises(BundleError, match="two bundles are model 'tth', version 1"):
        ModelRepository([first, first])


def test_a_bundle_that_lost_a_file_is_told_and_does_not_stop_the_others(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "models" / "tth" / "1" / "model.onnx").unlink()
    repository = open_repository(tmp_path / "models")
    assert repository.names == ("other",)
    assert "model.onnx" in repository.problems["tth"]
    with pytest.raises(NotFoundError, match=r"model 'tth' cannot be served: .*model\.onnx"):
        repository.get("tth")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        open_repository(tmp_path / "models" / "tth")


def test_the_golden_bundles_are_served() -> None:
    service = InferenceService(open_repository(Path(__file__).parents[2] / "golden" / "bundle_v1"))
    for name in service.model_names():
        zeros = {one.name: np.zeros((3, *one.shape[1:]), np.float32) for one in service.model_metadata(name).inputs}
        scores = service.infer(name, InferRequest(zeros)).outputs["scores"]
        assert len(np.unique(scores, axis=0)) == 1


def test_every_changed_bundle_is_named_and_nothing_is_served(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    for name in ("tth", "other"):
        file = tmp_path / "models" / name / "1" / "model.onnx"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(BundleError) as refused:
        open_repository(tmp_path / "models")
    assert all(name in str(refused.value) for name in ("tth", "other"))


def test_an_unknown_model_or_version_is_answered_with_those_that_are_there(service: InferenceService) -> None:
    with pytest.raises(NotFoundError, match="no model 'tt' is served here; did you mean 'tth'"):
        service.model_metadata("tt")
    with pytest.raises(NotFoundError, match="model 'tth' has no version 7; versions: 1"):
        service.model_ready("tth", "7")


def test_the_metadata_are_those_of_the_contract(service: InferenceService) -> None:
    found = service.model_metadata("tth")
    assert [(one.name, one.datatype, one.shape) for one in found.inputs] == [
        ("event", "FP32", (-1, 3)),
        ("jets", "FP32", (-1, 3, 3)),
    ]
    assert [(one.name, one.shape) for one in found.outputs] == [("scores", (-1, 1))]
    assert found.versions == ("1",)
    assert service.live()
    assert service.ready()


def test_the_example_of_a_contract_is_answered(service: InferenceService) -> None:
    contract = service.model_contract("tth")
    assert contract.columns["Jet_btag"] == "float64[]"
    answer = service.predict_events("tth", json.dumps({"instances": [contract.example]}).encode())
    assert len(answer.selected) == 1
    assert answer.score_names == contract.score_names == ("signal",)


def test_tensors_and_events_get_the_same_bits(service: InferenceService) -> None:
    model = service.repository.get("tth")
    columns = make_events(40, seed=5)
    prepared = model.contract.preprocessor.run(columns, 40)
    tensors = service.infer("tth", InferRequest(prepared.inputs, id="7"))
    by_name = service.predict_events("tth", msgspec.json.encode({"instances": as_instances(columns)}))
    by_column = service.predict_columns("tth", columns, num_entries=40)
    assert tensors.id == "7"
    assert not prepared.selected.all()
    for prediction in (by_name, by_column):
        assert prediction.scores.tobytes() == tensors.outputs["scores"].tobytes()
        np.testing.assert_array_equal(prediction.selected, prepared.selected)


def test_a_question_may_say_which_graph_is_to_answer(service: InferenceService) -> None:
    model = service.repository.get("tth")
    inputs = model.contract.preprocessor.run(make_events(5), 5).inputs
    plain = service.infer("tth", InferRequest(inputs))
    asked = service.infer("tth", InferRequest(inputs, model_sha256=model.contract.model_sha256))
    assert asked.outputs["scores"].tobytes() == plain.outputs["scores"].tobytes()
    with pytest.raises(RequestError, match=r"'tth', version 1, is another than the one .* abababababab... is asked"):
        service.infer("tth", InferRequest(inputs, model_sha256="ab" * 32))


def test_models_do_not_answer_for_each_other(service: InferenceService) -> None:
    columns = make_events(10, seed=3)
    assert (
        service.predict_columns("tth", columns, num_entries=10).scores
        != service.predict_columns("other", columns, num_entries=10).scores
    ).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jets": None}, "input 'jets' .* is missing"),
        ({"jet": np.zeros((2, 3), np.float32)}, "unknown input 'jet'; did you mean 'jets'"),
        ({"jets": np.zeros((2, 4, 3), np.float32)}, r"'jets' must have shape \[N, 3, 3\], but has \[2, 4, 3\]"),
        ({"event": np.zeros(3, np.float32)}, r"'event' must have shape \[N, 3\], but has \[3\]"),
        ({"event": np.zeros((1, 3), np.float32)}, "same number of events"),
        (
            {"event": np.zeros((8192, 3), np.float32), "jets": np.zeros((9000, 3, 3), np.float32)},
            "same number of events",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(service: InferenceService, changes: dict, said: str) -> None:
    inputs = {"event": np.zeros((2, 3), np.float32), "jets": np.zeros((2, 3, 3), np.float32)} | changes
    with pytest.raises(RequestError, match=said):
        service.infer("tth", InferRequest({name: one for name, one in inputs.items() if one is not None}))


def test_an_output_that_the_model_does_not_have_is_refused(service: InferenceService) -> None:
    with pytest.raises(RequestError, match="no output 'score'; did you mean 'scores'"):
        service.infer("tth", InferRequest({}, outputs=(OutputChoice("score"),)))


def test_no_events_get_no_scores(service: InferenceService) -> None:
    assert service.predict_events("tth", b'{"instances": []}').scores.shape == (0, 1)


def test_lists_of_one_collection_must_agree(service: InferenceService) -> None:
    event = service.model_contract("tth").example | {"Jet_pt": [1.0]}
    with pytest.raises(DataError, match="collection 'jets' have different lengths"):
        service.predict_events("tth", json.dumps({"instances": [event]}).encode())


def test_the_limit_on_instances_is_that_of_the_service(service: InferenceService) -> None:
    events = [service.model_contract("tth").example] * 51
    with pytest.raises(RequestError, match="51 instances are asked; this server takes 50"):
        service.predict_events("tth", json.dumps({"instances": events}).encode())
