"""Training, validation and test part, by a keyed hash of what identifies an event.

Position in the file plays no role: an event keeps its part when files are split, merged, sorted or skimmed. Invariant:
equal identity, equal part, in every sample, file and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.hashing import fold, hash_columns, uniform
from mlaas4hep.spec.columns import Columns, ColumnType, cast
from mlaas4hep.spec.features import Split

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
STANDARD = ("run", "luminosityBlock", "event")
_TAG = 0x73706C69


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
        typed = cast(columns, self._types)
        place = uniform(hash_columns(self._key, [typed[name] for name in self._types], num_entries))
        # Of the three parts in the order of `PARTS`, test comes first on the line from 0 to 1.
        not_train, is_test = place < self._split.test + self._split.validation, place < self._split.test
        return not_train.view(np.int8) + is_test.view(np.int8)
