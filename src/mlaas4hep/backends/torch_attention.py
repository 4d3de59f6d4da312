"""`attention`: a small particle transformer (Vaswani et al. 2017; Qu, Li and Qian 2022) on all collections at once.

Every object becomes a token, and the event one more; tokens look at each other, and in the last layer only that of the
event looks at the objects, which is the pooling. Invariant: an empty slot has exactly no share in any sum of the
exported graph, and sums over slots run in the order of the slots, so that a longer padding changes no bit of a score.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from mlaas4hep.backends.dials import bad_sizes, out_of_range
from mlaas4hep.backends.network_sizes import Activation, ranges_of
from mlaas4hep.backends.torch_models import activation_of, multi_layer
from mlaas4hep.backends.torch_optimiser import TorchDials
from mlaas4hep.graph.core import MASK_SUFFIX
from mlaas4hep.spec.scaling import GroupScaling

# Added for an empty slot; its exponential is exactly 0 beside that of any object. An infinity could become NaN.
_EMPTY = -1e9
# Widths around the centre beyond which a value is told from nothing: the square of the largest float32 is infinite.
_LIMIT = 1e6
# Tokens of the graph that look at all others at a time: the shares of all at once would be most of its memory.
_ROWS = 32
# Hidden values of a token, in units of the width.
_WIDENING = 2


class AttentionDials(TorchDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the particle transformer; those of the training are shared by all models of the backend.

    Parameters
    ----------
    width
        How many numbers an object is; a multiple of ``heads``.
    heads
        Parts of the width that look at the other objects each in its own way.
    layers
        How often objects look at each other; in the last layer only the event looks at them.
    hidden_event
        Sizes of the hidden layers that see what the event found, together with its variables.
    activation
        Between the layers.
    dropout
        Share of the values that is set to 0 in a step.
    """

    width: int = 64
    heads: int = 4
    layers: int = 2
    hidden_event: tuple[int, ...] = (64,)
    activation: Activation = "relu"
    dropout: float = 0.1

    def problems(self) -> list[str]:
        """What is out of range."""
        sizes = out_of_range(self, above_zero=("width", "heads", "layers")) + bad_sizes(
            "hidden_event", self.hidden_event
        )
        if not sizes and self.width % self.heads:
            sizes = [f"width: {self.width} is out of range; wants a multiple of heads, {self.heads}"]
        return sizes + ranges_of(self)


class Attention(torch.nn.Module):
    """Logits of an event from tokens; the order of the objects plays no role.

    Parameters
    ----------
    groups
        Inputs; at least one is a collection.
    outputs
        Number of logits.
    dials
        Sizes.
    """

    def __init__(self, groups: Sequence[GroupScaling], outputs: int, dials: AttentionDials) -> None:
        super().__init__()
        self.collections = tuple(group.name for group in groups if group.length is not None)
        self.flat = tuple(group.name for group in groups if group.length is None)
        sizes = {group.name: len(group.features) for group in groups}
        given = sum(sizes[name] for name in self.flat) + len(self.collections)
        # Under neutral names: a group may be called what a module already has, such as `train` or `type`.
        self.objects = torch.nn.ModuleList(_embedding(sizes[name], dials) for name in self.collections)
        self.event = _embedding(given, dials)
        self.layers = torch.nn.ModuleList(Layer(dials) for _ in range(dials.layers))
        self.found = torch.nn.LayerNorm(dials.width)
        self.head = multi_layer(dials.width + given, dials.hidden_event, outputs, dials.activation, dials.dropout)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, outputs] of scaled groups, [N, F] or [N, K, F], with ``<group>_mask`` [N, K] for collections."""
        masks = [inputs[name + MASK_SUFFIX] for name in self.collections]
        # Means over objects cannot count them, so the event is told.
        counts = [(mask.to(torch.float32).sum(dim=1, keepdim=True) + 1.0).log() for mask in masks]
        event = torch.cat([*(_bounded(inputs[name]) for name in self.flat), *counts], dim=1)
        objects = [net(_bounded(inputs[name])) for name, net in zip(self.collections, self.objects, strict=True)]
        tokens = torch.cat([self.event(event).unsqueeze(1), *objects], dim=1)
        # The token of the event stands in front and is always there: an event without objects looks at itself.
        there = functional.pad(torch.cat(masks, dim=1), (1, 0), value=True)
        bias = torch.where(there, 0.0, _EMPTY)[:, None, None, :]
        for layer in self.layers[:-1]:
            tokens = layer(tokens, tokens, bias)
        token = self.layers[-1](tokens[:, :1], tokens, bias)[:, 0]
        return self.head(torch.cat([self.found(token), event], dim=1))


class Layer(torch.nn.Module):
    """Tokens look at tokens, then each is worked on alone; both are added to what was there.

    Parameters
    ----------
    dials
        Sizes.
    """

    def __init__(self, dials: AttentionDials) -> None:
        super().__init__()
        width = dials.width
        self.heads = dials.heads
        self.before, self.between = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.asks, self.is_asked = torch.nn.Linear(width, width), torch.nn.Linear(width, 2 * width)
        self.told = torch.nn.Linear(width, width)
        self.alone = torch.nn.Sequential(
            torch.nn.Linear(width, _WIDENING * width),
            activation_of(dials.activation),
            torch.nn.Linear(_WIDENING * width, width),
        )
        self.dropout = torch.nn.Dropout(dials.dropout)

    def forward(self, looking: torch.Tensor, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``looking`` [N, Q, width], the first of ``tokens`` [N, T, width], after they saw those; ``bias`` masks."""
        normal = self.before(tokens)
        query = self._by_head(self.asks(normal[:, : looking.shape[1]]))
        key, value = (self._by_head(part) for part in self.is_asked(normal).chunk(2, dim=-1))
        seen = attend(query, key, value, bias).transpose(1, 2).flatten(2)
        looking = looking + self.dropout(self.told(seen))
        return looking + self.dropout(self.alone(self.between(looking)))

    def _by_head(self, values: torch.Tensor) -> torch.Tensor:
        """[N, T, width] as [N, heads, T, width / heads]."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Softmax of ``query`` [N, H, Q, D] times ``key`` [N, H, T, D] plus ``bias`` [N, 1, 1, T], times ``value``.

    The fused kernel is three times as fast as its parts. The graph spells the same out, since a softmax sums by
    vectors: empty slots between two others would move one to another place of a vector, and with it the last bit.
    """
    if not torch.compiler.is_exporting():
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    query = query * query.shape[-1] ** -0.5
    if query.shape[2] == 1:
        return _attend_one(query, key, value, bias)
    # As equal as can be, so that no block has one row, see `_attend_one`.
    blocks = query.tensor_split(-(-query.shape[2] // _ROWS), dim=2)
    return torch.cat([_attend_many(block, key, value, bias) for block in blocks], dim=2)


def _attend_many(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """By matrix products, which sum one slot after the other: the sum of the weights is one more column."""
    weights = _weights(query @ key.transpose(-1, -2) + bias)
    sums = weights @ functional.pad(value, (0, 1), value=1.0)
    return sums[..., :-1] / sums[..., -1:]


def _attend_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """By sums (in float64, see `mlaas4hep.graph.steady`), since a product of one row takes another way."""
    weights = _weights((query * key).sum(dim=-1).unsqueeze(2) + bias).transpose(-1, -2)
    sums = (weights * functional.pad(value, (0, 1), value=1.0)).sum(dim=2, keepdim=True)
    return sums[..., :-1] / sums[..., -1:]


def _weights(scores: torch.Tensor) -> torch.Tensor:
    """Exponentials against the largest score."""
    return torch.exp(scores - scores.amax(dim=-1, keepdim=True))


def _bounded(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_LIMIT, _LIMIT)


def _embedding(size: int, dials: AttentionDials) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(size, dials.width), activation_of(dials.activation), torch.nn.Linear(dials.width, dials.width)
    )
