"""Physics weights and training weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Sample
from mlaas4hep.data.locate import Located
from mlaas4hep.data.weights import normalisation, require_classes, training_factors
from mlaas4hep.errors import DataError
from mlaas4hep.spec.statistics import WeightSums
from mlaas4hep.testing import make_events, write_events

CLASSES = {
    "background": WeightSums(events=100, sum_weights=250.0, sum_weights2=900.0),
    "signal": WeightSums(events=20, sum_weights=5.0, sum_weights2=9.0),
}


def test_events_weigh_what_the_luminosity_expects(tmp_path: Path) -> None:
    """0.5 pb at 8 fb^-1 are 4,000 events, shared by the sum of weights of all files."""
    paths = [
        Located(
            str(write_events(tmp_path / f"{number}.root", make_events(20), extra={"Runs": {"sumw": [1_000.0, 500.0]}}))
        )
        for number in range(2)
    ]
    by_branch = Sample(files=(), xsec_pb=0.5, sum_of_weights="Runs/sumw")
    by_number = Sample(files=(), xsec_pb=0.5, sum_of_weights=3_000.0)
    assert normalisation(by_branch, paths, lumi_fb=8.0) == pytest.approx(4_000 / 3_000)
    assert normalisation(by_number, paths, lumi_fb=8.0) == pytest.approx(4_000 / 3_000)
    assert normalisation(Sample(files=()), paths, lumi_fb=8.0) == 1.0


def test_a_sum_of_weights_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    path = Located(str(write_events(tmp_path / "a.root", make_events(20), extra={"Runs": {"sumw": [-1.0]}})))
    for asked, says in [("Runs/sumv", "did you mean 'sumw'"), ("Run/sumw", "no tree 'Run'"), ("Runs/sumw", "-1")]:
        with pytest.raises(DataError, match=says):
            normalisation(Sample(files=(), xsec_pb=1.0, sum_of_weights=asked), [path], lumi_fb=1.0)
    with pytest.raises(DataError, match="jagged"):
        normalisation(Sample(files=(), xsec_pb=1.0, sum_of_weights="Events/Jet_pt"), [path], lumi_fb=1.0)


def test_balanced_classes_have_one_sum_and_mean_weight_one() -> None:
    factors = training_factors("balanced", CLASSES)
    assert factors is not None
    sums = factors * [250.0, 5.0]
    assert sums[0] == pytest.approx(sums[1])
    assert sums.sum() == pytest.approx(120)


def test_physics_and_none_leave_or_drop_the_weight() -> None:
    physics = training_factors("physics", CLASSES)
    assert physics is not None
    assert np.array_equal(physics, [1.0, 1.0])
    assert training_factors("none", CLASSES) is None


def test_classes_without_weight_or_events_are_refused_by_name() -> None:
    odd = {**CLASSES, "signal": WeightSums(events=3, negative=2, sum_weights=-1.0)}
    with pytest.raises(DataError, match="'signal': the weights of its 3 training events add up to -1"):
        training_factors("balanced", odd)
    with pytest.raises(DataError, match="no training events of 'signal'"):
        require_classes({**CLASSES, "signal": WeightSums()})
    require_classes(CLASSES)
