"""What a compiled Keras model says of its training: loss, form of the labels, meaning of the output.

Used by `mlaas4hep.backends.keras`. Invariant: a model that was compiled is learned as it was compiled, or refused with
the reason; nothing of it is replaced.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.keras_network import Network, OutputKind, are_probabilities
from mlaas4hep.backends.protocol import Labels
from mlaas4hep.errors import ModelError

Form = Literal["numbers", "columns", "classes"]


def own_loss(network: Network) -> keras.losses.Loss:
    """The cross-entropy for a model that was not compiled."""
    logits = network.output == "logits"
    if network.columns == 1:
        return keras.losses.BinaryCrossentropy(from_logits=logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def single_loss(model: keras.Model, where: str) -> Any:
    """The one loss of a compiled model."""
    losses = keras.tree.flatten(model.loss)
    if len(losses) > 1:
        raise ModelError(f"{where}: compiled with {len(losses)} losses; wants one, for one output")
    return losses[0] if losses else None


def name_of(loss: Any) -> str:
    """``binary_crossentropy``, however it was given."""
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", str(loss))
    return str(name)


def form_of_labels(loss: Any, columns: int) -> Form:
    """How a loss wants its labels: one number an event, a column a class, or the number of the class."""
    kind = keras.losses.get(loss)
    sparse = keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy
    if kind is sparse[1] or isinstance(kind, sparse[0]) or "sparse" in name_of(loss).lower():
        return "classes"
    return "numbers" if columns == 1 else "columns"


def targets(labels: Labels, form: Form, columns: int) -> NDArray[Any]:
    """Labels as a loss wants them: float32 [N, 1], float32 [N, columns] or int32 [N]."""
    if form == "classes":
        return labels.astype(np.int32)
    if form == "numbers":
        return labels.astype(np.float32)[:, None]
    return np.eye(columns, dtype=np.float32)[labels]


def meaning_of_output(loss: Any, found: NDArray[np.float32], *, asked: OutputKind | None, where: str) -> OutputKind:
    """Logits or probabilities, by what was asked, by the loss, or by what the model gave on random rows.

    Raises
    ------
    ModelError
        The loss takes probabilities and the model gives other numbers, or nothing tells what they mean.
    """
    if asked is not None:
        return asked
    inside = are_probabilities(found)
    if loss is None:
        return "probabilities" if inside else "logits"
    if "crossentropy" in name_of(loss).lower().replace("_", ""):
        if getattr(loss, "from_logits", False):
            return "logits"
        if inside or _nearly(found):
            return "probabilities"
        raise ModelError(
            f"{where}: loss {name_of(loss)} takes probabilities, and the model gives {_range(found)}; end it with a "
            "sigmoid or softmax, or compile it with a loss from_logits=True"
        )
    if inside:
        return "probabilities"
    raise ModelError(
        f"{where}: the model gives {_range(found)}, and loss {name_of(loss)} does not say what that means; end it with "
        "a sigmoid or softmax, or say output: logits or output: probabilities"
    )


def _nearly(found: NDArray[np.float32]) -> bool:
    """A sigmoid of large margins is exactly 0 or 1; several columns add up to 1 but where two share two classes."""
    closed = bool(((found >= 0) & (found <= 1)).all())
    return closed and (found.shape[1] <= 2 or bool(np.abs(found.sum(axis=1) - 1).max() < 1e-4))


def _range(found: NDArray[np.float32]) -> str:
    sums = " that do not add up to 1" if found.shape[1] > 1 and found.min() >= 0 and found.max() <= 1 else ""
    return f"numbers from {found.min():.3g} to {found.max():.3g}{sums}"
