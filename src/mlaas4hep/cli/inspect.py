"""``mlaas4hep inspect``: what is in files, as a table, as JSON, or as a first config.

Everything that it prints comes from `mlaas4hep.data.inspect`; here it is only laid out. Invariant: a column that cannot
be used is listed with its reason, never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlaas4hep.data.inspect import ColumnSummary, Survey

_HEAD = ("column", "type", "min", "mean", "max", "NaN", "inf", "length: min", "mean", "95%", "99%", "max")


@click.command("inspect", short_help="Trees, columns, kinds and ranges of files; --draft writes a first config.")
@click.argument("files", nargs=-1, required=True)
@click.option("--tree", help="Whose columns to show; default: Events, else the largest.")
@click.option("--draft", is_flag=True, help="Print a first config instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option("--max-events", default=20_000, show_default=True, help="Look at no more than so many events.")
def command(*, files: tuple[str, ...], tree: str | None, draft: bool, as_json: bool, max_events: int) -> None:
    """Show trees, columns, their kinds, ranges and list lengths.

    \b
    mlaas4hep inspect ttH.root                          a table
    mlaas4hep inspect 'data/*.root' --tree Events
    mlaas4hep inspect ttH_*.root ttbar_*.root --draft > config.yaml
    """
    import msgspec

    from mlaas4hep.data.draft import draft_config
    from mlaas4hep.data.inspect import survey
    from mlaas4hep.data.locate import locate

    found = survey(locate(files), tree=tree, max_events=max_events)
    if draft:
        click.echo(draft_config(found), nl=False)
    elif as_json:
        click.echo(msgspec.json.encode(found))
    else:
        click.echo("\n".join(_report(found)))


def _report(found: Survey) -> Iterator[str]:
    rows = [
        (one.name, one.kind, _number(one.entries), _number(one.clusters), _number(one.columns), one.path)
        for one in found.trees
    ]
    yield from _table([("tree", "format", "entries", "clusters", "columns", "file"), *rows], right=range(2, 5))
    yield from (f"  {one.name}: cannot be read: {one.reason}" for one in found.trees if one.reason is not None)
    yield ""
    yield f"tree {found.tree}: figures of {_looked_at(found)}"
    readable = [one for one in found.columns if one.kind is not None]
    yield from _table([_HEAD, *map(_row, readable)], right=range(2, len(_HEAD)))
    refused = [one for one in found.columns if one.kind is None]
    if refused:
        yield ""
        yield f"{len(refused)} columns that cannot be read:"
        yield from _table([(f"  {one.name}", one.type, one.reason or "") for one in refused])


def _looked_at(found: Survey) -> str:
    if found.looked_at == found.entries:
        return f"all {found.entries} events"
    where = "the first events" if len(found.paths) == 1 else f"the first events of each of {len(found.paths)} files"
    return f"{found.looked_at} of {found.entries} events ({where}; --max-events looks at more)"


def _row(one: ColumnSummary) -> tuple[str, ...]:
    cells = (one.name, one.type, _number(one.minimum), _number(one.mean), _number(one.maximum))
    odd = (str(one.missing or ""), str(one.infinite or ""))
    if one.lengths is None:
        return (*cells, *odd, "", "", "", "", "")
    lengths = one.lengths
    spread = (lengths.minimum, lengths.mean, lengths.q95, lengths.q99, lengths.maximum)
    return (*cells, *odd, *(_number(value) for value in spread))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligned = set(right)
    for row in rows:
        cells = [
            cell.rjust(width) if place in aligned else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
