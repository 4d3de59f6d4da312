"""``mlaas4hep inspect``: what is in files, as a table, as JSON, or as a first config.

Everything that it prints comes from `mlaas4hep.data.inspect`; here it is only laid out. Invariant: a column that cannot
be used is listed with its reason, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlaas4hep.cli.looking import end, located, tell_others
from mlaas4hep.cli.table import number, table
from mlaas4hep.errors import counted, told_once

if TYPE_CHECKING:
    from mlaas4hep.data.inspect import ColumnSummary, Survey

_HEAD = ("column", "type", "min", "mean", "max", "NaN", "inf", "length: min", "mean", "95%", "99%", "max")


@click.command("inspect", short_help="Trees, columns, figures and costs of files; --draft writes a first config.")
@click.argument("files", nargs=-1)
@click.option("--tree", help="Whose columns to show; default: Events, else the largest.")
@click.option("--draft", is_flag=True, help="Print a first config instead.")
@click.option("--stats", is_flag=True, help="Figures of every column over all events, or the first -n.")
@click.option("--plan", is_flag=True, help="What a run over the files will read, hold and take, before it starts.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Of --stats and --plan: the columns that this one reads."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Of --stats: histograms, as .png or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option(
    "-n", "--max-events", type=click.IntRange(1), help="Look at no more events.  [default: 20000; with --stats all]"
)
@click.option("-j", "--threads", type=click.IntRange(0), help="Of --stats and --plan: threads that read.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    *,
    files: tuple[str, ...],
    tree: str | None,
    draft: bool,
    stats: bool,
    plan: bool,
    config: Path | None,
    output: Path | None,
    as_json: bool,
    max_events: int | None,
    threads: int | None,
    progress: bool | None,
) -> None:
    """Show trees, columns, their kinds, ranges and list lengths.

    \b
    mlaas4hep inspect ttH.root                          a table
    mlaas4hep inspect 'data/*.root' --tree Events
    mlaas4hep inspect ttH_*.root ttbar_*.root --draft > config.yaml
    mlaas4hep inspect 'data/*.root' --stats -o stats.html   figures and histograms over all events
    mlaas4hep inspect config.yaml --plan                bytes, clusters, memory and seconds of a run

    Files that cannot be read, or hold no events, are left out and told on standard error; the exit status is then 2.
    With a config, its on_error says whether anything may be left out.
    """
    files, config = _apart(files, config)
    if stats + plan + draft > 1:
        raise click.UsageError("give one of --draft, --stats and --plan")
    if config is not None and not (stats or plan):
        raise click.UsageError(f"{config}: a config is looked at with --stats or --plan")
    if not files and config is None:
        raise click.UsageError("give files, or a config")
    if output is not None and not stats:
        raise click.UsageError("-o goes with --stats")
    if stats:
        from mlaas4hep.cli.columns import show_columns

        show_columns(
            files, config, tree, output=output, as_json=as_json, max_events=max_events, threads=threads, show=progress
        )
    elif plan:
        from mlaas4hep.cli.forecast import show_forecast

        show_forecast(files, config, tree, as_json=as_json, threads=threads, show=progress)
    else:
        _show(files, tree, draft=draft, as_json=as_json, max_events=max_events)


def _apart(files: tuple[str, ...], config: Path | None) -> tuple[tuple[str, ...], Path | None]:
    """A config may stand in the place of the files."""
    if config is None and len(files) == 1 and Path(files[0]).suffix in {".yaml", ".yml"}:
        return (), Path(files[0])
    return files, config


def _show(files: tuple[str, ...], tree: str | None, *, draft: bool, as_json: bool, max_events: int | None) -> None:
    import msgspec

    from mlaas4hep.data.draft import draft_config
    from mlaas4hep.data.inspect import DEFAULT_EVENTS, survey

    paths, missing = located(files)
    found = survey(paths, tree=tree, max_events=max_events or DEFAULT_EVENTS)
    found = msgspec.structs.replace(found, refused=missing | found.refused)
    if draft:
        tell_others(found.left_out)
        click.echo(draft_config(found), nl=False)
    elif as_json:
        click.echo(msgspec.json.encode(found))
    else:
        click.echo("\n".join(_report(found)))
    end(found.refused)


def _report(found: Survey) -> Iterator[str]:
    from mlaas4hep.data.draft import trees_alike
    from mlaas4hep.data.quarantine import reason_of

    rows = [
        (one.name, one.kind, number(one.entries), number(one.clusters), number(one.columns), one.path)
        for one in found.trees
    ]
    yield from table([("tree", "format", "entries", "clusters", "columns", "file"), *rows], right=range(2, 5))
    unread = [one for one in found.trees if one.reason is not None]
    told = ((one.path, f", tree '{one.name}': {reason_of(one.reason or '', one.path, one.name)}") for one in unread)
    yield from (f"  cannot be read: {line}" for line in told_once(told))
    others = ((path, f": {why}") for path, why in found.left_out.items())
    yield from (f"  left out: {line}" for line in told_once(others))
    yield ""
    readable = [one for one in found.columns if one.kind is not None]
    partial = [one for one in found.columns if one.partial]
    if readable or not partial:
        yield f"tree {found.tree}: figures of {_looked_at(found)}"
        yield from (f"  another of as many columns: --tree {name}" for name in trees_alike(found)[1:])
        yield from table([_HEAD, *map(_row, readable)], right=range(2, len(_HEAD)))
    else:
        yield f"tree {found.tree}: no column is in all {len(found.paths)} files; give one kind of file at a time"
    yield from _without_figures("not in all files, or not of one kind", partial)
    yield from _without_figures(
        "that cannot be read", [one for one in found.columns if one.kind is None and not one.partial]
    )


def _without_figures(words: str, columns: list[ColumnSummary]) -> Iterator[str]:
    if columns:
        yield ""
        yield f"{counted(len(columns), 'column')} {words}:"
        yield from table([(f"  {one.name}", one.type, one.reason or "") for one in columns])


def _looked_at(found: Survey) -> str:
    if found.looked_at == found.entries:
        return f"all {counted(found.entries, 'event')}" if found.entries > 1 else "its 1 event"
    where = "the first events" if len(found.paths) == 1 else f"the first events of each of {len(found.paths)} files"
    return f"{found.looked_at} of {counted(found.entries, 'event')} ({where}; --max-events looks at more)"


def _row(one: ColumnSummary) -> tuple[str, ...]:
    cells = (one.name, one.type, number(one.minimum), number(one.mean), number(one.maximum))
    odd = (str(one.missing or ""), str(one.infinite or ""))
    if one.lengths is None:
        return (*cells, *odd, "", "", "", "", "")
    lengths = one.lengths
    spread = (lengths.minimum, lengths.mean, lengths.q95, lengths.q99, lengths.maximum)
    return (*cells, *odd, *(number(value) for value in spread))
