"""Keras 3 on TensorFlow, PyTorch or JAX: `mlp`, and any model that a user's own file returns, as it was compiled.

One ``train_on_batch`` a batch, or the model's own ``fit``; exported by `keras_graph`. Invariant: with one seed and one
framework under Keras the weights after any number of steps are the same bits, also where the training was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mlaas4hep.backends.keras_start import settle_framework

settle_framework()  # Keras reads its framework when it is imported, so that all imports below come after

import keras  # noqa: E402

from mlaas4hep.backends.arrays import unpack  # noqa: E402
from mlaas4hep.backends.blame import told_with  # noqa: E402
from mlaas4hep.backends.devices import device_problems  # noqa: E402
from mlaas4hep.backends.dials import Dials, bad_sizes, out_of_range, parse_dials  # noqa: E402
from mlaas4hep.backends.keras_device import device_of  # noqa: E402
from mlaas4hep.backends.keras_learner import KERAS, KerasLearner, require_exportable, way_of  # noqa: E402
from mlaas4hep.backends.keras_loss import meaning_of_output, name_of, own_loss, single_loss  # noqa: E402
from mlaas4hep.backends.keras_network import InputKind, Network, OutputKind  # noqa: E402
from mlaas4hep.backends.keras_values import array_of  # noqa: E402
from mlaas4hep.backends.protocol import Capabilities, Learner, Predictor, Task  # noqa: E402
from mlaas4hep.backends.userfile import seeded  # noqa: E402
from mlaas4hep.errors import ModelError, nearest  # noqa: E402

Activation = Literal["relu", "tanh", "gelu", "silu"]


class MlpDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    activation
        Between the layers.
    dropout
        Share of the hidden values that is set to 0 in a step.
    learning_rate, weight_decay
        Of AdamW.
    averaging
        The scores are those of the weights averaged over the steps, of which the past keeps this share at each step;
        0 takes the last weights.
    device
        `auto` is where the framework under Keras puts things: TensorFlow and JAX on a GPU that they see, PyTorch on the
        CPU. Any other word has to be that, or is refused with what to set.
    """

    hidden: tuple[int, ...] = (128, 64)
    activation: Activation = "relu"
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    averaging: float = 0.998
    device: str = "auto"

    def problems(self) -> list[str]:
        """What is out of range."""
        return (
            bad_sizes("hidden", self.hidden)
            + out_of_range(
                self,
                above_zero=("learning_rate",),
                at_least_zero=("weight_decay",),
                between={"dropout": (0, 0.95), "averaging": (0, 0.99999)},
            )
            + device_problems(self.device)
        )


class OwnDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of a user's model.

    Parameters
    ----------
    learning_rate, weight_decay
        Of AdamW, 0.001 and 0, for a model that was not compiled; refused for one that was.
    averaging
        As for the built-in network; off unless asked for.
    output
        What the model returns; null takes it from the loss that it was compiled with, or tries it on random rows:
        numbers between 0 and 1 (that add up to 1, where there are several) are probabilities.
    inputs
        What a model without named inputs is given: the ``flat`` view, which null is too, or ``groups``, all input
        groups and masks in a dictionary.
    device
        As for the built-in network.
    """

    learning_rate: float | None = None
    weight_decay: float | None = None
    averaging: float = 0.0
    output: OutputKind | None = None
    inputs: InputKind | None = None
    device: str = "auto"

    def problems(self) -> list[str]:
        """What is out of range."""
        problems = out_of_range(self, between={"averaging": (0, 0.99999)}) + device_problems(self.device)
        if self.learning_rate is not None:
            problems += out_of_range(self, above_zero=("learning_rate",))
        if self.weight_decay is not None:
            problems += out_of_range(self, at_least_zero=("weight_decay",))
        return problems


class KerasBackend:
    """Keras behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "keras"
    models: Mapping[str, type[Dials]] = {"mlp": MlpDials}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return KERAS

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner with fresh weights."""
        if not isinstance(dials, MlpDials):
            raise ModelError(f"model {model} of backend keras takes no {type(dials).__name__}")
        where = f"{model} (backend keras)"
        with seeded(task.seed):
            network = Network(_mlp(dials, task), task, inputs=None, where=where)
        own = OwnDials(dials.learning_rate, dials.weight_decay, dials.averaging, "logits", device=dials.device)
        return _learner(network, own, model=model, dials=dials)

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned network back from its native files; a user's model needs its source, see `adopt`."""
        settings, arrays = unpack(files)
        model = settings["model"]
        if model not in self.models:
            raise ModelError(f"native weights: model '{model}' is none of backend keras{nearest(model, self.models)}")
        # Wherever it was learned: scores are those of the framework here.
        dials = parse_dials(
            settings["dials"] | {"device": "auto"}, MlpDials, owner=f"{model} (backend keras)", where="native weights"
        )
        learner = self.build(model, dials, task)
        assert isinstance(learner, KerasLearner)
        learner.restore(arrays)
        return learner

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner around a user's `keras.Model`, compiled or not.

        A model whose inputs are named like input groups (``keras.Input((6, 4), name="jets")``, ``jets_mask``) is given
        those, any other one the flat view, [N, W]. It returns one number an event or one a class.
        """
        if not isinstance(found, keras.Model):
            raise ModelError(f"{where}: returned a {type(found).__name__}; backend keras learns a keras.Model")
        own = parse_dials(dials, OwnDials, owner=f"a keras model ({where})")
        network = Network(found, task, inputs=own.inputs, where=where)
        return _learner(network, own, model="own", dials=own)


def _mlp(dials: MlpDials, task: Task) -> keras.Model:
    layers: list[keras.Layer] = [keras.Input((task.width,))]
    for size in dials.hidden:
        layers.append(keras.layers.Dense(size, activation=dials.activation))
        if dials.dropout > 0:
            layers.append(keras.layers.Dropout(dials.dropout))
    return keras.Sequential([*layers, keras.layers.Dense(task.outputs)])


def _learner(network: Network, own: OwnDials, *, model: str, dials: Dials) -> KerasLearner:
    """Try the model out, compile it where nobody has, and see that it can be written as a graph."""
    keras_model, where = network.model, network.where
    device = device_of(own.device, where)
    with told_with(where, "the model failed"), seeded(network.task.seed):
        found = network.try_out()
    compiled = keras_model.compiled
    loss = single_loss(keras_model, where) if compiled else None
    network.output = meaning_of_output(loss, found, asked=own.output, where=where)
    if compiled:
        _require_agreement(keras_model, own, where)
    else:
        loss = own_loss(network)
        rate = 1e-3 if own.learning_rate is None else own.learning_rate
        adam = keras.optimizers.AdamW(rate, weight_decay=own.weight_decay or 0.0, epsilon=1e-8)
        keras_model.compile(optimizer=adam, loss=loss, jit_compile=False)
    require_exportable(network)
    notes = (_note(keras_model, loss, where),) if compiled else ()
    settings = _settings(model, dials, output=network.output)
    return KerasLearner(network, loss, averaging=own.averaging, settings=settings, device=device, notes=notes)


def _require_agreement(model: keras.Model, own: OwnDials, where: str) -> None:
    """`ModelError` where a dial or a setting of ``compile`` would change nothing, or not what it says."""
    for name in ("learning_rate", "weight_decay"):
        if getattr(own, name) is not None:
            raise ModelError(
                f"{where}: model.{name} would change nothing: the model is compiled with its own optimiser; set it "
                "there, or return the model without compile()"
            )
    if model.optimizer is None:
        raise ModelError(f"{where}: the model is compiled without an optimiser")
    if getattr(model.optimizer, "use_ema", False):
        raise ModelError(f"{where}: use_ema of the optimiser is not followed; take the dial averaging: 0.99 instead")
    if getattr(model, "steps_per_execution", 1) != 1:
        raise ModelError(f"{where}: steps_per_execution: {model.steps_per_execution} is not followed; leave it out")


def _note(model: keras.Model, loss: Any, where: str) -> str:
    """What a user should know of how a compiled model is learned."""
    optimiser = type(model.optimizer).__name__
    rate = float(array_of(model.optimizer.learning_rate))
    words = f"{where}: learned as it was compiled, by {optimiser} (learning rate {rate:.4g})"
    words += f" with loss {name_of(loss)}" if loss is not None else ""
    words += {"fit": ", by its own fit, once a batch", "train_step": ", by its own train_step"}.get(way_of(model), "")
    return f"{words}; metrics of compile() are not shown, the page has its own"


def _settings(model: str, dials: Dials, *, output: str) -> dict[str, Any]:
    given = {name: getattr(dials, name) for name in dials.__struct_fields__} | (
        {"output": output} if model == "own" else {}
    )
    framework = keras.config.backend()
    return {"backend": "keras", "model": model, "dials": given, "version": keras.__version__, "framework": framework}
