"""``mlaas4hep inspect --plan``: what a run will read, hold and take, printed before it starts.

Invariant: an estimate says what it was measured on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlaas4hep.cli.looking import end, located, tell, tell_others
from mlaas4hep.cli.table import size
from mlaas4hep.errors import counted

if TYPE_CHECKING:
    from mlaas4hep.config import Config
    from mlaas4hep.data.forecast import Forecast
    from mlaas4hep.data.network import Network


def show_forecast(
    files: Sequence[str],
    config: Path | None,
    tree: str | None,
    *,
    as_json: bool,
    threads: int | None,
    show: bool | None,
) -> None:
    """Look and print; the parameters are the options of ``mlaas4hep inspect``."""
    import msgspec

    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.data.forecast import forecast
    from mlaas4hep.data.pace import default_threads
    from mlaas4hep.data.quarantine import Skipped, told

    threads = default_threads() if threads is None else threads
    bars = Bars(show=show)
    try:
        bars.start("opening files", unit="files")
        declared, refused = _config(files, config, tree)
        found = forecast(declared, threads=threads, progress=bars.update)
    finally:
        bars.close()
    others = tuple(Skipped("", path, why) for path, why in refused.items())
    lines = told(found.skipped)
    found = msgspec.structs.replace(found, skipped=(*others, *found.skipped))
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(found), "memory_bytes": found.memory.total}))
    else:
        click.echo("\n".join(_report(found)))
    tell(lines)
    end(refused)


def _config(files: Sequence[str], config: Path | None, tree: str | None) -> tuple[Config, dict[str, str]]:
    """The config, of other files where such are given; of files alone, the one that ``--draft`` would write.

    And which of the files cannot be read, why.
    """
    import msgspec

    from mlaas4hep.config import parse_config, read_config
    from mlaas4hep.data.draft import TO_FILL_IN, draft_config
    from mlaas4hep.data.inspect import survey

    if config is not None and not files:
        return read_config(config), {}
    if config is None:
        paths, missing = located(files)
        seen = survey(paths, tree=tree)
        tell_others(seen.left_out)
        drafted = parse_config(draft_config(seen))
        there = {name: one for name, one in drafted.samples.items() if TO_FILL_IN not in one.files}
        return msgspec.structs.replace(drafted, samples=there), missing | seen.refused
    declared = read_config(config)
    name, first = next(iter(declared.samples.items()))
    sample = msgspec.structs.replace(first, files=tuple(files), tree=tree or first.tree, selection=None)
    return msgspec.structs.replace(declared, samples={name: sample}), {}


def _report(found: Forecast) -> Iterator[str]:
    for head, words in _lines(found):
        yield f"{head:<11}{words}"
    if found.warnings:
        yield ""
        yield from (f"warning: {line}" for line in found.warnings)


def _lines(found: Forecast) -> Iterator[tuple[str, str]]:
    where = f", {found.remote_files} of them far away" if found.remote_files else ""
    yield "files", f"{found.files:,}{where}; {size(found.file_bytes)}; {found.entries:,} entries"
    if found.skipped:
        yield "left out", _left_out(found)
    yield "columns", f"{found.columns:,} are read, {found.width:,} numbers an event come out"
    yield "an epoch", _read(found)
    if found.network is not None:
        yield "network", _network(found.network)
    clusters = found.clusters
    spread = f"{clusters.smallest:,} to {clusters.largest:,} entries, median {clusters.median:,}"
    yield "clusters", f"{clusters.count:,}: {spread}"
    order = found.order
    yield (
        "windows",
        (
            f"{order.windows:,} of {order.window:,} entries; clusters that one mixes: {order.median_clusters:,} "
            f"(median; fewest {order.fewest_clusters:,})"
        ),
    )
    memory = found.memory
    yield (
        "memory",
        (
            f"{size(memory.total)} at most besides the program: {size(memory.windows)} windows, {size(memory.waiting)} "
            f"rows that wait, {size(memory.reading)} while reading with {found.threads} threads"
        ),
    )
    yield "time", _time(found)
    kept = "kept from an earlier pass over these files" if found.statistics_kept else "not there yet: one more epoch"
    yield "statistics", kept
    yield "cache", _cache(found)


def _time(found: Forecast) -> str:
    rate = found.measured_entries / max(found.measured_seconds, 1e-9)
    far = found.network
    slower = ", which is that of the network" if far and found.epoch_seconds == far.epoch_seconds else ""
    waits = ", the network apart" if far else ""
    how = f"{counted(found.threads, 'thread')}{slower}"
    if found.cache is not None and found.cache.is_whole:
        what, on = "an epoch of reading kept rows", "1 block of them"
    else:
        lacks = found.cache is not None and found.cache.lacking_share < 1
        what = "for the next epoch, of reading what the cache lacks," if lacks else "an epoch of reading"
        on = f"1 of {found.clusters.count:,} clusters"
    return (
        f"{found.epoch_seconds:.3g} s {what} with {how} (measured on {on}: {found.measured_entries:,} entries, "
        f"{rate:,.0f} a second in one thread{waits}); learning comes on top"
    )


def _cache(found: Forecast) -> str:
    there = found.cache
    if there is None or not there.is_usable:
        return f"{size(found.cache_bytes)} on disk for all rows"
    words = f"{size(there.needed_bytes)} at most for all rows in {there.folder}"
    if there.is_whole:
        return f"{words}: they are kept, and every epoch reads them there"
    told = f"{words} (limit {size(there.limit_bytes)}, {size(there.disk_bytes)} left on the disk)"
    if not there.kept_entries:
        return f"{told}: nothing is kept yet, the first epoch does it"
    lacks = f"{there.lacking_entries:,} of {counted(there.lacking_files, 'file')}"
    return f"{told}: {there.kept_entries:,} entries are kept; {lacks} are lacking, the next epoch reads them"


def _network(found: Network) -> str:
    return (
        f"{size(found.epoch_bytes)} an epoch come over it: {found.epoch_seconds:.3g} s at {size(found.bytes_per_s)}/s "
        f"(measured: {size(found.measured_bytes)} of {counted(found.measured_clusters, 'cluster')} with "
        f"{counted(found.threads, 'thread')} at once); a cache fetches them once"
    )


def _left_out(found: Forecast) -> str:
    files = sum(one.tree is None for one in found.skipped)
    clusters = counted(len(found.skipped) - files, "cluster")
    told = f"{counted(files, 'file')} that cannot be read"
    if len(found.skipped) > files:
        told += f", and {clusters} of those that were tried"
    return f"{told}; a run finds damaged clusters when it reads them all"


def _read(found: Forecast) -> str:
    if found.cache is not None and found.cache.is_whole:
        return f"reads {size(found.cache.own_bytes)} of kept rows, nothing of the files"
    keeps = found.cache is not None and found.cache.is_usable and found.cache.shortage() is None
    return f"{_read_of_files(found)}{'; later ones read kept rows' if keeps else ''}"


def _read_of_files(found: Forecast) -> str:
    if found.stored_bytes is None:
        return f"reads its share of {size(found.file_bytes)}; this format does not tell the bytes of columns"
    words = f"reads {size(found.stored_bytes)}, inflated {size(found.inflated_bytes)}"
    if found.weighed_files < found.files:
        words += f" (from {found.weighed_files} of {found.files:,} files)"
    return words
