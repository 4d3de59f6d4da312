"""How well windows mix: three designs of the order, side by side.

``python -m benchmarks.mixing`` prints, for samples of 10 million entries in clusters of 50,000 and windows of 100,000,
of how many clusters a window holds parts, how far the share of each sample strays from window to window, and how many
entries wait in memory; and draws the share of the rarest sample along the epoch into ``docs/images/mixing.png``, beside
that of a class of one sample in a file that is sorted by class (`benchmarks.classes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import classes
from mlaas4hep.data.entries import Strata
from mlaas4hep.data.plan import STRANDS, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLUSTER = 50_000
WINDOW = 100_000
SAMPLES = {"signal": 400_000, "ttbar": 5_600_000, "qcd": 4_000_000}
FILE = 800_000


@dataclass(frozen=True)
class File:
    """A file of a sample, as a plan sees it."""

    sample: int
    index: int
    clusters: NDArray[np.int64]
    of: int
    strata: Strata = ()


def files(*, apart: bool) -> tuple[File, ...]:
    """All samples in files; as one sample where the design knows none."""
    found: list[File] = []
    for sample, entries in enumerate(SAMPLES.values()):
        for start in range(0, entries, FILE):
            clusters = np.arange(0, min(FILE, entries - start) + 1, CLUSTER, dtype=np.int64)
            found.append(File(sample if apart else 0, len(found), clusters, sample))
    return tuple(found)


def composition(plan: Plan, of: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Share of each sample in each window [windows, samples], and the number of clusters that it has parts of."""
    counts = np.zeros((plan.num_windows, len(SAMPLES)))
    clusters: list[set[tuple[int, int]]] = [set() for _ in range(plan.num_windows)]
    for chunk in plan.chunks():
        for piece in chunk.pieces:
            counts[piece.window, of[chunk.file]] += piece.num_entries
            numbers = range(piece.start // CLUSTER, -(-piece.stop // CLUSTER))
            clusters[piece.window] |= {(chunk.file, number) for number in numbers}
    shares = counts / counts.sum(axis=1, keepdims=True)
    return shares, np.array([len(one) for one in clusters])


def _draw_classes(axes: Axes) -> None:
    """The share of a class in the windows of a sorted file, by design."""
    sorted_file = classes.files_of(classes.one_sorted())
    drawn = {"as they fall": "C7-", "16 by place": "C1-", "strata": "C0-"}
    names = ("clusters as they fall", "16 strands by place", "strata of the scan (chosen)")
    for (design, style), name in zip(drawn.items(), names, strict=True):
        plan = classes.DESIGNS[design](sorted_file)
        axes.plot(100 * classes.shares(plan, sorted_file), style, label=name, lw=1.2)
    axes.set_xlabel("window of 100,000 entries")
    axes.set_ylabel("share of the signal [%]")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    axes.set_ylim(-1, 100)
    axes.set_title("5 million entries in a file sorted by class", fontsize=10)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs/images/mixing.png"), show_default=True)
def main(*, output: Path) -> None:
    """Compare the designs, and draw."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    designs = {
        "permuted clusters, cut into windows": Plan(files(apart=False), WINDOW, shuffle=True, strands=1),
        "a strand a sample": Plan(files(apart=True), WINDOW, shuffle=True, strands=1),
        f"at least {STRANDS} strands (chosen)": Plan(files(apart=True), WINDOW, shuffle=True, strands=STRANDS),
        "at least 16 strands": Plan(files(apart=True), WINDOW, shuffle=True, strands=16),
    }
    of = [one.of for one in files(apart=True)]
    expected = np.array(list(SAMPLES.values())) / sum(SAMPLES.values())
    figure, (axes, beside) = plt.subplots(1, 2, figsize=(9.5, 3.6))
    click.echo(f"{'design':38} {'clusters a window':>18} {'rms of shares':>14} {'waiting entries':>16}")
    for (name, plan), style in zip(designs.items(), ("C7-", "C1--", "C0-", "C2:"), strict=True):
        shares, clusters = composition(plan, of)
        rms = float(np.sqrt(np.mean((shares - expected) ** 2)))
        click.echo(f"{name:38} {clusters.mean():18.1f} {rms:14.5f} {plan.most_held:16,}")
        if name != "at least 16 strands":
            axes.plot(100 * shares[:, 0], style, label=name, lw=1.2)
    axes.set_xlabel("window of 100,000 entries")
    axes.set_ylabel("share of the rarest sample [%]")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    axes.set_ylim(-1, 90)
    axes.set_title("10 million entries of three samples", fontsize=10)
    _draw_classes(beside)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
