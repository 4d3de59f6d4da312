"""Every backend keeps the rules of `mlaas4hep.testing_backends`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlaas4hep.backends.keras_start import settle_framework
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.config import Model
from mlaas4hep.testing_backends import BackendContract
from mlaas4hep.testing_regression import RegressionRules

SMALL = {"hidden": [32, 16], "learning_rate": 5e-3}


class TestSklearnMlp(BackendContract):
    model = Model(name="mlp", dials=SMALL)


class TestSklearnBdt(BackendContract):
    model = Model(name="bdt", dials={"trees": 60, "learning_rate": 0.1})


class TestTorchMlp(BackendContract):
    # Dropout draws one number a row: two rows cannot equal one row of weight two with it.
    model = Model(name="mlp", backend="torch", dials={**SMALL, "dropout": 0.0})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


class TestTorchDeepSets(BackendContract):
    model = Model(
        name="deepsets",
        dials={"hidden_object": [16], "latent": 16, "hidden_event": [32, 16], "learning_rate": 5e-3, "dropout": 0.0},
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


class TestTorchAttention(BackendContract):
    model = Model(
        name="attention",
        dials={"width": 16, "heads": 2, "hidden_event": [32], "learning_rate": 3e-3, "dropout": 0.0},
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


# An image of three objects; the suite is about the rules, images are tested in tests/unit/backends/test_torch_image.py.
IMAGE = {
    "x": "pt",
    "y": "eta",
    "bins": [8, 8],
    "range": [[-100, 200], [-3, 3]],
    "latent": 8,
    "hidden_event": [32, 16],
    "learning_rate": 5e-3,
    "dropout": 0.0,
}


class TestTorchCnn(BackendContract):
    model = Model(name="cnn", dials={**IMAGE, "channels": [8, 8], "learning_rate": 3e-3})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


# Fifty layers, though thin ones, take minutes for all rules.
@pytest.mark.slow
class TestTorchResNet50(BackendContract):
    model = Model(name="resnet50", dials={**IMAGE, "width": 2, "value": ["pt"], "learning_rate": 1e-2})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


class TestKerasMlp(BackendContract):
    model = Model(name="mlp", backend="keras", dials={**SMALL, "dropout": 0.0})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_keras(cls) -> None:
        settle_framework()
        pytest.importorskip("keras")


class TestJaxMlp(BackendContract):
    model = Model(name="mlp", backend="jax", dials={**SMALL, "dropout": 0.0})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_jax(cls) -> None:
        pytest.importorskip("jax")


@pytest.mark.slow
class TestJaxDeepSets(BackendContract):
    model = Model(
        name="deepsets",
        backend="jax",
        dials={"hidden_object": [16], "latent": 8, "hidden_event": [16], "learning_rate": 5e-3, "dropout": 0.0},
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_jax(cls) -> None:
        pytest.importorskip("jax")


class TestXgboost(BackendContract):
    model = Model(name="xgboost", dials={"trees": 100, "learning_rate": 0.1})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_xgboost(cls) -> None:
        pytest.importorskip("xgboost")


class TestLightgbm(BackendContract):
    model = Model(name="lightgbm", dials={"num_iterations": 100, "learning_rate": 0.1})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_lightgbm(cls) -> None:
        pytest.importorskip("lightgbm")


class OwnFile:
    """A model of a user's file: its source, and the dials beside it."""

    source: str
    dials: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def choice(cls, tmp_path_factory: pytest.TempPathFactory) -> Choice:
        file: Path = tmp_path_factory.mktemp("own") / "my_model.py"
        file.write_text(cls.source, encoding="utf-8")
        return choose(Model(file=str(file), dials=cls.dials))


class TestOwnEstimator(OwnFile, BackendContract):
    source = """
from sklearn.neural_network import MLPClassifier

def model(idim):
    return MLPClassifier(hidden_layer_sizes=(32, 16), learning_rate_init=5e-3, activation="tanh")
"""
    model = Model(name="own")


class TestOwnTreesWithEarlyStopping(TestOwnEstimator):
    source = """
from sklearn.ensemble import HistGradientBoostingClassifier

def model():
    return HistGradientBoostingClassifier(max_iter=60, early_stopping=True)
"""


class TestOwnXgboost(TestOwnEstimator):
    source = """
from xgboost import XGBClassifier

def model():
    return XGBClassifier(n_estimators=60, learning_rate=0.15, max_depth=4, colsample_bytree=0.9)
"""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_xgboost(cls) -> None:
        pytest.importorskip("xgboost")


class TestOwnLightgbm(TestOwnEstimator):
    source = """
from lightgbm import LGBMClassifier

def model():
    return LGBMClassifier(n_estimators=60, learning_rate=0.15, num_leaves=15, colsample_bytree=0.9)
"""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_lightgbm(cls) -> None:
        pytest.importorskip("lightgbm")


class TestOwnModuleOnCollections(TestOwnEstimator):
    source = """
import torch

class Net(torch.nn.Module):
    def __init__(self, event, jets):
        super().__init__()
        self.each = torch.nn.Sequential(torch.nn.Linear(jets, 16), torch.nn.ReLU())
        self.all = torch.nn.Sequential(torch.nn.Linear(event + 16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def forward(self, event, jets, jets_mask):
        shown = jets_mask.unsqueeze(-1).to(jets.dtype)
        pooled = (self.each(jets) * shown).sum(dim=1)
        return self.all(torch.cat([event, pooled], dim=1))

def model(spec):
    shapes = {one.name: one.shape for one in spec.signature}
    net = Net(shapes["event"][-1], shapes["jets"][-1])
    if len(spec.classes) > 2:
        net.all[-1] = torch.nn.Linear(32, len(spec.classes))
    return net
"""
    dials: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")


# The rules of the one below and the collections of tests/unit/backends/test_keras.py, together.
@pytest.mark.slow
class TestOwnKerasModelOnCollections(TestOwnEstimator):
    source = """
import keras
from keras import layers, ops

def model(spec):
    shapes = {one.name: one.shape for one in spec.signature}
    event, jets = keras.Input(shapes["event"], name="event"), keras.Input(shapes["jets"], name="jets")
    mask = keras.Input(shapes["jets"][:1], name="jets_mask")
    each = layers.Dense(16, activation="relu")(jets) * ops.expand_dims(mask, -1)
    x = layers.Concatenate()([event, ops.sum(each, axis=1)])
    x = layers.Dense(32, activation="relu")(x)
    return keras.Model([event, jets, mask], layers.Dense(1 if len(spec.classes) < 3 else len(spec.classes))(x))
"""
    dials: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_keras(cls) -> None:
        settle_framework()
        pytest.importorskip("keras")


class TestOwnCompiledKerasModel(TestOwnEstimator):
    source = """
import keras
from keras import layers

def model(spec):
    classes = len(spec.classes)
    width = sum(int(one.shape[0] * (one.shape[1] if len(one.shape) > 1 else 1)) for one in spec.signature)
    last = layers.Dense(1, activation="sigmoid") if classes < 3 else layers.Dense(classes, activation="softmax")
    layers_ = [layers.Dense(size, activation="silu") for size in (32, 16)]
    net = keras.Sequential([keras.Input((width,)), *layers_, last])
    loss = "binary_crossentropy" if classes < 3 else "categorical_crossentropy"
    net.compile(optimizer=keras.optimizers.Nadam(5e-3), loss=loss, metrics=["accuracy"])
    return net
"""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_keras(cls) -> None:
        settle_framework()
        pytest.importorskip("keras")


@pytest.mark.slow
class TestOwnFunctionsOfJax(TestOwnEstimator):
    source = """
import jax
import jax.numpy as jnp

def init(key, spec):
    shapes = {one.name: one.shape for one in spec.signature}
    event, jets, last = shapes["event"][-1], shapes["jets"][-1], max(len(spec.classes) * (len(spec.classes) > 2), 1)
    keys = jax.random.split(key, 3)
    return {
        "each": jax.random.normal(keys[0], (jets, 16)) / jets**0.5,
        "all": [jax.random.normal(keys[1], (event + 16, 32)) / 4, jnp.zeros(32)],
        "last": jax.random.normal(keys[2], (32, last)) / 6,
    }

def apply(params, event, jets, jets_mask):
    each = jax.nn.relu(jets @ params["each"]) * jets_mask[..., None]
    weight, bias = params["all"]
    hidden = jax.nn.silu(jnp.concatenate([event, each.sum(axis=1)], axis=1) @ weight + bias)
    return hidden @ params["last"]
"""
    dials: ClassVar[dict[str, Any]] = {"learning_rate": 5e-3}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_jax(cls) -> None:
        pytest.importorskip("jax")


class TestOwnRegressor(OwnFile, RegressionRules):
    source = """
from sklearn.neural_network import MLPRegressor

def model(idim):
    return MLPRegressor(hidden_layer_sizes=(32, 16), learning_rate_init=5e-3, activation="tanh")
"""
    model = Model(name="own")
    learns_targets = True


class TestOwnRegressionTrees(TestOwnRegressor):
    source = """
from sklearn.ensemble import HistGradientBoostingRegressor

def model():
    return HistGradientBoostingRegressor(loss="absolute_error", max_iter=60, early_stopping=True)
"""


class TestOwnXgboostRegressor(TestOwnRegressor):
    source = """
from xgboost import XGBRegressor

def model():
    return XGBRegressor(n_estimators=60, learning_rate=0.15, max_depth=4)
"""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_xgboost(cls) -> None:
        pytest.importorskip("xgboost")


class TestOwnModuleOfTargets(TestOwnRegressor):
    source = """
import torch

def model(spec):
    wide, last = torch.nn.Linear(spec.width, 32), torch.nn.Linear(32, len(spec.targets))
    return torch.nn.Sequential(wide, torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.Tanh(), last)
"""
    dials: ClassVar[dict[str, Any]] = {"learning_rate": 1e-2}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _needs_torch(cls) -> None:
        pytest.importorskip("torch")
