"""Small LightGBM learners for tests: of made-up events, and of flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from mlaas4hep.testing_backends import Events, fit, make_spec

SMALL = {"num_iterations": 30, "learning_rate": 0.2, "num_leaves": 15}


def build(dials: Mapping[str, Any] = SMALL, *, classes: int = 2, threads: int = 1) -> Any:
    model = Model(name="lightgbm", dials=dict(dials))
    return choose(model).build(Task.of(make_spec(classes), seed=3, threads=threads))


def spec_of(width: int, *, classes: int = 2) -> ModelSpec:
    """The contract of flat rows."""
    names = tuple(f"x{i}" for i in range(width))
    groups = (InputGroup("event", tuple(Variable(name) for name in names)),)
    spec = make_spec(classes)
    return replace(
        spec,
        features=FeatureSpec(inputs=groups, classes=spec.classes),
        scaling=(GroupScaling("event", names, (FeatureScaling("none"),) * width),),
    )


def task_of(width: int, *, classes: int = 2) -> Task:
    return Task.of(spec_of(width, classes=classes), seed=1)


def on_rows(x: NDArray[np.float32], labels: NDArray[Any], *, classes: int = 2, **dials: Any) -> Any:
    """A learner that has learned from flat rows."""
    learner = choose(Model(name="lightgbm", dials={**SMALL, **dials})).build(task_of(x.shape[1], classes=classes))
    fit(learner, Events({"event": x}, labels.astype(np.int64), np.ones(len(x))), None)
    return learner
