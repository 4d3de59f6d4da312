"""The networks of collections, written again with torch alone: default dials, plain modules, nothing of ours.

Peers of `benchmarks.jets` and `benchmarks.table`. Each takes scaled variables of the event [N, E] (None without any),
then of each collection the scaled objects [N, K, F] and which slots hold one, bool [N, K], and gives logits [N, C].
"""

# mypy: allow-subclassing-any

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

DROPOUT = 0.1


class PlainDeepSets(torch.nn.Module):
    """Per-object networks, masked mean and maximum, event network."""

    hidden_object, latent, hidden_event = (64, 64), 32, (64, 64)

    def __init__(self, event: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.phi = torch.nn.ModuleList(self._of_objects(width) for width in widths)
        sizes = [event + 2 * self.latent * len(widths), *self.hidden_event]
        hidden = [
            (torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Dropout(DROPOUT)) for a, b in itertools.pairwise(sizes)
        ]
        self.rho = torch.nn.Sequential(*itertools.chain(*hidden), torch.nn.Linear(sizes[-1], outputs))

    def _of_objects(self, width: int) -> torch.nn.Module:
        sizes = [width, *self.hidden_object, self.latent]
        layers = [(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        return torch.nn.Sequential(*itertools.chain(*layers))

    def forward(
        self, event: torch.Tensor | None, objects: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        parts = [] if event is None else [event]
        for x, mask, phi in zip(objects, masks, self.phi, strict=True):
            # After a rectifier all values are at least zero, so a product with the mask serves sum and maximum.
            values = phi(x) * mask.unsqueeze(-1)
            parts += [values.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1), values.amax(dim=1)]
        logits: torch.Tensor = self.rho(torch.cat(parts, dim=1))
        return logits


class PlainAttention(torch.nn.Module):
    """A token an object and one for the event, told how many objects there are; all look at all, then that alone."""

    width, heads, layers, hidden = 64, 4, 2, 64

    def __init__(self, event: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        told = event + len(widths)
        self.objects = torch.nn.ModuleList(self._two_layers(width, self.width) for width in widths)
        self.event = self._two_layers(told, self.width)
        self.blocks = torch.nn.ModuleList(PlainLayer(self.width, self.heads) for _ in range(self.layers))
        self.last = torch.nn.LayerNorm(self.width)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(self.width + told, self.hidden),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(self.hidden, outputs),
        )

    @staticmethod
    def _two_layers(inputs: int, outputs: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.ReLU(), torch.nn.Linear(outputs, outputs))

    def forward(
        self, event: torch.Tensor | None, objects: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        counts = [torch.log1p(mask.sum(dim=1, keepdim=True).float()) for mask in masks]
        told = torch.cat(counts if event is None else [event, *counts], dim=1)
        tokens = [self.event(told).unsqueeze(1), *(net(x) for net, x in zip(self.objects, objects, strict=True))]
        all_ = torch.cat(tokens, dim=1)
        empty = ~torch.cat([torch.ones_like(masks[0][:, :1]), *masks], dim=1)
        for block in self.blocks[:-1]:
            all_ = block(all_, all_, empty)
        found = self.last(self.blocks[-1](all_[:, :1], all_, empty)[:, 0])
        logits: torch.Tensor = self.head(torch.cat([found, told], dim=1))
        return logits


class PlainLayer(torch.nn.Module):
    """Attention and a network of two layers, each behind a normalisation and added to what was there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(2))
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.alone = torch.nn.Sequential(
            torch.nn.Linear(width, 2 * width), torch.nn.ReLU(), torch.nn.Linear(2 * width, width)
        )
        self.drop = torch.nn.Dropout(DROPOUT)

    def forward(self, looking: torch.Tensor, tokens: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        normal = self.norms[0](tokens)
        seen, _ = self.attention(
            normal[:, : looking.shape[1]], normal, normal, key_padding_mask=empty, need_weights=False
        )
        looking = looking + self.drop(seen)
        done: torch.Tensor = looking + self.drop(self.alone(self.norms[1](looking)))
        return done


class Plain(NamedTuple):
    """A network, of variables of the event, of an object of each collection, and outputs; and the settings of AdamW."""

    build: Callable[[int, Sequence[int], int], torch.nn.Module]
    learning_rate: float
    weight_decay: float


NETWORKS: Mapping[str, Plain] = {
    "deepsets": Plain(PlainDeepSets, 3e-3, 0.01),
    "attention": Plain(PlainAttention, 1e-3, 0.01),
}
