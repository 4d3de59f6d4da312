"""Whether the best trial beats the default config, event by event on the validation part that both were judged by.

Invariant: the same events stand on both sides, or no difference is given; how many trials the best was chosen from is
part of the answer.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import load_bundle
from mlaas4hep.config import read_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.pace import default_threads
from mlaas4hep.errors import DataError
from mlaas4hep.progress import Progress
from mlaas4hep.report.page import METRICS_FILE
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.targets import TargetScaler
from mlaas4hep.train.figures import positives_of
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.loop import Judged, judge
from mlaas4hep.train.metrics import area_influence
from mlaas4hep.train.tuning.setup import Metric

# A chance below this is called more than a fluctuation.
LEVEL = 0.05
_BATCH = 4096


class Verdict(msgspec.Struct, frozen=True):
    """The best against the default.

    Parameters
    ----------
    difference, error
        Gain of the best, positive where it is better, and its uncertainty from the events that both were judged by.
    events
        So many.
    chance
        That a trial no better than the default gains so much.
    trials
        That the best was chosen from, the default not counted.
    chance_of_best
        That the best of so many does.
    beats
        Whether that is below 0.05.
    """

    difference: float
    error: float
    events: int
    chance: float
    trials: int
    chance_of_best: float
    beats: bool


def verdict_of(gain: float, error: float, *, events: int, trials: int) -> Verdict:
    """The verdict on a measured gain.

    Parameters
    ----------
    gain, error
        Measured on the same events.
    events
        How many.
    trials
        Looks that were taken: the chance is that of the best of so many, as if they were independent.

    Examples
    --------
    >>> one = verdict_of(0.002, 0.001, events=5000, trials=1)
    >>> many = verdict_of(0.002, 0.001, events=5000, trials=20)
    >>> round(one.chance, 4), one.beats, round(many.chance_of_best, 2), many.beats
    (0.0228, True, 0.37, False)
    """
    chance = 0.5 * math.erfc(gain / error / math.sqrt(2)) if error > 0 else 0.0 if gain > 0 else 1.0
    of_best = -math.expm1(trials * math.log1p(-chance)) if chance < 1 else 1.0
    return Verdict(gain, error, events, chance, trials, of_best, gain > 0 and of_best < LEVEL)


def compare_runs(
    best: Path, default: Path, *, metric: Metric, trials: int, max_events: int | None, progress: Progress
) -> Verdict | None:
    """Judge two runs on their validation parts, and compare them event by event.

    Parameters
    ----------
    best, default
        Run directories.
    metric
        ``auc``, or the ``loss`` of a regression: squared residuals in standard units.
    trials
        That the best was chosen from.
    max_events
        Of both trainings.
    progress
        Told event by event.

    Returns
    -------
    None where the two do not see the same events.
    """
    (one, pull), (other, other_pull) = (_influence(run, metric, max_events, progress) for run in (best, default))
    if len(pull.events) != len(other_pull.events) or not np.array_equal(pull.events, other_pull.events):
        return None
    sign = 1 if metric == "auc" else -1
    error = float(np.sqrt(np.sum((pull.pulls - other_pull.pulls) ** 2)))
    return verdict_of(sign * (one - other), error, events=len(pull.pulls), trials=trials)


class _Pulls(msgspec.Struct, frozen=True):
    """By how much each event pulls the figure, float64 [N]; and what tells the events, [N, M]."""

    pulls: NDArray[np.float64]
    events: NDArray[np.float64]


def _influence(run: Path, metric: Metric, max_events: int | None, progress: Progress) -> tuple[float, _Pulls]:
    judged, positives, scaler = _judged(run, max_events, progress)
    told = [judged.labels.astype(np.float64), judged.weights]
    if metric == "auc":
        value, pulls = area_influence(judged.scores, judged.labels, positives, judged.weights)
        return value, _Pulls(pulls, np.stack(told, axis=1))
    if scaler is None or judged.targets is None:
        raise DataError(f"{run}: is no regression, and so has no loss to be compared")
    residuals = scaler.standard(judged.scores) - scaler.standard(judged.targets)
    losses = np.mean(residuals.astype(np.float64) ** 2, axis=1)
    share = judged.weights / judged.weights.sum()
    value = float(np.sum(share * losses))
    told += list(judged.targets.astype(np.float64).T)
    return value, _Pulls(share * (losses - value), np.stack(told, axis=1))


def _judged(run: Path, max_events: int | None, progress: Progress) -> tuple[Judged, list[int], TargetScaler | None]:
    """The validation part by the graph that is served, with physics weights, in the order of the files."""
    config = read_config(run / "config.yaml")
    bundle = load_bundle(run / "model" / config.name)
    with ExitStack() as stack:
        catalogue = Catalogue.open(config)
        if max_events is not None:
            catalogue = limit_events(catalogue, max_events)
        catalogue.leave_out(json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["skipped"])
        catalogue = catalogue.corrected()
        dataset = stack.enter_context(
            EventDataset(
                catalogue,
                Preprocessor(config.features, catalogue.types),
                part="validation",
                batch_size=_BATCH,
                threads=default_threads(),
                max_memory=config.training.max_memory_bytes,
                cache=config.cache,
            )
        )
        progress.start(f"comparing {run.name}")
        judged = judge(bundle.predict, dataset, update=progress.update)
        progress.close()
    spec = bundle.spec
    return judged, positives_of(spec), TargetScaler(spec.targets) if spec.targets else None
