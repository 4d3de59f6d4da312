"""``mlaas4hep inspect --stats``: figures of every column over all events, as a table, JSON, or pictures.

Invariant: it says of how many events the figures are, and a column without figures is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlaas4hep.cli.table import number, table

if TYPE_CHECKING:
    from mlaas4hep.data.profile import ColumnProfile, Pass, Profile
    from mlaas4hep.report.columns import DrawnColumn

_HEAD = ("column", "type", "values", "NaN", "inf", "min", "1%", "50%", "99%", "max", "mean", "std")
_LENGTHS = ("length: min", "mean", "95%", "99%", "max")
_ENDINGS = (".png", ".html")


def show_columns(
    files: Sequence[str],
    config: Path | None,
    tree: str | None,
    *,
    output: Path | None,
    as_json: bool,
    max_events: int | None,
    threads: int | None,
    show: bool | None,
) -> None:
    """Read, print and draw; the parameters are the options of ``mlaas4hep inspect``."""
    import msgspec

    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.data.pace import default_threads

    if output is not None and output.suffix not in _ENDINGS:
        raise click.UsageError(f"-o {output}: must end in {' or '.join(_ENDINGS)}")
    bars = Bars(show=show)
    try:
        reading = _reading(files, config, tree, max_events)
        bars.start("reading columns", total=reading.events)
        found = reading.run(threads=default_threads() if threads is None else threads, progress=bars.update)
    finally:
        bars.close()
    if output is not None:
        _draw(found, output)
    click.echo(msgspec.json.encode(found) if as_json else "\n".join(_report(found)))


def _reading(files: Sequence[str], config: Path | None, tree: str | None, max_events: int | None) -> Pass:
    from mlaas4hep.data.locate import locate
    from mlaas4hep.data.profile import Pass, files_of

    if config is None:
        return Pass(files_of(*_with_tree(locate(files), tree)), max_events=max_events)
    from mlaas4hep.config import read_config
    from mlaas4hep.data.catalogue import Catalogue
    from mlaas4hep.data.reader import EventReader
    from mlaas4hep.spec.preprocess import Preprocessor

    catalogue = Catalogue.open(read_config(config))
    reader = EventReader(catalogue, Preprocessor(catalogue.features, catalogue.types))
    held = files_of(*_with_tree(locate(files), tree or catalogue.files[0].tree)) if files else catalogue.files
    return Pass(held, columns=reader.columns, max_events=max_events)


def _with_tree(paths: Sequence[str], tree: str | None) -> tuple[tuple[str, ...], str]:
    """Files that hold the tree; where none is named, the one that ``inspect`` shows."""
    from mlaas4hep.data.inspect import find_tree

    found = find_tree(paths, tree)
    for path, why in found.left_out.items():
        click.echo(f"left out: {path} {why}", err=True)
    return found.paths, found.name


def _report(found: Profile) -> Iterator[str]:
    yield f"tree {found.tree}: figures of {_looked_at(found)}; quantiles are within 0.1 % in rank"
    held = [one for one in found.columns if one.figures is not None]
    yield from table([(*_HEAD, *_LENGTHS), *(_row(one) for one in held)], right=range(2, len(_HEAD) + len(_LENGTHS)))
    others = [one for one in found.columns if one.figures is None]
    if others:
        yield ""
        yield f"{len(others)} columns without figures:"
        yield from table([(f"  {one.name}", one.type, one.reason or "") for one in others])


def _looked_at(found: Profile) -> str:
    where = f"{len(found.paths)} file{'s' if len(found.paths) > 1 else ''}"
    if found.looked_at == found.entries:
        return f"all {found.entries} events of {where}"
    return f"{found.looked_at} of {found.entries} events (the first ones of {where}; without -n all are looked at)"


def _row(one: ColumnProfile) -> tuple[str, ...]:
    figures = one.figures
    if figures is None:
        return (one.name, one.type)
    odd = (str(figures.count), str(figures.missing or ""), str(figures.infinite or ""))
    quantiles = (figures.quantiles.get(rank) for rank in ("0.01", "0.5", "0.99"))
    spread = (figures.minimum, *quantiles, figures.maximum, figures.mean, figures.std)
    lengths = ["", "", "", "", ""]
    if figures.lengths is not None:
        found = figures.lengths
        lengths = [number(value) for value in (found.minimum, found.mean, found.q95, found.q99, found.maximum)]
    return (one.name, one.type, *odd, *map(number, spread), *lengths)


def _draw(found: Profile, output: Path) -> None:
    from mlaas4hep.report.columns import draw_columns, write_columns_page

    drawn = list(_drawn(found))
    if not drawn:
        raise click.UsageError(f"-o {output}: no column holds a finite value to draw")
    note = f"{found.looked_at:,} events"
    if output.suffix == ".png":
        files = draw_columns(drawn, output, note=note)
        click.echo(f"drawn: {', '.join(map(str, files))}", err=True)
        return
    held = [one for one in found.columns if one.figures is not None]
    write_columns_page(
        drawn,
        output,
        title=f"Columns of {found.tree}",
        note=f"Figures of {_looked_at(found)}.",
        picture_note=note,
        head=(*_HEAD, *_LENGTHS),
        rows=[_row(one) for one in held],
    )
    click.echo(f"written: {output}", err=True)


def _drawn(found: Profile) -> Iterator[DrawnColumn]:
    from mlaas4hep.report.columns import DrawnColumn

    for one in found.columns:
        if one.figures is not None and one.figures.histogram is not None:
            figures, histogram = one.figures, one.figures.histogram
            values = figures.count + figures.missing + figures.infinite
            yield DrawnColumn(one.name, histogram.edges, histogram.counts, figures.missing / values)
