"""The test part is opened once; figures are kept, drawn again and compared without the events."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.serve.events import encode_prediction
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train.compare import compare
from mlaas4hep.train.evaluate import EvaluatedRun, evaluate
from mlaas4hep.train.evaluation import Settings
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 800
GENERATED = 1000.0
QUICK = Settings(replicas=30)
XSEC = {"qcd": 20.0, "tt": 5.0, "tth": 0.5}


def columns(shift: float, seed: int) -> dict[str, object]:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, ENTRIES)
    total = int(counts.sum())
    return {
        "run": np.full(ENTRIES, seed, np.uint32),
        "luminosityBlock": np.ones(ENTRIES, np.uint32),
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "genWeight": random.uniform(0.5, 1.5, ENTRIES).astype(np.float32),
        "nTag": random.poisson(1 + shift, ENTRIES).astype(np.int32),
        "met": np.where(random.random(ENTRIES) < 0.1, np.nan, random.normal(50 + 20 * shift, 20, ENTRIES)),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(40 + 30 * shift, total).astype(np.float32)),
    }


def config(folder: Path, *, several: bool = False, **keys: object) -> Config:
    labels = {"qcd": "QCD", "tt": "t<t>", "tth": "tth"} if several else {"qcd": "other", "tt": "other", "tth": "tth"}
    document = {
        "name": "toy",
        "eras": {"one": {"lumi_fb": 2.0}},
        "samples": {
            name: {
                "files": f"{name}.root",
                "label": label,
                "era": "one",
                "xsec_pb": XSEC[name],
                "sum_of_weights": GENERATED,
            }
            for name, label in labels.items()
        },
        "labels": {"signal": "tth"},
        "preselection": "nTag < 6",
        "inputs": {"event": [{"name": "met", "scale": "log"}, "nTag"], "jets": {"vars": ["Jet_pt"], "length": 2}},
        "weights": {"event": "genWeight"},
        "split": {"test": 0.3, "validation": 0.1},
        "model": {"name": "bdt", "trees": 20},
        "training": {"epochs": 2},
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(XSEC):
        write_events(folder / f"{name}.root", columns(float(seed), seed), cluster=200)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def done(setting: Config, output: Path, **limits: int) -> EvaluatedRun:
    return evaluate(train(setting, output=output, **limits).path, settings=QUICK)


# Evaluated runs, which the tests read and do not change: trees, a network, three classes, and trees on another split
# of a part of the events.


@pytest.fixture(scope="module")
def evaluated(files: Path, runs: Path) -> EvaluatedRun:
    return done(config(files), runs / "bdt")


@pytest.fixture(scope="module")
def network(files: Path, runs: Path) -> EvaluatedRun:
    return done(config(files, model="mlp"), runs / "mlp")


@pytest.fixture(scope="module")
def three(files: Path, runs: Path) -> EvaluatedRun:
    return done(config(files, several=True), runs / "three")


@pytest.fixture(scope="module")
def other_split(files: Path, runs: Path) -> EvaluatedRun:
    return done(config(files, split={"test": 0.3, "validation": 0.1, "seed": 1}), runs / "split", max_events=1200)


def copied(run: EvaluatedRun, folder: Path, *, events: tuple[Path, Path] | None = None) -> Path:
    """A copy that may be changed; ``events`` moves its files from one folder to another."""
    copy = Path(shutil.copytree(run.path, folder / run.path.name))
    if events is not None:
        text = (copy / "config.yaml").read_text(encoding="utf-8")
        (copy / "config.yaml").write_text(text.replace(*map(str, events)), encoding="utf-8")
    return copy


def figures_of(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return found


def test_a_second_evaluation_needs_no_events(evaluated: EvaluatedRun, files: Path, tmp_path: Path) -> None:
    run = copied(evaluated, tmp_path, events=(files, tmp_path / "gone"))
    before = figures_of(run)
    again = evaluate(run, settings=QUICK)
    assert (evaluated.opened, again.opened) == (True, False)
    assert figures_of(run) == before
    wider = evaluate(run, settings=Settings(background_uncertainty=0.5, replicas=30))
    assert wider.evaluation.auc == evaluated.evaluation.auc
    known, other = (each.evaluation.counting["tth"].scan.uncertain[0] for each in (evaluated, wider))
    assert other < known  # type: ignore[operator]


def test_the_page_holds_every_picture_and_the_figures(evaluated: EvaluatedRun) -> None:
    text = evaluated.report.read_text(encoding="utf-8")
    pictures = {path.name for path in (evaluated.path / "pictures").iterdir()}
    assert set(re.findall(r'src="pictures/([^"]+)"', text)) == pictures
    kinds = {re.sub(r"[_.].*", "", name) for name in pictures}
    assert kinds == {"roc", "loss", "score", "calibration", "confusion", "importance", "significance", "inputs"}
    assert f"{evaluated.evaluation.auc:.4f}" in text
    assert "2.0 fb" in text
    hidden = [path.name for path in evaluated.path.iterdir() if path.name.startswith(".")]
    assert hidden == []


def test_the_area_is_that_of_the_served_graph_with_a_bootstrap_beside_the_formula(evaluated: EvaluatedRun) -> None:
    evaluation = evaluated.evaluation
    assert evaluation.parts["test"].auc == evaluation.auc
    assert evaluation.auc_err == pytest.approx(evaluation.auc_err_analytic, rel=0.5)
    assert evaluation.parts["validation"].auc == evaluated.metrics["auc"]


def test_yields_are_cross_section_times_luminosity_times_efficiency(evaluated: EvaluatedRun) -> None:
    for name in XSEC:
        random = np.random.default_rng(list(XSEC).index(name))
        random.integers(0, 4, ENTRIES)
        weights = random.uniform(0.5, 1.5, ENTRIES).astype(np.float32)
        passed = random.poisson(1 + list(XSEC).index(name), ENTRIES) < 6
        by_hand = XSEC[name] * 1000 * 2.0 * weights[passed].sum(dtype=np.float64) / GENERATED
        assert evaluated.evaluation.before[name].expected == pytest.approx(by_hand)
    counting = evaluated.evaluation.counting["tth"]
    assert counting.signal_before == evaluated.evaluation.before["tth"]
    scan = counting.scan
    # Without a cut, the test part scaled up gives the yields of all events.
    assert scan.signal[0] == pytest.approx(counting.signal_before.expected)
    assert scan.background[0] == pytest.approx(counting.background_before.expected)


def test_a_class_taken_for_another_is_a_share_of_its_weight(evaluated: EvaluatedRun) -> None:
    test = evaluated.test
    assert test is not None
    assert evaluated.evaluation.confusion is not None
    own = test.labels == 1
    share = test.weights[own & (test.scores[:, 0] >= 0.5)].sum() / test.weights[own].sum()
    assert evaluated.evaluation.confusion.shares[1] == pytest.approx((1 - share, share))


def test_three_classes_by_name_everywhere(three: EvaluatedRun) -> None:
    evaluation, classes = three.evaluation, ("QCD", "t<t>", "tth")
    assert tuple(evaluation.classes) == classes == tuple(evaluation.counting) == tuple(evaluation.compatibility)
    assert evaluation.auc == pytest.approx(np.mean([one.auc for one in evaluation.classes.values()]))
    assert evaluation.confusion is not None
    assert np.sum(evaluation.confusion.shares, axis=1) == pytest.approx(np.ones(3))
    assert all(tuple(one) == classes for one in evaluation.compatibility.values())
    text = three.report.read_text(encoding="utf-8")
    assert "t<t>" not in text
    assert "t&lt;t&gt;" in text
    assert (three.path / "pictures" / "score_1_t_t_.png").exists()


def test_three_classes_are_answered_by_name(three: EvaluatedRun) -> None:
    service = InferenceService(open_repository(three.path / "model" / "toy"))
    event = {"met": 60.0, "nTag": 2, "Jet_pt": [50.0, 30.0]}
    answer = json.loads(encode_prediction(service.predict_events("toy", json.dumps({"instances": [event]}).encode())))
    scores = answer["predictions"][0]
    assert tuple(scores) == ("QCD", "t<t>", "tth")
    assert sum(scores.values()) == pytest.approx(1.0)


def test_runs_are_compared_event_by_event(evaluated: EvaluatedRun, network: EvaluatedRun, runs: Path) -> None:
    page = compare([evaluated, network], output=runs / "both")
    assert page == runs / "both" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert 'href="../bdt/report.html"' in text
    assert 'href="../mlp/report.html"' in text
    found = json.loads((runs / "both" / "comparison.json").read_text(encoding="utf-8"))
    assert found["first"] == "bdt"
    lines = {one["name"]: one for one in found["runs"]}
    assert [one["auc"] for one in found["runs"]] == sorted((one["auc"] for one in lines.values()), reverse=True)
    bdt, mlp = lines["bdt"], lines["mlp"]
    assert bdt["difference"] is None
    assert mlp["difference"] == pytest.approx(mlp["auc"] - bdt["auc"])
    assert 0 < mlp["difference_err"] < np.hypot(bdt["auc_err"], mlp["auc_err"])
    (pair,) = found["pairs"]
    assert (pair["one"], pair["other"]) == tuple(one["name"] for one in found["runs"])
    assert abs(pair["difference"]) == pytest.approx(abs(mlp["difference"]))
    assert mlp["ece"] == network.evaluation.parts["test"].calibration["tth"].learned.ece
    assert {one.name for one in (runs / "both" / "pictures").iterdir()} == {"roc.png", "calibration.png"}


def test_of_several_classes_each_is_compared(three: EvaluatedRun, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(three.path, again)
    page = compare([three, evaluate(again, settings=QUICK)], output=tmp_path / "both")
    found = json.loads((tmp_path / "both" / "comparison.json").read_text(encoding="utf-8"))
    for one in found["runs"]:
        assert list(one["classes"]) == ["QCD", "t<t>", "tth"]
        assert one["auc"] == pytest.approx(np.mean([own["auc"] for own in one["classes"].values()]))
        learned = three.evaluation.parts["test"].calibration["QCD"].learned
        assert one["classes"]["QCD"]["ece"] == learned.ece
    endings = ("0_QCD.png", "1_t_t_.png", "2_tth.png")
    wanted = {f"{kind}_{ending}" for kind in ("roc", "calibration") for ending in endings}
    assert {one.name for one in (tmp_path / "both" / "pictures").iterdir()} == wanted
    text = page.read_text(encoding="utf-8")
    assert all(text.count(f"pictures/{name}") == 2 for name in wanted)
    assert "best <i>Z</i>" not in text


def test_another_test_part_is_compared_without_a_difference(
    evaluated: EvaluatedRun, other_split: EvaluatedRun, tmp_path: Path
) -> None:
    compare([evaluated, other_split], output=tmp_path / "both")
    found = json.loads((tmp_path / "both" / "comparison.json").read_text(encoding="utf-8"))
    assert all(one["auc"] is not None and one["difference"] is None for one in found["runs"])
    assert found["pairs"] == []


def test_what_cannot_be_compared_is_told(evaluated: EvaluatedRun, three: EvaluatedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is given twice"):
        compare([evaluated, evaluated], output=tmp_path / "same")
    with pytest.raises(UserError, match="tells QCD, t<t>, tth apart"):
        compare([evaluated, three], output=tmp_path / "no")


def test_a_part_of_the_events_is_evaluated_as_it_was_trained(other_split: EvaluatedRun) -> None:
    assert other_split.evaluation.parts["test"].events == other_split.metrics["events"]["test"] > 0
    assert sum(other_split.metrics["events"].values()) <= 1200


def test_without_a_test_part_there_is_a_page_with_the_reason(files: Path, tmp_path: Path) -> None:
    setting = config(files, split={"test": 0.0, "validation": 0.2}, model={"name": "bdt", "trees": 5})
    found = done(setting, tmp_path / "run")
    assert found.evaluation.auc is None
    assert "the split keeps no test part" in found.report.read_text(encoding="utf-8")


def test_files_that_changed_since_the_training_are_found(evaluated: EvaluatedRun, files: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(files, tmp_path / "events"))
    write_events(other / "tth.root", columns(2.0, 9), cluster=200)  # type: ignore[arg-type]
    run = copied(evaluated, tmp_path, events=(files, other))
    (run / "scores.npz").unlink()
    with pytest.raises(
        DataError, match=r"samples\.tth: the test part holds \d+ events, \d+ when the model was trained"
    ):
        evaluate(run, settings=QUICK)
    assert not (run / "scores.npz").exists()


def test_what_is_no_run_or_was_changed_is_refused(evaluated: EvaluatedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run directory: lacks metrics\.json, config\.yaml, model"):
        evaluate(tmp_path)
    run = copied(evaluated, tmp_path)
    kept = (run / "scores.npz").read_bytes()
    (run / "scores.npz").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(DataError, match=r"scores\.npz: is damaged"):
        evaluate(run)
    (run / "scores.npz").write_bytes(kept)
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("nTag < 6", "nTag < 5"), encoding="utf-8")
    with pytest.raises(UserError, match="declares other events or inputs"):
        evaluate(run)


def test_scores_of_another_graph_are_not_taken_for_this_one(
    evaluated: EvaluatedRun, network: EvaluatedRun, tmp_path: Path
) -> None:
    run = copied(network, tmp_path)
    shutil.copy(evaluated.path / "scores.npz", run)
    with pytest.raises(DataError, match="holds scores of another graph"):
        evaluate(run)
