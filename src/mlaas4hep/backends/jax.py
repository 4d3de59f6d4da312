"""JAX: `mlp` and `deepsets`, and plain functions with parameters that a user's own file gives.

``init(key, idim)`` makes parameters in any nesting, ``apply(params, x)`` gives logits; learned by `jax_learner`,
exported by `jax_graph`. Invariant: what cannot be written as a graph is refused by name before anything is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mlaas4hep.backends import jax_optimiser
from mlaas4hep.backends.arrays import unpack
from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.dials import Dials, parse_dials
from mlaas4hep.backends.jax_learner import JAX, JaxLearner, device_of, settled
from mlaas4hep.backends.jax_models import DeepSets, DeepSetsDials, Mlp, MlpDials
from mlaas4hep.backends.jax_network import (
    Functions,
    Network,
    OutputKind,
    Pair,
    all_inputs,
    first_params,
    inputs_of,
)
from mlaas4hep.backends.losses import loss_of, refuse_loss
from mlaas4hep.backends.protocol import Capabilities, Learner, Predictor, Task
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.core import FLAT_INPUT


class OwnDials(jax_optimiser.OptimiserDials, frozen=True, forbid_unknown_fields=True):
    """Dials of a user's function; those of the training are shared by all models of the backend.

    Parameters
    ----------
    output
        What ``apply`` returns; null tries it on random rows: numbers between 0 and 1 (that add up to 1, where there
        are several) are probabilities. Of a regression it returns the targets in standard units, and this says nothing.
    averaging, weight_decay
        As for the built-in networks; off unless asked for.
    """

    output: OutputKind | None = None
    averaging: float = 0.0
    weight_decay: float = 0.0


class JaxBackend:
    """JAX behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "jax"
    models: Mapping[str, type[Dials]] = {"mlp": MlpDials, "deepsets": DeepSetsDials}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return JAX

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner with fresh weights."""
        if not isinstance(dials, jax_optimiser.OptimiserDials) or type(dials) is not self.models[model]:
            raise ModelError(f"model {model} of backend jax takes no {type(dials).__name__}")
        where = f"{model} (backend jax)"
        refuse_loss(dials, kind=task.kind, title=where)
        functions = _functions_of(dials, task, where)
        inputs = (FLAT_INPUT,) if model == "mlp" else all_inputs(task)
        pair = Pair(functions.init, functions.apply)
        return _learner(functions, pair, dials, task, inputs=inputs, output="logits", model=model, where=where)

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned network back from its native files; a user's functions need their source, see `adopt`."""
        settings, arrays = unpack(files)
        model = settings["model"]
        if model not in self.models:
            raise ModelError(f"native weights: model '{model}' is none of backend jax{nearest(model, self.models)}")
        owner = f"{model} (backend jax)"
        # Learned wherever that was: scores are those of the CPU.
        given = settings["dials"] | {"device": "cpu"}
        dials = parse_dials(given, self.models[model], owner=owner, where="native weights")
        learner = self.build(model, dials, task)
        assert isinstance(learner, JaxLearner)
        learner.restore(arrays)
        return learner

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner around a user's functions ``(init, apply)``.

        ``init(key, idim)`` or ``init(key, spec)`` gives parameters, arrays in any nesting of lists and dictionaries;
        those of float32 are learned. ``apply(params, x)`` is given the flat view, [N, W]; one that names input groups
        (``apply(params, event, jets, jets_mask)``) those. It returns one number an event or one a class; of a
        regression one a target. Where it takes ``key``, that is a key for random numbers in training, None elsewhere.
        """
        if not is_pair(found):
            raise ModelError(
                f"{where}: returned a {type(found).__name__}; backend jax learns two functions, (init, apply)"
            )
        own = parse_dials(dials, OwnDials, owner=f"functions of JAX ({where})")
        refuse_loss(own, kind=task.kind, title=where)
        if own.output is not None and task.kind == "regression":
            raise ModelError(f"{where}: model.output is about classes; apply of a regression returns its targets")
        pair = Pair(*found)
        inputs = inputs_of(pair.apply, task, where)
        return _learner(pair, pair, own, task, inputs=inputs, output=own.output, model="own", where=where)


def is_pair(found: Any) -> bool:
    """Whether an object is two functions."""
    return isinstance(found, tuple) and len(found) == 2 and all(map(callable, found))


def _functions_of(dials: jax_optimiser.OptimiserDials, task: Task, where: str) -> Mlp | DeepSets:
    if isinstance(dials, MlpDials):
        return Mlp(task.width, task.outputs, dials)
    assert isinstance(dials, DeepSetsDials)
    if all(group.length is None for group in task.groups):
        raise ModelError(
            f"model {where} learns from collections, and the inputs hold none; list one, as in "
            "inputs: {jets: {vars: [Jet_pt, Jet_eta], length: 6}}, or take a model on flat variables, such as mlp"
        )
    return DeepSets.of(task, dials)


def _learner(
    functions: Functions,
    pair: Pair,
    dials: jax_optimiser.OptimiserDials,
    task: Task,
    *,
    inputs: tuple[str, ...],
    output: OutputKind | None,
    model: str,
    where: str,
) -> JaxLearner:
    """Make first parameters, try the functions out, and see that they can be written as a graph."""
    device = device_of(dials.device, where)
    with settled(device):
        with told_with(where, "init failed"):
            params = first_params(pair.init, jax.random.key(task.seed % 2**32), task, where)
        with told_with(where, "apply failed"):
            network = Network(functions, params, task, inputs=inputs, output=output, where=where)
        with told_with(where, "cannot be written as a graph"):
            network.export(network.leaves)
    settings = _settings(model, dials, network.form.output)
    loss = loss_of(dials)
    return JaxLearner(network, dials.build(), loss=loss, averaging=dials.averaging, device=device, settings=settings)


def _settings(model: str, dials: Dials, output: str) -> dict[str, Any]:
    given = {name: getattr(dials, name) for name in dials.__struct_fields__}
    if model == "own" and output != "values":
        given["output"] = output
    return {"backend": "jax", "model": model, "dials": given, "version": jax.__version__}
