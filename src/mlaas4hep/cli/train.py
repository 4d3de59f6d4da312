"""``mlaas4hep train``: from a config to a model, with its test part still closed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.train.evaluate import EvaluatedRun
    from mlaas4hep.train.run import RunResult


@click.command(
    epilog="""\b
Examples:
  mlaas4hep train config.yaml                               # writes runs/NAME
  mlaas4hep train config.yaml -o runs/wide --set model.hidden='[256, 128]'
  mlaas4hep train config.yaml --set model=bdt --seed 1
  mlaas4hep train config.yaml --max-events 20000            # a quick look
  mlaas4hep train config.yaml --device gpu                  # or --device cpu, which repeats to the bit
  mlaas4hep train config.yaml --resume                      # goes on after Ctrl-C, a crash or the end of a job
  mlaas4hep train config.yaml --evaluate                    # and open the test part right after
  mlaas4hep train config.yaml --set 'split={folds: 5}'      # five models; each event is scored by one that never saw it
  mlaas4hep train config.yaml --json | tail -1              # one line of figures for scripts
  mlaas4hep train --files=files.txt --labels=labels.txt --model=my_model.py --params=params.json --fout=model

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
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Run directory, not there yet.  [default: runs/NAME]"
)
@click.option("--seed", type=click.IntRange(0), help="Of the order of events and the model's first weights.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the config; may be repeated."
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="That learns, as --set model.device: auto, cpu, gpu, cuda, cuda:1 or mps; refused where it cannot be used.",
)
@click.option("--max-events", type=click.IntRange(1), help="Entries to read in all, shared among the samples.")
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead; changes speed only.")
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted; same config, same -o.")
@click.option("--restart", is_flag=True, help="Begin anew where a run was interrupted, and forget what it learned.")
@click.option("--rescan", is_flag=True, help="Scan all events, also where statistics of these very files are kept.")
@click.option("--evaluate", "and_evaluate", is_flag=True, help="End with 'mlaas4hep evaluate' of the run.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON line of figures on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
@click.option("--files", metavar="LIST", help="Instead of CONFIG, as in the original: a text file with a path a line.")
@click.option("--labels", metavar="LIST", help="With --files: a label a line, or the name of a column.")
@click.option("--model", metavar="FILE", help="With --files: a Python file with model(idim).")
@click.option("--params", type=click.Path(path_type=Path), help="With --files: its keys.  [default: params.json]")
@click.option("--preproc", metavar="FILE", help="With --files: preproc.json, or Python with preprocessing(rec).")
@click.option("--specs", type=click.Path(path_type=Path), help="With --files: branches and dimensions of a specs file.")
@click.option("--dtype", metavar="FORMAT", help="With --files: json, csv, parquet, avro or root; others are refused.")
@click.option("--fout", type=click.Path(path_type=Path), help="With --files: copy the bundle there; .onnx: its graph.")
@click.option("--show-config", is_flag=True, help="With --files: print the config that says the same, and stop.")
def command(
    *,
    config: Path | None,
    output: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    max_events: int | None,
    device: str | None,
    threads: int | None,
    resume: bool,
    restart: bool,
    rescan: bool,
    and_evaluate: bool,
    as_json: bool,
    progress: bool | None,
    show_config: bool,
    **original: Any,
) -> None:
    """Learn to tell the classes of CONFIG apart, or its targets: files, inputs and a model in, a run directory out.

    \b
      mlaas4hep inspect ttH/*.root tt/*.root --draft > config.yaml    a first config, to be looked over
      mlaas4hep train config.yaml                                     reads all events once, learns, judges
      mlaas4hep evaluate runs/config                                  opens the test part, once

    \b
    The results are in runs/NAME (NAME: that of the config, or of its file), or where -o says:
      report.html       the page: how well it separates, by which inputs, what was read, cut and left out
      metrics.json      its figures, of the training and the validation part; history.csv: loss by epoch
      model/NAME        the bundle: model and contract; serve it with  mlaas4hep serve runs/NAME/model/NAME

    The test part stays closed until 'mlaas4hep evaluate' (or --evaluate): who stops by it fits it. Ctrl-C keeps what
    was learned; the same command with --resume goes on.

    With 'split: {folds: 5}' in the config it trains five models, each without one fold of the events, and serves their
    mean; the whole runs are in runs/NAME/folds/0 to 4. --resume goes on with the fold where it was.
    """
    from mlaas4hep.cli.evaluate import evaluate_run
    from mlaas4hep.cli.original import Options, read_asked, write_model
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.interrupt import Interrupted
    from mlaas4hep.train.run import train

    if resume and restart:
        raise click.UsageError("--resume goes on, --restart begins anew: give one of them")
    if device is not None:
        overrides = (*overrides, f"model.device={device}")
    asked = read_asked(config, Options(**original), overrides, show_config=show_config)
    if asked is None:
        return
    bars = Bars(show=asked.progress if progress is None else progress)
    try:
        result = train(
            asked.config,
            output=output,
            seed=seed,
            max_events=max_events or asked.max_events,
            threads=threads,
            progress=bars,
            unfinished="resume" if resume else "restart" if restart else "refuse",
            rescan=rescan,
        )
        if asked.fout is not None:
            write_model(result.bundle.path, asked.fout)
        evaluated = evaluate_run(result.path, bars, threads=threads) if and_evaluate else None
    except Interrupted as error:
        bars.close()
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(128 + error.number) from error
    finally:
        bars.close()
    click.echo(_as_json(result, evaluated) if as_json else _as_text(result, evaluated))


def figures(result: RunResult) -> dict[str, Any]:
    """What a script wants to know of a run; ``auc``, or the figures of ``targets``, are those of the part named."""
    metrics = result.metrics
    of_task = ("targets", "targets_part") if metrics["task"] == "regression" else ("auc", "auc_err", "auc_part")
    return {
        **{name: metrics[name] for name in of_task},
        "events": sum(metrics["events"].values()),
        "events_test": metrics["events"]["test"],
        "run": str(result.path.absolute()),
        "bundle": str(result.bundle.path.absolute()),
        "report": str(result.report.absolute()),
        "spec_sha256": metrics["spec_sha256"],
        "model_sha256": metrics["model_sha256"],
        "seconds": metrics["seconds"]["total"],
    }


def _as_json(result: RunResult, evaluated: EvaluatedRun | None) -> str:
    import json

    from mlaas4hep.cli import evaluate

    return json.dumps(figures(result) | (evaluate.figures(evaluated) if evaluated else {}))


def _as_text(result: RunResult, evaluated: EvaluatedRun | None) -> str:
    from mlaas4hep.cli.evaluate import describe, describe_parts

    metrics = result.metrics
    folds = metrics.get("folds", ())
    kept = f"{metrics['epoch_unit']} {metrics['best_epoch']} of {metrics['epochs']} kept"
    kept = f"{len(folds)} folds with a model each" if folds else kept
    lines = [f"{metrics['model']}: {kept}, {metrics['seconds']['total']:.1f} s"]
    if evaluated is not None:
        lines += describe(evaluated)
    else:
        lines += describe_parts(metrics["parts"])
        lines += [_fold(one) for one in folds]
        name, events = "held out" if folds else "test", metrics["events"]["test"]
        lines.append(f"  {name:<11}{events:>10,} events  not opened: mlaas4hep evaluate {result.path}")
    # A bundle knows its absolute path; the run is told as it was named, and so is all in it.
    bundle = result.path.joinpath(*result.bundle.path.parts[-3:])
    lines += [f"Run:    {result.path}", f"Bundle: {bundle}", f"Page:   {result.report}"]
    return "\n".join([*lines, f"Serve it: mlaas4hep serve {bundle.parent}"])


def _fold(one: dict[str, Any]) -> str:
    area = f"validation AUC {one['auc']:.4f} +- {one['auc_err']:.4f}" if one.get("auc") is not None else ""
    return f"  fold {one['fold'] + 1:<6}{one['events']['train']:>10,} events  {area}".rstrip()
