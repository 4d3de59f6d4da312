"""A value that stands for a missing one is missing everywhere: in training, offline and in a request by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.serve.events import EventReader
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train.run import RunResult, train

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 600


def columns(shift: float, seed: int) -> dict[str, Any]:
    """Floats and whole numbers, flat and in lists, a tenth of each -999."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, ENTRIES)
    values = {
        "mass": random.normal(100 + 20 * shift, 20, ENTRIES).astype(np.float32),
        "tracks": random.poisson(5 + 3 * shift, ENTRIES).astype(np.int32),
        "Jet_pt": random.exponential(40 + 30 * shift, int(counts.sum())).astype(np.float32),
        "Jet_hits": random.poisson(3, int(counts.sum())).astype(np.int32),
    }
    for one in values.values():
        one[random.random(len(one)) < 0.1] = -999
    jets = {name: Jagged.from_counts(counts, one) for name, one in values.items() if name.startswith("Jet_")}
    return {**values, **jets, "id": np.arange(ENTRIES) + ENTRIES * seed}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("codes")
    for seed, name in enumerate(("background", "signal")):
        write_events(folder / f"{name}.root", columns(float(seed), seed))
    text = """
samples: {signal: {files: signal.root}, background: {files: background.root}}
inputs: {event: [mass, tracks], jets: {vars: [Jet_pt, Jet_hits], length: 3}}
split: {by: [id]}
missing: [-999]
training: {epochs: 2}
"""
    return train(parse_config(text, folder=folder), output=folder / "run", threads=0)


def test_codes_are_counted_as_missing_and_never_seen_as_numbers(run: RunResult) -> None:
    for group in run.bundle.spec.statistics.groups.values():
        for feature in group:
            assert feature.missing > 50
            assert feature.minimum is not None
            assert feature.minimum > -900


def test_an_event_with_a_code_scores_as_one_with_null(run: RunResult) -> None:
    whole = {"mass": 110.5, "tracks": 6, "Jet_pt": [40.0, 30.0], "Jet_hits": [3, 2]}
    coded, null = [dict(whole)], [dict(whole)]
    for name, kept in (("mass", None), ("tracks", None), ("Jet_pt", 40.0), ("Jet_hits", 3)):
        coded.append(whole | {name: -999 if kept is None else [kept, -999]})
        null.append(whole | {name: None if kept is None else [kept, None]})
    reader = EventReader(run.bundle.spec.columns)
    scores = [
        run.bundle.score(*reader.read(json.dumps({"instances": events}).encode(), max_instances=10))[0]
        for events in (coded, null)
    ]
    np.testing.assert_array_equal(*scores)
    assert len(np.unique(scores[0])) == len(coded)
