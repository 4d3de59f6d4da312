"""How well any model of a config does on events that it has not seen: train its folds, open them, one figure.

Invariant: every selected event counts once, by the score of the model that it neither trained, stopped nor scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from mlaas4hep.arguments import require, whole
from mlaas4hep.config import Config
from mlaas4hep.errors import UserError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.features import MAX_FOLDS
from mlaas4hep.train.evaluate import evaluate
from mlaas4hep.train.evaluation import Settings
from mlaas4hep.train.over_folds import FoldAreas
from mlaas4hep.train.resume import Unfinished
from mlaas4hep.train.run import train


@dataclass(frozen=True, slots=True)
class CrossValidated:
    """What `cross_validate` found.

    Parameters
    ----------
    run
        The run directory; its ``scores.npz`` has score, fold, file and entry of each event, so that two models can be
        compared event by event.
    events
        Scored.
    auc, auc_err
        Of all out-of-fold scores together, physics weights; of several classes the mean of one against the rest. The
        uncertainty is that of bootstrap replicas.
    folds
        The same fold by fold, with their mean and spread.
    """

    run: Path
    events: int
    auc: float
    auc_err: float | None
    folds: FoldAreas


def cross_validate(
    config: Config,
    *,
    folds: int | None = None,
    output: str | Path | None = None,
    seed: int | None = None,
    max_events: int | None = None,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished = "refuse",
) -> CrossValidated:
    """Out-of-fold area of a config with any ``model``.

    Parameters
    ----------
    config
        Of classes; its ``split.folds`` says how many folds.
    folds
        Instead of that; also for a config without folds, whose test part they then take the place of.
    output, seed, max_events, threads, progress, unfinished
        As for `mlaas4hep.train.run.train`. The folds hang on ``split.seed`` alone: another seed trains other models on
        the same folds.
    settings
        Of the bootstrap.

    Raises
    ------
    UserError
        As training and evaluation do; no folds, or no area.
    """
    require(config, Config, "config", hint="read_config('config.yaml') reads one")
    features = config.features
    if folds is not None:
        folds = whole(folds, "folds", least=2, most=MAX_FOLDS)
        split = replace(features.split, folds=folds, test=0.0)
        config = replace(config, features=replace(features, split=split))
    if not config.features.split.in_folds:
        raise UserError(f"{config.path}: has no folds; say split: {{folds: 5}}, or folds=5")
    run = train(
        config,
        output=output,
        seed=seed,
        max_events=max_events,
        threads=threads,
        progress=progress,
        unfinished=unfinished,
    )
    found = evaluate(run.path, settings=settings, threads=threads, progress=progress).evaluation
    if found.auc is None or found.folds is None:
        raise UserError(f"{run.path}: the out-of-fold scores give no area: {found.reason}")
    return CrossValidated(run.path, sum(found.folds.events), found.auc, found.auc_err, found.folds)
