"""PyTorch: the networks of `torch_built_in`, and any module that a user's own file returns.

Trained with AdamW on a weighted cross-entropy, or the loss of a regression, exported by `torch.onnx`. Invariant: with
one seed and one number of threads the weights after any number of steps are the same bits; torch's global generator is
left as it was found.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.arrays import below, pack, under, unpack
from mlaas4hep.backends.average import Average
from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.dials import Dials, out_of_range, parse_dials
from mlaas4hep.backends.losses import LossName, loss_of, refuse_loss
from mlaas4hep.backends.protocol import (
    Arrays,
    Capabilities,
    EventWeights,
    Learner,
    Predictor,
    Scores,
    Task,
    Truth,
)
from mlaas4hep.backends.torch_built_in import BUILT_IN, NetworkDials
from mlaas4hep.backends.torch_checkpoint import module_arrays, optimiser_arrays, recover_module, recover_optimiser
from mlaas4hep.backends.torch_network import Network, OutputKind, export_network, generator_at, inputs_of
from mlaas4hep.backends.torch_norm import weigh_events
from mlaas4hep.backends.weights import require_finite
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.core import FLAT_INPUT, Core
from mlaas4hep.spec.scaling import Tensors

TORCH = Capabilities(streams=True, negative_weights=True, masks=True, regression=True, resume="exact")


class OwnDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of a user's module.

    Parameters
    ----------
    learning_rate, weight_decay
        Of AdamW.
    averaging
        As for the built-in network; off unless asked for.
    output
        What the module returns; null tries it on random rows: numbers between 0 and 1 (that add up to 1, where there
        are several) are probabilities. Of a regression it returns the targets in standard units, and this says nothing.
    loss, huber_delta
        As for the built-in networks.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    averaging: float = 0.0
    output: OutputKind | None = None
    loss: LossName = "squared"
    huber_delta: float = 0.3

    def problems(self) -> list[str]:
        """What is out of range."""
        return out_of_range(
            self,
            above_zero=("learning_rate", "huber_delta"),
            at_least_zero=("weight_decay",),
            between={"averaging": (0, 0.99999)},
        )


class TorchBackend:
    """PyTorch behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "torch"
    models: Mapping[str, type[Dials]] = {name: one.dials for name, one in BUILT_IN.items()}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return TORCH

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner with fresh weights."""
        if not isinstance(dials, NetworkDials) or type(dials) is not BUILT_IN[model].dials:
            raise ModelError(f"model {model} of backend torch takes no {type(dials).__name__}")
        refuse_loss(dials, kind=task.kind, title=f"{model} (backend torch)")
        with generator_at(task.seed):
            network = BUILT_IN[model].build(dials, task)
        return TorchLearner(network, dials, settings=_settings(model, dials))

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned network back from its native files; a user's module needs its source, see `adopt`."""
        settings, arrays = unpack(files)
        model = settings["model"]
        if model not in BUILT_IN:
            raise ModelError(f"native weights: model '{model}' is none of backend torch{nearest(model, BUILT_IN)}")
        dials = parse_dials(
            settings["dials"], BUILT_IN[model].dials, owner=f"{model} (backend torch)", where="native weights"
        )
        learner = self.build(model, dials, task)
        assert isinstance(learner, TorchLearner)
        learner.restore(arrays)
        return learner

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner around a user's `torch.nn.Module`.

        A module whose ``forward`` names input groups (``forward(self, event, jets, jets_mask)``) is given those;
        any other one takes the flat view, [N, W]. It returns one number an event or one a class; of a regression one a
        target.
        """
        if not isinstance(found, torch.nn.Module):
            raise ModelError(f"{where}: returned a {type(found).__name__}; backend torch learns a torch.nn.Module")
        own = parse_dials(dials, OwnDials, owner=f"a torch module ({where})")
        refuse_loss(own, kind=task.kind, title=where)
        if own.output is not None and task.kind == "regression":
            raise ModelError(f"{where}: model.output is about classes; the module of a regression returns its targets")
        network = Network(found, task, inputs=inputs_of(found, task, where), output=own.output or "logits")
        with told_with(where, "the module failed"):
            network.find_form(guess=own.output is None)
        return TorchLearner(network, own, settings=_settings("own", own, output=network.output), where=where)


def _settings(model: str, dials: Dials, **found: str) -> dict[str, Any]:
    given = {name: getattr(dials, name) for name in dials.__struct_fields__}
    return {"backend": "torch", "model": model, "dials": given | found, "version": torch.__version__}


class TorchLearner:
    """A torch network, one AdamW step a batch, on the CPU.

    Parameters
    ----------
    network
        With fresh weights.
    dials
        Of AdamW and of the average.
    settings
        Written beside the weights.
    where
        The user's file, for messages.
    """

    capabilities = TORCH

    def __init__(
        self,
        network: Network,
        dials: NetworkDials | OwnDials,
        *,
        settings: Mapping[str, Any],
        where: str = "backend torch",
    ) -> None:
        self.network = network
        self.task = network.task
        self.where = where
        self.loss = loss_of(dials)
        self.notes = network.notes
        self._settings = settings
        self._average = Average(dials.averaging)
        self._shown = copy.deepcopy(network) if dials.averaging else network
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=dials.learning_rate, weight_decay=dials.weight_decay
        )
        with generator_at(self.task.seed):
            self._random = torch.get_rng_state()

    def learn(self, inputs: Tensors, truth: Truth, weights: EventWeights) -> float:
        """One AdamW step on the sum of weight times loss over the sum of ``|weight|``.

        With positive weights that is the weighted mean; with some negative ones it stays bounded where the sum of
        weights comes close to zero.
        """
        require_finite(weights)
        total = float(np.abs(weights).sum())
        if total == 0.0:
            return 0.0
        shares = torch.from_numpy((weights / total).astype(np.float32))
        # One row has no spread: batch normalisation would refuse it.
        self.network.train(len(truth) > 1)
        weigh_events(self.network, shares)
        with told_with(self.where, "the module failed"), _threads(self.task), self._own_randomness():
            self._optimiser.zero_grad(set_to_none=True)
            each = self.network.losses(self.network.prepare(inputs), torch.from_numpy(truth), self.loss)
            loss = (shares * each).sum()
            loss.backward()
            self._optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ModelError(f"{self.where}: the loss is {value}: the training diverged; lower model.learning_rate")
        if self._average.share:
            self._average.update(_arrays(self._shown), _arrays(self.network))
        return value

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        before = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            yield
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(before)

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float32."""
        self._shown.eval()
        with told_with(self.where, "the module failed"), _threads(self.task), torch.inference_mode():
            scores: NDArray[np.float32] = self._shown(*self._shown.prepare(inputs)).numpy()
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all parameters and buffers."""
        return {name: values.copy() for name, values in _arrays(self._shown).items()}

    def restore(self, state: Arrays) -> None:
        """Write parameters and buffers back in place."""
        for network in (self.network, self._shown):
            for name, values in _arrays(network).items():
                values[...] = state[name]

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Parameters, buffers and their average, moments of AdamW, the state of the random numbers."""
        arrays = under("module", _copied(module_arrays(self.network.module)))
        if self._shown is not self.network:
            arrays |= under("average", _copied(module_arrays(self._shown.module)))
        arrays |= under("optimiser", optimiser_arrays(self._optimiser))
        return arrays | {"average_steps": np.array(self._average.steps), "random": self._random.numpy().copy()}

    def recover(self, arrays: Arrays) -> None:
        """Make a fresh learner one that goes on from what `checkpoint` gave."""
        recover_module(self.network.module, below("module", arrays))
        if self._shown is not self.network:
            recover_module(self._shown.module, below("average", arrays))
        recover_optimiser(self._optimiser, below("optimiser", arrays))
        self._average.steps = int(arrays["average_steps"])
        self._random = torch.from_numpy(arrays["random"].copy())

    def export(self) -> Core:
        """The network by torch's exporter."""
        rows = {group.name: np.zeros((3, *group.shape), np.float32) for group in self.task.groups}
        with told_with(self.where, "the module cannot be written as a graph"):
            model = export_network(self._shown.eval(), self._shown.prepare(rows))
        flat = self._shown.inputs == (FLAT_INPUT,)
        return Core(
            model=model,
            layout="flat" if flat else "groups",
            missing="impute",
            output="scores",
            columns=tuple(range(self.task.outputs)),
        )

    def native(self) -> dict[str, bytes]:
        """Parameters and dials."""
        return pack(self._settings, self.state())


def _copied(arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name: values.copy() for name, values in arrays.items()}


def _arrays(network: Network) -> dict[str, NDArray[Any]]:
    """All parameters and buffers of the module, sharing its memory."""
    return {name: value.detach().numpy() for name, value in network.module.state_dict().items()}


@contextlib.contextmanager
def _threads(task: Task) -> Iterator[None]:
    """Holds torch to the task's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
