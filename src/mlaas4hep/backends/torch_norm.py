"""Batch normalisation that knows the weights of the events.

PyTorch's own takes mean and variance over the rows of a batch: an event of weight 0 would move them like any other.
Here rows count by the size of their weight. Invariant: an event of weight 2 moves what is kept as two events do, and
only ratios of weights count; a score takes the running figures alone, so no event depends on its neighbours.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch.nn import functional

from mlaas4hep.backends.torch_device import unrounded

_EPSILON = 1e-5
# What one batch moves the running figures by.
_MOMENTUM = 0.1


class EventNorm(torch.nn.Module):
    """Channels of images to mean 0 and width 1, then to what is learned.

    Parameters
    ----------
    channels
        Number of channels.
    start
        First value of the scale; 0 lets a residual branch begin as nothing.

    Attributes
    ----------
    shares
        Of each row of the next batch, [N], adding up to 1; None counts all alike.
    """

    def __init__(self, channels: int, *, start: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((channels,), start))
        self.shift = torch.nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.shares: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Of [N, channels, H, W]; by the batch while it learns, else by the running figures. In float32 always."""
        with unrounded(images):
            return self._normalised(images if images.dtype == torch.float32 else images.float())

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return functional.batch_norm(
                images, self.mean, self.variance, self.scale, self.shift, training=False, eps=_EPSILON
            )
        shares = images.new_full((len(images),), 1 / len(images)) if self.shares is None else self.shares
        mean = shares @ images.mean(dim=(2, 3))
        centred = images - mean[:, None, None]
        variance = shares @ centred.square().mean(dim=(2, 3))
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance, _MOMENTUM)
        factor = self.scale * torch.rsqrt(variance + _EPSILON)
        return centred * factor[:, None, None] + self.shift[:, None, None]


def weigh_events(module: torch.nn.Module, shares: torch.Tensor) -> None:
    """Tell all layers of a module how much each row of the next batch counts; negative ones count by their size."""
    for layer in module.modules():
        if isinstance(layer, EventNorm):
            layer.shares = shares.abs()
