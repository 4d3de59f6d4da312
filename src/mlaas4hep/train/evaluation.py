"""All figures of an evaluation, computed from the scores that were kept.

Nothing here opens a file of events: the same scores give the same figures whenever they are asked for. Invariant: a
figure that cannot be given is null; every figure on the page of a run stands in this value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.counting import (
    MIN_BACKGROUND_EVENTS,
    Scan,
    Weighed,
    Yield,
    scale_factors,
    scan_cuts,
    total_yield,
    yields_after,
    yields_before,
)
from mlaas4hep.train.distributions import KolmogorovSmirnov, weighted_ks
from mlaas4hep.train.figures import Curve, Judgement, PartFigures, judgement_of, positives_of
from mlaas4hep.train.importance import Importance
from mlaas4hep.train.kept import Kept
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.metrics import Auc, bootstrap_areas
from mlaas4hep.train.over_folds import FoldAreas, fold_areas
from mlaas4hep.train.processes import Processes, processes_of
from mlaas4hep.train.shifts import above
from mlaas4hep.train.variations import Nominal, Variation, variations_of

SEED = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be asked of an evaluation without opening the events again.

    Parameters
    ----------
    background_uncertainty
        Relative uncertainty of the background in the significance.
    replicas
        Of the bootstrap.
    """

    background_uncertainty: float = 0.1
    replicas: int = 200


class Area(msgspec.Struct, frozen=True):
    """An area of the test part with its uncertainty by bootstrap and, to check, by the influence of single events."""

    auc: float
    auc_err: float
    auc_err_analytic: float


class Importances(msgspec.Struct, frozen=True):
    """Fall of the area by permuted input, the largest first: name, fall, uncertainty, whether a whole collection."""

    events: int
    repeats: int
    inputs: tuple[tuple[str, float, float, bool], ...]


class Matrix(msgspec.Struct, frozen=True):
    """Shares of each true class (rows) by the class it is taken for, with uncertainties; null without events."""

    rule: str
    shares: tuple[tuple[float | None, ...], ...]
    errors: tuple[tuple[float | None, ...], ...]


class Counting(msgspec.Struct, frozen=True):
    """Cuts on the score of one class, taken as signal, and yields before and at the best of them."""

    scan: Scan
    signal_before: Yield
    background_before: Yield
    samples: dict[str, Yield]
    signal: Yield
    background: Yield


class Evaluation(msgspec.Struct, frozen=True):
    """Figures of a run.

    Parameters
    ----------
    auc, auc_err, auc_err_analytic
        Of the test part; of several classes the mean of one against the rest. Null with ``reason``.
    replicas
        Of the bootstrap.
    parts
        As `mlaas4hep.train.figures` gives them.
    classes
        Area of each class against the rest, test part.
    compatibility
        By score and class: Kolmogorov-Smirnov between training and test part.
    confusion
        Of the test part; null where it is empty.
    importance
        Null where the test part gives no area.
    before
        Expected events of each sample before any cut.
    scales
        By sample, what the test part was multiplied by.
    counting
        By class taken as signal.
    background_uncertainty
        Relative, as asked for.
    min_background_events
        That a best cut keeps at least, simulated and in the test part.
    lumi_fb
        Integrated luminosity; null where no sample has a cross-section.
    sample_classes
        Class of each sample; a sample with events of several classes stands there once a class.
    left_out
        Inputs that are not pictured.
    model_sha256
        Of the graph that gave the scores; with folds that of their mean.
    training_weights
        What the model learned with: ``balanced``, ``physics`` or ``none``.
    variations
        By name, what systematic variations change.
    folds
        With folds, the areas of each: the test part then holds the out-of-fold scores of all events.
    """

    auc: float | None
    auc_err: float | None
    auc_err_analytic: float | None
    reason: str | None
    replicas: int
    parts: dict[str, PartFigures]
    classes: dict[str, Area]
    compatibility: dict[str, dict[str, KolmogorovSmirnov | None]]
    confusion: Matrix | None
    importance: Importances | None
    before: dict[str, Yield]
    scales: dict[str, float | None]
    counting: dict[str, Counting]
    background_uncertainty: float
    min_background_events: int
    lumi_fb: float | None
    sample_classes: dict[str, str]
    left_out: int
    model_sha256: str
    training_weights: str = "balanced"
    variations: dict[str, Variation] = {}
    folds: FoldAreas | None = None

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures: dict[str, Any] = msgspec.to_builtins(self)
        return figures


def evaluation_of(
    kept: Kept,
    spec: ModelSpec,
    *,
    sample_classes: Mapping[str, str | None],
    settings: Settings,
    lumi_fb: float | None,
    model_sha256: str,
) -> tuple[Evaluation, Sequence[Curve]]:
    """Compute it, and the ROC curves to draw.

    Parameters
    ----------
    kept
        Scores by part.
    spec
        The contract: classes, names of scores, statistics of the samples.
    sample_classes
        Class of each sample, in the order of the catalogue; None where its events have each their own.
    settings
        What was asked for.
    lumi_fb
        Integrated luminosity that the weights are for; None where no sample has a cross-section.
    model_sha256
        Of the graph that gave the scores.
    """
    judged = {part: one.judged for part, one in kept.parts.items()}
    observers = {part: one.observers for part, one in kept.parts.items() if one.observers is not None}
    judgement = judgement_of(judged, spec, observers=observers)
    test = judged.get("test")
    area, classes = _areas(judgement, test, spec, settings.replicas)
    figures = judgement.parts.get("test")
    kinds = processes_of(spec.statistics.samples, sample_classes, spec.classes, kept.parts.get("test"))
    scales: dict[str, float | None] = dict.fromkeys(kinds.counts)
    counting = {}
    if test is not None:
        scales = scale_factors(kinds.counts, test, kinds.places)
        counting = {name: _count(test, kinds, scales, spec, name, settings) for name in spec.score_names}
    evaluation = Evaluation(
        auc=area.auc if area else None,
        auc_err=area.auc_err if area else None,
        auc_err_analytic=area.auc_err_analytic if area else None,
        reason=(figures.reason if figures else "the split keeps no test part"),
        replicas=settings.replicas,
        parts=judgement.parts,
        classes=classes,
        compatibility={name: _compatibility(judged, spec, column) for column, name in enumerate(spec.score_names)},
        confusion=confusion_of(test, spec) if test else None,
        importance=importances(kept.importance) if kept.importance else None,
        before=yields_before(kinds.counts),
        scales=scales,
        counting=counting,
        background_uncertainty=settings.background_uncertainty,
        min_background_events=MIN_BACKGROUND_EVENTS,
        lumi_fb=lumi_fb,
        sample_classes=kinds.classes,
        left_out=kept.inputs.left_out,
        model_sha256=model_sha256,
        training_weights=spec.features.weights.training,
        variations=_variations(kept, kinds, scales, counting, spec, settings),
        folds=fold_areas(kept.parts["test"], spec) if test is not None else None,
    )
    return evaluation, judgement.curves


def _variations(
    kept: Kept,
    kinds: Processes,
    scales: Mapping[str, float | None],
    counting: Mapping[str, Counting],
    spec: ModelSpec,
    settings: Settings,
) -> dict[str, Variation]:
    test = kept.parts.get("test")
    if test is None or not kept.shifts:
        return {}
    judged = test.judged
    places = test.samples * len(spec.classes) + judged.labels
    size = kept.shifts[0].sums[0].shape[1]
    cells = np.full(size, -1, np.int64)
    cells[places] = kinds.places
    cuts = [np.array(one.scan.cuts) for one in counting.values()]
    columns = [judged.scores[:, column].astype(np.float64) for column in range(len(cuts))]
    sums, squares = (
        [above(scores, weights, places, at, size) for scores, at in zip(columns, cuts, strict=True)]
        for weights in (judged.weights, judged.weights**2)
    )
    scans = {name: one.scan for name, one in counting.items()}
    nominal = Nominal(sums, squares, scans, kinds, cells, scales, settings.background_uncertainty)
    return variations_of(kept.shifts, nominal, spec.features.variations)


def _areas(
    judgement: Judgement, test: Judged | None, spec: ModelSpec, replicas: int
) -> tuple[Area | None, dict[str, Area]]:
    """Of the whole and of each class, with the spread of the bootstrap; nothing where there is no area."""
    figures = judgement.parts.get("test")
    if test is None or figures is None or figures.auc is None or figures.auc_err is None:
        return None, {}
    positives = positives_of(spec)
    areas = bootstrap_areas(test.scores, test.labels, positives, test.weights, replicas=replicas, seed=SEED)
    spread = np.nanstd(areas, axis=0, ddof=1)
    whole = Area(figures.auc, float(np.nanstd(areas.mean(axis=1), ddof=1)), figures.auc_err)
    own: dict[str, Auc] = {curve.name: curve.auc for curve in judgement.curves if curve.part == "test"}
    classes = {
        name: Area(own[name].value, float(error), own[name].error)
        for name, error in zip(spec.score_names, spread, strict=True)
    }
    return whole, classes


def _compatibility(judged: Mapping[str, Judged], spec: ModelSpec, column: int) -> dict[str, KolmogorovSmirnov | None]:
    """Of one score, class by class; None where a part lacks the class."""
    found: dict[str, KolmogorovSmirnov | None] = {}
    for label, name in enumerate(spec.classes):
        samples = []
        for part in ("train", "test"):
            one = judged.get(part)
            own = one.labels == label if one is not None else None
            samples.append(None if one is None else (one.scores[own, column], one.weights[own]))
        found[name] = _ks(samples)
    return found


def _ks(samples: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]] | None]) -> KolmogorovSmirnov | None:
    one, other = samples
    if one is None or other is None:
        return None
    try:
        return weighted_ks(one[0], other[0], one[1], other[1])
    except DataError:
        return None  # a class without weight in one of the parts has no distribution


def confusion_of(judged: Judged, spec: ModelSpec) -> Matrix:
    """Which class is taken for which, by weight."""
    count = len(spec.classes)
    if judged.scores.shape[1] == 1:
        chosen = (judged.scores[:, 0] >= 0.5).astype(np.int64)
        rule = f"score of {spec.score_names[0]} >= 0.5"
    else:
        chosen, rule = np.argmax(judged.scores, axis=1), "largest score"
    cell = judged.labels * count + chosen
    sums = np.bincount(cell, judged.weights, minlength=count * count).reshape(count, count)
    squares = np.bincount(cell, judged.weights**2, minlength=count * count).reshape(count, count)
    totals = sums.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(totals > 0, sums / totals, np.nan)
        # Of a weighted share p: (1 - p)^2 of the squares inside and p^2 of those outside.
        variances = (1 - shares) ** 2 * squares + shares**2 * (squares.sum(axis=1, keepdims=True) - squares)
        errors = np.sqrt(variances) / np.abs(totals)
    return Matrix(rule, _rows(shares), _rows(errors))


def _rows(values: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(float(one) if np.isfinite(one) else None for one in row) for row in values)


def importances(found: Importance) -> Importances:
    """Falls by permuted input, the largest first."""
    means = found.drops.mean(axis=1)
    order = np.argsort(-means, kind="stable")
    inputs = tuple(
        (found.inputs[n].name, float(means[n]), float(found.errors[n]), found.inputs[n].channel is None) for n in order
    )
    return Importances(found.events, found.drops.shape[1], inputs)


def _count(
    test: Judged,
    kinds: Processes,
    scales: Mapping[str, float | None],
    spec: ModelSpec,
    signal: str,
    settings: Settings,
) -> Counting:
    factors = np.array([0.0 if scale is None else scale for scale in scales.values()])
    column = spec.score_names.index(signal)
    events = Weighed(
        test.scores[:, column].astype(np.float64),
        test.labels == spec.classes.index(signal),
        test.weights * factors[kinds.places],
        kinds.places,
    )
    scan = scan_cuts(events, uncertainty=settings.background_uncertainty)
    cut = scan.best_cut
    samples = {} if cut is None else yields_after(events, scales, cut)
    before = yields_before(kinds.counts)
    return Counting(scan, *_by_kind(before, kinds.classes, signal), samples, *_by_kind(samples, kinds.classes, signal))


def _by_kind(samples: Mapping[str, Yield], sample_classes: Mapping[str, str], signal: str) -> tuple[Yield, Yield]:
    """Signal and background: the samples of one class, and all others."""
    own = [one for name, one in samples.items() if sample_classes[name] == signal]
    others = [one for name, one in samples.items() if sample_classes[name] != signal]
    return total_yield(own), total_yield(others)
