"""Networks of the torch backend: `mlp` on the flat view, `deepsets` on collections, and what all are made of.

Each is a type of dials and a module that returns logits. Invariant: empty slots of a collection never reach the logits,
so that a longer padding changes no score.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch

from mlaas4hep.backends.dials import bad_sizes, out_of_range
from mlaas4hep.backends.torch_optimiser import TorchDials
from mlaas4hep.graph.core import MASK_SUFFIX
from mlaas4hep.spec.scaling import GroupScaling

Activation = Literal["relu", "tanh", "gelu", "silu"]

_ACTIVATIONS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}
# Below every value that an object can have, yet finite: an infinity would turn into NaN where it meets a zero.
_FLOOR = -1e9


class MlpDials(TorchDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network; those of the training are shared by all models of the backend.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    activation
        Between the layers.
    dropout
        Share of the hidden values that is set to 0 in a step.
    """

    hidden: tuple[int, ...] = (128, 64)
    activation: Activation = "relu"
    dropout: float = 0.2

    def problems(self) -> list[str]:
        """What is out of range."""
        return bad_sizes("hidden", self.hidden) + ranges_of(self)


class DeepSetsDials(TorchDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network on collections (Zaheer et al. 2017; energy flow networks, Komiske et al. 2019).

    Those of the training are shared by all models of the backend.

    Parameters
    ----------
    hidden_object
        Sizes of the hidden layers that see one object at a time; each collection has its own.
    latent
        How many numbers an object becomes; a collection is the mean and the maximum of each over its objects.
    hidden_event
        Sizes of the hidden layers that see all collections together with the variables of the event.
    activation
        Between the layers.
    dropout
        Share of the hidden values of the event that is set to 0 in a step.
    """

    hidden_object: tuple[int, ...] = (64, 64)
    latent: int = 32
    hidden_event: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"
    dropout: float = 0.1
    learning_rate: float = 3e-3

    def problems(self) -> list[str]:
        """What is out of range."""
        sizes = bad_sizes("hidden_object", self.hidden_object) + bad_sizes("hidden_event", self.hidden_event)
        return sizes + out_of_range(self, above_zero=("latent",)) + ranges_of(self)


def ranges_of(dials: TorchDials) -> list[str]:
    """What is out of range among the dials that all networks share."""
    return out_of_range(dials, between={"dropout": (0, 0.95)}) + TorchDials.problems(dials)


class DeepSets(torch.nn.Module):
    """Objects one by one, pooled by collection, then the event: the order of the objects plays no role.

    Parameters
    ----------
    groups
        Inputs; at least one is a collection.
    outputs
        Number of logits.
    dials
        Sizes.
    """

    def __init__(self, groups: Sequence[GroupScaling], outputs: int, dials: DeepSetsDials) -> None:
        super().__init__()
        self.collections = tuple(group.name for group in groups if group.length is not None)
        self.flat = tuple(group.name for group in groups if group.length is None)
        sizes = {group.name: len(group.features) for group in groups}
        # Under neutral names: a group may be called what a module already has, such as `train` or `type`.
        self.objects = torch.nn.ModuleList(
            torch.nn.Sequential(*_layers([sizes[name], *dials.hidden_object, dials.latent], dials.activation))
            for name in self.collections
        )
        pooled = 2 * dials.latent * len(self.collections) + sum(sizes[name] for name in self.flat)
        self.event = multi_layer(pooled, dials.hidden_event, outputs, dials.activation, dials.dropout)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, outputs] of scaled groups, [N, F] or [N, K, F], with ``<group>_mask`` [N, K] for collections."""
        parts = [inputs[name] for name in self.flat]
        for name, network in zip(self.collections, self.objects, strict=True):
            parts += pool(network(inputs[name]), inputs[name + MASK_SUFFIX])
        return self.event(torch.cat(parts, dim=1))


def pool(values: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Mean and maximum [N, L] of the values [N, K, L] of the objects that exist; zeros for an event without any."""
    there = mask.unsqueeze(-1)
    number = there.to(values.dtype).sum(dim=1)
    mean = torch.where(there, values, 0.0).sum(dim=1) / number.clamp_min(1.0)
    highest = torch.where(there, values, _FLOOR).amax(dim=1)
    return [mean, torch.where(number > 0, highest, 0.0)]


def multi_layer(
    width: int, hidden: Sequence[int], outputs: int, activation: Activation, dropout: float
) -> torch.nn.Module:
    """A multi-layer perceptron that returns logits."""
    layers = _layers([width, *hidden], activation, dropout)
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden[-1], outputs))


def activation_of(name: Activation) -> torch.nn.Module:
    """What stands between two layers."""
    return _ACTIVATIONS[name]()


def _layers(sizes: Sequence[int], activation: Activation, dropout: float = 0.0) -> list[torch.nn.Module]:
    layers: list[torch.nn.Module] = []
    for size, following in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(size, following), activation_of(activation)]
        if dropout > 0:
            layers.append(torch.nn.Dropout(dropout))
    return layers
