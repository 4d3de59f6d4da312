"""What is permuted is what was asked for, and what carries nothing has no importance."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.spec.features import InputGroup, Variable
from mlaas4hep.train.importance import Permuted, permutation_importance, permute, rows_for
from mlaas4hep.train.loop import Judged

GROUPS = (
    InputGroup("event", (Variable("useful"), Variable("useless"))),
    InputGroup("jets", (Variable("pt"), Variable("eta")), length=3),
)


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    jets = random.normal(0, 1, (500, 3, 2)).astype(np.float32)
    jets[np.arange(3) >= random.integers(0, 4, 500)[:, None]] = np.nan
    return {"event": random.normal(0, 1, (500, 2)).astype(np.float32), "jets": jets}


def score(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Looks at one variable of each group, and at how many jets there are."""
    pt, exists = inputs["jets"][..., 0], ~np.isnan(inputs["jets"]).all(axis=-1)
    margin = inputs["event"][:, 0] + np.nansum(pt, axis=1) + exists.sum(axis=1)
    return (1 / (1 + np.exp(-margin)))[:, None].astype(np.float32)


def test_one_variable_of_a_collection_moves_between_events_with_as_many_objects(inputs: dict[str, np.ndarray]) -> None:
    changed = permute(inputs, Permuted("jets", 0, "pt"), np.random.default_rng(0))
    assert changed["event"] is inputs["event"]
    before, after = inputs["jets"], changed["jets"]
    assert np.array_equal(np.isnan(before), np.isnan(after)), "no object appears or goes"
    assert np.array_equal(before[..., 1], after[..., 1], equal_nan=True)
    assert not np.array_equal(before[..., 0], after[..., 0], equal_nan=True)
    assert np.array_equal(np.sort(before[..., 0].ravel()), np.sort(after[..., 0].ravel()), equal_nan=True)


def test_a_whole_collection_moves_with_its_number_of_objects(inputs: dict[str, np.ndarray]) -> None:
    changed = permute(inputs, Permuted("jets", None, "jets"), np.random.default_rng(0))["jets"]
    assert not np.array_equal(np.isnan(changed), np.isnan(inputs["jets"]))
    assert sorted(map(bytes, changed)) == sorted(map(bytes, inputs["jets"]))


def test_what_is_used_is_important_and_what_is_not_is_not(inputs: dict[str, np.ndarray]) -> None:
    scores = score(inputs)
    labels = (np.random.default_rng(3).random(500) < scores[:, 0]).astype(np.int64)
    judged = Judged(scores, labels, np.ones(500))
    found = permutation_importance(score, inputs, judged, groups=GROUPS, positives=[1], seed=0)
    drops = dict(zip([one.name for one in found.inputs], found.drops.mean(axis=1), strict=True))
    errors = dict(zip(drops, found.errors, strict=True))
    assert list(drops) == ["useful", "useless", "jets: pt", "jets: eta", "jets: all and their number"]
    for name in ("useful", "jets: pt", "jets: all and their number"):
        assert drops[name] > 3 * errors[name] > 0
    assert drops["useless"] == drops["jets: eta"] == 0
    again = permutation_importance(score, inputs, judged, groups=GROUPS, positives=[1], seed=0)
    assert np.array_equal(found.drops, again.drops)


def test_rows_are_bounded_by_the_work() -> None:
    assert rows_for(20, 500) == 500
    assert 1000 <= rows_for(20, 10**6) <= 20_000
    assert rows_for(5000, 10**6) == 1000
