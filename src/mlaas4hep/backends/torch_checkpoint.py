"""What a torch module and its optimiser carry from step to step, as arrays and back.

Used by `mlaas4hep.backends.torch` for checkpoints. Invariant: with these arrays written back the next step is the
same, to the bit on a CPU, for every module that keeps what it learns in parameters and buffers; nothing is pickled, and
arrays of one device can be written back on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays

Held = Mapping[str, torch.Tensor]


def all_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that a module leaves out of its ``state_dict``; sharing its memory."""
    return {**module.state_dict(), **dict(module.named_buffers())}


def copied(held: Held) -> dict[str, NDArray[Any]]:
    """Copies of tensors as arrays, from whatever device."""
    return {name: value.detach().cpu().numpy().copy() for name, value in held.items()}


def write(held: Held, arrays: Arrays) -> None:
    """Write back in place what `copied` gave."""
    with torch.no_grad():
        for name, value in held.items():
            value.copy_(torch.from_numpy(np.array(arrays[name])))


def blend(average: Held, latest: Held, kept: float) -> None:
    """Bring an average one step closer to the latest, in place, as `Average.update` does; integers are copied."""
    with torch.no_grad():
        for name, value in average.items():
            if value.is_floating_point():
                value.mul_(kept).add_(latest[name] * (1 - kept))
            else:
                value.copy_(latest[name])


def optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Copies of moments and step counts; none before the first step."""
    state = optimiser.state_dict()["state"]
    return {
        f"{place}/{name}": values
        for place, moments in state.items()
        for name, values in copied({name: value for name, value in moments.items() if value is not None}).items()
    }


def recover_optimiser(optimiser: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Back to what `optimiser_arrays` gave; torch moves moments to where their parameters are."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, values in arrays.items():
        place, _, name = key.partition("/")
        state.setdefault(int(place), {})[name] = torch.from_numpy(values.copy())
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
