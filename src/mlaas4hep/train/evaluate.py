"""``mlaas4hep evaluate``: the test part of a run is opened once, and what was found is kept in the run.

::

    RUN/scores.npz        scores, labels and physics weights of all parts: a second evaluation reads these
    RUN/evaluation.json   every figure
    RUN/report.html       the page, with the pictures in RUN/pictures

The graph is that of the bundle, the config the one the run was trained with. Invariant: events, selection, split and
weights are those of the training, counted and compared sample by sample, or nothing is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.arguments import path_of
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.config import Config, read_config
from mlaas4hep.errors import UserError
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.train.draw import write_evaluation
from mlaas4hep.train.draw_targets import write_target_evaluation
from mlaas4hep.train.evaluation import Evaluation, Settings, evaluation_of
from mlaas4hep.train.fold_scoring import score_folds
from mlaas4hep.train.folds import read_folds
from mlaas4hep.train.kept import SCORES_FILE, Kept, read_kept, write_kept
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.scoring import score_parts
from mlaas4hep.train.target_evaluation import TargetEvaluation, target_evaluation


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedRun:
    """A run with its figures.

    Parameters
    ----------
    path
        The run directory.
    metrics
        What training wrote.
    found
        All figures; of a regression those of its targets.
    test
        Scores of the test part; None where it is empty.
    opened
        Whether the test part was opened now; False where its scores had been kept.
    """

    path: Path
    metrics: dict[str, Any]
    found: Evaluation | TargetEvaluation
    test: Judged | None
    opened: bool

    @property
    def evaluation(self) -> Evaluation:
        """The figures of classes; `UserError` of a regression, whose figures are `targets`."""
        if isinstance(self.found, TargetEvaluation):
            raise UserError(f"{self.path}: is a regression of {', '.join(self.found.test)}; it has no classes")
        return self.found

    @property
    def targets(self) -> TargetEvaluation | None:
        """The figures of a regression; None of classes."""
        return self.found if isinstance(self.found, TargetEvaluation) else None

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What training left behind."""

    path: Path
    metrics: dict[str, Any]
    config: Config
    bundle: Bundle


def evaluate(
    run: str | Path,
    *,
    settings: Settings | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EvaluatedRun:
    """Open the test part of a run, or read what was kept of it, and write figures, pictures and page into the run.

    Parameters
    ----------
    run
        The directory that `mlaas4hep.train.run.train` wrote.
    settings
        Of the significance and the bootstrap.
    threads
        That read ahead; changes speed only.
    progress
        Told how far it is.

    Raises
    ------
    UserError
        No run, one that was changed since it was trained, or files that hold other events now.
    """
    opened = _read_run(path_of(run, "run"))
    told = progress or Silent()
    spec = opened.bundle.spec
    kept, first = _kept(opened, threads, told)
    told.start("computing figures and pictures", unit="steps")
    evaluation: Evaluation | TargetEvaluation
    if spec.task == "regression":
        evaluation = target_evaluation(kept, spec, model_sha256=opened.bundle.model_sha256)
        write_target_evaluation(opened.path, evaluation, kept)
    else:
        evaluation, curves = evaluation_of(
            kept,
            spec,
            sample_classes={name: opened.config.label_of(name) for name in opened.config.simulated},
            settings=settings or Settings(),
            lumi_fb=_luminosity(opened.config),
            model_sha256=opened.bundle.model_sha256,
        )
        write_evaluation(opened.path, evaluation, kept, curves, spec.classes)
    for line in opened.config.unused():
        told.note(line)
    told.close()
    test = kept.parts.get("test")
    return EvaluatedRun(opened.path, opened.metrics, evaluation, test.judged if test else None, first)


def _kept(run: _Run, threads: int | None, progress: Progress) -> tuple[Kept, bool]:
    """Scores of the events, and whether they were opened for it."""
    path, sha256 = run.path / SCORES_FILE, run.bundle.model_sha256
    if path.exists():
        progress.note(f"{run.path}: the test part was opened before; all is made from what {SCORES_FILE} keeps of it")
        return read_kept(path, model_sha256=sha256, groups=run.bundle.spec.features.inputs), False
    split = run.config.features.split
    if split.in_folds:
        kept = score_folds(
            run.config,
            run.bundle,
            read_folds(run.path, split.num_folds),
            max_events=run.metrics["max_events"],
            threads=threads,
            progress=progress,
        )
        write_kept(kept, path, model_sha256=sha256)
        return kept, True
    kept = score_parts(
        run.config,
        run.bundle,
        missing=run.metrics["missing_inputs"],
        max_events=run.metrics["max_events"],
        skipped=run.metrics.get("skipped", ()),
        lost={one["sample"]: one["entries"] for one in run.metrics.get("lost_after_scan", ())},
        threads=threads,
        progress=progress,
    )
    write_kept(kept, path, model_sha256=sha256)
    return kept, True


def _read_run(path: Path) -> _Run:
    needed = [path / name for name in ("metrics.json", "config.yaml", "model")]
    missing = [one.name for one in needed if not one.exists()]
    if missing:
        held = ", ".join(sorted(one.name for one in path.iterdir())[:12]) if path.is_dir() else "nothing: is not there"
        raise UserError(
            f"{path}: is no run directory: lacks {', '.join(missing)}; it holds {held or 'nothing'}. A run is what "
            "'mlaas4hep train CONFIG' writes"
        )
    metrics = _read_metrics(needed[0])
    config = read_config(needed[1])
    bundle = load_bundle(path / "model" / config.name)
    if config.features != bundle.spec.features:
        raise UserError(f"{needed[1]}: declares other events or inputs than the model was trained with")
    return _Run(path, metrics, config, bundle)


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is damaged: {error}") from error
    lacking = [name for name in ("missing_inputs", "max_events") if name not in metrics]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}; the run was written by another version of this program")
    found: dict[str, Any] = metrics
    return found


def _luminosity(config: Config) -> float | None:
    """Of the eras that samples with a cross-section belong to, together; None where no sample has one."""
    used = {config.samples[name].era for name in config.simulated if config.samples[name].xsec_pb is not None}
    return sum(config.eras[era].lumi_fb if era is not None else 1.0 for era in used) if used else None
