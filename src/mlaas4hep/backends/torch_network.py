"""A torch module with what stands around it: what it is given, what its output means, and how it becomes a graph.

Used by `mlaas4hep.backends.torch`. Invariant: the scores that are learned, predicted and exported come from one
``forward``.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mlaas4hep.backends.losses import SQUARED, Loss
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.torch_device import Placement
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX, OPSET
from mlaas4hep.spec.scaling import Scaler, Tensors

OutputKind = Literal["logits", "probabilities"]
# Numbers that are scores as they are, of a regression.
_VALUES: Literal["values"] = "values"

# A probability this close to 0 or 1 costs as much as float32 can tell.
_TINY = 1e-7


def inputs_of(module: torch.nn.Module, task: Task, where: str) -> tuple[str, ...]:
    """What ``forward`` asks for by name; the flat view where it names no group."""
    named = {group.name for group in task.groups}
    masks = {f"{group.name}{MASK_SUFFIX}" for group in task.groups if group.length is not None}
    asked = [
        one.name
        for one in inspect.signature(module.forward).parameters.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and (one.default is one.empty or one.name in named)
    ]
    if not named & set(asked):
        return (FLAT_INPUT,)
    for name in asked:
        if name not in named | masks:
            raise ModelError(f"{where}: forward asks for '{name}', which is no input{nearest(name, named | masks)}")
    return tuple(asked)


class Network(torch.nn.Module):
    """A module with what stands around it: which inputs it is given, and what its output means.

    Parameters
    ----------
    module
        Returns logits or probabilities, [N], [N, 1], [N, 2] for two classes or [N, C]; of a regression targets in
        standard units, [N, T], or [N] for one.
    task
        What is learned.
    inputs
        ``x``, or names of groups and ``<group>_mask``.
    output
        What the module returns for classes.

    Attributes
    ----------
    notes
        What the run should tell of the module before it learns.
    """

    def __init__(self, module: torch.nn.Module, task: Task, *, inputs: tuple[str, ...], output: OutputKind) -> None:
        super().__init__()
        self.module = module
        self.task = task
        self.inputs = inputs
        self.notes: tuple[str, ...] = ()
        self.output: OutputKind | Literal["values"] = _VALUES if task.kind == "regression" else output
        self._scaler = Scaler(task.groups)
        self.placement = Placement()

    def place(self, placement: Placement) -> Network:
        """Move it, in place; what it is given is moved there too."""
        self.placement = placement
        self.to(placement.device)
        return self

    def prepare(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        """What the module is given for raw input groups."""
        if self.inputs == (FLAT_INPUT,):
            return (self.placement.put(self._scaler.flat(inputs)),)
        arrays: dict[str, NDArray[Any]] = dict(self._scaler.tensors(inputs))
        arrays |= {f"{name}{MASK_SUFFIX}": mask for name, mask in self._scaler.masks(inputs).items()}
        return tuple(self.placement.put(np.ascontiguousarray(arrays[name])) for name in self.inputs)

    def raw(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The module's output as [N, columns]."""
        by_name = self.inputs != (FLAT_INPUT,)
        found = self.module(**dict(zip(self.inputs, tensors, strict=True))) if by_name else self.module(*tensors)
        return found.unsqueeze(1) if found.dim() == 1 else found

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Scores [N, C]."""
        found = self.raw(*tensors)
        if self.output == "logits":
            found = torch.sigmoid(found) if found.shape[1] == 1 else torch.softmax(found, dim=1)
        if self.output == _VALUES:
            return found
        return found[:, 1:] if self.task.outputs == 1 and found.shape[1] == 2 else found

    def losses(self, tensors: tuple[torch.Tensor, ...], truth: torch.Tensor, loss: Loss = SQUARED) -> torch.Tensor:
        """Cross-entropy of each event, [N]; of a regression ``loss``, the mean over the targets.

        In the precision of the placement the module alone is computed, not the loss.
        """
        with self.placement.rounding():
            found = self.raw(*tensors)
        found = found.float() if found.dtype == torch.bfloat16 else found
        if self.output == _VALUES:
            return _of_residuals(found - truth, loss)
        return self._cross_entropy(found, truth)

    def _cross_entropy(self, found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.output == "logits":
            if found.shape[1] > 1:
                return torch.nn.functional.cross_entropy(found, labels, reduction="none")
            margin = found[:, 0]
            return torch.nn.functional.binary_cross_entropy_with_logits(margin, labels.float(), reduction="none")
        if found.shape[1] == 1:
            found = torch.cat([1 - found, found], dim=1)
        return -found.gather(1, labels[:, None])[:, 0].clamp_min(_TINY).log()

    def find_form(self, *, guess: bool) -> None:
        """Try the module on random rows: refuse a wrong shape, and tell probabilities from logits where asked to."""
        random = np.random.default_rng(0)
        rows = {group.name: random.normal(0, 3, (256, *group.shape)).astype(np.float32) for group in self.task.groups}
        self.eval()
        with torch.inference_mode(), generator_at(0):
            found = self.raw(*self.prepare(rows))
        binary = self.task.outputs == 1 and self.output != _VALUES
        wanted = {1, 2} if binary else {self.task.outputs}
        if found.dim() != 2 or found.shape[0] != 256 or found.shape[1] not in wanted:
            sizes = " or ".join(f"[N, {size}]" for size in sorted(wanted))
            shape = ["N" if size == 256 else int(size) for size in found.shape]
            asked = f"{len(self.task.targets)} targets" if self.task.targets else f"{len(self.task.classes)} classes"
            raise ModelError(f"the module returns {shape} for {asked}; wants {sizes}")
        if guess and self.output != _VALUES:
            self.output = "probabilities" if _are_probabilities(found) else "logits"


def _of_residuals(residuals: torch.Tensor, loss: Loss) -> torch.Tensor:
    """`Loss.of`, for torch to differentiate."""
    far = residuals.abs()
    if loss.name == "squared":
        far = far.square()
    elif loss.name == "huber":
        far = torch.where(far <= loss.delta, far.square(), loss.delta * (2 * far - loss.delta))
    return far.mean(dim=1)


def _are_probabilities(found: torch.Tensor) -> bool:
    # Open bounds: a last layer that starts at zero gives logits of exactly 0.
    inside = bool(((found > 0) & (found < 1)).all())
    return inside and (found.shape[1] == 1 or bool((found.sum(dim=1) - 1).abs().max() < 1e-4))


def export_network(network: Network, tensors: tuple[torch.Tensor, ...]) -> bytes:
    with warnings.catch_warnings(), _quiet("torch.onnx._internal.exporter._registration"):
        # torch's own use of what it deprecates itself; nothing that a user could mend.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            network,
            tensors,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(network.inputs),
            output_names=["scores"],
            dynamic_shapes={"tensors": tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors)},
            verbose=False,
        )
    model: bytes = program.model_proto.SerializeToString(deterministic=True)
    return model


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Holds back notes such as "torchvision is not installed"."""
    talker = logging.getLogger(logger)
    before = talker.level
    talker.setLevel(logging.ERROR)
    try:
        yield
    finally:
        talker.setLevel(before)


@contextlib.contextmanager
def generator_at(seed: int) -> Iterator[None]:
    """torch's generator at a seed, and afterwards as it was."""
    before = torch.get_rng_state()
    # `torch.manual_seed` would seed the generators of GPUs, too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
