"""``mlaas4hep evaluate``: open the test part of a run, once, and say what the model is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.progress import Progress
    from mlaas4hep.train.evaluate import EvaluatedRun
    from mlaas4hep.train.evaluation import Settings
    from mlaas4hep.train.over_folds import FoldAreas
    from mlaas4hep.train.target_evaluation import TargetEvaluation


@click.command(
    epilog="""\b
Examples:
  mlaas4hep evaluate runs/tth                               # writes runs/tth/report.html
  mlaas4hep evaluate runs/tth --background-uncertainty 0.3  # again, without opening the events again
  mlaas4hep evaluate runs/mlp runs/bdt -o runs/mlp-bdt      # each, and one page that compares them
  mlaas4hep evaluate runs/* -o compared                     # all runs of a folder, the best first
  mlaas4hep evaluate runs/tth --json | tail -1              # one line of figures for scripts

\b
Choose models, inputs and settings by the figures of 'train', which are of the validation part. The test part is for
the figure that you quote: who looks at it to choose, fits it.
"""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of a comparison.  [default: runs/comparison]"
)
@click.option(
    "--background-uncertainty",
    type=click.FloatRange(0.0),
    default=0.1,
    show_default=True,
    help="Relative uncertainty of the background, for the significance.",
)
@click.option(
    "--bootstrap", type=click.IntRange(20), default=200, show_default=True, help="Replicas for the uncertainty of AUCs."
)
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead; changes speed only.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON line of figures on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    runs: tuple[Path, ...],
    output: Path | None,
    background_uncertainty: float,
    bootstrap: int,
    threads: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Open the test part of each RUN and judge the model on it: figures, pictures and a page.

    \b
      RUN/report.html           the page; its pictures are in RUN/pictures
      RUN/evaluation.json       its figures
      RUN/scores.npz            what is kept of the events: a second evaluation reads this, and says so

    Several runs are also compared on one page: a table with the largest area first, ROC curves and calibrations over
    each other, and the difference of each pair of runs, taken event by event.

    Observers and systematic variations of the config are read with the test part, once.
    """
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.compare import compare
    from mlaas4hep.train.evaluation import Settings

    if output is not None and len(runs) == 1:
        raise click.UsageError("-o is the folder of a comparison: give several runs. One run gets its page in itself")
    settings = Settings(background_uncertainty=background_uncertainty, replicas=bootstrap)
    bars = Bars(show=progress)
    if len(runs) > 1:
        runs = _without_comparisons(runs, bars)
    try:
        done = [evaluate_run(run, bars, settings=settings, threads=threads) for run in runs]
        page = compare(done, output=output) if len(done) > 1 else done[0].report
    finally:
        bars.close()
    click.echo(_as_json(done, page) if as_json else _as_text(done, page))


def _without_comparisons(runs: tuple[Path, ...], progress: Progress) -> tuple[Path, ...]:
    """A pattern such as ``runs/*`` finds the folders of earlier comparisons too."""
    left = []
    for run in runs:
        if (run / "comparison.json").exists() and not (run / "config.yaml").exists():
            progress.note(f"{run}: is a comparison, not a run: left out")
        else:
            left.append(run)
    return tuple(left) or runs


def evaluate_run(
    run: Path, progress: Progress, *, settings: Settings | None = None, threads: int | None = None
) -> EvaluatedRun:
    """One run, for this command and those that end with it."""
    from mlaas4hep.train.evaluate import evaluate

    return evaluate(run, settings=settings, threads=threads, progress=progress)


def figures(run: EvaluatedRun) -> dict[str, Any]:
    """What a script wants to know of the test part of a run."""
    if run.targets is not None:
        return _target_figures(run, run.targets)
    evaluation = run.evaluation
    part = evaluation.parts.get("test")
    cuts = {name: one.scan for name, one in evaluation.counting.items()}
    folds = evaluation.folds
    of_folds = {} if folds is None else {"auc_mean": folds.areas.mean, "auc_mean_err": folds.areas.error}
    return {
        "auc": evaluation.auc,
        "auc_err": evaluation.auc_err,
        "auc_err_analytic": evaluation.auc_err_analytic,
        "auc_part": "test" if folds is None else "out of fold",
        **of_folds,
        "events_test": part.events if part else 0,
        "loss": part.loss if part else None,
        "best_cut": {name: scan.best_cut for name, scan in cuts.items()},
        "best_significance": {
            name: None if scan.best is None else scan.uncertain[scan.best] for name, scan in cuts.items()
        },
        "crossed_significance": {name: scan.crossed for name, scan in cuts.items()},
        "test_part_opened": run.opened,
        "run": str(run.path.absolute()),
        "report": str(run.report.absolute()),
    }


def _target_figures(run: EvaluatedRun, evaluation: TargetEvaluation) -> dict[str, Any]:
    part = evaluation.plain()["parts"].get("test")
    return {
        "targets": part["targets"] if part else {},
        "targets_part": "test",
        "events_test": part["events"] if part else 0,
        "loss": part["loss"] if part else None,
        "test_part_opened": run.opened,
        "run": str(run.path.absolute()),
        "report": str(run.report.absolute()),
    }


def describe(run: EvaluatedRun) -> list[str]:
    """What people want to know of it, line by line."""
    from mlaas4hep.report.page import chance

    if run.targets is not None:
        return describe_parts(run.targets.plain()["parts"])
    evaluation = run.evaluation
    plain = evaluation.plain()["parts"]
    if "test" in plain:
        plain["test"]["auc_err"] = evaluation.auc_err
    lines = [*describe_parts(plain), *_describe_folds(evaluation.folds)]
    if len(evaluation.classes) > 1:
        lines += [f"  {name}: AUC {one.auc:.4f} +- {one.auc_err:.4f}" for name, one in evaluation.classes.items()]
    for score, classes in evaluation.compatibility.items():
        found = [f"{name} {chance(one.p_value)}" for name, one in classes.items() if one is not None]
        if found:
            lines.append(f"  score of {score}: train against test, Kolmogorov-Smirnov p-value: {', '.join(found)}")
    of = "expected significance" if evaluation.lumi_fb is not None else "significance of the sums of weights"
    for name, one in evaluation.counting.items():
        if one.scan.best is not None:
            best = one.scan.uncertain[one.scan.best]
            crossed = one.scan.crossed
            told = "" if crossed is None else f"; {crossed:.3g} where half the events choose the cut of the others"
            lines.append(f"  score of {name} >= {one.scan.best_cut:.4f}: {of} {best:.3g}{told}")
    return lines


def _describe_folds(folds: FoldAreas | None) -> Iterator[str]:
    """What the test part is where it is made of folds."""
    if folds is None:
        return
    yield "  the test part is all events, each scored by the one model that has not seen it"
    areas = folds.areas
    told = ", ".join("-" if one is None else f"{one:.4f}" for one in areas.values)
    if areas.mean is not None and areas.spread is not None and areas.error is not None:
        told += f"; mean {areas.mean:.4f} +- {areas.error:.4f}, spread {areas.spread:.4f}"
    yield f"  AUC fold by fold: {told}"


def describe_parts(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Events, area and loss of each part; of a regression resolution, bias and RMSE of each target."""
    lines = []
    for name, part in parts.items():
        if "targets" in part:
            lines += _describe_targets(name, part)
            continue
        area = f"AUC {part['auc']:.4f} +- {part['auc_err']:.4f}" if part["auc"] is not None else part["reason"]
        loss = f", loss {part['loss']:.4f}" if part["loss"] is not None else ""
        lines.append(f"  {name:<11}{part['events']:>10,} events  {area}{loss}")
    return lines


def _describe_targets(name: str, part: Mapping[str, Any]) -> list[str]:
    from mlaas4hep.report.page import measured

    loss = f", loss {part['loss']:.4f}" if part["loss"] is not None else ""
    lines = [f"  {name:<11}{part['events']:>10,} events{loss}{'' if part['targets'] else '  ' + part['reason']}"]
    for target, one in part["targets"].items():
        told = ", ".join(
            f"{words} {measured(one[key], one[key + '_err']).replace('±', '+-')}"
            for words, key in (("resolution", "resolution"), ("bias", "bias"), ("RMSE", "rmse"), ("R2", "r2"))
        )
        lines.append(f"    {target}: {told}")
    return lines


def _as_json(runs: list[EvaluatedRun], page: Path) -> str:
    import json

    if len(runs) == 1:
        return json.dumps(figures(runs[0]))
    return json.dumps({"runs": [figures(run) for run in runs], "report": str(page.absolute())})


def _as_text(runs: list[EvaluatedRun], page: Path) -> str:
    lines: list[str] = []
    for run in runs:
        lines += [f"{run.path}: {run.metrics['model']}", *describe(run)]
    return "\n".join([*lines, f"Page:   {page}"])
