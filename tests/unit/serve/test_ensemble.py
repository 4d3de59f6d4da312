"""Several models as one: what they give together, row by row, under which names, and how they follow their members."""

from __future__ import annotations

import itertools
import threading
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle, load_bundle, write_bundle
from mlaas4hep.bundle.write import write_mean_bundle
from mlaas4hep.client import Client
from mlaas4hep.errors import BundleError, NotFoundError
from mlaas4hep.serve.combining import mean_of, sum_of, votes_of
from mlaas4hep.serve.ensemble import EnsembleSpec, build_ensemble
from mlaas4hep.serve.model import ServedModel, TensorSpec, load_model
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.served import Bounds
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind, url_of
from tests.small_bundle import as_instances, make_events, make_grown_events, write_small_bundle
from tests.small_graphs import make_mlp, make_rows, make_spec
from tests.small_pictures import encode, make_pixels, write_image_graph

Tensors = Mapping[str, NDArray[Any]]
BOTH = "members: [a, b]\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two bundles with the same inputs, one with others, and one that takes two scores."""
    folder = tmp_path_factory.mktemp("models")
    write_small_bundle(folder, name="a", seed=0)
    write_small_bundle(folder, name="b", seed=0, hidden=8)
    write_small_bundle(folder, name="grown", grown=True)
    spec = make_spec(name="judge", event=2, jets=None)
    core, reference = make_mlp(spec)
    write_bundle(folder, spec=spec, core=core, reference=reference, rows=make_rows(spec, 200))
    return folder


@pytest.fixture(scope="module")
def models(place: Path) -> dict[str, ServedModel]:
    return {name: load_model(place / name / "1") for name in ("a", "b", "grown", "judge")}


@pytest.fixture(scope="module")
def tensors(models: dict[str, ServedModel]) -> Tensors:
    contract = models["a"].contract
    assert contract is not None
    return contract.preprocessor.run(make_events(60, seed=5), 60).inputs


SPECS = {
    "mean": EnsembleSpec(),
    "weighted mean": EnsembleSpec(weights=(0.3, 0.9)),
    "vote": EnsembleSpec(combine="vote", threshold=0.4),
    "linear": EnsembleSpec(combine="linear", weights=(0.7, -1.1), intercept=0.1),
    "stack": EnsembleSpec(combine="stack", last="judge", columns={"event_0": "b", "event_1": "a.signal"}),
}
PLAIN: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "mean": lambda a, b: (a + b) / 2,
    "weighted mean": lambda a, b: (a * 0.3 + b * 0.9) / (0.3 + 0.9),
    "vote": lambda a, b: ((a >= 0.4) * 1.0 + (b >= 0.4) * 1.0) / 2,
    "linear": lambda a, b: a * 0.7 + b * -1.1 + 0.1,
}


def whole_of(way: str, models: dict[str, ServedModel]) -> ServedModel:
    last = models["judge"] if way == "stack" else None
    return build_ensemble("both", SPECS[way], {"a": models["a"], "b": models["b"]}, last=last)


@pytest.mark.parametrize("way", SPECS)
def test_the_whole_is_what_its_way_says_and_its_members_are_what_they_say_alone(
    way: str, models: dict[str, ServedModel], tensors: Tensors
) -> None:
    found = whole_of(way, models).run(tensors)
    a, b = (models[name].run(tensors)["scores"] for name in ("a", "b"))
    assert list(found) == ["scores", "a", "b"]
    assert found["a"].tobytes() == a.tobytes()
    assert found["b"].tobytes() == b.tobytes()
    if way == "stack":
        wanted = models["judge"].run({"event": np.concatenate([b, a], axis=1)})["scores"]
    else:
        wanted = PLAIN[way](a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    assert found["scores"].tobytes() == wanted.tobytes()


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), way=st.sampled_from(sorted(SPECS)))
def test_a_row_has_the_same_answer_in_any_company(
    cuts: list[int], way: str, models: dict[str, ServedModel], tensors: Tensors
) -> None:
    whole = whole_of(way, models)
    together = whole.run(tensors)
    edges = [0, *sorted(cuts), 60]
    parts = [whole.run({name: one[i:j] for name, one in tensors.items()}) for i, j in itertools.pairwise(edges)]
    for name, wanted in together.items():
        assert np.concatenate([part[name] for part in parts]).tobytes() == wanted.tobytes()


def test_votes_go_to_the_highest_class_and_a_missing_score_is_missing() -> None:
    first = np.float32([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [np.nan, 0.5, 0.5]])
    second = np.float32([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2], [0.0, 1.0, 0.0]])
    votes = votes_of([first, second], weights=(3, 1))
    assert votes[:2].tolist() == [[0.75, 0.25, 0.0], [0.25, 0.0, 0.75]]
    assert np.isnan(votes[2]).all()
    assert np.isnan(mean_of([first, second])[2]).tolist() == [True, False, False]
    assert sum_of([first[:1], second[:1]], (1.0, 0.0)).tolist() == [first[0].tolist()]


def test_members_with_inputs_of_their_own_are_asked_with_the_same_events(place: Path, tmp_path: Path) -> None:
    (place / "mixed").mkdir()
    (place / "mixed" / "ensemble.yaml").write_text("members: [a, grown, b]")
    service = InferenceService(open_repository(place))
    (place / "mixed" / "ensemble.yaml").unlink()
    (place / "mixed").rmdir()
    events = make_grown_events(40, seed=2)
    body = msgspec.json.encode({"instances": as_instances(events)})  # a missing value is null
    found = service.predict_events("mixed", body)
    assert found.score_names == ("signal", "a.signal", "grown.signal", "b.signal")
    assert [one.name for one in service.repository.get("mixed").inputs] == [
        "a.event",
        "a.jets",
        "grown.event",
        "grown.jets",
    ]
    alone = {}
    for name in ("a", "grown", "b"):
        own = service.predict_columns(name, events, num_entries=40)
        alone[name] = np.full(40, np.nan, np.float32)
        alone[name][own.selected] = own.scores[:, 0]
    wanted = np.stack(
        [np.float32((alone["a"].astype(float) + alone["grown"] + alone["b"]) / 3), *alone.values()], axis=1
    )
    both = ~np.isnan(wanted).any(axis=1)
    assert 0 < both.sum() < (~np.isnan(alone["grown"])).sum()
    assert (found.selected == both).all()
    assert found.scores.tobytes() == wanted[both].tobytes()
    contract = service.model_contract("mixed")
    assert contract.preselection == "(HLT and nJet > 0) && (HLT && Length$(Jet_id) >= 0)"
    prepares = service.repository.get("mixed").contract.preprocessor  # type: ignore[union-attr]
    assert prepares.needs("mjj") == {"Jet_pt", "Jet_btag"}  # of the second member, for its page
    assert (str(prepares.type_of("ht")), "Jet_peak" in prepares.known) == ("float64", True)
    assert set(contract.columns) == {"HLT", "nJet", "MET_pt", "Jet_pt", "Jet_btag", "Jet_id", "Jet_hits"}


def declare(place: Path, text: str = BOTH, name: str = "both") -> Path:
    folder = place / name
    folder.mkdir(exist_ok=True)
    (folder / "ensemble.yaml").write_text(text)
    return folder


@pytest.fixture
def own(place: Path, tmp_path: Path) -> Path:
    """A repository of links to the bundles, so that they can be exchanged, and an ensemble of two."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").symlink_to(place / name / "config.pbtxt")
        (tmp_path / name / "1").symlink_to(place / name / "1")
    declare(tmp_path)
    return tmp_path


def test_http_and_grpc_give_one_answer_with_its_members(own: Path, tensors: Tensors) -> None:
    service = InferenceService(open_repository(own))
    wanted = service.repository.get("both").run(tensors)
    rpc = bind("127.0.0.1", 0)
    with background(service, grpc=rpc) as url, Client(url) as client:
        found = client.infer("both", tensors)
        (only,) = client.infer("both", tensors, outputs=["scores"]).values()
        metadata, contract = client.metadata("both"), client.contract("both")
        with urllib.request.urlopen(f"{url}/pages/models/both") as page:
            assert b"a.signal" in page.read()
        (prediction,) = client.predict("both", [contract["example"] | {"nJet": 2}])
        caller = tritonclient.grpc.InferenceServerClient(url_of(rpc).removeprefix("http://"))
        inputs = []
        for name, array in tensors.items():
            one = tritonclient.grpc.InferInput(name, array.shape, "FP32")
            one.set_data_from_numpy(array)
            inputs.append(one)
        answer = caller.infer("both", inputs)
        told = caller.get_model_metadata("both").platform
        caller.close()
    for name, one in wanted.items():
        assert found[name].tobytes() == one.tobytes() == answer.as_numpy(name).tobytes()
    assert only.tobytes() == wanted["scores"].tobytes()
    assert prediction is not None
    assert list(prediction) == ["signal", "a.signal", "b.signal"]
    assert (metadata["platform"], told, metadata["members"]) == ("ensemble", "ensemble", ["a/1", "b/1"])
    assert [one["name"] for one in metadata["outputs"]] == ["scores", "a", "b"]
    assert (contract["members"], contract["note"]) == (["a/1", "b/1"], "the mean of 2 models: a, b")


def settled(repository: ModelRepository, done: Callable[[], bool]) -> None:
    """Until an ensemble has followed, which it does from a thread."""
    for _ in range(2000):
        if done():
            return
        threading.Event().wait(0.005)
    raise AssertionError(repository.index())


def test_an_ensemble_follows_its_members_and_the_old_one_answers_until_then(own: Path, tensors: Tensors) -> None:
    repository = open_repository(own)
    retired: list[ServedModel] = []
    repository.on_retired(retired.append)
    before = repository.get("both")
    wrong: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                repository.get("both").run(tensors)
            except Exception as error:
                wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    write_small_bundle(own / "new", name="a", seed=3)
    (own / "new" / "a" / "1").rename(own / "a" / "2")
    repository.load("a").result()
    settled(repository, lambda: repository.get("both") is not before)
    stop.set()
    asking.join()
    assert wrong == []
    after = repository.get("both")
    assert (after.members, retired) == (("a/2", "b/1"), [before])
    assert after.run(tensors)["a"].tobytes() == repository.get("a", "2").run(tensors)["scores"].tobytes()

    repository.unload("b").result()
    settled(repository, lambda: "both" not in repository.loaded)
    with pytest.raises(NotFoundError, match="model 'both' cannot be served: model 'b' is unloaded"):
        repository.get("both")
    assert retired[2] is after
    repository.load("b").result()
    settled(repository, lambda: "both" in repository.loaded)
    assert repository.get("both").members == ("a/2", "b/1")


def test_a_declaration_that_changes_is_taken_and_a_version_may_be_pinned(own: Path) -> None:
    repository = open_repository(own)
    (own / "a" / "labels.json").write_text('{"stable": "1"}')
    repository.refresh()
    declare(own, "{members: {old: a/1, stable: a/stable}, combine: vote, answer: whole}")
    repository.refresh()
    whole = repository.get("both")
    assert whole.members == ("a/1", "a/1")
    assert [one.name for one in whole.outputs] == ["scores"]
    declare(own, "members: [a, b]\nmean: 3")
    repository.refresh()
    assert repository.get("both") is whole
    assert "key 'mean' is none of members" in repository.problems["both"]


def test_an_ensemble_wakes_its_members_and_holds_them(own: Path) -> None:
    write_small_bundle(own, name="c", seed=7)
    repository = open_repository(own, lazy=True, bounds=Bounds(models=2))
    assert repository.loaded == ()
    assert repository.get("both").members == ("a/1", "b/1")
    assert repository.loaded == ("a", "b", "both")
    repository.get("c")
    settled(repository, lambda: "both" not in repository.loaded)
    repository.get("both")
    assert set(repository.loaded) == {"a", "b", "both"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("combine: mean", r"asked for members \(a list of models\) or folds"),
        ("{members: [a, b], folds: x}", r"asked for members \(a list of models\) or folds"),
        ("members: [a, c]", "no model 'c' is served here"),
        ("members: [a, a/7]", r"two members are called alike \(a, a/7\); name them apart"),
        ("members: {x: a, y: a/7}", "model 'a' has no version 7"),
        ("members: {scores: a}", "not 'scores'; found 'scores'"),
        ("members: [a, both]", "'both' is several models itself"),
        ("members: [a, ./nothing]", "nothing' holds no model"),
        ("{members: [a, b], weights: [1]}", r"weights: asked for 2 numbers, one a member, found \[1.0\]"),
        ("{members: [a, b], weights: [1, -1]}", "the sum is to be above 0"),
        ("{members: [a, b], combine: linear}", "combine: linear needs weights"),
        ("{members: [a, b], combine: stack}", "combine: stack needs last"),
        ("{members: [a, b], last: b}", "last goes with combine: stack, not with mean"),
        ("{members: [a, b], threshold: 0.5}", "threshold goes with combine: vote, not with mean"),
        ("{members: [a, b], combine: median}", "Invalid enum value 'median'"),
        ("{members: [a, b], combine: stack, last: a}", "'a' has a preselection .* the last model scores every event"),
        ("{members: [a, b], combine: stack, last: judge}", r"column 'event_0' .* is no score of a member"),
        (
            "{members: [a, b], combine: stack, last: judge, columns: {event_9: a}}",
            "'judge' has no column 'event_9'; did you mean",
        ),
        ("folds: ../a", "is no run that was trained in folds: it has no folds/0/model"),
        ("members: [a, flat]", "'a' gives .*, 'flat' gives"),
        ("members: [flat, loose]", "'flat' and 'loose' do not go together: either all or none say"),
    ],
)
def test_what_does_not_go_together_says_why(own: Path, place: Path, text: str, said: str) -> None:
    if "judge" in text:
        (own / "judge").symlink_to(place / "judge")
    for name, rows in (("flat", 8), ("loose", 0)):
        if name in text:
            write_image_graph(own / name, ("n", 3, 8, 8), declared=None, max_batch_size=rows)
    declare(own, text)
    repository = open_repository(own)
    assert "both" not in repository.names
    with pytest.raises(BundleError, match=f"(?s)both.*{said}"):
        repository.load("both").result()


def test_an_entry_is_versions_or_an_ensemble(own: Path) -> None:
    (own / "a" / "ensemble.yaml").write_text(BOTH)
    repository = open_repository(own)
    assert "holds versions and an ensemble.yaml" in repository.problems["a"]
    assert repository.names == ("b",)


def write_run(folder: Path) -> Bundle:
    """A run in folds: the models, and their mean as training writes it."""
    folds = [write_small_bundle(folder / "folds" / str(k) / "model", seed=0, hidden=8 + k) for k in range(3)]
    spec = folds[0].spec
    rows = spec.preprocessor().run(make_events(500, seed=1), 500).inputs
    return write_mean_bundle(folder / "model", spec=spec, models=folds, rows=rows, native={"folds.json": b"{}"})


def test_folds_in_one_step_are_the_mean_bundle_bit_for_bit_and_say_so(tmp_path: Path, tensors: Tensors) -> None:
    mean = write_run(tmp_path / "run")
    service = InferenceService(open_repository(f"tth={tmp_path / 'run'}"))
    whole = service.repository.get("tth")
    found = whole.run(tensors)
    assert list(found) == ["scores", "fold0", "fold1", "fold2"]
    assert found["scores"].tobytes() == load_bundle(mean.path).predict(dict(tensors)).tobytes()
    note = service.model_contract("tth").note
    assert note.startswith(
        "the mean of 3 models, each of which left out one fold of the events that they were trained on"
    )
    served = ServedModel.of(mean)
    assert served.note.startswith("the mean of models, each of which left out one fold")
    declare(tmp_path / "run", "folds: ..", name="again")
    assert open_repository(tmp_path / "run" / "again").get("again").members == whole.members


def test_a_declaration_anywhere_finds_its_members_beside_it(own: Path) -> None:
    (own / "sum.yaml").write_text("{members: [a, ./b/1], combine: linear, weights: [1, 1]}")
    assert open_repository(f"x={own / 'sum.yaml'}").get("x").members == ("a/1", "b/1")
    (own / "sum.yaml").write_text("members: [a, c]")
    with pytest.raises(BundleError, match=r"c with a model; beside the file are a, b"):
        open_repository(f"x={own / 'sum.yaml'}")
    with pytest.raises(BundleError, match=r"no .*som.yaml; asked for an ensemble.yaml or a run in folds; did you mean"):
        open_repository(f"x={own / 'som.yaml'}")
    with pytest.raises(BundleError, match="'x/y' cannot name a model"):
        open_repository(f"x/y={own / 'sum.yaml'}")


def test_pictures_go_to_all_members_that_make_the_same_of_them(tmp_path: Path) -> None:
    for name in ("m", "k"):
        write_image_graph(tmp_path / name, labels=("red", "green", "blue"))
    declare(tmp_path, "members: [m, k]")
    service = InferenceService(open_repository(tmp_path))
    found = service.repository.get("both").predict_image(encode(make_pixels()))
    alone = service.repository.get("m").predict_image(encode(make_pixels()))["means"]
    assert list(found) == ["means", "m", "k"]
    assert found["means"].tobytes() == alone.tobytes()
    with suppress(FileNotFoundError):
        (tmp_path / "k" / "image.yaml").unlink()
    service.repository.refresh()
    settled(service.repository, lambda: service.repository.get("both").image is None)


def test_a_last_model_without_a_contract_takes_the_scores_as_its_tensor(models: dict[str, ServedModel]) -> None:
    last = ServedModel(
        name="last",
        version="4",
        inputs=(TensorSpec("x", "FP64", (2,)),),
        outputs=(TensorSpec("y", "FP64", (1,), ("chance",)),),
        contract=None,
        batches=True,
        max_rows=8,
        call_s=0.0,
        row_s=0.0,
        execute=lambda tensors: {"y": tensors["x"][:, :1] - tensors["x"][:, 1:]},
    )
    members = {"a": models["a"], "b": models["b"]}
    whole = build_ensemble("w", EnsembleSpec(combine="stack", last="last"), members, last=last)
    contract = models["a"].contract
    assert contract is not None
    rows = contract.preprocessor.run(make_events(20, seed=9), 20).inputs
    found = whole.run(rows)
    assert (found["y"] == found["a"].astype(np.float64) - found["b"]).all()
    assert (whole.max_rows, whole.members) == (8, ("a/1", "b/1", "last/4"))
    assert whole.note == "'last' on the scores of 2 models: a, b"
    with pytest.raises(BundleError, match="the members give 1 scores, which 'last' does not take: 'x'"):
        build_ensemble("w", EnsembleSpec(combine="stack", last="last"), {"a": models["a"]}, last=last)
