"""The networks that the torch backend knows by name: `mlp`, `deepsets`, `attention`, `cnn`, `resnet50`.

Each is a type of dials and a function from dials and task to a `Network` that returns logits. Invariant: a network on
collections is given each with its mask, and is refused where the inputs hold none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.torch_attention import Attention, AttentionDials
from mlaas4hep.backends.torch_convolution import CnnDials, ResNetDials, cnn_trunk, resnet_trunk
from mlaas4hep.backends.torch_image import ImageDials, ImageNetwork, drawn_collection, image_notes
from mlaas4hep.backends.torch_models import DeepSets, DeepSetsDials, MlpDials, multi_layer
from mlaas4hep.backends.torch_network import Network
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX

NetworkDials = MlpDials | DeepSetsDials | AttentionDials | ImageDials


def _mlp(dials: MlpDials, task: Task) -> Network:
    module = multi_layer(task.width, dials.hidden, task.outputs, dials.activation, dials.dropout)
    return Network(module, task, inputs=(FLAT_INPUT,), output="logits")


def _deepsets(dials: DeepSetsDials, task: Task) -> Network:
    return _on_collections("deepsets", task, lambda: DeepSets(task.groups, task.outputs, dials))


def _attention(dials: AttentionDials, task: Task) -> Network:
    return _on_collections("attention", task, lambda: Attention(task.groups, task.outputs, dials))


def _cnn(dials: CnnDials, task: Task) -> Network:
    return _on_image("cnn", dials, task, lambda channels: cnn_trunk(channels, dials))


def _resnet50(dials: ResNetDials, task: Task) -> Network:
    return _on_image("resnet50", dials, task, lambda channels: resnet_trunk(channels, dials))


def _on_image(
    model: str, dials: ImageDials, task: Task, trunk_of: Callable[[int], tuple[torch.nn.Module, int]]
) -> Network:
    """A module that draws the only collection; ``trunk_of`` makes its convolutions from the number of channels."""
    event = [group for group in task.groups if group.length is None]

    def build() -> torch.nn.Module:
        group = drawn_collection(model, task, dials)
        trunk, found = trunk_of(max(len(dials.value), 1))
        return ImageNetwork(group, event, task.outputs, trunk=trunk, found=found, dials=dials)

    network = _on_collections(model, task, build)
    network.notes = image_notes(model, drawn_collection(model, task, dials), dials, task)
    return network


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
    "cnn": BuiltIn(CnnDials, _cnn),
    "resnet50": BuiltIn(ResNetDials, _resnet50),
}
