"""What could be read when the events were scanned, and not any more while a model learned.

A disk or a server may fail after the scan. Learning cannot be corrected afterwards: by how much it was off is told. All
that is judged later takes weights that make up for it. Invariant: a figure of yields never lacks what is missing.
"""

from __future__ import annotations

import msgspec

from mlaas4hep.data.catalogue import Catalogue


class Lost(msgspec.Struct, frozen=True):
    """Entries of a sample that were lost after the scan.

    Parameters
    ----------
    sample
        Its name.
    entries
        How many could not be read any more.
    factor
        By what the weights of the others are multiplied since, to make up for them.
    """

    sample: str
    entries: int
    factor: float

    def __str__(self) -> str:
        return (
            f"samples.{self.sample}: {self.entries} entries could not be read any more after the scan; until the "
            f"end of the training the sample weighed up to {1 - 1 / self.factor:.2%} less than it should. All "
            f"figures of the model are made with weights that are {self.factor:.6g} times as large"
        )


def lost_since(scanned: Catalogue) -> tuple[Lost, ...]:
    """What was lost since the weights of a catalogue were corrected, or since it was opened.

    Raises
    ------
    DataError
        Of a sample nothing is left.
    """
    found = []
    for was, now in zip(scanned.samples, scanned.corrected().samples, strict=True):
        factor = now.correction / was.correction
        if factor > 1:
            entries = sum(one.num_entries for one in scanned.files if one.sample == was.number)
            missing = sum(
                high - low
                for one in scanned.files
                if one.sample == was.number
                for low, high in scanned.quarantine.ranges(one.number)
            )
            found.append(Lost(was.name, round((entries - missing) * (factor - 1)), factor))
    return tuple(found)
