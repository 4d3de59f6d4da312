"""Rules of `mlaas4hep.testing_backends` are failed by who breaks them, and by far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Learner, Task
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.config import Model
from mlaas4hep.testing_backends import BackendContract, auc_by_subtraction, make_spec
from mlaas4hep.testing_events import make_regression_spec
from mlaas4hep.testing_regression import slope_by_subtraction

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Careless:
    """A choice of model whose learners see other weights than they are given."""

    choice: Choice
    seen: Callable[[Weights], Weights]

    def build(self, task: Task) -> Learner:
        learner: Any = self.choice.build(task)
        learn = learner.learn
        learner.learn = lambda inputs, truth, weights: learn(inputs, truth, self.seen(weights))
        built: Learner = learner
        return built


@pytest.mark.parametrize(
    ("seen", "auc", "slope"),
    [(np.abs, 0.1, 0.7), (lambda weights: np.maximum(weights, 0.0), 0.2, 1.1)],
    ids=["taken by their size", "left out"],
)
def test_who_takes_no_heed_of_negative_weights_fails_their_rules_by_far(
    seen: Callable[[Weights], Weights], auc: float, slope: float
) -> None:
    pytest.importorskip("torch")
    careless: Any = Careless(choose(Model(name="mlp", backend="torch", dials={"learning_rate": 5e-3})), seen)
    assert auc_by_subtraction(careless.build(Task.of(make_spec(), seed=1))) < auc
    assert slope_by_subtraction(careless.build(Task.of(make_regression_spec(), seed=1))) < slope
    rules = BackendContract()
    with pytest.raises(AssertionError):
        rules.test_negative_weights_are_learned_or_refused_as_declared(careless)
    with pytest.raises(AssertionError):
        rules.test_targets_of_negative_weight_are_learned_or_refused_as_declared(careless)
