"""Whose event it is, where several samples read one tree.

Two samples may share a tree if their selections exclude each other. Whether they do shows when events are read: the
scan claims every event for its sample. Invariant: no event is of two classes; trees that one sample reads cost nothing.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import NO_LABEL, FileEntry
from mlaas4hep.data.locate import file_key
from mlaas4hep.errors import DataError

_NOBODY = -1


class Owners:
    """For each entry of the trees that several samples read, the first sample that selected it.

    Parameters
    ----------
    catalogue
        Files and samples.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._overlaps: Counter[tuple[int, int]] = Counter()
        self._seen_in: dict[tuple[int, int], tuple[FileEntry, int, int]] = {}
        readers: dict[tuple[object, str], list[FileEntry]] = {}
        for file in catalogue.files:
            readers.setdefault((file_key(file.path, file.replicas), file.tree), []).append(file)
        self._owner: dict[int, NDArray[np.int32]] = {}
        self._label: dict[int, NDArray[np.int16]] = {}
        for files in readers.values():
            if len(files) > 1:
                owner = np.full(max(file.num_entries for file in files), _NOBODY, dtype=np.int32)
                label = np.full(len(owner), NO_LABEL, dtype=np.int16)
                self._owner.update((file.number, owner) for file in files)
                self._label.update((file.number, label) for file in files)

    def wants(self, file: FileEntry) -> bool:
        """Whether another sample reads this tree too."""
        return file.number in self._owner

    def claim(self, file: FileEntry, entries: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Note that the sample of a file selects these entries of it, and takes them for these classes."""
        owner, label = self._owner[file.number], self._label[file.number]
        free = owner[entries] == _NOBODY
        owner[entries[free]] = file.sample
        label[entries[free]] = labels[free]
        other_class = ~free & (label[entries] != labels)
        others, were, are = owner[entries[other_class]], label[entries[other_class]], labels[other_class]
        for other in np.unique(others):
            pair, own = (int(other), file.sample), others == other
            self._overlaps[pair] += int(np.count_nonzero(own))
            self._seen_in.setdefault(pair, (file, int(were[own][0]), int(are[own][0])))

    def check(self) -> None:
        """Refuse events of two classes.

        Raises
        ------
        DataError
            Names every pair of samples with events in common, and how many.
        """
        if self._overlaps:
            raise DataError("\n".join(self._line(*pair) for pair in self._overlaps))

    def _line(self, one: int, other: int) -> str:
        samples = self._catalogue.samples
        file, *labels = self._seen_in[one, other]
        one_label, other_label = (self._catalogue.classes[label] for label in labels)
        return (
            f"the samples '{samples[one].name}' and '{samples[other].name}' both select {self._overlaps[one, other]} "
            f"entries, first in {file.path}, tree '{file.tree}': these cannot be '{one_label}' and '{other_label}' at "
            "once; change the selections so that each event belongs to one sample"
        )
