"""The gate before a bundle is written: the merged graph must give the framework's scores, whatever it is asked.

Real rows, rows on both sides of every tree threshold, rows with missing values, full collections; then law 11.
Invariant: a graph that passes here differs from the framework by at most 1e-6 on a score in [0, 1], or by 1e-5 of the
spread of a regression's target and what float32 rounds away of its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import ParityError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.invariance import BATCHES, Inputs, affordable_batch, batches, find_variance, probe_rows
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import GroupScaling, flatten, unflatten
from mlaas4hep.spec.targets import TargetScaler

SCORE_BAR = 1e-6
REGRESSION_BAR = 1e-5

# At most so many rows of each sort, evenly picked; more prove nothing new and cost seconds.
MAX_REAL_ROWS = 8192
MAX_THRESHOLDS = 8192
MAX_COLUMNS = 512
FULL_ROWS = 256

Reference = Callable[[dict[str, NDArray[np.float32]]], ArrayLike]


class ParityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the gate has seen.

    Parameters
    ----------
    rows
        Rows compared, by sort.
    bar
        Largest difference allowed, as `difference_of` tells it.
    worst
        Largest difference found.
    batch
        Largest batch in which each score was compared with that of its row alone; no larger one is run.
    """

    rows: dict[str, int]
    bar: float
    worst: float
    batch: Annotated[int, msgspec.Meta(ge=1)] = BATCHES[-1]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    sort: str
    flat: NDArray[np.float32]


def check_parity(model: bytes, *, spec: ModelSpec, core: Core, reference: Reference, rows: Inputs) -> ParityReport:
    """Compare the merged graph with the framework it came from, and with itself in other batches.

    Parameters
    ----------
    model
        Merged graph, as it will be written.
    core
        For its thresholds.
    reference
        The framework: raw tensors [n, ...] to scores [n, C] in the order of ``spec.score_names``; of a regression in
        standard units, as its core gives them.
    rows
        Raw tensors of real events, at least 1,000 where there are that many.

    Raises
    ------
    ParityError
        With the worst row, both scores and the difference.
    """
    return check_same(
        model, spec=spec, wanted=lambda batch: _wanted(reference, batch, spec), rows=rows, thresholds=core.thresholds
    )


def check_same(
    model: bytes,
    *,
    spec: ModelSpec,
    wanted: Reference,
    rows: Inputs,
    thresholds: NDArray[np.float64] | None = None,
) -> ParityReport:
    """`check_parity` with scores that are wanted in the units of the contract, whoever gives them."""
    session = Session(model)
    # What it takes to run a graph of fifty layers some 40,000 times nobody waits for.
    batch = affordable_batch(session, probe_rows(spec.scaling, 4))
    sorts = _gate_rows(spec.scaling, thresholds, rows, most=MAX_REAL_ROWS * batch // BATCHES[-1])
    flat = np.concatenate([one.flat for one in sorts])
    inputs = unflatten(spec.scaling, flat)
    served = np.concatenate([session.run(batch) for batch in batches(inputs, BATCHES[-1])])
    asked = np.concatenate([np.asarray(wanted(one), np.float64) for one in batches(inputs, BATCHES[-1])])
    bar = _bar(spec, asked[: len(sorts[0].flat)])
    difference = difference_of(spec, served, asked)
    difference[~np.isfinite(difference)] = np.inf
    if difference.max() > bar:
        raise ParityError(_explain(spec, sorts, served, asked, difference, bar))
    changed = find_variance(model, unflatten(spec.scaling, flat[_evenly(len(flat), batch)]), most=batch)
    if changed:
        raise ParityError(f"model '{spec.name}' breaks batch invariance: {changed[0]}; nothing was written")
    return ParityReport({one.sort: len(one.flat) for one in sorts}, float(bar), float(difference.max()), batch)


def _wanted(reference: Reference, inputs: dict[str, NDArray[np.float32]], spec: ModelSpec) -> NDArray[np.float64]:
    rows = len(next(iter(inputs.values())))
    scores = np.asarray(reference(inputs), np.float64)
    if scores.shape == (rows,):
        scores = scores[:, None]
    if scores.shape != (rows, len(spec.score_names)):
        raise ParityError(
            f"the framework gives scores {list(scores.shape)} for {rows} rows; the contract names "
            f"{len(spec.score_names)}: {', '.join(spec.score_names)}"
        )
    return TargetScaler(spec.targets).restored(scores).astype(np.float64) if spec.targets else scores


def difference_of(spec: ModelSpec, found: NDArray[np.floating], wanted: NDArray[np.floating]) -> NDArray[np.float64]:
    """By how much scores [N, C] differ: as they are, or, of a regression, in units of the target's spread.

    Beyond one spread from the mean it is a share of the distance: a network that runs off far outside of its training
    part does so in float32.
    """
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    if not spec.targets:
        return difference
    scaler = TargetScaler(spec.targets)
    told: NDArray[np.float64] = difference / np.maximum(scaler.scale, np.abs(wanted - scaler.offset))
    return told


def _bar(spec: ModelSpec, wanted: NDArray[np.float64]) -> float:
    """Largest `difference_of` that is allowed."""
    if spec.task != "regression":
        return SCORE_BAR
    if not spec.targets:
        return REGRESSION_BAR * _scale(wanted)
    # A mass of 125 +- 0.001 GeV is not told more finely than float32 holds it.
    scaler = TargetScaler(spec.targets)
    return REGRESSION_BAR + float(np.finfo(np.float32).eps * (1 + np.abs(scaler.offset / scaler.scale).max()))


def _scale(scores: NDArray[np.float64]) -> float:
    return float(np.abs(scores).max(initial=0.0)) or 1.0


def _gate_rows(
    groups: tuple[GroupScaling, ...], thresholds: NDArray[np.float64] | None, rows: Inputs, *, most: int
) -> list[_Rows]:
    """All rows to try, by sort; first real ones, so many at most."""
    real = flatten(groups, rows)
    real = real[_evenly(len(real), most)]
    probes = flatten(groups, probe_rows(groups, 512))
    base = real if len(real) else probes
    sorts = [
        _Rows("real", real),
        _Rows("within the range of the contract", probes),
        _Rows("all missing", _missing_rows(groups, base)),
        _Rows("one value missing", _holes(base)),
        _Rows("full collections", _full_rows(groups, base)),
    ]
    if thresholds is not None and len(thresholds):
        sorts.append(_Rows("next to a tree threshold", _threshold_rows(thresholds, base)))
    return sorts


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` positions, evenly spread, rising."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _missing_rows(groups: tuple[GroupScaling, ...], base: NDArray[np.float32]) -> NDArray[np.float32]:
    """One row without anything, and for each group one row without it."""
    rows = np.resize(base, (len(groups) + 1, base.shape[1]))
    rows[0] = np.nan
    start = 0
    for index, group in enumerate(groups):
        rows[index + 1, start : start + group.width] = np.nan
        start += group.width
    return rows


def _holes(base: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows in which one column after the other is missing."""
    columns = _evenly(base.shape[1], MAX_COLUMNS)
    rows = np.resize(base, (len(columns), base.shape[1]))
    rows[np.arange(len(columns)), columns] = np.nan
    return rows


def _full_rows(groups: tuple[GroupScaling, ...], base: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows without a missing value: gaps are filled with other values of the same feature, of any slot."""
    rows = np.resize(base, (min(FULL_ROWS, len(base)), base.shape[1]))
    values = unflatten(groups, base)
    for name, tensor in unflatten(groups, rows).items():  # shares memory with rows
        for channel in range(tensor.shape[-1]):
            present = values[name][..., channel]
            present = present[~np.isnan(present)]
            gaps = np.isnan(tensor[..., channel])
            filling = np.resize(present, int(gaps.sum())) if len(present) else np.float32(0)
            tensor[..., channel][gaps] = filling
    return rows


def _threshold_rows(thresholds: NDArray[np.float64], base: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each threshold three rows: at the nearest float32 to it, and at that one's neighbours."""
    chosen = thresholds[_evenly(len(thresholds), MAX_THRESHOLDS)]
    columns = np.repeat(chosen[:, 0].astype(np.int64), 3)
    nearest = chosen[:, 1].astype(np.float32)
    below, above = (np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf))
    rows = np.resize(base, (len(columns), base.shape[1]))
    rows[np.arange(len(columns)), columns] = np.stack([below, nearest, above], axis=1).ravel()
    return rows


def _explain(
    spec: ModelSpec,
    sorts: list[_Rows],
    served: NDArray[np.float32],
    wanted: NDArray[np.float64],
    difference: NDArray[np.float64],
    bar: float,
) -> str:
    row, score = np.unravel_index(int(np.argmax(difference)), difference.shape)
    place, sort = int(row), ""
    for one in sorts:
        sort = one.sort
        if place < len(one.flat):
            break
        place -= len(one.flat)
    count = int((difference.max(axis=1) > bar).sum())
    return (
        f"the graph of model '{spec.name}' does not give the framework's scores: worst is row {place} of the rows "
        f"'{sort}', score '{spec.score_names[score]}': graph {served[row, score]:.9g}, framework "
        f"{wanted[row, score]:.9g}, difference {difference[row, score]:.2e}, allowed {bar:.1e}; {count} of "
        f"{len(served)} rows are over it; nothing was written"
    )
