"""Figures of the parts of a run by the graph that will be served, with physics weights.

Training gives those of the parts it has seen, `mlaas4hep.train.evaluate` those of the test part too. Invariant: a
figure that cannot be given is null, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.weights import training_factors
from mlaas4hep.errors import DataError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.calibration import Calibrations, calibration_of
from mlaas4hep.train.dependence import Dependence, dependence_of
from mlaas4hep.train.loop import Judged, judge
from mlaas4hep.train.metrics import Auc, Roc, class_sums, mean_auc, roc_curve, weighted_auc
from mlaas4hep.train.target_figures import TargetPartFigures, target_part

Floats = NDArray[np.float64]
Score = Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]
# Scores of a part are held in memory, 20 bytes an event; so many are enough for the fourth digit of an area.
MAX_TRAIN_EVENTS = 1_000_000


class ClassFigures(msgspec.Struct, frozen=True):
    """Events of one class in one part, the sum of their physics weights, and the area against the rest.

    ``negative`` is how many of them have a negative weight, ``negative_share`` the size of those weights as a share of
    the size of all; null where all weights are zero.
    """

    events: int
    sum_weights: float
    auc: float | None = None
    auc_err: float | None = None
    negative: int = 0
    negative_share: float | None = None


class PartFigures(msgspec.Struct, frozen=True):
    """Figures of one part.

    Parameters
    ----------
    events, negative
        Events judged, and those of negative weight.
    auc, auc_err
        Weighted by physics weights; of several classes the mean of one against the rest.
    loss
        Cross-entropy, weighted as in training.
    classes
        By class.
    reason
        Why a figure is null.
    calibration
        By score; nothing where there is no area.
    dependence
        By score and observer, where the config names observers and the part is held out.
    """

    events: int
    negative: int
    auc: float | None
    auc_err: float | None
    loss: float | None
    classes: dict[str, ClassFigures]
    reason: str | None = None
    calibration: dict[str, Calibrations] = {}
    dependence: dict[str, dict[str, Dependence]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A ROC curve with its area, of one class against the rest; ``part`` and ``name`` say of what."""

    part: str
    name: str
    roc: Roc
    auc: Auc


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Figures by part, and curves of those that have them; of a regression ``targets`` instead of both."""

    parts: dict[str, PartFigures]
    curves: tuple[Curve, ...]
    targets: dict[str, TargetPartFigures] = field(default_factory=dict)


def judge_parts(
    score: Score,
    spec: ModelSpec,
    streams: Mapping[str, tuple[Iterable[Batch], int]],
    *,
    progress: Progress,
    observe: Callable[[Judged], Floats] | None = None,
) -> Judgement:
    """Judge a model on parts of the data.

    Parameters
    ----------
    score
        Raw input groups to scores [n, C].
    spec
        The contract: classes, statistics for the training weights.
    streams
        By part: its batches with physics weights, and its number of events. Of the training part at most
        `MAX_TRAIN_EVENTS` are judged.
    progress
        Told event by event.
    observe
        Gives the observers [N, S] of the events of the validation part.
    """
    judged = {}
    for part, (batches, events) in streams.items():
        progress.start(f"judging the {part} part", total=events)
        judged[part] = judge(
            score, at_most(batches, MAX_TRAIN_EVENTS) if part == "train" else batches, update=progress.update
        )
        progress.close()
    held = judged.get("validation")
    observers = {} if observe is None or held is None else {"validation": observe(held)}
    return judgement_of(judged, spec, observers=observers)


def judgement_of(
    judged: Mapping[str, Judged], spec: ModelSpec, *, observers: Mapping[str, Floats] | None = None
) -> Judgement:
    """Figures and curves of parts whose scores are known; ``observers`` [N, S] of those parts that have them."""
    if spec.task == "regression":
        return Judgement({}, (), {part: target_part(one, spec) for part, one in judged.items()})
    parts: dict[str, PartFigures] = {}
    curves: list[Curve] = []
    for part, one in judged.items():
        parts[part], own = _figures(part, one, spec, (observers or {}).get(part))
        curves.extend(own)
    return Judgement(parts, tuple(curves))


def at_most(batches: Iterable[Batch], events: int) -> Iterable[Batch]:
    """The first batches of a stream, until they hold so many events."""
    taken = 0
    for batch in batches:
        yield batch
        taken += len(batch)
        if taken >= events:
            return


def _figures(part: str, judged: Judged, spec: ModelSpec, observers: Floats | None) -> tuple[PartFigures, list[Curve]]:
    sums = class_sums(judged.labels, judged.weights, len(spec.classes))
    classes = {
        name: ClassFigures(*one, None, None, *_negative(judged.weights[judged.labels == label]))
        for label, (name, one) in enumerate(zip(spec.classes, sums, strict=True))
    }
    negative = int((judged.weights < 0).sum())
    try:
        curves = _curves(part, judged, spec)
        area = _area(judged, curves)
        loss = Judged(judged.scores, judged.labels, _training_weights(judged, spec)).loss()
    except DataError as error:
        return PartFigures(len(judged.labels), negative, None, None, None, classes, str(error)), []
    for curve in curves:
        classes[curve.name] = msgspec.structs.replace(classes[curve.name], auc=curve.auc.value, auc_err=curve.auc.error)
    calibration = {
        name: _calibrations(judged, spec, column, positives_of(spec)[column])
        for column, name in enumerate(spec.score_names)
    }
    found = PartFigures(
        events=len(judged.labels),
        negative=negative,
        auc=area.value,
        auc_err=area.error,
        loss=loss,
        classes=classes,
        calibration={name: one for name, one in calibration.items() if one is not None},
        dependence={} if observers is None or not observers.size else _dependence(judged, spec, observers),
    )
    return found, curves


def _negative(weights: Floats) -> tuple[int, float | None]:
    """Events of negative weight, and their share of the size of all weights."""
    size = float(np.abs(weights).sum())
    share = float(np.abs(weights[weights < 0]).sum()) / size if size else None
    return int(np.count_nonzero(weights < 0)), share


def _calibrations(judged: Judged, spec: ModelSpec, column: int, label: int) -> Calibrations | None:
    scores, own = judged.scores[:, column], judged.labels == label
    try:
        learned = calibration_of(scores, own, _training_weights(judged, spec))
        physics = calibration_of(scores, own, judged.weights)
    except DataError:
        return None  # weights that do not add up to a positive number, or scores that are no probabilities
    return Calibrations(learned, physics, _odds(spec) if len(spec.classes) == 2 else None)


def _odds(spec: ModelSpec) -> float | None:
    """Of two classes, the ratio of signal to background in physics weights over that in training weights."""
    if spec.features.weights.training == "physics":
        return 1.0
    background, signal = (spec.statistics.classes[name] for name in spec.classes)
    physics = signal.sum_weights / background.sum_weights
    learned = 1.0 if spec.features.weights.training == "balanced" else signal.events / background.events
    return physics / learned


def _dependence(judged: Judged, spec: ModelSpec, observers: Floats) -> dict[str, dict[str, Dependence]]:
    return {
        name: {
            observer: dependence_of(
                judged.scores[:, column], judged.labels == label, judged.weights, observers[:, place]
            )
            for place, observer in enumerate(spec.features.observers)
        }
        for column, (name, label) in enumerate(zip(spec.score_names, positives_of(spec), strict=True))
    }


def _curves(part: str, judged: Judged, spec: ModelSpec) -> list[Curve]:
    curves = []
    for column, name in enumerate(spec.score_names):
        scores, own = judged.scores[:, column], judged.labels == spec.classes.index(name)
        roc = roc_curve(scores, own, judged.weights)
        curves.append(Curve(part, name, roc, weighted_auc(scores, own, judged.weights)))
    return curves


def positives_of(spec: ModelSpec) -> list[int]:
    """Label of the class that each score belongs to; none of a regression."""
    if spec.task == "regression":
        return []
    return [spec.classes.index(name) for name in spec.score_names]


def _area(judged: Judged, curves: list[Curve]) -> Auc:
    return curves[0].auc if len(curves) == 1 else mean_auc(judged.scores, judged.labels, judged.weights)


def _training_weights(judged: Judged, spec: ModelSpec) -> NDArray[np.float64]:
    sums = {name: spec.statistics.classes[name] for name in spec.classes}
    factors = training_factors(spec.features.weights.training, sums)
    return np.ones(len(judged.labels)) if factors is None else judged.weights * factors[judged.labels]


def first_rows(batches: Iterable[Batch], number: int) -> dict[str, NDArray[np.float32]]:
    """Raw input groups of the first events of a stream, for the parity gate."""
    taken: list[Batch] = []
    rows = 0
    for batch in islice(batches, number):
        taken.append(batch)
        rows += len(batch)
        if rows >= number:
            break
    if not taken:
        raise DataError("the training part is empty: no rows for the parity gate")
    return {name: np.concatenate([one.inputs[name] for one in taken])[:number] for name in taken[0].inputs}


def plain(judgement: Judgement) -> dict[str, Any]:
    """Figures by part as plain values for JSON."""
    # Through JSON, so that what a run returns is what stands in its file: lists, never tuples.
    figures: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(judgement.targets or judgement.parts))
    return figures


def held_out(judgement: Judgement) -> dict[str, Any]:
    """The figures on the validation part: the best that there are before the test part is opened."""
    if judgement.targets:
        own = judgement.targets.get("validation")
        return {"targets": msgspec.to_builtins(own.targets) if own else {}, "targets_part": "validation"}
    part = judgement.parts.get("validation")
    return {
        "auc": part.auc if part else None,
        "auc_err": part.auc_err if part else None,
        "auc_part": "validation" if part else None,
    }


def accounts(catalogue: Catalogue, counts: Sequence[Counts]) -> list[dict[str, Any]]:
    """Where the entries went, file by file: ``entries = read + not_read``, the latter where fewer were asked for.

    And ``read = selected + cut + unlabelled + quarantined``.
    """
    return [
        {
            "sample": catalogue.samples[file.sample].name,
            "file": Path(file.path).name,
            "tree": file.tree,
            "entries": file.tree_entries or file.num_entries,
            "read": count.read,
            "selected": count.delivered,
            "cut": count.cut,
            "unlabelled": count.unlabelled,
            "quarantined": count.quarantined,
            "not_read": (file.tree_entries or file.num_entries) - count.read,
        }
        for file, count in zip(catalogue.files, counts, strict=True)
    ]
