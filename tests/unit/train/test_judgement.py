"""Calibration, observers and systematic variations of a run: read once with the test part, and told on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.progress import Silent
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.varied import VariedPreprocessor
from mlaas4hep.testing import write_events
from mlaas4hep.train.beside import check_beside, read_beside
from mlaas4hep.train.evaluate import EvaluatedRun, evaluate
from mlaas4hep.train.evaluation import Settings
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.run import train

ENTRIES = 1200
QUICK = Settings(replicas=20)
MORE = """
observers: [mass, 2 * mass]
variations:
  nothing: {Jet_pt: Jet_pt}
  jetUp: {Jet_pt: 1.1 * Jet_pt}
  htUp: {ht: ht * 1.1}
  same: {weight: w}
  twice: {weight: 2 * w}
  crowded: {weight: w * (1 + 0.1 * nJet)}
  broken: {weight: w * mass}
  empty: {Jet_pt: 0 * Jet_pt}
"""


def columns(shift: float, seed: int) -> dict[str, object]:
    random = np.random.default_rng(seed)
    counts = random.integers(1, 4, ENTRIES)
    total = int(counts.sum())
    mass = random.normal(100 + 20 * shift, 15, ENTRIES)
    pt = np.repeat(0.5 * mass, counts) + random.exponential(10 + 20 * shift, total)
    return {
        "run": np.full(ENTRIES, seed, np.uint32),
        "luminosityBlock": np.ones(ENTRIES, np.uint32),
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "w": np.where(random.random(ENTRIES) < 0.1, -1.0, random.uniform(0.5, 1.5, ENTRIES)).astype(np.float32),
        "mass": np.where(random.random(ENTRIES) < 0.05, np.nan, mass),
        "nJet": counts.astype(np.int32),
        "Jet_pt": Jagged.from_counts(counts, pt.astype(np.float32)),
    }


def config(folder: Path, more: str = MORE) -> Config:
    return parse_config(
        """
        name: toy
        samples:
          signal: {files: signal.root, label: signal}
          background: {files: background.root, label: background}
        new_variables: {ht: sum(Jet_pt)}
        preselection: ht > 60
        inputs: {event: [ht, nJet], jets: {vars: [Jet_pt], length: 2, sort: -Jet_pt}}
        weights: {event: w, training: none}
        split: {test: 0.4, validation: 0.2}
        model: mlp
        training: {epochs: 2}
        """.replace("\n        ", "\n")
        + more,
        folder=folder,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("background", "signal")):
        write_events(folder / f"{name}.root", columns(float(seed), seed), cluster=300)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRun:
    output = tmp_path_factory.mktemp("runs") / "toy"
    return evaluate(train(config(files), output=output, threads=0).path, settings=QUICK, threads=0)


def test_what_changes_nothing_is_exactly_nothing(run: EvaluatedRun) -> None:
    found = run.evaluation.variations
    assert list(found) == list(config(run.path, MORE).features.variations)
    for name in ("nothing", "same"):
        one = found[name]
        assert (one.gained, one.lost) == (0, 0)
        assert one.auc is not None
        assert one.auc.auc == pytest.approx(run.evaluation.auc)
        assert (one.auc.difference, one.auc.difference_err) == (0.0, 0.0)
        counting = one.counting["signal"]
        assert counting.before.signal.relative == pytest.approx(0.0, abs=1e-12)
        assert counting.significance == pytest.approx(counting.nominal_significance)


def test_a_doubled_weight_doubles_yields_without_uncertainty_and_moves_no_area(run: EvaluatedRun) -> None:
    one = run.evaluation.variations["twice"]
    assert one.auc is not None
    assert (one.auc.difference, one.auc.difference_err) == (0.0, 0.0)
    changes = one.counting["signal"].before
    for change in (*changes.samples.values(), changes.signal, changes.background):
        assert change.relative == pytest.approx(1.0)
        assert change.relative_err == 0.0
    assert changes.signal.nominal == pytest.approx(run.evaluation.before["signal"].expected)


def test_replaced_values_move_events_over_the_selection_and_everything_that_is_made_of_them(run: EvaluatedRun) -> None:
    jets, ht = run.evaluation.variations["jetUp"], run.evaluation.variations["htUp"]
    assert jets.gained == ht.gained > 0
    assert jets.lost == ht.lost == 0
    assert jets.auc is not None
    assert jets.auc.difference != 0.0
    assert 0 < jets.auc.difference_err < run.evaluation.auc_err  # type: ignore[operator]
    assert jets.auc.auc == pytest.approx(run.evaluation.auc + jets.auc.difference)  # type: ignore[operator]


def test_observers_are_told_of_the_validation_and_of_the_test_part(run: EvaluatedRun) -> None:
    for found in (
        run.metrics["parts"]["validation"]["dependence"],
        run.evaluation.plain()["parts"]["test"]["dependence"],
    ):
        assert list(found["signal"]) == ["mass", "2 * mass"]
        mass, double = (found["signal"][name] for name in ("mass", "2 * mass"))
        assert mass["missing"] > 0
        assert [one["js"] for one in mass["kept"]] == [one["js"] for one in double["kept"]]
    half = run.evaluation.parts["test"].dependence["signal"]["mass"].kept[0]
    assert half.js is not None
    assert half.js_limit is not None
    assert half.js > half.js_limit
    assert "dependence" not in run.metrics["parts"]["train"] or not run.metrics["parts"]["train"]["dependence"]


def test_the_page_shows_them_and_says_what_negative_weights_mean(run: EvaluatedRun) -> None:
    text = run.report.read_text(encoding="utf-8")
    for words in (
        "Calibration",
        "Dependence on observers",
        "Systematic variations",
        "Negative weights in the test part",
    ):
        assert words in text
    pictures = {one.name for one in (run.path / "pictures").iterdir()}
    assert {
        "calibration.png",
        "shape_0_0_mass.png",
        "efficiency_0_1_2___mass.png",
        "variations_0_signal.png",
    } <= pictures
    background = run.evaluation.parts["test"].classes["background"]
    assert background.negative > 0
    assert background.negative_share == pytest.approx(0.1, abs=0.05)


def test_a_second_evaluation_gives_the_same_without_the_events(run: EvaluatedRun, files: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "toy"))
    again = evaluate(copy, settings=Settings(background_uncertainty=0.5, replicas=20))
    assert not again.opened
    assert again.evaluation.parts == run.evaluation.parts
    one, other = (each.evaluation.variations["crowded"] for each in (run, again))
    assert (one.auc, one.counting["signal"].before) == (other.auc, other.counting["signal"].before)
    assert again.evaluation.variations["broken"] == run.evaluation.variations["broken"]
    assert again.evaluation.background_uncertainty == 0.5
    assert json.loads((copy / "evaluation.json").read_text())["variations"]["jetUp"]["replaced"] == {
        "Jet_pt": "1.1 * Jet_pt"
    }


def test_calibration_is_told_for_both_kinds_of_weights(run: EvaluatedRun) -> None:
    found = run.evaluation.parts["test"].calibration["signal"]
    learned = run.metrics["parts"]["train"]["classes"]
    mean = {name: one["sum_weights"] / one["events"] for name, one in learned.items()}
    assert found.odds == pytest.approx(mean["signal"] / mean["background"])
    assert found.learned.ece != found.physics.ece


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("observers: [Jet_pt]", r"observers\[0\]: 'Jet_pt' is a list an event; wants one number"),
        ("variations: {up: {Jet_pt: mass}}", r"variations\.up\.Jet_pt: gives .*takes the place of 'Jet_pt'"),
        ("variations: {up: {weight: Jet_pt}}", r"variations\.up\.weight: 'Jet_pt' is a list"),
        ("variations: {up: {mass: '1.0'}}", r"variations\.up\.mass: uses no column"),
        ("variations: {up: {}}", r"variations\.up: replaces nothing"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_training(files: Path, more: str, words: str) -> None:
    setting = config(files, more)
    with pytest.raises(ConfigError, match=words):
        check_beside(setting.features, Catalogue.open(setting))


@pytest.mark.parametrize("more", ["observers: [mas]", "observers: [2 * mas]", "variations: {up: {mas: mass}}"])
def test_a_name_that_is_not_there_is_told_with_the_nearest(files: Path, more: str) -> None:
    with pytest.raises(DataError, match=r"'mas' is neither a column of the files nor a new variable.*mass"):
        Catalogue.open(config(files, more))


def test_a_variation_that_fails_is_told_and_takes_no_other_with_it(run: EvaluatedRun) -> None:
    found = run.evaluation.variations
    assert {name for name, one in found.items() if one.reason} == {"broken", "empty"}
    assert "its weight is not finite for" in (found["broken"].reason or "")
    assert "selects no event" in (found["empty"].reason or "")
    assert "selects no event of the test part" in run.report.read_text(encoding="utf-8")


def test_other_events_than_were_judged_are_refused(files: Path) -> None:
    setting = config(files)
    judged = Judged(np.zeros((3, 1), np.float32), np.zeros(3, np.int64), np.ones(3))
    with pytest.raises(DataError, match="or other ones were judged"):
        read_beside(
            Catalogue.open(setting),
            setting.features,
            ["mass"],
            judged,
            part="test",
            threads=0,
            max_memory=10**8,
            progress=Silent(),
        )


def test_replacements_are_made_of_nominal_values(files: Path) -> None:
    setting = config(files, "variations: {swap: {mass: ht, ht: mass}}")
    types = Catalogue.open(setting).types
    swapped = VariedPreprocessor(setting.features, types, name="swap", replaced=setting.features.variations["swap"])
    nominal = Preprocessor(setting.features, types)
    given = {"mass": np.array([1.0, 2.0]), "Jet_pt": Jagged.from_counts([2, 1], np.array([3.0, 4.0, 5.0]))}
    assert nominal.values("ht", given, 2).tolist() == [7.0, 5.0]  # type: ignore[union-attr]
    assert swapped.values("ht", given, 2).tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert swapped.values("mass", given, 2).tolist() == [7.0, 5.0]  # type: ignore[union-attr]
