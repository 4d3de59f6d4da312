"""The stream as awkward arrays, lists in their true lengths.

Invariant: the arrays share the memory of the batches of `mlaas4hep.data.dataset.EventDataset.ragged`; nothing is cut,
padded or converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.converted import Converted
from mlaas4hep.data.into.fields import require_stream
from mlaas4hep.data.ragged import Lists, RaggedBatch
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import EVENT, FeatureSpec


@dataclass(frozen=True)
class AwkwardBatch:
    """A batch of n events.

    Parameters
    ----------
    events
        ``ak.Array`` of n records: the variables of the group ``event`` as fields of their own, each collection as a
        field of lists of records. All values are float32, NaN where one is missing.
    labels, weights, entries, targets
        As of `mlaas4hep.data.batches.Batch`.
    """

    events: Any
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]
    targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def to_awkward(dataset: EventDataset, epoch: int = 0) -> Converted[RaggedBatch, AwkwardBatch]:
    """Batches of one epoch as awkward arrays: ``batch.events.MET_pt``, ``batch.events.jets.Jet_pt``.

    Parameters
    ----------
    dataset
        The stream; not shuffled by ``exact``, and read from the files whether it has a cache or not.
    epoch
        Its number.

    Raises
    ------
    DataError
        A variable has the name of a collection, or the order is ``exact``.
    """
    require_stream(dataset, epoch)
    features = dataset.preprocessor.features
    flat, collections = _names(features)
    twice = sorted(set(flat) & set(collections))
    if twice:
        raise DataError(f"'{twice[0]}' is both a variable and a collection; give the collection another name")

    def convert(batch: RaggedBatch) -> AwkwardBatch:
        contents = [ak.contents.NumpyArray(batch.event[:, channel]) for channel in range(len(flat))]
        contents += [_records(batch.collections[name], variables) for name, variables in collections.items()]
        fields = [*flat, *collections]
        events = ak.Array(ak.contents.RecordArray(contents, fields, length=len(batch)))
        return AwkwardBatch(events, batch.labels, batch.weights, batch.entries, batch.targets)

    return Converted(dataset.ragged(epoch), convert)


def _names(features: FeatureSpec) -> tuple[list[str], dict[str, list[str]]]:
    """Variables of the group ``event``, and of each collection."""
    groups = {group.name: [one.name for one in group.variables] for group in features.inputs}
    return groups.pop(EVENT, []), groups


def _records(lists: Lists, variables: list[str]) -> Any:
    columns = [ak.contents.NumpyArray(lists.values[:, channel]) for channel in range(len(variables))]
    objects = ak.contents.RecordArray(columns, variables, length=len(lists.values))
    return ak.contents.ListOffsetArray(ak.index.Index64(lists.offsets), objects)
