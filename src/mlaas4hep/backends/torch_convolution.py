"""`cnn` and `resnet50`: convolutions on the image of a collection.

Both are what `mlaas4hep.backends.torch_image` puts between its pixels and its last layers. Invariant: where something
lies in the image counts for `cnn`, whose last pixels are told apart; `resnet50` is the network of He et al. (2015) with
stages of 3, 4, 6 and 3 bottlenecks and ends in a mean over pixels, as there.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch

from mlaas4hep.backends.dials import bad_sizes, out_of_range
from mlaas4hep.backends.torch_image import ImageDials
from mlaas4hep.backends.torch_models import activation_of
from mlaas4hep.backends.torch_norm import EventNorm

_STAGES = (3, 4, 6, 3)
# Channels that leave a bottleneck, in units of those inside.
_EXPANSION = 4


class CnnDials(ImageDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the small convolutional network; after each block the image is half as fine.

    Parameters
    ----------
    channels
        Of each block.
    depth
        Convolutions of 3 x 3 pixels in a block.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    depth: int = 1

    def problems(self) -> list[str]:
        """What is missing or out of range."""
        lines = bad_sizes("channels", self.channels) + out_of_range(self, above_zero=("depth",))
        shrinking = 2 ** len(self.channels)
        if any(size % shrinking for size in self.bins):
            lines.append(
                f"bins: {list(self.bins)} is out of range; wants multiples of {shrinking}, since each of the "
                f"{len(self.channels)} blocks of channels halves the image"
            )
        return super().problems() + lines


class ResNetDials(ImageDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the residual network with 50 layers.

    Parameters
    ----------
    width
        Channels inside the bottlenecks of the first stage; each stage has twice those of the one before. 64 is the
        network of the paper, with 23.5 million weights.
    """

    width: int = 64

    def problems(self) -> list[str]:
        """What is missing or out of range."""
        return super().problems() + out_of_range(self, above_zero=("width",))


def cnn_trunk(channels: int, dials: CnnDials) -> tuple[torch.nn.Module, int]:
    """From pixels [N, channels, bins] to numbers, and how many these are."""
    layers: list[torch.nn.Module] = []
    for size in dials.channels:
        for _ in range(dials.depth):
            layers += [torch.nn.Conv2d(channels, size, 3, padding=1), activation_of(dials.activation)]
            channels = size
        layers.append(torch.nn.MaxPool2d(2))
    across, along = (size // 2 ** len(dials.channels) for size in dials.bins)
    return torch.nn.Sequential(*layers, torch.nn.Flatten()), channels * across * along


def resnet_trunk(channels: int, dials: ResNetDials) -> tuple[torch.nn.Module, int]:
    """From pixels [N, channels, bins] to numbers, and how many these are."""
    width = dials.width
    first = [_convolution(channels, width, 7, stride=2), EventNorm(width), torch.nn.ReLU()]
    layers: list[torch.nn.Module] = [*first, torch.nn.MaxPool2d(3, stride=2, padding=1)]
    given = width
    for stage, blocks in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(given, width, stride=stride))
            given = _EXPANSION * width
        width *= 2
    return torch.nn.Sequential(*layers, PixelMean()), given


class Bottleneck(torch.nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 pixels, added to what was there.

    Parameters
    ----------
    given
        Channels that come in.
    width
        Channels inside.
    stride
        2 halves the image.
    """

    def __init__(self, given: int, width: int, *, stride: int) -> None:
        super().__init__()
        wide = _EXPANSION * width
        self.branch = torch.nn.Sequential(
            _convolution(given, width, 1),
            EventNorm(width),
            torch.nn.ReLU(),
            _convolution(width, width, 3, stride=stride),
            EventNorm(width),
            torch.nn.ReLU(),
            _convolution(width, wide, 1),
            EventNorm(wide, start=0.0),
        )
        same = given == wide and stride == 1
        straight = (_convolution(given, wide, 1, stride=stride), EventNorm(wide))
        self.straight = torch.nn.Identity() if same else torch.nn.Sequential(*straight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, wide, H, W] of [N, given, H, W]."""
        return torch.relu(self.branch(images) + self.straight(images))


class PixelMean(torch.nn.Module):
    """The mean of each channel over all pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, C] of [N, C, H, W]."""
        return images.mean(dim=(2, 3))


def _convolution(given: int, wanted: int, size: int, *, stride: int = 1) -> torch.nn.Module:
    """Without an offset, which the normalisation behind it has."""
    layer = torch.nn.Conv2d(given, wanted, size, stride=stride, padding=size // 2, bias=False)
    torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
