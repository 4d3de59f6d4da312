"""The stream as a ``tf.data.Dataset``.

Invariant: every pass over it is one epoch of the stream, whole; who stops in the middle leaves no thread behind once
TensorFlow has let its iterator go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.fields import Fields, require_stream
from mlaas4hep.errors import MissingExtraError
from mlaas4hep.spec.scaling import Scaler


def to_tensorflow(
    dataset: EventDataset,
    epoch: int = 0,
    *,
    scaler: Scaler | None = None,
    masks: bool = False,
    advance: bool = False,
) -> Any:
    """Batches as ``(inputs, labels, weights)``, what ``Model.fit`` of Keras takes.

    ``inputs`` holds float32 tensors by group, [None, F] and [None, K, F]; ``labels`` is int64 [None], or the targets of
    a regression, float32 [None, T]; ``weights`` is float64 [None]. Events are batched already: follow it by
    ``prefetch``, not by ``batch``.

    Parameters
    ----------
    dataset
        The stream.
    epoch
        Number of the epoch that a pass gives.
    scaler
        Scales inputs, see `mlaas4hep.data.into.fields.Fields`; None hands raw values on, NaN where one is missing.
    masks
        Adds ``jets_mask`` to ``inputs`` for each collection ``jets``: bool [None, K].
    advance
        Every further pass gives the next epoch, as ``Model.fit`` needs for another order in each.

    Returns
    -------
    A ``tf.data.Dataset``.

    Raises
    ------
    MissingExtraError
        TensorFlow is not installed.
    """
    require_stream(dataset, epoch)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingExtraError("tensorflow", "tensorflow", "streaming into TensorFlow") from error
    fields = Fields(dataset.preprocessor.features, scaler=scaler, masks=masks)
    inputs = {
        name: tf.TensorSpec((None, *shape), tf.bool if name.endswith("_mask") else tf.float32)
        for name, shape in fields.shapes.items()
    }
    targets = dataset.num_targets
    learned = tf.TensorSpec((None, targets), tf.float32) if targets else tf.TensorSpec((None,), tf.int64)
    signature = (inputs, learned, tf.TensorSpec((None,), tf.float64))
    numbers = count(epoch)
    return tf.data.Dataset.from_generator(
        _passes(dataset, fields, (lambda: next(numbers)) if advance else (lambda: epoch)), output_signature=signature
    )


def _passes(
    dataset: EventDataset, fields: Fields, number: Callable[[], int]
) -> Callable[[], Iterator[tuple[Any, Any, Any]]]:
    def batches() -> Iterator[tuple[Any, Any, Any]]:
        with dataset.epoch(number()) as stream:
            for batch in stream:
                learned = batch.labels if batch.targets is None else batch.targets
                yield fields.inputs(batch), learned, batch.weights

    return batches
