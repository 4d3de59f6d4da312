"""Triton's classification extension: the highest values of each row as texts ``value:index`` or ``value:index:label``.

Invariant: the value in a text is that of the output, to the bit; of equal ones the first comes first, and NaN last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.serve.tensors import number_text


def classify(values: NDArray[Any], count: int, labels: Sequence[str] = (), *, rows: bool = False) -> NDArray[Any]:
    """The highest values along the last axis.

    Parameters
    ----------
    values
        Numbers [..., C].
    count
        How many; all where there are fewer.
    labels
        Of the classes, by index; what has none is given without.
    rows
        Whether the first axis is that of rows, which are then of one class where there is no other axis.

    Returns
    -------
    array
        Texts [..., min(count, C)].
    """
    table = values[:, np.newaxis] if rows and values.ndim == 1 else np.atleast_1d(values)
    order = _highest_first(table)[..., :count]
    chosen = np.take_along_axis(table, order, axis=-1)
    texts = np.empty(order.shape, object)
    texts.reshape(-1)[:] = [
        _text(value, index, labels) for value, index in zip(chosen.ravel(), order.ravel().tolist(), strict=True)
    ]
    return texts


def _highest_first(table: NDArray[Any]) -> NDArray[np.intp]:
    """Indices along the last axis."""
    if table.dtype.kind == "f":
        return np.argsort(-table, axis=-1, kind="stable")
    # The lowest integer has no opposite: sorted backwards and turned round, so that equal ones keep their order.
    backwards = np.argsort(table[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    order: NDArray[np.intp] = table.shape[-1] - 1 - backwards
    return order


def _text(value: Any, index: int, labels: Sequence[str]) -> str:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number_text(value)}:{index}{label}"
