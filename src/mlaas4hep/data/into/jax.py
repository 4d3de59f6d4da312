"""The stream as arrays of JAX.

JAX compiles a function anew for each shape, so every batch has the same one: the last is filled up, and a mask says
which rows are events. Invariant: inputs are the bits of the stream; labels and weights go from 64 to 32 bits, JAX's own
default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import as_found
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.converted import Converted
from mlaas4hep.data.into.fields import Fields, require_stream
from mlaas4hep.errors import DataError, MissingExtraError
from mlaas4hep.spec.scaling import Scaler

Arrays = dict[str, Any]


def to_jax(
    dataset: EventDataset,
    epoch: int = 0,
    *,
    scaler: Scaler | None = None,
    masks: bool = False,
    devices: Sequence[Any] | None = None,
) -> Converted[Batch, Arrays]:
    """Batches of one epoch as dictionaries of JAX arrays, all of the same shape.

    Each holds ``inputs`` (float32 by group, [N, F] and [N, K, F]), ``labels`` (int32 [N]), ``weights`` (float32 [N])
    and ``valid`` (bool [N]), N being the batch size of the stream; of a regression ``targets`` (float32 [N, T]), too.
    The last batch is filled up with events that are missing in everything: weight 0, label 0, not valid.

    Parameters
    ----------
    dataset
        The stream.
    epoch
        Its number.
    scaler
        Scales inputs, see `mlaas4hep.data.into.fields.Fields`; None hands raw values on, NaN where one is missing.
    masks
        Adds ``jets_mask`` to ``inputs`` for each collection ``jets``: bool [N, K].
    devices
        Where the rows of each batch are spread over, in equal parts, such as ``jax.local_devices()``; None leaves them
        on the first.

    Raises
    ------
    DataError
        The batch size is not a multiple of the number of devices.
    MissingExtraError
        JAX is not installed.
    """
    require_stream(dataset, epoch)
    place = _placer(devices, dataset.batch_size)
    fields = Fields(dataset.preprocessor.features, scaler=scaler, masks=masks)

    def convert(batch: Batch) -> Arrays:
        missing = dataset.batch_size - len(batch)
        host: Arrays = {
            "inputs": {
                name: _filled(one, missing, fields.empty if one.dtype == np.float32 else False)
                for name, one in fields.inputs(batch).items()
            },
            "labels": _filled(batch.labels.astype(np.int32), missing, 0),
            "weights": _filled(batch.weights.astype(np.float32), missing, 0.0),
            "valid": _filled(np.ones(len(batch), dtype=np.bool_), missing, False),
        }
        if batch.targets is not None:
            host["targets"] = _filled(batch.targets, missing, 0.0)
        return place(host)

    return Converted(dataset.epoch(epoch), convert)


def _placer(devices: Sequence[Any] | None, batch_size: int) -> Callable[[Arrays], Arrays]:
    """What puts a batch on its devices."""
    try:
        import jax
    except ImportError as error:
        raise MissingExtraError("jax", "jax", "streaming into JAX") from error
    if devices is None:
        return lambda host: dict(jax.device_put(host))
    if not isinstance(devices, Sequence) or not devices:
        raise DataError(f"devices must be some of JAX's, such as jax.local_devices(); got {as_found(devices)}")
    if batch_size % len(devices):
        raise DataError(
            f"batch_size {batch_size} is not a multiple of {len(devices)} devices; the nearest that is: "
            f"{max(round(batch_size / len(devices)), 1) * len(devices)}"
        )
    mesh = jax.sharding.Mesh(np.array(devices), ("events",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("events"))
    return lambda host: dict(jax.device_put(host, rows))


def _filled(array: NDArray[Any], missing: int, value: Any) -> NDArray[Any]:
    """So many rows more."""
    if not missing:
        return array
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, dtype=array.dtype)])
