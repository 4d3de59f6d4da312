"""``python -m benchmarks.serving --json``: one JSON line with the figures of our server, of its peers, and ratios.

All serve the same graph (`benchmarks.serving.networks`), each with its own way of asking onnxruntime; wrk and h2load,
which ask, share the processors with them. A block starts a server, asks it in all cells and stops it; blocks of the
servers follow each other in turns, so that neighbours disturb all alike, and a figure is the median of its blocks.
``cpu_us_c64`` is processor time a request of all processes of the server, ``pss_mb`` their memory behind that load.
``resnet64_served_ms`` is the median time of one picture over one connection, in binary where the server knows it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from benchmarks.serving.cells import CELLS, INPROCESS, OURS, Cell, Figures, key
from benchmarks.serving.load import Load, h2load, lua_script, program, wrk
from benchmarks.serving.networks import Network, mlp, resnet
from benchmarks.serving.processes import cpu_s, pss_mb
from benchmarks.serving.questions import GRPC_PATH, Wire, ask, check, http_path, question
from benchmarks.serving.servers import SERVERS, Running, running, why_not, wires
from benchmarks.turns import Unavailable

WARM = 20


class Bench:
    """Blocks of servers; `figures` grow with each.

    Parameters
    ----------
    folder
        Of models, bodies, environments and what the servers say.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self.figures = Figures()
        self._folder, self._seconds = folder, seconds
        self._networks: dict[str, Network] = {}

    def network(self, name: str) -> Network:
        """By name; made where it is missing."""
        if name not in self._networks:
            self._networks[name] = {"mlp": mlp, "resnet64": resnet}[name](self._folder / "serving" / "models")
        return self._networks[name]

    def block(self, server: str, cells: Iterable[Cell]) -> None:
        """Ask a server in all cells, started anew for each network and number of processes."""
        for (name, workers), some in groupby(cells, lambda one: (one.network, one.workers)):
            group = [cell for cell in some if self._possible(server, cell)]
            if not group:
                continue
            try:
                with running(server, self.network(name), workers=workers, folder=self._folder) as found:
                    for cell in group:
                        self._measure(server, cell, found)
            except Unavailable as error:
                self._without(server, group, str(error))

    def _possible(self, server: str, cell: Cell) -> bool:
        reason = why_not(server, cell.form(wires(server)) or cell.wire, cell.workers)
        if reason:
            self._without(server, [cell], reason)
        return not reason

    def _measure(self, server: str, cell: Cell, found: Running) -> None:
        # Without a server right before and right after, since the machine changes its pace within a minute.
        beside = server == OURS and cell == CELLS["resnet64"]
        alone = [self._alone_ms(cell)] if beside else []
        try:
            for figure, value in self._load(cell, cell.form(wires(server)) or cell.wire, found).items():
                self.figures.add(key(server, figure), value)
        except (OSError, Unavailable) as error:
            self._without(server, [cell], str(error))
        if beside:
            self.figures.add(INPROCESS, (alone[0] + self._alone_ms(cell)) / 2)

    def _alone_ms(self, cell: Cell) -> float:
        return self.network(cell.network).inprocess_ms(self._seconds / 2)

    def _load(self, cell: Cell, wire: Wire, found: Running) -> dict[str, float]:
        """Check, warm up, measure."""
        network = self.network(cell.network)
        rows = network.rows(cell.rows)
        asked, wanted = question(network, wire, rows), network.answer(rows)
        body = self._folder / "serving" / f"{network.name}-{wire}-{cell.rows}.body"
        body.write_bytes(asked.body)
        for _ in range(WARM):
            scores, answer_bytes = ask(found.address(wire), network, wire, asked)
            check(scores, wanted)
        before = cpu_s(found.pid)
        if wire == "grpc":
            load = h2load(found.grpc, GRPC_PATH, body, connections=cell.connections, seconds=self._seconds)
            _all_answered(load, answer_bytes)
        else:
            script = body.with_suffix(".lua")
            script.write_text(lua_script(body, dict(asked.headers)), encoding="utf-8")
            url = f"http://{found.http}{http_path(network)}"
            load = wrk(url, script, connections=cell.connections, seconds=self._seconds)
        return read_off(cell, load, cpu_s=cpu_s(found.pid) - before, pss_mb=pss_mb(found.pid))

    def _without(self, server: str, cells: Iterable[Cell], reason: str) -> None:
        self.figures.without([key(server, one) for cell in cells for one in cell.figures.values()], reason)


def read_off(cell: Cell, load: Load, *, cpu_s: float, pss_mb: float) -> dict[str, float]:
    """Figures of a load by name."""
    seen = {"rps": load.rps, "cpu_us": cpu_s / load.requests * 1e6, "pss_mb": pss_mb}
    if load.p50_us is not None and load.p99_us is not None:
        seen |= {"p50_us": load.p50_us, "p50_ms": load.p50_us / 1e3, "p99_ms": load.p99_us / 1e3}
    return {name: seen[what] for what, name in cell.figures.items()}


def _all_answered(load: Load, answer_bytes: int) -> None:
    """To HTTP/2 a call that failed is a success without a body; one of a hundred may be under way at the end."""
    if (load.body_bytes or 0) < 0.99 * load.requests * answer_bytes:
        raise Unavailable(f"{load.requests} calls brought {load.body_bytes} bytes, each should {answer_bytes}")


def _some(text: str, known: Mapping[str, Any] | tuple[str, ...], what: str) -> list[str]:
    asked = [one.strip() for one in text.split(",")] if text else list(known)
    if strange := [one for one in asked if one not in known]:
        raise click.BadParameter(f"no {what} {', '.join(strange)}; there are {', '.join(known)}")
    return [one for one in known if one in asked]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--cells", default="", help=f"Only these, with commas between: {', '.join(CELLS)}.")
@click.option("--servers", default="", help=f"Only these, with commas between: {', '.join(SERVERS)}.")
@click.option("--seconds", default=3.0, show_default=True, help="Of each cell; wrk and h2load take whole seconds.")
@click.option("--blocks", default=3, show_default=True, help="Of each server; the median counts.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(*, as_json: bool, cells: str, servers: str, seconds: float, blocks: int, folder: Path) -> None:
    """Measure our server beside its peers, block by block."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too
    folder = folder.absolute()
    (folder / "serving").mkdir(parents=True, exist_ok=True)
    names, asked = _some(servers, SERVERS, "server"), [CELLS[one] for one in _some(cells, CELLS, "cell")]
    for needed in {"h2load" if one.wire == "grpc" else "wrk" for one in asked}:
        try:
            program(needed)
        except Unavailable as error:
            raise click.ClickException(str(error)) from None
    bench, load, begin = Bench(folder, seconds=seconds), os.getloadavg(), time.monotonic()
    for number in range(blocks):
        for server in names:
            click.echo(f"block {number + 1} of {blocks}: {server}", err=True)
            bench.block(server, asked)
    figures: dict[str, Any] = {**bench.figures.medians(), "ratios": bench.figures.ratios()}
    figures |= {"reasons": bench.figures.reasons, "blocks": blocks, "seconds": seconds}
    figures |= {"cpus": len(os.sched_getaffinity(0)), "took_s": round(time.monotonic() - begin)}
    figures |= {"load_average_before": load, "load_average": os.getloadavg()}
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:32} {value}")


if __name__ == "__main__":
    main()
