"""The original's layer for padded values, for model files that were written with it.

Invariant: a padded value adds nothing, whether it comes as the 0 of the flat view or beside a mask that is NaN there.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch

_PAIR = 3


class JaggedArrayLinear(torch.nn.Linear):
    """A linear layer that takes the flat view [N, W], where padding is 0 already, or values and a mask of such a shape.

    Parameters
    ----------
    in_features, out_features, bias
        As for `torch.nn.Linear`.
    verbose
        Taken and not used: the layer prints nothing.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, verbose: int = 0) -> None:
        super().__init__(in_features, out_features, bias)

    def forward(self, data: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Of values [N, W]; or of values and a mask that is NaN where they are padded, as a pair or as [2, N, W]."""
        if isinstance(data, torch.Tensor) and data.dim() < _PAIR:
            return super().forward(data)
        values, mask = data[0], data[1]
        return super().forward(torch.where(torch.isnan(mask), torch.zeros_like(values), values))
