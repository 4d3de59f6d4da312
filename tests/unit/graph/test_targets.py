"""A regression's graph gives the targets in their own units, and the gate tells differences in their spread."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mlaas4hep.errors import BundleError, ParityError
from mlaas4hep.graph.invariance import find_variance
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity, difference_of
from mlaas4hep.graph.session import Session
from mlaas4hep.graph.trees import lower_trees
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.statistics import FeatureStatistics, TargetStatistics
from mlaas4hep.spec.targets import TargetScaler
from tests.small_graphs import make_rows, make_spec, make_trees

NAMES = ("angle", "mass")


def spec_of(mean: float, std: float) -> ModelSpec:
    spec = make_spec(task="regression", score_names=NAMES)
    figures = {"angle": FeatureStatistics(mean=0.0, std=1e-3), "mass": FeatureStatistics(mean=mean, std=std)}
    statistics = msgspec.structs.replace(spec.statistics, targets=TargetStatistics(figures))
    features = FeatureSpec(inputs=spec.features.inputs, targets=dict.fromkeys(NAMES, "event_0"))
    return msgspec.structs.replace(spec, statistics=statistics, features=features, classes=())


def standard_session(spec: ModelSpec) -> tuple[Session, object]:
    """The core as if its values were the targets' own."""
    _, _, trees = make_trees(make_spec(score_names=NAMES, task="multiclass"))
    core = lower_trees(trees, num_features=spec.width, base=[0.0, 0.0], link="identity")
    return Session(merge(make_spec(task="regression", score_names=NAMES), core)), core


@pytest.mark.parametrize(("mean", "std"), [(125.0, 20.0), (1.2e5, 30.0), (-3e-7, 1e-9)])
def test_the_graph_puts_own_units_back_bit_for_bit_as_numpy_does(mean: float, std: float) -> None:
    spec = spec_of(mean, std)
    standard, core = standard_session(spec)
    rows = make_rows(spec, 500)
    served = Session(merge(spec, core)).run(rows)  # type: ignore[arg-type]
    values = standard.run(rows)
    assert np.abs(values).max() > 0.1
    np.testing.assert_array_equal(served, TargetScaler(spec.targets).restored(values))
    assert find_variance(merge(spec, core), rows) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "std"), [(125.0, 20.0), (1.2e5, 30.0)])
def test_the_gate_tells_differences_in_the_spread_of_each_target(mean: float, std: float) -> None:
    spec = spec_of(mean, std)
    standard, core = standard_session(spec)
    rows = make_rows(spec, 1000)
    report = check_parity(merge(spec, core), spec=spec, core=core, reference=standard.run, rows=rows)  # type: ignore[arg-type]
    # A mass of 120,000 in float32 is known to 0.004, which is 1e-4 of its spread of 30.
    assert report.bar == pytest.approx(1e-5 + 1.2e-7 * (1 + mean / std), rel=0.01)
    for column in range(2):
        off = np.zeros(2)
        off[column] = 3 * report.bar
        with pytest.raises(ParityError, match=f"score '{NAMES[column]}'"):
            check_parity(
                merge(spec, core),  # type: ignore[arg-type]
                spec=spec,
                core=core,  # type: ignore[arg-type]
                reference=lambda inputs, off=off: standard.run(inputs) + off,
                rows=rows,
            )


def test_far_from_the_mean_a_difference_is_a_share_of_the_distance() -> None:
    spec = spec_of(100.0, 10.0)
    wanted = np.array([[0.0, 100.0], [0.0, 1100.0]])
    told = difference_of(spec, wanted + np.array([0.0, 1.0]), wanted)
    np.testing.assert_allclose(told[:, 1], [0.1, 0.001])


@pytest.mark.parametrize("std", [float("nan"), -1.0, float("inf")])
def test_a_contract_whose_constants_cannot_scale_a_target_is_refused(std: float) -> None:
    assert not [one for one in spec_of(1.0, 2.0).problems() if "cannot scale it" in one]
    found = spec_of(1.0, std).problems()
    assert any("statistics.targets 'mass': a mean of 1.0 or a width of" in one for one in found)
    if np.isfinite(std):
        with pytest.raises(BundleError, match="contradicts itself"):
            ModelSpec.from_json(spec_of(1.0, std).to_json())
