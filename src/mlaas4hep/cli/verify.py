"""``mlaas4hep verify``: does a bundle score as it should, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlaas4hep.bundle import VerifyReport


@click.command(
    epilog="""\b
Examples:
  mlaas4hep verify runs/tth/model/tth           # the newest version of a bundle
  mlaas4hep verify models/tth/1 models/ttz/3    # these versions
  mlaas4hep verify models/tth --threads 4       # as 'mlaas4hep serve --threads 4' would run it
  mlaas4hep verify models/tth --json && mlaas4hep serve models

\b
Exit status: 0 all do, 1 one does not, 2 no bundle, or one that was changed since it was written.
"""
)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 256),
    help="Threads inside one prediction; may be repeated.  [default: 1 and 2]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line a bundle.")
def command(bundles: tuple[Path, ...], threads: tuple[int, ...], as_json: bool) -> None:
    """Prove on this machine that a score of BUNDLE does not depend on the rows beside it, and is what it was.

    A server joins questions that arrive together, and another processor takes other kernels. So rows are scored alone
    and in batches of every number that a server joins (1 to 256) and some beyond, and each score is compared bit for
    bit. Hashes of all files are checked before, and scores of some rows are held against those of the machine that
    wrote the bundle. The rows follow from the bundle itself; no data is needed.
    """
    from mlaas4hep.bundle import load_bundle, verify_bundle
    from mlaas4hep.graph.invariance import THREADS

    good = True
    for path in bundles:
        report = verify_bundle(load_bundle(path), threads=tuple(dict.fromkeys(threads)) or THREADS)
        click.echo(_as_json(report) if as_json else str(report))
        good = good and report.ok
    if not good:
        raise click.exceptions.Exit(1)


def _as_json(report: VerifyReport) -> str:
    import json

    return json.dumps(
        {
            "ok": report.ok,
            "name": report.name,
            "version": report.version,
            "path": report.path,
            "threads": report.threads,
            "joined": report.joined,
            "batches": report.batches,
            "rows": report.rows,
            "variances": [str(one) for one in report.variances],
            "difference": report.difference,
            "bar": report.bar,
        }
    )
