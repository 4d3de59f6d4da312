"""What the lengths of the collections cost: how many objects a model never sees, and which length would keep most.

Said after the scan and kept with the figures of a run. Invariant: figures are of the selected events of the training
part, as the contract counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from mlaas4hep.spec.features import MAX_LENGTH, InputGroup
from mlaas4hep.spec.statistics import Statistics

KEEP = 0.99


class CollectionFigures(msgspec.Struct, frozen=True):
    """One collection.

    Parameters
    ----------
    length
        K, as declared.
    objects
        Before lists were cut to it.
    dropped
        Those beyond it.
    suggested
        The smallest length that keeps `KEEP` of the objects; at most what a model can hold.
    """

    length: int
    objects: int
    dropped: int
    suggested: int

    @property
    def dropped_share(self) -> float:
        """Share of the objects that the model never sees."""
        return self.dropped / self.objects if self.objects else 0.0


def collection_figures(statistics: Statistics, groups: Sequence[InputGroup]) -> dict[str, CollectionFigures]:
    """By collection, in the order of the contract."""
    return {
        group.name: _figures(statistics.lengths[group.name], group.length, statistics.truncated[group.name])
        for group in groups
        if group.length is not None
    }


def _figures(histogram: Sequence[int], length: int, dropped: int) -> CollectionFigures:
    """From the number of events with 0, 1, 2, ... objects."""
    # Events with at least n objects: how many objects stand at place n, from 1.
    at_place = np.cumsum(np.asarray(histogram[:0:-1], np.int64))[::-1]
    kept = np.cumsum(at_place)
    # The last bin may hold longer lists than it says: what was dropped is counted exactly.
    objects = int(kept[min(length, len(kept)) - 1]) + dropped if len(kept) else 0
    enough = int(np.searchsorted(kept, KEEP * objects)) + 1
    return CollectionFigures(length, objects, dropped, min(enough, MAX_LENGTH))


def notes(figures: Mapping[str, CollectionFigures]) -> Iterator[str]:
    """A line for each collection of which objects are dropped, or that holds none."""
    for name, one in figures.items():
        if not one.objects:
            yield f"inputs.{name}: no event of the training part holds an object"
        elif one.dropped:
            advice = f"; length: {one.suggested} would keep {KEEP:.0%}" if one.suggested > one.length else ""
            yield (
                f"inputs.{name}: {one.dropped:,} of {one.objects:,} objects ({one.dropped_share:.2%}) are beyond "
                f"length {one.length} and dropped{advice}"
            )
