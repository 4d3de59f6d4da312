"""Permutation importance: by how much the area, or R2, falls when one input no longer belongs to its event.

A variable of a collection is exchanged between events with equally many objects, over all its slots at once, so that no
object appears or goes; a whole collection is exchanged between all events. Invariant: only the input asked about is
touched, and the numbers drawn follow from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.graph.session import Inputs
from mlaas4hep.spec.features import InputGroup
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.metrics import area_influence
from mlaas4hep.train.residuals import mean_explained

Floats = NDArray[np.float64]
Tensors = dict[str, NDArray[np.float32]]
REPEATS = 5
# Events that are scored in all: repeats x inputs x rows; a tree ensemble scores some 50,000 a second.
BUDGET = 400_000
MIN_ROWS, MAX_ROWS = 1_000, 20_000


@dataclass(frozen=True, slots=True)
class Permuted:
    """What is permuted: a variable of a group, or the whole group where ``channel`` is None."""

    group: str
    channel: int | None
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """Falls of the area, or of a regression of R2.

    Parameters
    ----------
    inputs
        What was permuted, I of them.
    drops
        float64 [I, R]: fall in each repeat.
    errors
        float64 [I]: statistical uncertainty of the mean fall, from the events and from the repeats.
    events
        Events it was measured on.
    """

    inputs: tuple[Permuted, ...]
    drops: Floats
    errors: Floats
    events: int


def permuted_inputs(groups: Sequence[InputGroup]) -> tuple[Permuted, ...]:
    """Every variable, and every collection as a whole."""
    return tuple(_permuted(groups))


def _permuted(groups: Sequence[InputGroup]) -> Iterator[Permuted]:
    for group in groups:
        for channel, variable in enumerate(group.variables):
            name = variable.name if group.length is None else f"{group.name}: {variable.name}"
            yield Permuted(group.name, channel, name)
        if group.length is not None:
            yield Permuted(group.name, None, f"{group.name}: all and their number")


def rows_for(inputs: int, events: int) -> int:
    """How many events are enough to measure so many inputs on, within the `BUDGET`."""
    return min(events, MAX_ROWS, max(MIN_ROWS, BUDGET // (REPEATS * max(inputs, 1))))


def permutation_importance(
    score: Callable[[Inputs], NDArray[np.float32]],
    inputs: Tensors,
    judged: Judged,
    *,
    groups: Sequence[InputGroup],
    positives: Sequence[int] = (),
    seed: int,
    update: Callable[[int], None] = lambda _: None,
) -> Importance:
    """Measure it.

    Parameters
    ----------
    score
        Raw input groups to scores [N, C].
    inputs
        Raw tensors of N events.
    judged
        Their scores, labels and weights.
    groups
        The declaration.
    positives
        Label of the class that each score belongs to; none of a regression.
    seed
        Of the permutations.
    update
        Told the number of events of each scoring.

    Raises
    ------
    DataError
        The events give no such figure.
    """
    base, pull = _figure(judged, judged.scores, positives)
    asked = permuted_inputs(groups)
    random = np.random.default_rng(seed)
    drops, errors = np.empty((len(asked), REPEATS)), np.empty(len(asked))
    for place, one in enumerate(asked):
        variances = []
        for repeat in range(REPEATS):
            scores = score(permute(inputs, one, random))
            figure, other = _figure(judged, scores, positives)
            drops[place, repeat] = base - figure
            # The same events stand in both figures: their pulls are subtracted event by event.
            variances.append(float(np.sum((pull - other) ** 2)))
            update(len(judged.labels))
        errors[place] = np.sqrt(np.mean(variances) + drops[place].var(ddof=1) / REPEATS)
    return Importance(asked, drops, errors, len(judged.labels))


def _figure(judged: Judged, scores: NDArray[np.float32], positives: Sequence[int]) -> tuple[float, Floats]:
    """The area, or of a regression the mean R2 of the targets, and by how much each event pulls it."""
    if judged.targets is not None:
        return mean_explained(scores, judged.targets, judged.weights)
    return area_influence(scores, judged.labels, positives, judged.weights)


def permute(inputs: Tensors, one: Permuted, random: np.random.Generator) -> Tensors:
    """The tensors with one input exchanged between events; what is not touched is shared with the original."""
    tensor = inputs[one.group]
    if one.channel is None:
        return {**inputs, one.group: tensor[random.permutation(len(tensor))]}
    changed = tensor.copy()
    donors = _within(_pattern(tensor), random) if tensor.ndim == 3 else random.permutation(len(tensor))
    changed[..., one.channel] = tensor[donors][..., one.channel]
    return {**inputs, one.group: changed}


def _pattern(tensor: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of the pattern of slots that hold an object, for each event."""
    exists = ~np.isnan(tensor).all(axis=-1)
    found: NDArray[np.int64] = np.unique(exists, axis=0, return_inverse=True)[1].reshape(-1)
    return found


def _within(kinds: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """A permutation that keeps each place's kind."""
    donors = np.empty(len(kinds), np.int64)
    sorted_places = np.argsort(kinds, kind="stable")
    shuffled = np.lexsort((random.random(len(kinds)), kinds))
    donors[sorted_places] = shuffled
    return donors
