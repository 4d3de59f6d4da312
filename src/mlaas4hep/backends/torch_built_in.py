"""The networks that the torch backend knows by name: `mlp`, `deepsets`, `attention`.

Each is a type of dials and a function from dials and task to a `Network` that returns logits. Invariant: a network on
collections is given each with its mask, and is refused where the inputs hold none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.torch_attention import Attention, AttentionDials
from mlaas4hep.backends.torch_models import DeepSets, DeepSetsDials, MlpDials, multi_layer
from mlaas4hep.backends.torch_network import Network
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX

NetworkDials = MlpDials | DeepSetsDials | AttentionDials


def _mlp(dials: MlpDials, task: Task) -> Network:
    module = multi_layer(task.width, dials.hidden, task.outputs, dials.activation, dials.dropout)
    return Network(module, task, inputs=(FLAT_INPUT,), output="logits")


def _deepsets(dials: DeepSetsDials, task: Task) -> Network:
    return _on_collections("deepsets", task, lambda: DeepSets(task.groups, task.outputs, dials))


def _attention(dials: AttentionDials, task: Task) -> Network:
    return _on_collections("attention", task, lambda: Attention(task.groups, task.outputs, dials))


def _on_collections(model: str, task: Task, build: Callable[[], torch.nn.Module]) -> Network:
    """A module that is given all groups by name, and the masks of the collections."""
    collections = [group.name for group in task.groups if group.length is not None]
    if not collections:
        raise ModelError(
            f"model {model} (backend torch) learns from collections, and the inputs hold none; list one, as in "
            "inputs: {jets: {vars: [Jet_pt, Jet_eta], length: 6}}, or take a model on flat variables, such as mlp"
        )
    inputs = (*(group.name for group in task.groups), *(f"{name}{MASK_SUFFIX}" for name in collections))
    return Network(build(), task, inputs=inputs, output="logits")


class BuiltIn(NamedTuple):
    """A network known by name: its dials, and how it is built from them."""

    dials: type[NetworkDials]
    build: Callable[[Any, Task], Network]


BUILT_IN: Mapping[str, BuiltIn] = {
    "mlp": BuiltIn(MlpDials, _mlp),
    "deepsets": BuiltIn(DeepSetsDials, _deepsets),
    "attention": BuiltIn(AttentionDials, _attention),
}
