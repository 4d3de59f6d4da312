"""``mlaas4hep tune``: search the dials of a config by the validation part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.tuning.tune import Search


@click.command(
    epilog="""\b
What may stand where a value would, below model, training and inputs (between {} or [] in quotes):
  learning_rate: log(1e-4, 1e-2)              # a number, every factor as likely as any other
  dropout: uniform(0, 0.5)                    # a number, evenly; step=0.1 makes steps
  length: int(3, 12)                          # a whole number, evenly; step=3 makes steps
  batch_size: logint(64, 1024)                # a whole number, every factor as likely as any other
  hidden: choice([64], [128, 64])             # one of these
  learning_rate: log(1e-4, 1e-2, default=3e-3)   # and what the default config has

\b
The first trial is the default config: of a choice its first value, of a range what the model has where nothing is
said, or the nearest to it in the range; default= says otherwise.

\b
Examples:
  mlaas4hep tune config.yaml                                # 20 trials, writes runs/NAME-tune
  mlaas4hep tune config.yaml --trials 100 --workers 4       # each with a quarter of the cores
  mlaas4hep tune config.yaml --set model.learning_rate='log(1e-4, 1e-2)'
  mlaas4hep tune --resume runs/NAME-tune                    # goes on after Ctrl-C; or takes part from another machine
  mlaas4hep tune --resume runs/NAME-tune --trials 50        # 50 in all
  mlaas4hep train runs/NAME-tune/best.yaml                  # the best config as a run of its own
"""
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder, not there yet.  [default: runs/NAME-tune]"
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with a search, or take part.")
@click.option("--trials", type=click.IntRange(1), help="How many in all.  [default: 20]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that run trials.")
@click.option("--seed", type=click.IntRange(0), help="Of the trainings and of what is tried.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key; may give a range.")
@click.option(
    "--device",
    metavar="DEVICE",
    help="That learns, as --set model.device: auto, cpu, gpu, cuda, cuda:1 or mps; refused where it cannot be used.",
)
@click.option("--max-events", type=click.IntRange(1), help="Entries to read in all, shared among the samples.")
@click.option("--prune/--no-prune", default=True, show_default=True, help="End trials early that fall behind.")
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead in each worker.")
@click.option("--rescan", is_flag=True, help="Scan all events, also where statistics of these very files are kept.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON line of figures on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    config: Path | None,
    output: Path | None,
    resume: Path | None,
    as_json: bool,
    progress: bool | None,
    **options: Any,
) -> None:
    """Search the dials of CONFIG for the best AUC on the validation part (of a regression, the lowest loss).

    \b
    A config with ranges is no config for 'train': it has them where values would stand.
      model: {name: mlp, hidden: "choice([64], [128, 64])", learning_rate: "log(1e-4, 1e-2)"}

    \b
    The results are in runs/NAME-tune, or where -o says:
      tune.html         the page: history, dials, table of trials, whether the best beats the default config
      best.yaml         the best config, ready for 'train';  trials.csv, trials.json, tune.json: all figures
      runs/trial-N      the runs of the best trial and of the default config

    Trials that fall behind the median of those before them are ended early. The test part stays closed: 'mlaas4hep
    evaluate' of the best run opens it, once. Ctrl-C ends all workers; --resume goes on. A worker that is killed costs
    what its trial had done: the trial is begun anew. Needs the extra 'tune'.
    """
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.interrupt import Interrupted
    from mlaas4hep.train.tuning import require_optuna

    if (config is None) == (resume is None):
        raise click.UsageError("give a CONFIG to begin a search, or --resume DIR to go on with one")
    require_optuna()
    bars = Bars(show=progress)
    try:
        found = (
            _begin(config, output, bars, **options) if config is not None else _go_on(resume, output, bars, **options)
        )
    except Interrupted as error:
        bars.close()
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(128 + error.number) from error
    finally:
        bars.close()
    click.echo(_as_json(found) if as_json else _as_text(found))


def _begin(config: Path, output: Path | None, bars: Bars, **options: Any) -> Search:
    from mlaas4hep.train.tuning.tune import tune

    trials = options.pop("trials") or 20
    if (device := options.pop("device")) is not None:
        options["overrides"] = (*options["overrides"], f"model.device={device}")
    return tune(config, output=output, trials=trials, progress=bars, **options)


def _go_on(search: Path | None, output: Path | None, bars: Bars, **options: Any) -> Search:
    from mlaas4hep.train.tuning.tune import resume

    fixed = {
        "-o": output,
        "--seed": options["seed"],
        "--set": options["overrides"],
        "--device": options["device"],
        "--max-events": options["max_events"],
    }
    given = [name for name, value in fixed.items() if value]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: a search goes on as it began; with --resume go --trials, --workers, -j"
        )
    assert search is not None
    trials, workers, threads = (options[name] for name in ("trials", "workers", "threads"))
    return resume(search, trials=trials, workers=workers, threads=threads, progress=bars)


def figures(search: Search) -> dict[str, Any]:
    """What a script wants to know of a search."""
    found = search.found
    kept = ("metric", "trials", "counts", "best", "default", "verdict", "words", "importance", "trial_seconds")
    return {
        **{name: found[name] for name in kept},
        "search": str(search.path.absolute()),
        "report": str(search.report.absolute()),
        "best_config": str(search.best_config.absolute()),
        "best_run": str(search.best_run.absolute()),
    }


def _as_json(search: Search) -> str:
    import json

    return json.dumps(figures(search))


def _as_text(search: Search) -> str:
    found = search.found
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count)
    values = [f"  {name}: {value}" for name, value in found["best"]["values"].items()]
    return "\n".join(
        [
            f"{found['trials']} trials: {counts}",
            found["words"],
            "The best:" if not found["best"]["default"] else "The default config:",
            *values,
            f"Config: {search.best_config}",
            f"Run:    {search.best_run}",
            f"Page:   {search.report}",
            f"The test part is closed; open it once: mlaas4hep evaluate {search.best_run}",
        ]
    )
