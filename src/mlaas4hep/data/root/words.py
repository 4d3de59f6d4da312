"""Columns of text in ROOT files, for labels that are words; read by uproot.

Invariant: what is given is one text an event, or a `DataError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import DataError, nearest

TEXT = "text, not numbers"
"""Why a column of text cannot be read as numbers."""


class Words:
    """The part of a ROOT source that gives text: see `mlaas4hep.data.source.Texts`."""

    path: str
    tree: str
    num_entries: int
    columns: Mapping[str, ColumnInfo]

    @cached_property
    def texts(self) -> frozenset[str]:
        """See `mlaas4hep.data.source.Texts.texts`."""
        found = (one for one in self.columns.values() if one.reason == TEXT)
        return frozenset(one.name for one in found if "vector<" not in one.description and "[" not in one.description)

    def read_text(self, name: str, entry_start: int, entry_stop: int) -> NDArray[Any]:
        """See `mlaas4hep.data.source.Texts.read_text`."""
        where = f"{self.path}, tree '{self.tree}'"
        if name not in self.texts:
            raise DataError(f"{where}: has no column of text '{name}'{nearest(name, self.texts)}")
        if not 0 <= entry_start <= entry_stop <= self.num_entries:
            raise DataError(
                f"{where}: entries {entry_start} to {entry_stop} asked for, but it has {self.num_entries} entries"
            )
        with blamed(self.path, f", tree '{self.tree}', column '{name}', entries {entry_start} to {entry_stop}"):
            words = self._words(name, entry_start, entry_stop)
        if len(words) != entry_stop - entry_start or not all(isinstance(word, str) for word in words):
            raise DataError(f"{where}: column '{name}' is not one text for each of its entries")
        return np.array(words, dtype=object)

    def _words(self, name: str, entry_start: int, entry_stop: int) -> list[Any]:
        branch = self._uproot_branch(name)
        array = branch.array(entry_start=entry_start, entry_stop=entry_stop, library="ak", array_cache=None)
        found: list[Any] = array.tolist()
        return found

    def _uproot_branch(self, name: str) -> Any:
        """The branch or field as uproot has it."""
        raise NotImplementedError
