"""Images of an event: the objects of a collection, such as the constituents of a jet, binned in two of its variables.

The binning is the first layer of the networks `cnn` and `resnet50`, and so part of their graphs: who serves one bins as
the training did, since it is the same nodes. Invariant: which pixel an object falls into is found by comparisons with
edges that went through the contract's own scaling, so PyTorch and ONNX Runtime never put it into different ones, and an
empty slot adds exactly 0 to every pixel.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mlaas4hep.backends.dials import bad_sizes, out_of_range
from mlaas4hep.backends.network_sizes import Activation, ranges_of
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.torch_device import unrounded
from mlaas4hep.backends.torch_models import activation_of, multi_layer
from mlaas4hep.backends.torch_optimiser import TorchDials
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.core import MASK_SUFFIX
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, Scaler

_MAX_BINS = 256
# Values that are added up: sums of 256 of them, and their squares in a layer, stay finite.
_LIMIT = 1e15
_LOG_LIMIT = float(np.log(_LIMIT))
# What is told of objects beyond the image: where the contract's statistics say that it is more than this at one end.
_TAILS = (0.005, 0.995)


class ImageDials(TorchDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the image, shared by all networks that see one; those of the training are shared by all of the backend.

    Parameters
    ----------
    collection
        Whose objects are drawn; none takes the only one.
    x, y
        Variables of the collection along the two axes, such as eta and phi relative to the jet's axis. Needed.
    value
        Variables of the collection that are added up in each pixel, in their own units: one channel each. None counts
        objects.
    bins
        Pixels along x and along y.
    range
        First and last edge along x, and along y, in the variables' own units. Objects beyond are not seen.
    latent
        How many numbers the image becomes, so that a few variables of the event are not lost beside it.
    hidden_event
        Sizes of the hidden layers that see what was found in the image, together with the variables of the event.
    activation
        Between these layers.
    dropout
        Share of their values that is set to 0 in a step.
    """

    collection: str | None = None
    x: str | None = None
    y: str | None = None
    value: tuple[str, ...] = ()
    bins: tuple[int, int] = (32, 32)
    range: tuple[tuple[float, float], tuple[float, float]] = ((-0.8, 0.8), (-0.8, 0.8))
    latent: int = 64
    hidden_event: tuple[int, ...] = (64,)
    activation: Activation = "relu"
    dropout: float = 0.1

    def problems(self) -> list[str]:
        """What is missing or out of range."""
        lines = [
            f"{name}: is missing; wants a variable of the collection, as in {{x: part_deta, y: part_dphi}}"
            for name in ("x", "y")
            if getattr(self, name) is None
        ]
        if not all(2 <= size <= _MAX_BINS for size in self.bins):
            lines.append(f"bins: {list(self.bins)} is out of range; wants 2 to {_MAX_BINS} along each axis")
        if not all(low < high for low, high in self.range):
            found = [list(ends) for ends in self.range]
            lines.append(f"range: {found} is out of range; wants the lower end first, as in [[-0.8, 0.8], [-0.8, 0.8]]")
        lines += out_of_range(self, above_zero=("latent",)) + bad_sizes("hidden_event", self.hidden_event)
        return lines + ranges_of(self)


class Image(torch.nn.Module):
    """Pixels from objects.

    Each is the signed logarithm of its sum in units of a typical value by the contract's scaling: sums over pixels of
    one event span decades.

    Parameters
    ----------
    group
        The collection.
    dials
        Axes, values, bins and range.
    """

    def __init__(self, group: GroupScaling, dials: ImageDials) -> None:
        super().__init__()
        self.columns = tuple(group.variables.index(str(name)) for name in (dials.x, dials.y))
        self.values = tuple(group.variables.index(name) for name in dials.value)
        self.logs = tuple(group.features[index].kind == "log" for index in self.values)
        self.channels = max(len(self.values), 1)
        for name, column, ends, size in zip("xy", self.columns, dials.range, dials.bins, strict=True):
            self._constant(f"edges_{name}", _scaled_edges(group.features[column], ends, size))
        features = [group.features[index] for index in self.values] or [FeatureScaling("none")]
        self._constant("widths", [1 / one.scale for one in features])
        self._constant("centres", [one.offset for one in features])
        self._constant("units", [[[_unit(one)]] for one in features])

    def _constant(self, name: str, values: Sequence[object] | np.ndarray) -> None:
        # Out of contract and dials, so no part of what is learned.
        self.register_buffer(name, torch.tensor(np.asarray(values, np.float32)), persistent=False)

    def forward(self, objects: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pixels [N, channels, bins of x, bins of y] of scaled objects [N, K, F] and their mask [N, K].

        In float32 always: eight bits would lose the soft objects of a pixel.
        """
        with unrounded(objects):
            return self._drawn(objects, mask)

    def _drawn(self, objects: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        across = _in_bins(objects[..., self.columns[0]], self.edges_x) & mask.unsqueeze(-1)
        along = _in_bins(objects[..., self.columns[1]], self.edges_y).to(torch.float32)
        rows = torch.where(across, 1.0, 0.0).transpose(1, 2)
        if self.values:
            rows = torch.cat([rows * one.unsqueeze(1) for one in self._restored(objects)], dim=1)
        # A product adds one slot after the other, and an empty one adds 0: longer paddings change no bit.
        sums = (rows @ along).unflatten(1, (self.channels, -1))
        return torch.sign(sums) * torch.log(1.0 + sums.abs() / self.units)

    def _restored(self, objects: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each value [N, K] in its own units."""
        for place, (column, is_log) in enumerate(zip(self.values, self.logs, strict=True)):
            value = objects[..., column] * self.widths[place] + self.centres[place]
            yield torch.exp(value.clamp(0.0, _LOG_LIMIT)) - 1.0 if is_log else value.clamp(-_LIMIT, _LIMIT)


class ImageNetwork(torch.nn.Module):
    """Logits of an event from the image of one collection and the variables of the event.

    Parameters
    ----------
    group
        The collection.
    event
        Groups without slots.
    outputs
        Number of logits.
    trunk
        From pixels to ``found`` numbers.
    dials
        Of the image and of the layers behind.
    """

    def __init__(
        self,
        group: GroupScaling,
        event: Sequence[GroupScaling],
        outputs: int,
        *,
        trunk: torch.nn.Module,
        found: int,
        dials: ImageDials,
    ) -> None:
        super().__init__()
        self.collection = group.name
        self.flat = tuple(one.name for one in event)
        self.image, self.trunk = Image(group, dials), trunk
        self.found = torch.nn.Sequential(torch.nn.Linear(found, dials.latent), activation_of(dials.activation))
        width = dials.latent + 1 + sum(one.width for one in event)
        self.head = multi_layer(width, dials.hidden_event, outputs, dials.activation, dials.dropout)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, outputs] of scaled groups, [N, F] or [N, K, F], with ``<collection>_mask`` [N, K]."""
        mask = inputs[self.collection + MASK_SUFFIX]
        found = self.found(self.trunk(self.image(inputs[self.collection], mask)))
        # Objects beyond the image are counted here.
        count = (mask.to(torch.float32).sum(dim=1, keepdim=True) + 1.0).log()
        return self.head(torch.cat([found, count, *(inputs[name] for name in self.flat)], dim=1))


def drawn_collection(model: str, task: Task, dials: ImageDials) -> GroupScaling:
    """The collection that is drawn.

    Raises
    ------
    ModelError
        There is none, there are others besides, or it lacks a variable that the dials name.
    """
    collections = {group.name: group for group in task.groups if group.length is not None}
    title = f"model {model} (backend torch)"
    if dials.collection is not None and dials.collection not in collections:
        known = nearest(dials.collection, collections)
        raise ModelError(f"{title}: model.collection: '{dials.collection}' is no collection of the inputs{known}")
    if len(collections) > 1:
        raise ModelError(
            f"{title} draws one collection, and the inputs hold {', '.join(collections)}: what another holds would be "
            "lost; leave it out, or take deepsets or attention"
        )
    (group,) = collections.values()
    for dial, name in [("x", dials.x), ("y", dials.y), *(("value", one) for one in dials.value)]:
        if name not in group.variables:
            raise ModelError(
                f"{title}: model.{dial}: '{name}' is no variable of inputs.{group.name}"
                f"{nearest(str(name), group.variables)}; there are {', '.join(group.variables)}"
            )
    return group


def image_notes(model: str, group: GroupScaling, dials: ImageDials, task: Task) -> tuple[str, ...]:
    """What a user should know of an image before it is learned from: variables and objects that are not in it."""
    title = f"{model} (backend torch)"
    unseen = [name for name in group.variables if name not in (dials.x, dials.y, *dials.value)]
    lines = [f"{title}: does not see {', '.join(unseen)} of {group.name}: neither x, y nor value"] if unseen else []
    figures = task.spec.statistics.groups.get(group.name, ()) if task.spec else ()
    for axis, name, (low, high) in zip("xy", (dials.x, dials.y), dials.range, strict=True):
        for variable, one in zip(group.variables, figures, strict=False):
            lowest, highest = (one.quantile(rank) for rank in _TAILS)
            if variable == name and lowest is not None and highest is not None and (lowest < low or highest > high):
                lines.append(
                    f"{title}: 99 % of {group.name} have {name} from {lowest:.4g} to {highest:.4g}; the image shows "
                    f"{low:g} to {high:g} along {axis}, and objects beyond are not seen (model.range)"
                )
    return tuple(lines)


def _scaled_edges(feature: FeatureScaling, ends: tuple[float, float], size: int) -> np.ndarray:
    """Edges [size + 1] as the values come: scaling keeps the order, so comparisons say the same as in own units."""
    edges = np.linspace(*ends, size + 1).astype(np.float32)[:, np.newaxis]
    return Scaler([GroupScaling("edges", ("edge",), (feature,))]).flat({"edges": edges})[:, 0]


def _in_bins(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Whether values [N, K] lie in each bin, [N, K, bins]; the lower edge belongs to a bin, the upper one does not."""
    beyond = values.unsqueeze(-1) >= edges
    return beyond[..., :-1] & ~beyond[..., 1:]


def _unit(feature: FeatureScaling) -> float:
    """A typical value, by the constants of its scaling."""
    if feature.kind == "log":
        return max(float(np.expm1(np.clip(feature.offset, 0.0, _LOG_LIMIT))), 1e-12)
    return abs(feature.offset) + 1 / abs(feature.scale)
