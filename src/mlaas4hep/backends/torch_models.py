"""Networks of the torch backend: `mlp` on the flat view, `deepsets` on collections, and what all are made of.

Each is a type of dials and a module that returns logits. Invariant: empty slots of a collection never reach the logits,
so that a longer padding changes no score.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch

from mlaas4hep.backends.network_sizes import Activation, DeepSetsSizes, MlpSizes
from mlaas4hep.backends.torch_device import Precision
from mlaas4hep.graph.core import MASK_SUFFIX
from mlaas4hep.spec.scaling import GroupScaling

_ACTIVATIONS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}
# Below every value that an object can have, yet finite: an infinity would turn into NaN where it meets a zero.
_FLOOR = -1e9


class MlpDials(MlpSizes, frozen=True, forbid_unknown_fields=True):
    """Dials of `mlp`.

    Parameters
    ----------
    precision
        Of a step: `bf16` is mixed precision, bfloat16 where torch holds it for safe and float32 elsewhere, on CUDA GPUs
        that have it. Scores are always those of float32.
    """

    precision: Precision = "float32"


class DeepSetsDials(DeepSetsSizes, frozen=True, forbid_unknown_fields=True):
    """Dials of `deepsets`.

    Parameters
    ----------
    precision
        Of a step: `bf16` is mixed precision, bfloat16 where torch holds it for safe and float32 elsewhere, on CUDA GPUs
        that have it. Scores are always those of float32.
    """

    precision: Precision = "float32"


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
