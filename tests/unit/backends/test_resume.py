"""What learners carry from step to step is kept whole: moments, schedules, random numbers, buffers, averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.protocol import Learner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.testing_backends import make_events, make_spec
from mlaas4hep.testing_resume import assert_learner_resumable

OWN = {
    "Adam": "MLPClassifier((6,), learning_rate_init=0.01)",
    "adaptive descent": "MLPClassifier((6,), solver='sgd', learning_rate='adaptive', tol=0.3, n_iter_no_change=2)",
    "fading descent": "MLPClassifier((6,), solver='sgd', learning_rate='invscaling', nesterovs_momentum=False)",
}
MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(width, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1)
        )
        self.unused = torch.nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.layers(x) / (1 + 0.01 * self.steps)

def model(idim):
    return Net(idim)
"""


def steps(*, weight: float = 1.0) -> list[tuple[Any, Any, Any]]:
    events = make_events(1000)
    batches = [events.pick(slice(start, start + 80)) for start in range(0, 1000, 80)]
    return [(one.inputs, one.labels, one.weights * weight) for one in batches]


def check(model: Model, *, first: tuple[Any, Any, Any] | None = None) -> None:
    choice = choose(model)

    def build() -> Learner:
        return choice.build(Task.of(make_spec(), seed=3))

    taken = [*([first] if first else []), *steps()]
    assert_learner_resumable(build, taken, stops=[0, 1, 2, 7, 12, len(taken)])


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_networks_of_scikit_learn(averaging: float) -> None:
    check(Model(dials={"hidden": [6], "averaging": averaging}))


@pytest.mark.parametrize("own", OWN)
def test_the_optimisers_of_a_users_estimator(tmp_path: Path, own: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        f"from sklearn.neural_network import MLPClassifier\ndef model():\n    return {OWN[own]}\n", encoding="utf-8"
    )
    check(Model(file=str(file)))


def test_before_the_first_step_there_is_nothing_to_keep() -> None:
    silent = steps(weight=0.0)[0]
    assert not np.any(silent[2])
    check(Model(dials={"hidden": [6]}), first=silent)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_torch_with_random_numbers(averaging: float) -> None:
    pytest.importorskip("torch")
    check(Model(backend="torch", dials={"hidden": [6], "dropout": 0.4, "averaging": averaging}))


def test_a_users_module_with_buffers_and_parameters_that_never_learn(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "mine.py"
    file.write_text(MODULE, encoding="utf-8")
    check(Model(file=str(file), dials={"averaging": 0.9}))
