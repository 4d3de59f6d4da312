"""Training, validation and test part, by a keyed hash of what identifies an event.

Position in the file plays no role: an event keeps its part when files are split, merged, sorted or skimmed. The same
holds for folds: the one that is held out is the test part of its training. Invariant: equal identity, equal part and
fold, in every sample, file and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.hashing import UInt64, fold, fold_array, hash_columns, uniform
from mlaas4hep.spec.columns import Columns, ColumnType, cast
from mlaas4hep.spec.features import Split

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
STANDARD = ("run", "luminosityBlock", "event")
_TAG = 0x73706C69
_VALIDATION_TAG = 0x76616C69


@dataclass(frozen=True)
class Identity:
    """Columns that tell one event from another, and where they come from: ``split.by``, ``files`` or ``inputs``."""

    columns: tuple[str, ...]
    origin: Literal["split.by", "files", "inputs"]

    def __str__(self) -> str:
        if self.origin == "inputs":
            return f"a hash of the declared inputs ({len(self.columns)} columns)"
        return f"{', '.join(self.columns)} ({'as asked' if self.origin == 'split.by' else 'found in the files'})"


def choose_identity(split: Split, everywhere: Mapping[str, ColumnType], inputs: Iterable[str]) -> Identity:
    """What identifies an event.

    Parameters
    ----------
    split
        Its ``by`` wins where it is given.
    everywhere
        Columns that all files have; run, luminosityBlock, event are taken where they are among them.
    inputs
        Raw columns behind the declared inputs: the last resort, since equal inputs then share a part.
    """
    if split.by:
        return Identity(split.by, "split.by")
    if all(name in everywhere and everywhere[name].kind == "flat" for name in STANDARD):
        return Identity(STANDARD, "files")
    return Identity(tuple(sorted(inputs)), "inputs")


class Splitter:
    """Gives each event its part.

    Parameters
    ----------
    split
        Shares and seed.
    identity
        Columns to hash.
    types
        Their declared types: the hash is taken after the cast, so the same in every format.
    """

    def __init__(self, split: Split, identity: Identity, types: Mapping[str, ColumnType]) -> None:
        self._split = split
        self._types = {name: types[name] for name in identity.columns}
        self._key = fold(_TAG, split.seed)

    def parts(self, columns: Columns, num_entries: int) -> NDArray[np.int8]:
        """Position in `PARTS` of each event, int8 [N]."""
        return self.parts_of(self.hashes(columns, num_entries))

    def parts_of(self, hashes: UInt64) -> NDArray[np.int8]:
        """The same of events whose `hashes` are known."""
        if self._split.num_folds:
            return self._parts_of_folds(hashes)
        place = uniform(hashes)
        # Of the three parts in the order of `PARTS`, test comes first on the line from 0 to 1.
        not_train, is_test = place < self._split.test + self._split.validation, place < self._split.test
        return not_train.view(np.int8) + is_test.view(np.int8)

    def folds(self, columns: Columns, num_entries: int) -> NDArray[np.int8]:
        """Fold of each event, int8 [N]: 0 to k - 1."""
        return self._folds(self.hashes(columns, num_entries))

    def hashes(self, columns: Columns, num_entries: int) -> UInt64:
        """What the split hangs on: a hash of the identity of each event, uint64 [N]."""
        typed = cast(columns, self._types)
        return hash_columns(self._key, [typed[name] for name in self._types], num_entries)

    def _folds(self, hashes: UInt64) -> NDArray[np.int8]:
        return (uniform(hashes) * self._split.num_folds).astype(np.int8)

    def _parts_of_folds(self, hashes: UInt64) -> NDArray[np.int8]:
        held_out, folds = self._split.held_out, self._split.num_folds
        if held_out is None:
            return np.zeros(len(hashes), dtype=np.int8)
        # Each training draws its own: so every event is learned from by some of the models.
        drawn = uniform(fold_array(fold(_VALIDATION_TAG, held_out), hashes))
        # The share is of all events, the draw is among those that are not held out.
        validates = drawn * (1 - 1 / folds) < self._split.validation
        return np.where(self._folds(hashes) == held_out, 2, validates).astype(np.int8)
