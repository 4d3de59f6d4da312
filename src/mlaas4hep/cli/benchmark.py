"""``mlaas4hep benchmark``: how fast a config runs here, and beside other machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlaas4hep.train.benchmark import Table


@click.command(
    epilog="""\b
Examples:
  mlaas4hep benchmark config.yaml                            # some seconds a stage
  mlaas4hep benchmark config.yaml --seconds 20 -o laptop.json
  mlaas4hep benchmark config.yaml --set model='{name: mlp, backend: torch}' -o torch.json
  mlaas4hep benchmark config.yaml --device cuda -o gpu.json  # the same config, on a GPU
  mlaas4hep benchmark --compare laptop.json tier2.json       # side by side, ratios to the first
  mlaas4hep benchmark config.yaml --set samples.ttH.files='root://host//store/ttH/*.root' -o far.json
"""
)
@click.argument("names", nargs=-1, metavar="CONFIG | TABLE...", type=click.Path(path_type=Path))
@click.option("--compare", is_flag=True, help="Lay tables that -o wrote side by side; nothing is measured.")
@click.option("--seconds", type=click.FloatRange(0.05), default=5.0, show_default=True, help="At most, for each stage.")
@click.option("--max-events", type=click.IntRange(1), default=200_000, show_default=True, help="Entries to use in all.")
@click.option(
    "--device",
    metavar="DEVICE",
    help="That learns: auto, cpu, gpu, cuda, cuda:1 or mps; refused by name where the model cannot use it.  "
    "[default: as the config says]",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the config; may be repeated."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the table there, for --compare.")
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    names: tuple[Path, ...],
    compare: bool,
    seconds: float,
    max_events: int,
    device: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    threads: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Measure how fast CONFIG runs on this machine: one table of events and MB a second.

    \b
      read    the columns that the config needs, out of the files, one thread
      pack    the same, selected, padded and shuffled into batches, with the threads of a training
      train   the model learning from those batches; a model that learns in one go: one fit
      score   the graph that would be served, on one thread

    Only the training part is packed, learned and scored. The model is thrown away. Statistics are taken from an earlier
    pass over the same files, or made before anything is timed. Rates hang on what else the machine does: repeat them.
    """
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.config import read_config
    from mlaas4hep.train.benchmark import benchmark

    if compare:
        _compare(names, as_json=as_json)
        return
    if len(names) != 1:
        raise click.UsageError("give one CONFIG; tables are laid side by side with --compare")
    bars = Bars(show=progress)
    try:
        table = benchmark(
            read_config(names[0], overrides=overrides),
            seconds=seconds,
            max_events=max_events,
            threads=threads,
            device=device,
            progress=bars,
        )
    finally:
        bars.close()
    text = _as_json(table)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    click.echo(text if as_json else _as_text(table))


def _compare(names: tuple[Path, ...], *, as_json: bool) -> None:
    import json

    from mlaas4hep.cli.table import number, table
    from mlaas4hep.errors import DataError
    from mlaas4hep.train.benchmark import read_table, side_by_side

    if len(names) < 2:
        raise click.UsageError("--compare wants two tables or more, as 'benchmark CONFIG -o TABLE' writes them")
    tables = {}
    for path in names:
        try:
            found = read_table(path.read_bytes(), where=str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        tables[path.stem if path.stem not in tables else str(path)] = found
    rows = side_by_side(tables, number)
    if as_json:
        click.echo(json.dumps([dict(zip(["stage", *_columns(tables)], row, strict=True)) for row in rows[1:]]))
        return
    for line in table(rows, right=range(1, len(rows[0]))):
        click.echo(line)
    for name, one in tables.items():
        click.echo(f"{name}: {_machine(one)}")


def _columns(tables: dict[str, Table]) -> list[str]:
    return [word for name in tables for word in (name, f"{name} ratio")]


def _machine(one: Table) -> str:
    gpus = ", ".join(one.machine.get("gpus") or ()) or "no GPU"
    words = f"{one.machine.get('processor', 'unknown')}, {one.machine.get('cores', '?')} cores, {gpus}"
    return f"{one.name}, {one.model} on {one.device}; {words}"


def _as_json(one: Table) -> str:
    import msgspec

    return msgspec.json.encode(one).decode()


def _as_text(one: Table) -> str:
    from mlaas4hep.cli.table import number, table

    rows = [["stage", "events/s", "MB/s", "seconds", "of"]]
    for stage, rate in one.rates.items():
        rows.append([stage, number(round(rate.events_per_s)), number(rate.mb_per_s), number(rate.seconds), rate.note])
    shown = ", ".join(f"{name} {version}" for name, version in one.versions.items())
    return "\n".join([*table(rows, right=(1, 2, 3)), _machine(one), shown])
