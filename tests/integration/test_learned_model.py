"""A learned model, asked over HTTP by column name, gives the offline scores bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.client import Client
from mlaas4hep.config import read_config
from mlaas4hep.data.source import open_source
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.spec.columns import Column, Jagged, slice_columns
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tth"
EVENTS = 1000


def awkward_events(names: list[str]) -> dict[str, Column]:
    """Real events, of which every fifth has no jets, every seventh no fat jets, and some values are missing."""
    with open_source(str(EXAMPLE / "data" / "ttH_1.root"), "Events") as source:
        columns = slice_columns(source.read(names, 0, EVENTS), 0, EVENTS)
    number = np.arange(EVENTS)
    emptied = {"Jet": number % 5 == 0, "FatJet": number % 7 == 0}
    return {
        name: _with_gaps(column, emptied[name.partition("_")[0]]) if isinstance(column, Jagged) else _holes(column)
        for name, column in columns.items()
    }


def _with_gaps(column: Jagged, empty: Any) -> Jagged:
    keep = ~np.repeat(empty, column.counts)
    values = column.values[keep].copy()
    values[::11] = np.nan
    return Jagged.from_counts(np.where(empty, 0, column.counts), values)


def _holes(column: Any) -> Any:
    if column.dtype.kind == "f":
        column = column.copy()
        column[::13] = np.nan
    return column


ONE_EPOCH = ("training.epochs=1",)
# One collection, drawn.
IMAGE = (
    *ONE_EPOCH,
    "inputs={event: [HT], jets: {vars: [Jet_pt, Jet_eta], length: 12, sort: -Jet_pt}}",
    "model.x=Jet_eta",
    "model.y=Jet_pt",
    "model.bins=[16, 16]",
    "model.range=[[-3, 3], [0, 500]]",
)


@pytest.mark.parametrize(
    ("model", "needs", "dials"),
    [
        ("mlp", None, ONE_EPOCH),
        ("bdt", None, ("model.trees=20",)),
        ("deepsets", "torch", ONE_EPOCH),
        pytest.param("attention", "torch", ONE_EPOCH, marks=pytest.mark.slow),
        pytest.param("cnn", "torch", IMAGE, marks=pytest.mark.slow),
        # Fifty layers become a graph in half a minute.
        pytest.param("resnet50", "torch", (*IMAGE, "model.width=2"), marks=pytest.mark.slow),
        ("xgboost", "xgboost", ("model.trees=20",)),
        ("lightgbm", "lightgbm", ("model.num_iterations=20",)),
    ],
)
def test_a_learned_model_served_by_name_gives_the_offline_scores(
    model: str, needs: str | None, dials: tuple[str, ...], tmp_path: Path
) -> None:
    if needs:
        pytest.importorskip(needs)
    config = read_config(EXAMPLE / "config.yaml", overrides=[f"model={model}", "preselection=nJet >= 6", *dials])
    bundle = train(config, output=tmp_path / "run").bundle
    columns = awkward_events(sorted(bundle.spec.columns))
    plain = {name: column.tolist() for name, column in columns.items()}
    events = [{name: values[i] for name, values in plain.items()} for i in range(EVENTS)]
    service = InferenceService(open_repository(bundle.path.parent), version="test")
    with background(service) as url, Client(url) as client:
        answers = client.predict(bundle.name, events)
    offline, selected = bundle.score(columns, EVENTS)
    assert [one is not None for one in answers] == selected.tolist()
    served = np.float32([one["signal"] for one in answers if one is not None])
    assert 200 < len(served) < EVENTS
    np.testing.assert_array_equal(served.view(np.uint32), offline[:, 0].view(np.uint32))
