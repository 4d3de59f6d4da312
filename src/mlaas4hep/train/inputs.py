"""The inputs by class, counted into histograms while the training part streams by: as read, and as the model sees them.

Ranges come from the contract's statistics, so that one pass is enough and two runs can be laid side by side. Invariant:
a slot of a collection counts where it exists; what is missing in it is counted apart, not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.batches import Batch
from mlaas4hep.graph.core import Missing
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import InputGroup
from mlaas4hep.spec.scaling import Scaler, Tensors, unflatten
from mlaas4hep.spec.statistics import FeatureStatistics

MAX_VARIABLES = 64
BINS = 40
_LOW, _HIGH = 0.005, 0.995
_WHOLE = frozenset({"bool", "int64", "uint64"})
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shown:
    """One variable: its group, its place in it, its name for people, and whether it counts something."""

    group: InputGroup
    channel: int
    whole: bool

    @property
    def name(self) -> str:
        """``HT`` of ``event``, ``jets: Jet_pt`` of a collection."""
        own = self.group.variables[self.channel].name
        return own if self.group.length is None else f"{self.group.name}: {own}"


@dataclass(frozen=True, slots=True, eq=False)
class InputCounts:
    """Weights of the values of V variables by bin, and how many are missing.

    Parameters
    ----------
    names
        Of the variables, [V].
    read_edges, seen_edges
        [V, B + 1], as read and as the model sees them. What is outside counts in the first and last bin.
    read, seen
        [V, C, B] sums of physics weights by class; of a regression all events are in one.
    missing
        [V] share of the values that are missing in slots that exist.
    left_out
        Variables beyond `MAX_VARIABLES`, which are not counted.
    """

    names: tuple[str, ...]
    read_edges: Floats
    seen_edges: Floats
    read: Floats
    seen: Floats
    missing: Floats
    left_out: int


class InputCounter:
    """Counts the inputs of batches.

    Parameters
    ----------
    spec
        The contract.
    missing
        ``impute`` where the model sees scaled values, ``native`` where it sees them as they are (trees).
    """

    def __init__(self, spec: ModelSpec, missing: Missing) -> None:
        type_of = spec.preprocessor().type_of
        every = [
            Shown(group, channel, type_of(variable.name).dtype in _WHOLE)
            for group in spec.features.inputs
            for channel, variable in enumerate(group.variables)
        ]
        self.shown = every[:MAX_VARIABLES]
        self._left_out = len(every) - len(self.shown)
        self._scaler = Scaler(spec.scaling)
        self._native = missing == "native"
        self._edges = np.array([_edges(one, spec.statistics.groups[one.group.name]) for one in self.shown])
        self._seen_edges = self._as_seen(self._edges)
        # Events of a regression are counted together.
        self._together = not spec.classes
        shape = (len(self.shown), max(len(spec.classes), 1))
        bins = self._edges.shape[1] - 1
        self._read, self._seen = np.zeros((*shape, bins)), np.zeros((*shape, bins))
        self._missing, self._exist = np.zeros(len(self.shown)), np.zeros(len(self.shown))

    def add(self, batch: Batch) -> None:
        """One more batch."""
        scaled = self._transformed(batch.inputs)
        slots = {name: ~np.isnan(one).all(axis=-1) for name, one in batch.inputs.items() if one.ndim == 3}
        for place, one in enumerate(self.shown):
            exists = slots.get(one.group.name)
            values = batch.inputs[one.group.name][..., one.channel]
            seen = scaled[one.group.name][..., one.channel]
            labels, weights = np.zeros_like(batch.labels) if self._together else batch.labels, batch.weights
            if exists is not None:
                event = np.nonzero(exists)[0]
                values, seen, labels, weights = values[exists], seen[exists], labels[event], weights[event]
            self._exist[place] += len(values)
            self._missing[place] += np.count_nonzero(np.isnan(values))
            _count(values, labels, weights, self._edges[place], self._read[place])
            _count(seen, labels, weights, self._seen_edges[place], self._seen[place])

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Count the batches of a stream while they pass."""
        for batch in batches:
            self.add(batch)
            yield batch

    def counts(self) -> InputCounts:
        """What was counted so far."""
        return InputCounts(
            names=tuple(one.name for one in self.shown),
            read_edges=self._edges,
            seen_edges=self._seen_edges,
            read=self._read,
            seen=self._seen,
            missing=self._missing / np.maximum(self._exist, 1),
            left_out=self._left_out,
        )

    def _transformed(self, inputs: Tensors) -> Mapping[str, NDArray[np.float32]]:
        if self._native:
            return unflatten(self._scaler.groups, self._scaler.native(inputs))
        return self._scaler.tensors(inputs)

    def _as_seen(self, edges: Floats) -> Floats:
        """The ranges after the steps of the graph's first part, in bins of one width again."""
        if self._native:
            return edges
        ends = {group.name: np.zeros((2, *group.shape), np.float32) for group in self._scaler.groups}
        for place, one in enumerate(self.shown):
            tensor = ends[one.group.name]
            tensor[..., one.channel] = edges[place, [0, -1]].reshape(2, *(1,) * (tensor.ndim - 2))
        scaled = self._scaler.tensors(ends)
        found = np.empty_like(edges)
        for place, one in enumerate(self.shown):
            low, high = scaled[one.group.name][..., one.channel].reshape(2, -1)[:, 0].tolist()
            found[place] = _even(low, high)
        return found


def _edges(one: Shown, statistics: tuple[FeatureStatistics, ...]) -> Floats:
    """Bins of one width over the central 99 %; one a number where the variable counts few things."""
    found = statistics[one.channel]
    low, high = found.quantile(_LOW) or 0.0, found.quantile(_HIGH) or 0.0
    if one.whole and high - low < BINS:
        return _even(np.floor(low) - 0.5, np.floor(low) - 0.5 + BINS)
    return _even(low, high)


def _even(low: float, high: float) -> Floats:
    return np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, BINS + 1)


def _count(
    values: NDArray[np.float32], labels: NDArray[np.int64], weights: Floats, edges: Floats, counts: Floats
) -> None:
    """Add the weights of values to ``counts`` [C, B]; NaN is left out."""
    held = ~np.isnan(values)
    bins = counts.shape[1]
    position = (values[held].astype(np.float64) - edges[0]) / (edges[-1] - edges[0]) * bins
    place = np.clip(position, 0, bins - 1).astype(np.int64)
    added = np.bincount(labels[held] * bins + place, weights[held], minlength=counts.size)
    counts += added.reshape(counts.shape)
