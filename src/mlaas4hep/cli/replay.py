"""``mlaas4hep replay``: train a bundle's model again, and say whether it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlaas4hep.train.replay import Replay


@click.command(
    epilog="""\b
Examples:
  mlaas4hep replay runs/tth/model/tth                        # the files lie where they lay
  mlaas4hep replay tth --files /eos/me/tth                   # a bundle from elsewhere, and the folder of its files
  mlaas4hep replay tth --files 2022=/data/2022 --files ttH_0.root=root://host//store/ttH_0.root
  mlaas4hep replay tth/2 -o runs/again                       # one version; the new run is kept
  mlaas4hep replay tth --json && echo "the same model"

\b
Exit status: 0 equal, 1 not equal, 2 cannot be replayed (files not found, a bundle that does not say enough).
"""
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--files",
    multiple=True,
    metavar="FOLDER|OLD=NEW",
    help="Where files lie now: a folder, or a file or folder as the bundle names it. May be repeated.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Keep the new run there.  [default: it is not kept]"
)
@click.option("-j", "--threads", type=click.IntRange(0), help="Threads that read ahead; changes speed only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(
    bundle: Path,
    files: tuple[str, ...],
    output: Path | None,
    threads: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Train the model of BUNDLE again from what it says of itself, and compare the hashes of contract and graph.

    The bundle holds the config, the seed, your own model and preprocessing code, and of each file its name, size and a
    hash of its bytes. The files themselves are found in the run that the bundle lies in, in the working directory, or
    where --files says. Events are scanned anew, and the test part stays closed.

    Where the hashes are not equal, all that is known to differ is told: files whose bytes changed, versions of
    packages, this project's code, the processor, figures of the contract, and how far the scores are apart.

    The code in the bundle is run: replay only bundles that you trust.
    """
    from mlaas4hep.bundle import load_bundle
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.replay import replay

    bars = Bars(show=progress)
    try:
        done = replay(load_bundle(bundle), files=files, output=output, threads=threads, progress=bars)
    finally:
        bars.close()
    click.echo(_as_json(done) if as_json else _as_text(done))
    if not done.equal:
        raise click.exceptions.Exit(1)


def _as_json(done: Replay) -> str:
    import json

    hashes = {name: {"then": then, "now": now, "equal": equal} for name, (then, now, equal) in done.hashes.items()}
    kept = None if done.run is None else str(done.run.absolute())
    return json.dumps({"equal": done.equal, **hashes, "differences": list(done.differences), "run": kept})


def _as_text(done: Replay) -> str:
    lines = [f"{done.bundle.name} version {done.bundle.version}, trained again:"]
    for name, (then, now, equal) in done.hashes.items():
        lines.append(f"  {name:<13} {f'equal      {then}' if equal else f'not equal  {then} then, {now} now'}")
    if done.differences:
        lines += ["What is not as it was:", *(f"  - {one}" for one in done.differences)]
    elif not done.equal:
        lines.append(
            "Nothing that is kept of files, packages, code and machine differs: the model itself does not repeat"
        )
    if done.run is not None:
        lines.append(f"Run: {done.run}")
    return "\n".join(lines)
