"""PyTorch: the networks of `torch_built_in`, and any module that a user's own file returns.

Trained on a weighted cross-entropy or the loss of a regression, on a CPU or a GPU; exported by `torch.onnx` on the CPU.
Invariant: with one seed and one number of threads the weights after any number of steps on a CPU are the same bits;
torch's global generators are left as they were found.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.arrays import below, pack, under, unpack
from mlaas4hep.backends.average import Average
from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.dials import Dials, parse_dials
from mlaas4hep.backends.learning import LearningDials
from mlaas4hep.backends.losses import loss_of, refuse_loss
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
from mlaas4hep.backends.torch_checkpoint import Held, all_of, blend, copied, write
from mlaas4hep.backends.torch_device import Placement, placement
from mlaas4hep.backends.torch_network import Network, OutputKind, export_network, generator_at, inputs_of
from mlaas4hep.backends.torch_norm import weigh_events
from mlaas4hep.backends.torch_optimiser import Optimiser, TorchDials
from mlaas4hep.backends.weights import require_finite
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.core import FLAT_INPUT, Core
from mlaas4hep.spec.scaling import Tensors

TORCH = Capabilities(streams=True, negative_weights=True, masks=True, regression=True, resume="exact", gpu=True)
# Sums on a GPU come in any order.
_ON_GPU = msgspec.structs.replace(TORCH, resume="statistical")


class OwnDials(TorchDials, frozen=True, forbid_unknown_fields=True):
    """Dials of a user's module; those of the training are shared by all models of the backend.

    Parameters
    ----------
    output
        What the module returns; null tries it on random rows: numbers between 0 and 1 (that add up to 1, where there
        are several) are probabilities. Of a regression it returns the targets in standard units, and this says nothing.
    averaging, weight_decay
        As for the built-in networks; off unless asked for.
    """

    output: OutputKind | None = None
    averaging: float = 0.0
    weight_decay: float = 0.0


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
        where = f"{model} (backend torch)"
        refuse_loss(dials, kind=task.kind, title=where)
        place = placement(dials.device, dials.precision, where)
        with generator_at(task.seed):
            network = BUILT_IN[model].build(dials, task)
        return TorchLearner(network.place(place), dials, settings=_settings(model, dials))

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned network back from its native files; a user's module needs its source, see `adopt`."""
        settings, arrays = unpack(files)
        model = settings["model"]
        if model not in BUILT_IN:
            raise ModelError(f"native weights: model '{model}' is none of backend torch{nearest(model, BUILT_IN)}")
        # Learned wherever that was: scores are those of the CPU.
        given = settings["dials"] | {"device": "cpu", "precision": "float32"}
        dials = parse_dials(given, BUILT_IN[model].dials, owner=f"{model} (backend torch)", where="native weights")
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
        place = placement(own.device, own.precision, where)
        network = Network(found, task, inputs=inputs_of(found, task, where), output=own.output or "logits")
        failed = "the module failed" + ("" if place.on_cpu else f" on {place.device} (device: cpu learns without it)")
        with told_with(where, failed):
            network.place(place).find_form(guess=own.output is None)
        return TorchLearner(network, own, settings=_settings("own", own, output=network.output), where=where)


def _settings(model: str, dials: Dials, **found: str) -> dict[str, Any]:
    given = {name: getattr(dials, name) for name in dials.__struct_fields__}
    return {"backend": "torch", "model": model, "dials": given | found, "version": torch.__version__}


class TorchLearner:
    """A torch network, one step of its optimiser a batch, where the network was placed.

    Parameters
    ----------
    network
        With fresh weights.
    dials
        Of the optimiser and of the average.
    settings
        Written beside the weights.
    where
        The user's file, for messages.
    """

    def __init__(
        self,
        network: Network,
        dials: LearningDials,
        *,
        settings: Mapping[str, Any],
        where: str = "backend torch",
    ) -> None:
        self.network = network
        self.task = network.task
        self.where = where
        self.loss = loss_of(dials)
        self.placement: Placement = network.placement
        self.device = str(self.placement.device)
        self.capabilities = TORCH if self.placement.on_cpu else _ON_GPU
        learns_on = () if self.placement.on_cpu else (f"{where}: learns on {self.placement.title}",)
        self.notes = (*network.notes, *learns_on)
        self._settings = settings
        self._average = Average(dials.averaging)
        self._shown = copy.deepcopy(network) if dials.averaging else network
        self._optimiser = Optimiser(network.parameters(), dials)
        self._random = self.placement.random_at(self.task.seed)

    def learn(self, inputs: Tensors, truth: Truth, weights: EventWeights) -> float:
        """One step on the sum of weight times loss over the sum of ``|weight|``.

        With positive weights that is the weighted mean; with some negative ones it stays bounded where the sum of
        weights comes close to zero.
        """
        require_finite(weights)
        total = float(np.abs(weights).sum())
        if total == 0.0:
            return 0.0
        shares = self.placement.put((weights / total).astype(np.float32))
        # One row has no spread: batch normalisation would refuse it.
        self.network.train(len(truth) > 1)
        weigh_events(self.network, shares)
        with told_with(self.where, "the module failed"), self._settled(), self._own_randomness():
            self._optimiser.clear()
            each = self.network.losses(self.network.prepare(inputs), self.placement.put(truth), self.loss)
            loss = (shares * each).sum()
            loss.backward()
            self._optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ModelError(f"{self.where}: the loss is {value}: the training diverged; lower model.learning_rate")
        if self._average.share:
            blend(_learned(self._shown), _learned(self.network), self._average.next_share())
        return value

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        with _threads(self.task), self.placement.in_full():
            yield

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        before = self.placement.random_now()
        self.placement.set_random(self._random)
        try:
            yield
        finally:
            self._random = self.placement.random_now()
            self.placement.set_random(before)

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float32."""
        return self._scores(self._shown, inputs)

    def predict_on_cpu(self, inputs: Tensors) -> Scores:
        """The same, by the CPU."""
        return self._scores(self._on_cpu(), inputs)

    def _scores(self, network: Network, inputs: Tensors) -> Scores:
        network.eval()
        with told_with(self.where, "the module failed"), self._settled(), torch.inference_mode():
            scores: NDArray[np.float32] = network(*network.prepare(inputs)).cpu().numpy()
        return scores

    def _on_cpu(self) -> Network:
        """The network that is shown, copied where it is elsewhere."""
        return self._shown if self.placement.on_cpu else copy.deepcopy(self._shown).place(Placement())

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all parameters and buffers."""
        return copied(_learned(self._shown))

    def restore(self, state: Arrays) -> None:
        """Write parameters and buffers back in place."""
        for network in (self.network, self._shown):
            write(_learned(network), state)

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Parameters, buffers and their average, moments and steps of the optimiser, the state of the random numbers.

        The learning rate is not among them: it follows from the steps.
        """
        arrays = under("module", copied(all_of(self.network.module)))
        if self._shown is not self.network:
            arrays |= under("average", copied(all_of(self._shown.module)))
        arrays |= under("optimiser", self._optimiser.checkpoint()) | under("generator", self._random)
        return arrays | {"average_steps": np.array(self._average.steps), "steps": np.array(self._optimiser.steps)}

    def recover(self, arrays: Arrays) -> None:
        """Make a fresh learner one that goes on from what `checkpoint` gave, on this device or another."""
        write(all_of(self.network.module), below("module", arrays))
        if self._shown is not self.network:
            write(all_of(self._shown.module), below("average", arrays))
        self._optimiser.recover(below("optimiser", arrays), steps=int(arrays["steps"]))
        self._average.steps = int(arrays["average_steps"])
        self._random = self._random | below("generator", arrays)

    def export(self) -> Core:
        """The network by torch's exporter, on the CPU."""
        shown = self._on_cpu()
        rows = {group.name: np.zeros((3, *group.shape), np.float32) for group in self.task.groups}
        with told_with(self.where, "the module cannot be written as a graph"):
            model = export_network(shown.eval(), shown.prepare(rows))
        flat = shown.inputs == (FLAT_INPUT,)
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


def _learned(network: Network) -> Held:
    """All parameters and buffers that the module counts as its state, sharing its memory."""
    found: Held = network.module.state_dict()
    return found


@contextlib.contextmanager
def _threads(task: Task) -> Iterator[None]:
    """Holds torch to the task's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
