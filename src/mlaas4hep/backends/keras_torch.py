"""What is particular to Keras on PyTorch: generator, threads, and torch's exporter for what has no word of ours.

Used by `mlaas4hep.backends.keras`, and only imported where Keras runs on PyTorch. Invariant: torch's global generator
and threads are left as they were found.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.keras_network import Network
from mlaas4hep.backends.torch_network import export_network, generator_at
from mlaas4hep.graph.core import FLAT_INPUT, Core
from mlaas4hep.graph.pre import core_inputs


def forward_without_gradients(model: Any, prepared: Any) -> Any:
    """What a model gives in scoring, as tensors."""
    with torch.no_grad():
        return model(prepared, training=False)


class Randomness:
    """The generator that torch's own dropout draws from, for one learner alone."""

    def __init__(self, seed: int, threads: int) -> None:
        self.threads = threads
        with generator_at(seed):
            self.state: NDArray[np.uint8] = torch.get_rng_state().numpy().copy()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Draw from it, with the threads of the task."""
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        torch.set_rng_state(torch.from_numpy(self.state))
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            self.state = torch.get_rng_state().numpy().copy()
            torch.set_rng_state(before)
            torch.set_num_threads(threads)


class _Module(torch.nn.Module):
    """A model as a module of named inputs that gives probabilities."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.model = network.model
        self.inputs = network.names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Scores [N, columns]."""
        found = self.model(self.network.arrange(dict(zip(self.inputs, tensors, strict=True))), training=False)
        found = found.unsqueeze(1) if found.dim() == 1 else found
        if self.network.output == "probabilities":
            return found
        return torch.sigmoid(found) if found.shape[1] == 1 else torch.softmax(found, dim=1)


def export_by_torch(network: Network) -> Core:
    """The model by torch's exporter."""
    flat = network.names == (FLAT_INPUT,)
    shapes = core_inputs(network.task.groups, "flat" if flat else "groups")
    rows = tuple(torch.from_numpy(np.zeros((3, *shapes[name]), network.types[name])) for name in network.names)
    return network.core(export_network(_Module(network).eval(), rows))
