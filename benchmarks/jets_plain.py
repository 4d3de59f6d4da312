"""The networks of `benchmarks.jets`, written again with torch alone: default dials, plain modules, nothing of ours.

Each takes scaled constituents [N, K, F] and which slots hold one, bool [N, K], and gives logits [N].
"""

# mypy: allow-subclassing-any

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

DROPOUT = 0.1


class PlainDeepSets(torch.nn.Module):
    """Per-object network, masked mean and maximum, event network."""

    hidden_object, latent, hidden_event = (64, 64), 32, (64, 64)

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, *self.hidden_object, self.latent]
        layers = [(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.phi = torch.nn.Sequential(*itertools.chain(*layers))
        sizes = [2 * self.latent, *self.hidden_event]
        hidden = [
            (torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Dropout(DROPOUT)) for a, b in itertools.pairwise(sizes)
        ]
        self.rho = torch.nn.Sequential(*itertools.chain(*hidden), torch.nn.Linear(sizes[-1], 1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # After a rectifier all values are at least zero, so a product with the mask serves sum and maximum.
        values = self.phi(x) * mask.unsqueeze(-1)
        mean = values.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        margin: torch.Tensor = self.rho(torch.cat([mean, values.amax(dim=1)], dim=1))[:, 0]
        return margin


class PlainAttention(torch.nn.Module):
    """A token an object and one for the jet, told how many objects there are; all look at all, then the jet's alone."""

    width, heads, layers, hidden = 64, 4, 2, 64

    def __init__(self, width: int) -> None:
        super().__init__()
        self.objects, self.event = self._two_layers(width, self.width), self._two_layers(1, self.width)
        self.blocks = torch.nn.ModuleList(PlainLayer(self.width, self.heads) for _ in range(self.layers))
        self.last = torch.nn.LayerNorm(self.width)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(self.width + 1, self.hidden),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(self.hidden, 1),
        )

    @staticmethod
    def _two_layers(inputs: int, outputs: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.ReLU(), torch.nn.Linear(outputs, outputs))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        count = torch.log1p(mask.sum(dim=1, keepdim=True).float())
        tokens = torch.cat([self.event(count).unsqueeze(1), self.objects(x)], dim=1)
        empty = torch.cat([torch.zeros_like(mask[:, :1]), ~mask], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens, empty)
        found = self.last(self.blocks[-1](tokens[:, :1], tokens, empty)[:, 0])
        margin: torch.Tensor = self.head(torch.cat([found, count], dim=1))[:, 0]
        return margin


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
    """A network and the settings of AdamW."""

    build: Callable[[int], torch.nn.Module]
    learning_rate: float
    weight_decay: float


NETWORKS: Mapping[str, Plain] = {
    "deepsets": Plain(PlainDeepSets, 3e-3, 0.01),
    "attention": Plain(PlainAttention, 1e-3, 0.01),
}
