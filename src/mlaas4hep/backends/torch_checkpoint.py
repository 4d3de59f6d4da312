"""What a torch module and its optimiser carry from step to step, as arrays and back.

Used by `mlaas4hep.backends.torch` for checkpoints. Invariant: with these arrays written back the next step is the
same, to the bit, for every module that keeps what it learns in parameters and buffers; nothing is pickled.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays


def module_arrays(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers, also those that a module leaves out of its ``state_dict``; sharing its memory."""
    held = {**module.state_dict(), **dict(module.named_buffers())}
    return {name: value.detach().numpy() for name, value in held.items()}


def recover_module(module: torch.nn.Module, arrays: Arrays) -> None:
    """Write back in place what `module_arrays` gave."""
    for name, values in module_arrays(module).items():
        values[...] = arrays[name]


def optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Copies of moments and step counts; none before the first step."""
    state = optimiser.state_dict()["state"]
    return {
        f"{place}/{name}": value.detach().numpy().copy()
        for place, moments in state.items()
        for name, value in moments.items()
    }


def recover_optimiser(optimiser: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Back to what `optimiser_arrays` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, values in arrays.items():
        place, _, name = key.partition("/")
        state.setdefault(int(place), {})[name] = torch.from_numpy(values.copy())
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
