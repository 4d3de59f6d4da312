"""Files and samples as a catalogue numbers them.

Invariant: opened again, a file gives the events that it gave when it was entered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Rule
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.source import Source

SampleKind = Literal["mc", "data"]
NO_LABEL = -1
"""Label of an event that has no class."""
Strata = tuple[tuple[int, int], ...]
"""First entry and number of each stretch of a file that an order takes its share of; empty: the file is one."""


@dataclass(frozen=True, eq=False)
class FileEntry:
    """One tree of one file.

    Parameters
    ----------
    number
        Its place in the catalogue.
    sample
        Place of its sample.
    index
        Its place among the files of its sample.
    path, tree
        Where it lies.
    clusters
        Boundaries of the entries that are used, int64 [C + 1].
    tree_entries
        Entries of the tree when it was opened, so that a file that changes later is noticed; None does not look.
    opening
        How it is opened again; None opens path and tree as they stand.
    identity
        Of its content: differs whenever that may differ.
    strata
        Stretches of unlike classes, once it was scanned.
    """

    number: int
    sample: int
    index: int
    path: str
    tree: str
    clusters: NDArray[np.int64]
    tree_entries: int | None = None
    identity: str = ""
    opening: Opening | None = field(default=None, repr=False)
    strata: Strata = field(default=(), repr=False)

    @property
    def replicas(self) -> tuple[str, ...]:
        """Addresses to read it from; empty where that is ``path`` alone."""
        return () if self.opening is None else self.opening.replicas

    def open(self) -> Source:
        """Open it again."""
        return (self.opening or Opening(self.path, self.tree)).open()

    @property
    def num_entries(self) -> int:
        """Entries that are used: all of the tree, or the first ones where less was asked for."""
        return int(self.clusters[-1])


@dataclass(frozen=True)
class SampleEntry:
    """One sample.

    Parameters
    ----------
    name, number
        Of the sample; the number is its place in the catalogue.
    label
        Class of all its events, as a position in the catalogue's ``classes``; `NO_LABEL` where they have none, or have
        each its own.
    selection
        Its own.
    factor
        From generator weights to physics weights.
    rule
        What tells the class of each event, where they have each its own.
    sums_own_weights
        Whether the sum of weights was read from the files that could be opened.
    correction
        Makes up for entries in quarantine.
    """

    name: str
    number: int
    label: int
    selection: str | None
    factor: float
    rule: Rule | None = None
    sums_own_weights: bool = False
    correction: float = 1.0

    @property
    def scale(self) -> float:
        """From the generator's weight of an event to its physics weight."""
        return self.factor * self.correction
