"""``mlaas4hep inspect --stats``: figures of every column over all events, as a table, JSON, or pictures.

Invariant: it says of how many events the figures are, and a column without figures is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlaas4hep.cli.looking import end, located, tell, tell_others
from mlaas4hep.cli.table import number, table
from mlaas4hep.errors import counted

if TYPE_CHECKING:
    from mlaas4hep.data.inspect import Found
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
    from mlaas4hep.data.quarantine import Skipped, told

    if output is not None and output.suffix not in _ENDINGS:
        raise click.UsageError(f"-o {output}: must end in {' or '.join(_ENDINGS)}")
    bars = Bars(show=show)
    try:
        reading, refused = _reading(files, config, tree, max_events)
        bars.start("reading columns", total=reading.events)
        found = reading.run(threads=default_threads() if threads is None else threads, progress=bars.update)
    finally:
        bars.close()
    if output is not None:
        _draw(found, output)
    others = tuple(Skipped("", path, why) for path, why in refused.items())
    found = msgspec.structs.replace(found, skipped=(*others, *found.skipped))
    click.echo(msgspec.json.encode(found) if as_json else "\n".join(_report(found)))
    lines = told(reading.quarantine.records)
    if config is None:
        end(refused, *lines)
    tell(lines)
    end(refused)


def _reading(
    files: Sequence[str], config: Path | None, tree: str | None, max_events: int | None
) -> tuple[Pass, dict[str, str]]:
    """What is read, and which of the files cannot be, why."""
    from mlaas4hep.config import OnError
    from mlaas4hep.data.profile import Pass, files_of
    from mlaas4hep.data.quarantine import Quarantine, Skipped

    if config is None:
        found, refused = _with_tree(files, tree)
        # Who looks at files wants to see what is in them: a place that is damaged hides no other.
        quarantine = Quarantine(OnError(skips=True))
        return Pass(files_of(found.paths, found.name), max_events=max_events, quarantine=quarantine), refused
    from mlaas4hep.config import read_config
    from mlaas4hep.data.catalogue import Catalogue
    from mlaas4hep.data.hooked import KEPT
    from mlaas4hep.data.reader import EventReader
    from mlaas4hep.spec.preprocess import Preprocessor

    catalogue = Catalogue.open(read_config(config))
    columns = EventReader(catalogue, Preprocessor(catalogue.features, catalogue.types)).columns - {KEPT}
    if not files:
        return Pass(catalogue.files, columns=columns, max_events=max_events, quarantine=catalogue.quarantine), {}
    found, refused = _with_tree(files, tree or catalogue.files[0].tree)
    quarantine = Quarantine(catalogue.quarantine.policy)
    for path, why in refused.items():  # the config's on_error says whether it may be
        quarantine.add_file(Skipped("", path, why))
    quarantine.unopened = len(refused) * found.entries(found.paths) // len(found.paths)
    reading = Pass(files_of(found.paths, found.name), columns=columns, max_events=max_events, quarantine=quarantine)
    quarantine.check()
    return reading, {}


def _with_tree(files: Sequence[str], tree: str | None) -> tuple[Found, dict[str, str]]:
    """Files that hold the tree; where none is named, the one that ``inspect`` shows. And those that cannot be read."""
    from mlaas4hep.data.inspect import find_tree

    paths, missing = located(files)
    found = find_tree(paths, tree)
    tell_others(found.left_out)
    return found, missing | found.refused


def _report(found: Profile) -> Iterator[str]:
    yield f"tree {found.tree}: figures of {_looked_at(found)}; quantiles are within 0.1 % in rank"
    held = [one for one in found.columns if one.figures is not None]
    yield from table([(*_HEAD, *_LENGTHS), *(_row(one) for one in held)], right=range(2, len(_HEAD) + len(_LENGTHS)))
    others = [one for one in found.columns if one.figures is None]
    if others:
        yield ""
        yield f"{counted(len(others), 'column')} without figures:"
        yield from table([(f"  {one.name}", one.type, one.reason or "") for one in others])


def _looked_at(found: Profile) -> str:
    where = counted(len(found.paths), "file")
    lost = f"; {found.unreadable} cannot be read and are left out" if found.unreadable else ""
    if found.looked_at + found.unreadable == found.entries:
        share = f"all {found.entries}" if not lost else f"{found.looked_at} of {found.entries}"
        return f"{share} events of {where}{lost}"
    first = f"the first ones of {where}; without -n all are looked at"
    return f"{found.looked_at} of {found.entries} events ({first}){lost}"


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
