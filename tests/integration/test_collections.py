"""Collections through a whole run: variables of an object against its event, sorting, cutting, and what that cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import ModelError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train.run import RunResult, train
from tests.notes import Notes

ENTRIES, LENGTH = 1500, 4
pytestmark = pytest.mark.usefixtures("plain_pictures")

CONFIG = """
samples: {{signal: {{files: signal.root}}, background: {{files: background.root}}}}
new_variables: {{part_deta: part_eta - jet_eta}}
inputs: {{parts: {{vars: [part_deta, part_pt], length: {length}, sort: -part_pt}}}}
split: {{by: [id]}}
training: {{epochs: 4}}
model: {model}
"""


def columns(width: float, seed: int) -> dict[str, Any]:
    """Jets anywhere, with constituents around them: only the distance to the jet tells the classes apart."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, ENTRIES)
    eta = random.normal(0, 2, ENTRIES).astype(np.float32)
    total = int(counts.sum())
    return {
        "id": np.arange(ENTRIES) + ENTRIES * seed,
        "jet_eta": eta,
        "part_eta": Jagged.from_counts(counts, (np.repeat(eta, counts) + random.normal(0, width, total)).astype("f4")),
        "part_pt": Jagged.from_counts(counts, random.exponential(5, total).astype(np.float32)),
    }


SAMPLES = {"background": columns(0.1, 0), "signal": columns(0.4, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jets")
    for name, one in SAMPLES.items():
        write_events(path / f"{name}.root", one, cluster=400)
    return path


def config(folder: Path, *, model: str = "deepsets", length: int = LENGTH) -> Config:
    return parse_config(CONFIG.format(model=model, length=length), folder=folder)


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[RunResult, list[str]]:
    pytest.importorskip("torch")
    told = Notes()
    return train(config(folder), output=folder / "run", threads=0, progress=told), told.lines


def hardest(name: str) -> NDArray[np.float32]:
    """[N, LENGTH, 2] by plain Python."""
    sample = SAMPLES[name]
    rows = np.full((ENTRIES, LENGTH, 2), np.nan, np.float32)
    lists = zip(sample["part_eta"].tolist(), sample["part_pt"].tolist(), sample["jet_eta"].tolist(), strict=True)
    for row, (etas, momenta, jet_eta) in enumerate(lists):
        objects = sorted(zip(momenta, etas, strict=True), reverse=True)[:LENGTH]
        rows[row, : len(objects)] = [(eta - jet_eta, pt) for pt, eta in objects] or np.empty((0, 2))
    return rows


def test_variables_of_an_object_against_its_event_are_learned_from(run: tuple[RunResult, list[str]]) -> None:
    result, _ = run
    validation = result.metrics["parts"]["validation"]
    assert validation["auc"] > 0.9
    whole = np.concatenate([hardest(name) for name in SAMPLES])
    for channel, feature in enumerate(result.bundle.spec.statistics.groups["parts"]):
        assert feature.minimum is not None
        assert feature.maximum is not None
        assert np.nanmin(whole[..., channel]) <= feature.minimum < feature.maximum <= np.nanmax(whole[..., channel])


def test_offline_scores_are_those_of_tensors_made_by_hand(run: tuple[RunResult, list[str]]) -> None:
    bundle = run[0].bundle
    scores, selected = bundle.score(SAMPLES["signal"], ENTRIES)
    assert selected.all()
    np.testing.assert_array_equal(scores, bundle.predict({"parts": hardest("signal")}))


def test_objects_that_are_cut_away_are_told_and_kept_with_the_figures(run: tuple[RunResult, list[str]]) -> None:
    result, lines = run
    found = result.metrics["collections"]["parts"]
    statistics = result.bundle.spec.statistics
    assert found["dropped"] == statistics.truncated["parts"] > 0
    assert found["objects"] == sum(count * number for number, count in enumerate(statistics.lengths["parts"]))
    assert (found["length"], found["suggested"]) == (LENGTH, 8)
    (line,) = [one for one in lines if one.startswith("inputs.parts")]
    assert f"{found['dropped']:,} of {found['objects']:,} objects" in line
    assert line.endswith("length: 8 would keep 99%")


@pytest.mark.parametrize("model", ["deepsets", "attention"])
def test_without_a_collection_it_is_refused_with_what_to_do(model: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    flat = parse_config(
        CONFIG.format(model=model, length=LENGTH),
        folder=folder,
        overrides=["inputs={event: [jet_eta]}", "new_variables={}"],
    )
    with pytest.raises(ModelError, match=rf"{model} .* learns from collections, and the inputs hold none; list one"):
        train(flat, output=tmp_path / "run", threads=0)
    assert list(tmp_path.iterdir()) == []
