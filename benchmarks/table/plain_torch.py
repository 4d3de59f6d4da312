"""Plain networks of torch: layers by hand for `mlp`, `benchmarks.jets_plain` for collections."""

# mypy: allow-subclassing-any

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.jets_plain import NETWORKS
from benchmarks.table.folds import FLAT, Fold, Inputs
from benchmarks.table.plain_loop import Arrays
from mlaas4hep.backends.torch_models import MlpDials


class TorchPeer:
    """`Network` of torch with AdamW."""

    def __init__(self, model: str, fold: Fold, seed: int) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        dials = MlpDials()
        self.averaging = dials.averaging
        self.names = list(fold.sizes)
        self.collections = [name for name in self.names if f"{name}_mask" in fold.train.inputs]
        rate, decay = dials.learning_rate, dials.weight_decay
        if model == "mlp":
            self.module = _mlp(fold.train.inputs[FLAT].shape[1], fold.outputs, dials)
        else:
            plain = NETWORKS[model]
            event = sum(size for name, size in fold.sizes.items() if name not in self.collections)
            self.module = plain.build(event, [fold.sizes[name] for name in self.collections], fold.outputs)
            rate, decay = plain.learning_rate, plain.weight_decay
        self.flat = model == "mlp"
        self.shown = copy.deepcopy(self.module).eval()
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=rate, weight_decay=decay)

    def step(self, inputs: Inputs, labels: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """Forward, backward, AdamW."""
        self.module.train()
        self.optimiser.zero_grad()
        found, truth = self._through(self.module, inputs), torch.from_numpy(labels)
        if found.shape[1] > 1:
            losses = torch.nn.functional.cross_entropy(found, truth, reduction="none")
        else:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(found[:, 0], truth.float(), reduction="none")
        (losses * torch.from_numpy(shares)).sum().backward()
        self.optimiser.step()

    def weights(self) -> Arrays:
        """Views of all parameters."""
        return [one.detach().numpy() for one in self.module.parameters()]

    def scores(self, weights: Arrays, inputs: Inputs) -> NDArray[Any]:
        """By a copy of the network that is never learned."""
        with torch.inference_mode():
            for one, values in zip(self.shown.parameters(), weights, strict=True):
                one.copy_(torch.from_numpy(values))
            pieces = np.array_split(np.arange(len(inputs[FLAT])), 1 + len(inputs[FLAT]) // 1024)
            found = torch.cat([self._through(self.shown, {k: v[rows] for k, v in inputs.items()}) for rows in pieces])
            scores: NDArray[Any] = (found.sigmoid() if found.shape[1] == 1 else found.softmax(dim=1)).numpy()
        return scores

    def _through(self, module: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
        if self.flat:
            found: torch.Tensor = module(torch.from_numpy(inputs[FLAT]))
            return found
        event = [torch.from_numpy(inputs[name]) for name in self.names if name not in self.collections]
        objects = [torch.from_numpy(inputs[name]) for name in self.collections]
        masks = [torch.from_numpy(inputs[f"{name}_mask"]) for name in self.collections]
        logits: torch.Tensor = module(torch.cat(event, dim=1) if event else None, objects, masks)
        return logits


def _mlp(width: int, outputs: int, dials: MlpDials) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for size, following in itertools.pairwise([width, *dials.hidden]):
        layers += [torch.nn.Linear(size, following), torch.nn.ReLU(), torch.nn.Dropout(dials.dropout)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(dials.hidden[-1], outputs))
