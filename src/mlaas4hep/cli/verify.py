"""``mlaas4hep verify``: does a bundle score as it should, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.bundle import VerifyReport
    from mlaas4hep.serve.proof import EnsembleReport


@click.command(
    epilog="""\b
Examples:
  mlaas4hep verify runs/tth/model/tth           # the newest version of a bundle
  mlaas4hep verify models/tth/1 models/ttz/3    # these versions
  mlaas4hep verify models/tth --threads 4       # as 'mlaas4hep serve --threads 4' would run it
  mlaas4hep verify models/both                  # several models as one, by its ensemble.yaml, and each in it
  mlaas4hep verify tth=runs/folds               # a run in folds, as 'mlaas4hep serve tth=runs/folds' would join it
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

    Of several models as one (a folder with ensemble.yaml, NAME=FILE or NAME=RUN, as for serve) every bundle is
    verified, and the whole is tried in the same way.
    """
    from mlaas4hep.bundle import load_bundle, verify_bundle
    from mlaas4hep.graph.invariance import THREADS
    from mlaas4hep.serve.proof import is_ensemble, verify_ensemble

    good, counts = True, tuple(dict.fromkeys(threads)) or THREADS
    for path in bundles:
        if is_ensemble(path):
            whole = verify_ensemble(path, threads=counts)
            good, words = good and whole.ok, _whole_as_json(whole) if as_json else str(whole)
        else:
            report = verify_bundle(load_bundle(path), threads=counts)
            good, words = good and report.ok, _dumped(_fields(report)) if as_json else str(report)
        click.echo(words)
    if not good:
        raise click.exceptions.Exit(1)


def _fields(report: VerifyReport) -> dict[str, Any]:
    return {
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


def _whole_as_json(report: EnsembleReport) -> str:
    found = {
        "ok": report.ok,
        "name": report.name,
        "note": report.note,
        "path": report.path,
        "threads": report.threads,
        "joined": report.joined,
        "rows": report.rows,
        "variances": [str(one) for one in report.variances],
        "members": [_fields(one) for one in report.members],
        "graphs": report.graphs,
    }
    return _dumped(found)


def _dumped(found: dict[str, Any]) -> str:
    import json

    return json.dumps(found)
