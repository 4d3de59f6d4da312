"""Where a torch network learns, and in which precision: the one place that knows devices.

Used by `mlaas4hep.backends.torch`. Invariant: scores are computed in full float32 wherever that is, so that they are
those of the exported graph; what a GPU draws and how it rounds is set inside a step alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.devices import asked
from mlaas4hep.backends.protocol import Arrays
from mlaas4hep.errors import ModelError

Precision = Literal["float32", "bf16"]

_RANDOM, _RANDOM_OF_DEVICE = "random", "random_of_device"


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a precision.

    Parameters
    ----------
    device
        torch's.
    precision
        Of the forward and backward passes of a step; weights, their moments and losses are float32.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU."""
        return str(self.device.type) == "cpu"

    @property
    def title(self) -> str:
        """In words, such as ``NVIDIA H100 (cuda:0), bf16``."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        where = f"{name} ({self.device})" if name else str(self.device)
        return where if self.precision == "float32" else f"{where}, {self.precision}"

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        """An array as a tensor there; on the CPU it shares the array's memory."""
        tensor = torch.from_numpy(array)
        return tensor if self.on_cpu else tensor.to(self.device)

    def rounding(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, a network computes in this precision."""
        rounding: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bf16":
            rounding = torch.autocast(self.device.type, dtype=torch.bfloat16)
        return rounding

    @contextlib.contextmanager
    def in_full(self) -> Iterator[None]:
        """Inside, float32 is float32: a GPU would else round the inputs of convolutions to 10 bits (TF32)."""
        if self.device.type != "cuda":
            yield
            return
        with _full_precision():
            yield

    def random_at(self, seed: int) -> dict[str, NDArray[np.uint8]]:
        """Generators at a seed, as arrays: the CPU's, and the device's where it has one of its own."""
        found = {_RANDOM: torch.Generator().manual_seed(seed).get_state().numpy().copy()}
        if not self.on_cpu:
            own = torch.Generator(self.device).manual_seed(seed)
            found[_RANDOM_OF_DEVICE] = own.get_state().cpu().numpy().copy()
        return found

    def random_now(self) -> dict[str, NDArray[np.uint8]]:
        """torch's own generators as they are, in the form of `random_at`."""
        found = {_RANDOM: torch.get_rng_state().numpy().copy()}
        if not self.on_cpu:
            found[_RANDOM_OF_DEVICE] = _of_device(self.device).get_rng_state(self.device).cpu().numpy().copy()
        return found

    def set_random(self, states: Arrays) -> None:
        """Bring torch's own generators to what `random_at` or `random_now` gave, on this device or another.

        What a training on another kind of device drew says nothing here: the device's generator then stays.
        """
        torch.set_rng_state(torch.from_numpy(states[_RANDOM].copy()))
        if not self.on_cpu and _RANDOM_OF_DEVICE in states:
            _of_device(self.device).set_rng_state(torch.from_numpy(states[_RANDOM_OF_DEVICE].copy()), self.device)


@contextlib.contextmanager
def unrounded(values: torch.Tensor) -> Iterator[None]:
    """Inside, a layer of a network that is `Placement.rounding` computes in the precision of its values."""
    kind = values.device.type
    if not torch.is_autocast_enabled(kind):
        yield
        return
    with torch.autocast(kind, enabled=False):
        yield


def _of_device(device: torch.device) -> Any:
    return _Mps if device.type == "mps" else torch.cuda


class _Mps:
    """`torch.mps` with the arguments of `torch.cuda`."""

    @staticmethod
    def get_rng_state(_: torch.device) -> torch.Tensor:
        return torch.mps.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, _: torch.device) -> None:
        torch.mps.set_rng_state(state)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions, recurrences and products of CUDA without TF32, by the names that the process uses already."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [(one, "allow_tf32", False) for one in (cudnn, products)]
    try:
        before = [one.allow_tf32 for one, _, _ in settings]
    except RuntimeError:  # where somebody set the names that came with torch 2.9, the older ones cannot be read
        settings = [(one, "fp32_precision", "ieee") for one in (cudnn.conv, cudnn.rnn, products)]
        before = [one.fp32_precision for one, _, _ in settings]
    for one, name, full in settings:
        setattr(one, name, full)
    try:
        yield
    finally:
        for (one, name, _), value in zip(settings, before, strict=True):
            setattr(one, name, value)


def placement(device: str, precision: Precision, where: str) -> Placement:
    """What the dials ``device`` and ``precision`` ask for.

    Raises
    ------
    ModelError
        It is not there; said with what is.
    """
    found = Placement(_device(device, where), precision)
    if precision == "bf16" and (found.device.type != "cuda" or not torch.cuda.is_bf16_supported()):
        raise ModelError(
            f"{where}: model.precision: bf16 is learned in on CUDA GPUs that have it, and this runs on {found.device}; "
            "give float32"
        )
    return found


def _device(device: str, where: str) -> torch.device:
    kind, number = asked(device)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if kind == "cpu" or (kind == "auto" and not there and not apple):
        return torch.device("cpu")
    if there and kind in ("auto", "gpu", "cuda") and (number or 0) < there:
        return torch.device("cuda", torch.cuda.current_device() if number is None else number)
    if apple and kind in ("auto", "gpu", "mps"):
        return torch.device("mps")
    have = ["cpu", *(f"cuda:{place}" for place in range(there)), *(["mps"] if apple else [])]
    hint = ""
    if kind in ("gpu", "cuda") and torch.version.cuda is None and torch.version.hip is None:
        hint = f"; this build of torch ({torch.__version__}) has no CUDA: install one that has"
    raise ModelError(f"{where}: model.device: {device} is not there; torch has {', '.join(have)} here{hint}")
