"""``mlaas4hep train``: from a config to a judged model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.train.run import RunResult


@click.command(
    epilog="""\b
Examples:
  mlaas4hep train config.yaml                               # writes runs/NAME
  mlaas4hep train config.yaml -o runs/wide --set model.hidden='[256, 128]'
  mlaas4hep train config.yaml --set model=bdt --seed 1
  mlaas4hep train config.yaml --max-events 20000            # a quick look
  mlaas4hep train config.yaml --json | tail -1              # one line of figures for scripts

\b
A config:
  tree: Events
  samples:
    ttH:   {files: "ttH/*.root", label: signal}
    ttbar: {files: "tt/*.root", label: background}
  inputs:
    event: [MET_pt, HT]
    jets: {vars: [Jet_pt, Jet_eta], length: 6, sort: -Jet_pt}
  model: mlp                     # or bdt, {name: mlp, backend: torch}, {file: my_model.py}

A first one is drafted by: mlaas4hep inspect FILES --draft
"""
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Run directory, not there yet.  [default: runs/NAME]"
)
@click.option("--seed", type=click.IntRange(0), help="Of the order of events and the model's first weights.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the config; may be repeated."
)
@click.option("--max-events", type=click.IntRange(1), help="Entries to read in all, shared among the samples.")
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead; changes speed only.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON line of figures on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    config: Path,
    output: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    max_events: int | None,
    threads: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Train the model of CONFIG, judge it on events it never saw, and write a run directory.

    \b
      RUN/report.html           the page of the run
      RUN/metrics.json          its figures; history.csv, loss.png and roc.png beside it
      RUN/model/NAME            the bundle: serve it with  mlaas4hep serve RUN/model/NAME
    """
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.config import read_config
    from mlaas4hep.train.run import train

    bars = Bars(show=progress)
    try:
        result = train(
            read_config(config, overrides=overrides),
            output=output,
            seed=seed,
            max_events=max_events,
            threads=threads,
            progress=bars,
        )
    finally:
        bars.close()
    click.echo(_as_json(result) if as_json else _as_text(result))


def figures(result: RunResult) -> dict[str, Any]:
    """What a script wants to know of a run."""
    metrics = result.metrics
    test = metrics["parts"].get("test") or {}
    return {
        "auc": metrics["auc"],
        "auc_err": metrics["auc_err"],
        "events": sum(part["events"] for part in metrics["parts"].values()),
        "events_test": test.get("events", 0),
        "run": str(result.path.absolute()),
        "bundle": str(result.bundle.path.absolute()),
        "report": str(result.report.absolute()),
        "spec_sha256": metrics["spec_sha256"],
        "model_sha256": metrics["model_sha256"],
        "seconds": metrics["seconds"]["total"],
    }


def _as_json(result: RunResult) -> str:
    import json

    return json.dumps(figures(result))


def _as_text(result: RunResult) -> str:
    metrics = result.metrics
    kept = f"{metrics['epoch_unit']} {metrics['best_epoch']} of {metrics['epochs']} kept"
    lines = [f"{metrics['model']}: {kept}, {metrics['seconds']['total']:.1f} s"]
    for name, part in metrics["parts"].items():
        area = f"AUC {part['auc']:.4f} +- {part['auc_err']:.4f}" if part["auc"] is not None else part["reason"]
        loss = f", loss {part['loss']:.4f}" if part["loss"] is not None else ""
        lines.append(f"  {name:<11}{part['events']:>10,} events  {area}{loss}")
    lines += [f"Run:    {result.path}", f"Bundle: {result.bundle.path}", f"Page:   {result.report}"]
    return "\n".join([*lines, f"Serve it: mlaas4hep serve {result.bundle.path.parent}"])
