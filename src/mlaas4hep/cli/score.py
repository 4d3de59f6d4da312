"""``mlaas4hep score``: scores of models back into files, and whether files and scores belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.bundle import Bundle
    from mlaas4hep.config import OnError
    from mlaas4hep.score.asked import Asked
    from mlaas4hep.score.run import Result
    from mlaas4hep.score.verify import Checked

_FORMATS = ("ttree", "rntuple", "copy", "parquet")


def _policy(ctx: click.Context, parameter: click.Parameter, value: str) -> OnError:
    from mlaas4hep.config import OnError

    try:
        return OnError.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


def _fill(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not a number; write nan, or one such as -1", ctx, parameter) from error


@click.command(
    epilog="""\b
Examples:
  mlaas4hep score runs/tth/model/tth data/*.root -o scores           # friend trees: scores/ttH_0_scores.root, ...
  mlaas4hep score runs/tth 'root://host//store/ttH/*.root' -o scores # a run stands for its model
  mlaas4hep score tth ttbar data/*.root -o scores --format parquet   # two models in one pass
  mlaas4hep score runs/mlp runs/bdt data/*.root -o scores --column '{run}_{score}'
  mlaas4hep score tth data/*.root -o scores --variations '*'         # one column a systematic variation, too
  mlaas4hep score tth data/*.root -o scores --url http://gpu7:8000   # the graph runs there
  mlaas4hep score --verify scores data/*.root                        # do they belong together?

\b
In ROOT: tree->AddFriend("scores", "scores/ttH_0_scores.root"); tree->Draw("tth_signal", "tth_selected")

\b
Exit status: 0 done, 1 --verify found files that do not belong together, or a failure, 2 a mistake.
"""
)
@click.argument("paths", nargs=-1, metavar="BUNDLE... FILES...")
@click.option("-o", "--output", metavar="OUT", help="Folder or address of the outputs; of one input also a file.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(_FORMATS),
    default="ttree",
    show_default=True,
    help="Friend tree, friend RNTuple, copy of the input with new branches, or Parquet.",
)
@click.option("--tree", help="Table of the inputs.  [default: that of the training, else Events, else the only one]")
@click.option(
    "--friend",
    "friends",
    multiple=True,
    metavar="PATH",
    help="File whose tree stands beside each input, as 'btag/{stem}.root'; {stem}, {folder} of the input. Repeatable.",
)
@click.option(
    "--name",
    default="{stem}_scores",
    show_default=True,
    help="Names of outputs: {stem}, {folder}, {tree}, {number} of the input.",
)
@click.option(
    "--column",
    default="{model}_{score}",
    show_default=True,
    help="Names of scores: {model}, {score}, {version}; {run} that the model was trained in, {number} of the BUNDLE.",
)
@click.option("--table", default="scores", show_default=True, help="Name of the friend tree.")
@click.option(
    "--fill", default="nan", show_default=True, callback=_fill, help="Score of events that the preselection leaves out."
)
@click.option(
    "--variations", metavar="NAMES|*", help="Score these variations of the config as well, commas between; * for all."
)
@click.option("--observers/--no-observers", default=True, help="Write the observers of the config.  [default: yes]")
@click.option(
    "--identity/--no-identity", default=True, help="Write what tells events apart (run, event ...).  [default: yes]"
)
@click.option(
    "--folds",
    type=click.Choice(["auto", "out", "mean"]),
    default="auto",
    show_default=True,
    help="Of models trained in folds: out of fold, their mean, or by whether they learned from the files.",
)
@click.option(
    "--url", "urls", multiple=True, help="Ask this server instead. May be repeated: the next where one fails."
)
@click.option(
    "--timeout", "timeout_s", default=60.0, show_default=True, help="Of --url: longest wait for a batch, in s."
)
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False), help="Of --url: bearer token to show.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Of --url: who vouches for an https server.")
@click.option(
    "--on-error",
    "on_error",
    default="stop",
    show_default=True,
    callback=_policy,
    help="Where an input cannot be read: stop, skip, 'skip up to 5', 'skip up to 2 %'.",
)
@click.option(
    "--drop", multiple=True, metavar="NAME", help="Of --format copy: what need not be copied; * all that cannot be."
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that are of other inputs or models.")
@click.option("--verify", "verified", metavar="OUT", help="Check that OUT, a folder or file, was made of FILES.")
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read and score.  [default: 2]")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    *,
    paths: tuple[str, ...],
    output: str | None,
    format_name: str,
    tree: str | None,
    friends: tuple[str, ...],
    name: str,
    column: str,
    table: str,
    fill: float,
    variations: str | None,
    observers: bool,
    identity: bool,
    folds: str,
    urls: tuple[str, ...],
    timeout_s: float,
    token_file: str | None,
    ca: str | None,
    on_error: OnError,
    drop: tuple[str, ...],
    overwrite: bool,
    verified: str | None,
    threads: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Write the scores of each BUNDLE for every event of FILES, in the order of the files.

    Each input gets an output of its own, with as many entries: an event that fails the preselection has the score nan
    and _selected false. Beside the scores stand the observers of the config, and run, luminosityBlock and event where
    the input has them. Every output says of itself which events it was made of and by which models; --verify holds
    that against any input.

    An output appears under its name when it is whole. After Ctrl-C, a kill or a full disk the same command goes on with
    what is missing.
    """
    from mlaas4hep.cli.progress import Bars

    if verified is not None:
        if output is not None:
            raise click.UsageError("--verify takes the outputs itself: --verify OUT FILES, without -o")
        _verify(verified, paths, tree, friends, as_json=as_json, show=progress)
        return
    found, files = _apart(paths)
    if not found or not files or output is None:
        raise click.UsageError(_what_is_missing(found, files, output))
    from mlaas4hep.client import Tls
    from mlaas4hep.score.run import Manner, score_files

    bars = Bars(show=progress)
    asked: Asked | None = None
    try:
        asked = _asked(
            found,
            files,
            column=column,
            fill=fill,
            variations=[one.strip() for one in (variations or "").split(",") if one.strip()],
            observers=observers,
            identity=identity,
            folds=folds,
            urls=urls,
            client={"timeout_s": timeout_s, "retries": 8, "token_file": token_file, "tls": Tls(ca=ca)},
        )
        done = score_files(
            asked,
            files,
            output,
            tree=tree,
            friends=friends,
            manner=Manner(format_name, name, table, drop, overwrite),
            on_error=on_error,
            threads=2 if threads is None else threads,
            progress=bars,
        )
    finally:
        bars.close()
        if asked is not None:
            asked.close()
    click.echo(_as_json(done) if as_json else _as_text(done, asked))


def _apart(paths: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Bundles, and runs that stand for theirs, and files."""
    bundles: list[Path] = []
    files: list[str] = []
    for one in paths:
        inside = _bundles_in(Path(one))
        if len(inside) > 1:
            raise click.UsageError(
                f"'{one}' holds several models; name those that are meant: {', '.join(map(str, inside))}"
            )
        bundles += inside
        files += [] if inside else [one]
    return bundles, files


def _bundles_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if (path / "config.pbtxt").is_file() or (path / "manifest.json").is_file():
        return [path]
    return [one.parent for one in sorted(path.glob("model/*/config.pbtxt"))]


def _what_is_missing(bundles: Sequence[Path], files: Sequence[str], output: str | None) -> str:
    if not bundles:
        if files and "://" not in files[0] and not Path(files[0]).exists():
            return f"'{files[0]}' is not there; wants the folder of a model, such as runs/tth/model/tth, or of its run"
        runs = [str(one.parents[2]) for one in sorted(Path(files[0]).glob("*/model/*/config.pbtxt"))] if files else []
        hint = f"; in {files[0]} lie {', '.join(dict.fromkeys(runs))}" if runs else ""
        return f"no BUNDLE is given: name the folder of a model, such as runs/tth/model/tth, or of its run{hint}"
    if not files:
        return f"no FILES are given beside {', '.join(map(str, bundles))}"
    return "no -o OUT is given: the folder for the scores"


def _asked(bundles: Sequence[Path], files: Sequence[str], **settings: Any) -> Asked:
    from mlaas4hep.bundle import load_bundle
    from mlaas4hep.data.locate import search
    from mlaas4hep.score.asked import ask

    loaded: list[Bundle] = [load_bundle(one) for one in bundles]
    located = [one.path for one in search(files)[0]]
    return ask(loaded, files=located, **settings)


def _as_json(done: Result) -> str:
    import msgspec

    outputs = [
        {
            "path": one.path,
            "input": one.input,
            "entries": one.stamp.alignment.entries,
            "scored": {model.name: model.scored for model in one.stamp.models},
            "unreadable": sum(lost.stop - lost.start for lost in one.stamp.unreadable),
            "finished_before": one.before,
        }
        for one in done.outputs
    ]
    return msgspec.json.encode({"outputs": outputs, "skipped": [str(one) for one in done.skipped]}).decode()


def _as_text(done: Result, asked: Asked) -> str:
    from mlaas4hep.cli.table import table
    from mlaas4hep.data.quarantine import told
    from mlaas4hep.errors import counted

    rows = [("entries", *(f"scored by {one.bundle.name}" for one in asked.models), "output")]
    for one in done.outputs:
        scored = (str(model.scored) for model in one.stamp.models)
        rows.append((str(one.stamp.alignment.entries), *scored, one.path + (" (was there)" if one.before else "")))
    lines = list(table(rows, right=range(len(asked.models) + 1)))
    if len(done.outputs) > 1:
        entries = sum(one.stamp.alignment.entries for one in done.outputs)
        lines.append(f"{counted(len(done.outputs), 'output')}, {entries} {'entry' if entries == 1 else 'entries'}")
    lines += [f"left out, cannot be read: {line}" for line in told(done.skipped)]
    if not math.isnan(asked.fill):
        lines.append(f"events that were not selected have the score {asked.fill:g}")
    return "\n".join(lines)


def _verify(
    outputs: str, files: Sequence[str], tree: str | None, friends: Sequence[str], *, as_json: bool, show: bool | None
) -> None:
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.score.verify import verify

    if not files:
        raise click.UsageError(f"--verify {outputs}: no FILES are given to hold against it")
    bars = Bars(show=show)
    bars.start("reading events")
    try:
        found = verify(outputs, files, tree=tree, friends=friends, progress=bars.update)
    finally:
        bars.close()
    click.echo(_checked_json(found) if as_json else "\n".join(_checked_lines(found)))
    if any(one.problems for one in found):
        raise click.exceptions.Exit(1)


def _checked_json(found: Sequence[Checked]) -> str:
    import msgspec

    plain = [{"output": one.output, "input": one.input, "problems": one.problems} for one in found]
    return msgspec.json.encode({"equal": not any(one.problems for one in found), "files": plain}).decode()


def _checked_lines(found: Sequence[Checked]) -> list[str]:
    lines = []
    for one in found:
        if one.problems:
            lines.append(f"NOT THE SAME  {one.input}  {one.output}")
            lines += [f"  - {line}" for line in one.problems]
        elif one.stamp is not None:
            models = ", ".join(f"{model.name} {model.model_sha256[:12]}" for model in one.stamp.models)
            told = one.stamp.alignment
            lines.append(f"same events    {one.input}  {one.output}  ({told.entries} entries; {models})")
    return lines
