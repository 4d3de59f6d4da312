"""Models are found by name, and what cannot be found is refused with the nearest name."""

from __future__ import annotations

import sys

import pytest

from mlaas4hep.backends.registry import BUILT_IN, MODELS, choose, find_backend
from mlaas4hep.config import Model
from mlaas4hep.errors import ConfigError, MissingExtraError, ModelError


def test_a_model_by_name_takes_its_default_backend() -> None:
    assert choose(Model(name="mlp")).title == "mlp (backend sklearn)"
    assert choose(Model(name="bdt")).title == "bdt (backend sklearn)"


def test_the_table_of_models_says_what_the_backends_say() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("xgboost")
    pytest.importorskip("lightgbm")
    pytest.importorskip("jax")
    for name in BUILT_IN:
        assert {model for model, backends in MODELS.items() if name in backends} == set(find_backend(name).models)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(name="mpl"), r"config: model.name: no model 'mpl'; did you mean 'mlp'"),
        (Model(name="mlp", backend="pytorch"), r"model.backend: no backend 'pytorch'; did you mean 'torch'"),
        (Model(name="bdtt", backend="sklearn"), r"backend sklearn has no model 'bdtt'; did you mean 'bdt'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(model: Model, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        choose(model)


def test_all_problems_with_dials_are_told_at_once() -> None:
    dials = {"hiden": [3], "activation": "rellu", "learning_rate": "fast"}
    with pytest.raises(ConfigError) as error:
        choose(Model(name="mlp", dials=dials), where="a.yaml")
    text = str(error.value)
    assert text.startswith("a.yaml: 3 problems")
    assert "model.hiden: is no dial of mlp (backend sklearn); did you mean 'hidden'" in text
    assert "did you mean 'relu'" in text
    assert "model.learning_rate" in text


def test_where_no_dial_is_near_all_are_told() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=r"model.qqq: is no dial of attention .backend torch.; its dials: .*width, "):
        choose(Model(name="attention", dials={"qqq": 32}))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(name="mlp", dials={"hidden": []}), "hidden"),
        (Model(name="mlp", dials={"learning_rate": 0}), "learning_rate: 0.0 is out of range; wants above 0"),
        (Model(name="bdt", dials={"bins": 256}), "bins: 256 is out of range; wants 2 to 255"),
        (Model(name="bdt", dials={"depth": 0}), "depth: 0 is out of range; wants 1 to 64"),
    ],
)
def test_a_dial_out_of_range_is_refused(model: Model, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(model)


def test_a_backend_whose_framework_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mlaas4hep.backends.torch", raising=False)
    with pytest.raises(MissingExtraError, match=r"backend torch needs the package 'torch'.*mlaas4hep\[torch\]"):
        choose(Model(name="mlp", backend="torch"))
