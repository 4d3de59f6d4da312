"""Events a second of ``mlaas4hep score`` beside its two limits: reading the columns, and running the graph.

``python -m benchmarks.scoring --json`` prints one JSON line. ``score_eps`` is zlib ROOT to a friend tree, two threads,
files and models opened in the timed part as a user's command does; ``raw_read_eps`` is uproot's ``tree.iterate`` of the
same columns, one thread, step = cluster; ``onnxruntime_eps`` is the bare graph on prepared tensors, one thread,
4,096 rows. Each is the median of the repetitions, in turns. ``rss_anon_mb`` is the peak of anonymous and shared memory
while one file is scored, ``rss_anon_10x_mb`` while ten are. Scores are compared with those of the bundle, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.apart import apart
from benchmarks.declared import catalogue
from benchmarks.events import CODECS, NARROW, TREE, events_file
from benchmarks.limits import RawUproot
from benchmarks.memory import PeakMemory
from benchmarks.turns import Turns, timed
from mlaas4hep.bundle import Bundle, load_bundle, write_bundle
from mlaas4hep.data.source import open_source
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import Manner, score_files
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import Scaler

HIDDEN = (64, 64)
BATCH = 4096
TEN = 10
MEMORY_S = 900


def model(folder: Path, path: Path) -> Bundle:
    """A network over all columns of the file, with weights of chance; made where it is missing."""
    home = folder / "scoring-model" / "net"
    if home.is_dir():
        return load_bundle(home)
    _, preprocessor = catalogue([str(path)], NARROW)
    with open_source(str(path), TREE) as source:
        columns = source.read(sorted(preprocessor.columns), 0, BATCH)
    prepared = preprocessor.run(columns, BATCH)
    found = StatisticsAccumulator({group: tensor.shape[-1] for group, tensor in prepared.inputs.items()})
    found.add_inputs(prepared.inputs, lengths=prepared.lengths, truncated=prepared.truncated)
    features = msgspec.structs.replace(preprocessor.features, classes=("background", "signal"))
    sealed = type(preprocessor)(features, preprocessor.types)
    spec = ModelSpec.seal("net", preprocessor=sealed, statistics=found.seal())
    random = np.random.default_rng(7)
    sizes = (spec.width, *HIDDEN, 1)
    weights = [(random.normal(size=size) / np.sqrt(size[0])).astype(np.float32) for size in pairwise(sizes)]
    scaler = Scaler(spec.scaling)

    def reference(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        values = scaler.flat(inputs).astype(np.float64)
        for matrix in weights[:-1]:
            values = np.maximum(values @ matrix, 0)
        scores: NDArray[np.float64] = 1 / (1 + np.exp(-(values @ weights[-1])))
        return scores

    core = lower_dense(weights, [np.zeros(size) for size in sizes[1:]], activation="relu", link="sigmoid")
    written: Bundle = write_bundle(home.parent, spec=spec, core=core, reference=reference, rows=prepared.inputs)
    return written


def score(bundle: Path, files: Sequence[str], out: Path, _: int = 0, *, threads: int = 2) -> int:
    """Score files anew; gives the number of events."""
    shutil.rmtree(out, ignore_errors=True)
    asked = ask([load_bundle(bundle)])
    done = score_files(asked, files, str(out), manner=Manner("ttree"), threads=threads)
    asked.close()
    return sum(one.stamp.alignment.entries for one in done.outputs)


class Bare:
    """The graph on prepared tensors."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        preprocessor = bundle.spec.preprocessor()
        with open_source(str(path), TREE) as source:
            columns = source.read(sorted(preprocessor.columns), 0, BATCH)
        self._inputs = preprocessor.run(columns, BATCH).inputs
        self._session = bundle.session(threads=1)

    def read(self, _: int = 0) -> int:
        """As many batches as a file has."""
        batches = NARROW.events // BATCH
        for _ in range(batches):
            self._session.execute(self._inputs)
        return batches * BATCH


def compare(bundle: Bundle, path: Path, out: Path) -> None:
    """Scores in the output are those of the bundle, to the bit."""
    [output] = out.glob("*.root")
    with open_source(str(path), TREE) as source, open_source(str(output)) as scored:
        columns = source.read(sorted(bundle.spec.columns), 0, NARROW.cluster)
        wanted, _ = bundle.score(columns, NARROW.cluster)
        found = scored.read(["net_signal"], 0, NARROW.cluster)["net_signal"]
    if np.asarray(found).tobytes() != wanted[:, 0].tobytes():
        raise SystemExit("the scores in the output are not those of the bundle")


def memory(bundle: Path, files: Sequence[str], out: Path) -> float:
    """Peak in MB while files are scored."""
    with PeakMemory() as peak:
        score(bundle, files, out)
    return round(peak.peak_mb, 1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--codec", type=click.Choice(list(CODECS)), default="zlib", show_default=True, help="Of the files.")
@click.option("--threads", default=2, show_default=True, help="Threads that read and score.")
@click.option("--repeats", default=5, show_default=True, help="Measurements of each kind; the median counts.")
@click.option("--passes", default=2, show_default=True, help="Files of 500,000 events a measurement.")
@click.option("--peak/--no-peak", default=True, help="Measure memory as well.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(*, as_json: bool, codec: str, threads: int, repeats: int, passes: int, peak: bool, folder: Path) -> None:
    """Measure scoring beside reading and running the graph."""
    folder = folder.absolute()
    load = [round(one, 2) for one in os.getloadavg()]
    path = events_file(folder, NARROW, codec=codec)
    bundle = model(folder, path)
    out = folder / "scoring-out"
    reads: dict[str, Any] = {
        "score_eps": partial(score, bundle.path, [str(path)], out, threads=threads),
        "raw_read_eps": RawUproot(path, NARROW).read,
        "onnxruntime_eps": Bare(bundle, path).read,
    }
    turns = Turns()
    for name, read in reads.items():
        read(0)  # the first is never warm
        turns.add((name,), lambda name=name, read=read: timed(name, read, passes=passes))  # type: ignore[misc]
    compare(bundle, path, out)
    turns.run(repeats)
    figures: dict[str, Any] = dict(turns.medians())
    limit = min(figures["raw_read_eps"], figures["onnxruntime_eps"])
    figures["score_ratio"] = round(figures["score_eps"] / limit, 3)
    if peak:
        ten = [str(events_file(folder, NARROW, codec=codec, number=number)) for number in range(TEN)]
        figures["rss_anon_mb"] = apart(MEMORY_S, memory, bundle.path, [str(path)], out)
        figures["rss_anon_10x_mb"] = apart(MEMORY_S, memory, bundle.path, ten, out)
    shutil.rmtree(out, ignore_errors=True)
    figures |= {"codec": codec, "events": passes * NARROW.events, "repeats": repeats, "threads": threads}
    figures |= {"cpu_ns_per_event": turns.cpu_ns(), "cpus": len(os.sched_getaffinity(0))}
    figures |= {"load_average_before": load, "load_average": [round(one, 2) for one in os.getloadavg()]}
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:22} {value}")


if __name__ == "__main__":
    main()
