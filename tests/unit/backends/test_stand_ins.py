"""Model files written for the original find what they import, and nothing else of the process notices."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.keras_start import settle_framework
from mlaas4hep.backends.protocol import Learner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.userfile import load_user_file
from mlaas4hep.config import Model
from mlaas4hep.errors import ModelError
from mlaas4hep.testing_backends import make_events, make_spec, teach

settle_framework()


def loaded(folder: Path, text: str) -> Any:
    (folder / "net.py").write_text(dedent(text), encoding="utf-8")
    return load_user_file(str(folder / "net.py"))


def learned(folder: Path, text: str) -> Learner:
    """A learner of a file, after it was taught; its scores must follow the labels."""
    loaded(folder, text)
    learner = choose(Model(file=str(folder / "net.py"))).build(Task.of(make_spec(2), seed=0))
    events = make_events(1500)
    teach(learner, events, epochs=2)
    assert np.corrcoef(learner.predict(events.inputs)[:, 0], events.labels)[0, 1] > 0.25
    return learner


@pytest.mark.filterwarnings("ignore:Do not pass an .input_shape")
def test_the_documented_network_learns_as_it_is_written(tmp_path: Path) -> None:
    """With TensorFlow's Keras, where TensorFlow need not be installed, and the learning rate by its old name."""
    pytest.importorskip("keras")
    before = set(sys.modules)
    learner = learned(
        tmp_path,
        """
        from tensorflow import keras
        from keras.models import Sequential
        from keras.layers import Dense

        def model(idim):
            layers = [keras.layers.Dense(128, activation='relu', input_shape=(idim,)), keras.layers.Dropout(0.5),
                      keras.layers.Dense(64, activation='relu'), keras.layers.Dropout(0.5),
                      keras.layers.Dense(1, activation='sigmoid')]
            net = keras.Sequential(layers)
            net.compile(optimizer=keras.optimizers.Adam(lr=2e-3), loss=keras.losses.BinaryCrossentropy(),
                        metrics=[keras.metrics.BinaryAccuracy(name='accuracy'), keras.metrics.AUC(name='auc')])
            return net
        """,
    )
    assert "Adam (learning rate 0.002) with loss" in learner.notes[0]
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("tensorflow", "MLaaS4HEP")}


def test_the_torch_example_learns_with_the_layer_of_the_original(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    learned(
        tmp_path,
        """
        from MLaaS4HEP.jarray.pytorch import JaggedArrayLinear
        try:
            import torch
        except ImportError:
            torch = None

        def model(idim):
            return torch.nn.Sequential(JaggedArrayLinear(idim, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
        """,
    )


def test_the_layer_leaves_out_what_its_mask_says_is_padded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = loaded(
        tmp_path,
        """
        import MLaaS4HEP.jarray.pytorch as jarray

        def model():
            return jarray.JaggedArrayLinear(3, 2, verbose=1)
        """,
    )
    layer = file.function()
    values, mask = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.0, torch.nan]])
    wanted = layer(torch.tensor([[1.0, 2.0, 0.0]]))
    assert torch.equal(layer((values, mask)), wanted)
    assert torch.equal(layer(torch.stack([values, mask])), wanted)


def test_every_way_to_import_keras_gives_the_same_classes(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    from mlaas4hep.backends.keras_values import array_of

    names = loaded(
        tmp_path,
        """
        import keras
        import keras.layers
        import tensorflow as tf
        import tensorflow.keras as tfk
        from keras import layers, ops
        from keras.optimizers import SGD, Adam, Optimizer
        from tensorflow.keras.layers import Dense
        from tensorflow.keras.optimizers import Adam as OtherAdam

        class Mine(Adam):
            pass

        def model():
            return globals()
        """,
    ).function()
    assert {names["Dense"], names["keras"].layers.Dense, names["tf"].keras.layers.Dense} == {keras.layers.Dense}
    assert names["layers"] is keras.layers
    assert names["tfk"].Model is keras.Model
    assert issubclass(names["Mine"], keras.optimizers.Adam)
    made = names["OtherAdam"](lr=0.5)
    assert type(made) is type(keras.optimizers.Adam())
    assert isinstance(made, names["Optimizer"])
    assert float(array_of(made.learning_rate)) == 0.5
    assert names["SGD"](0.25, momentum=0.5).momentum == 0.5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from tensorflow import no_such_name", "no_such_name"),
        ("import tensorflow.no_such_module", "no_such_module"),
        ("from keras.optimizers import Adamm", "Adamm"),
        ("from MLaaS4HEP.generator import RootDataGenerator", "MLaaS4HEP"),
        ("import keras.nothing", "keras.nothing"),
    ],
)
def test_what_is_not_there_is_told_with_the_line(tmp_path: Path, line: str, words: str) -> None:
    pytest.importorskip("keras")
    with pytest.raises(ModelError, match=r"net.py, line 1: cannot be run: .*") as raised:
        loaded(tmp_path, f"{line}\n\ndef model(idim): ...\n")
    assert words in str(raised.value)


def test_other_files_see_pythons_own_import(tmp_path: Path) -> None:
    ours = builtins.__import__
    loaded(tmp_path, "import json, os.path\nfrom os import path\n\ndef model(idim): ...\n")
    assert builtins.__import__ is ours
