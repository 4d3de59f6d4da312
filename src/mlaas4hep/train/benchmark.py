"""How fast a config runs on this machine: reading, packing, learning and scoring, each for some seconds.

Invariant: of the events only the training part is packed, learned and scored; nothing is kept, and no figure of a
model's worth comes out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import getsize
from typing import Any

import msgspec
import numpy as np

from mlaas4hep.backends.protocol import InMemoryLearner, Learner, PlacedLearner, StreamingLearner, Task
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.config import Config, Model
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.pace import default_threads
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.progress import Progress
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.targets import TargetScaler
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.loop import Part
from mlaas4hep.train.machine import machine
from mlaas4hep.train.memory import collect
from mlaas4hep.train.provenance import versions
from mlaas4hep.train.scanned import scanned

STAGES = ("read", "pack", "train", "score")
_HELD_BATCHES = 64
_VERSION = 1


class Rate(msgspec.Struct, frozen=True):
    """One stage.

    Parameters
    ----------
    events_per_s
        Entries read, rows packed, events learned from, events scored.
    mb_per_s
        Of the files (compressed) for ``read``, of tensors for the others; None where sizes are not known.
    seconds, events
        What was measured.
    note
        What the rate is of, where that is not plain.
    """

    events_per_s: float
    mb_per_s: float | None
    seconds: float
    events: int
    note: str = ""


class Table(msgspec.Struct, frozen=True):
    """Rates of one config on one machine.

    Parameters
    ----------
    name, model
        Of the config.
    rates
        By stage.
    device
        That learned.
    threads
        That read ahead.
    machine, versions, made
        Where, with what, when.
    """

    name: str
    model: str
    rates: dict[str, Rate]
    device: str
    threads: int
    machine: dict[str, Any]
    versions: dict[str, str]
    made: str
    version: int = _VERSION


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """What all stages share."""

    config: Config
    choice: Choice
    catalogue: Catalogue
    spec: ModelSpec
    threads: int
    seconds: float
    progress: Progress

    def dataset(self) -> EventDataset:
        settings = self.config.training
        return EventDataset(
            self.catalogue,
            Preprocessor(self.config.features, self.catalogue.types),
            part="train",
            batch_size=settings.batch_size,
            shuffle=True,
            shuffle_window=settings.shuffle_window,
            seed=settings.seed,
            weights="training",
            statistics=self.spec.statistics,
            threads=self.threads,
            max_memory=settings.max_memory_bytes,
        )

    def timed(self, stage: str, work: Iterator[tuple[int, float]], note: str = "") -> Rate:
        """Do pieces of work, each (events, bytes), until the time is over; the first piece warms up."""
        self.progress.start(stage, unit="events")
        events, size, begin = 0, 0.0, None
        now = time.perf_counter()
        for some, those in work:
            now = time.perf_counter()
            if begin is None:
                begin = now
                continue
            events, size = events + some, size + those
            self.progress.update(some)
            if now - begin >= self.seconds:
                break
        self.progress.close()
        took = now - (begin or now)
        if not events or took <= 0:
            raise DataError(f"{stage}: too few events to be timed; give more with --max-events")
        mb = size / took / 1e6 if size else None
        return Rate(round(events / took, 1), None if mb is None else round(mb, 3), round(took, 3), events, note)


def benchmark(
    config: Config,
    *,
    seconds: float,
    max_events: int | None,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress,
) -> Table:
    """Measure every stage.

    Parameters
    ----------
    config
        As for a training.
    seconds
        For each stage, at most; a model that learns in one go takes what it takes.
    max_events
        Entries to use, shared among the samples.
    threads
        That read ahead.
    device
        For the model's dial of this name, in the place of what the config says: ``auto``, ``cpu``, ``cuda``.
    progress
        Told how far it is.

    Raises
    ------
    UserError
        Whatever is wrong with config, files or model; a device that the model cannot use, or a model without the dial.
    """
    choice = choose(_placed(config.model, device), where=config.path)
    threads = default_threads() if threads is None else threads
    progress.start("opening files", unit="files")
    catalogue = Catalogue.open(config, progress=progress.update)
    progress.close()
    if max_events is not None:
        catalogue = limit_events(catalogue, max_events)
    preprocessor = Preprocessor(config.features, catalogue.types)
    catalogue, found = scanned(
        catalogue,
        preprocessor,
        threads=threads,
        max_memory=config.training.max_memory_bytes,
        rescan=False,
        progress=progress,
    )
    spec = ModelSpec.seal(config.name, preprocessor=preprocessor, statistics=found.statistics)
    bench = _Bench(config, choice, catalogue, spec, threads, seconds, progress)
    rates = {"read": _read(bench, sorted(preprocessor.columns)), "pack": _pack(bench)}
    learner = choice.build(Task.of(spec, seed=config.training.seed))
    rates["train"] = _train(bench, learner)
    rates["score"] = _score(bench, learner)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    used = learner.device if isinstance(learner, PlacedLearner) else "cpu"
    return Table(config.name, choice.title, rates, used, threads, machine(), versions(), made)


def _placed(model: Model, device: str | None) -> Model:
    """The model with a device for its dial, where one is asked for."""
    return model if device is None else msgspec.structs.replace(model, dials=dict(model.dials) | {"device": device})


def _read(bench: _Bench, columns: Sequence[str]) -> Rate:
    """Columns of the files, cluster by cluster, in one thread, nothing made of them."""

    def work() -> Iterator[tuple[int, float]]:
        for file in itertools.cycle(bench.catalogue.files):
            share = _bytes_of(file) / (file.tree_entries or file.num_entries)
            with file.open() as source:
                wanted = [one for one in columns if one in source.columns]
                for start, stop in itertools.pairwise(file.clusters.tolist()):
                    source.read(wanted, start, stop)
                    yield stop - start, share * (stop - start)

    return bench.timed("read", work(), f"{len(columns)} columns, one thread; MB of whole files")


def _bytes_of(file: FileEntry) -> float:
    try:
        return float(getsize(file.path))
    except OSError:
        return 0.0  # far away: its size is not asked for


def _batches(bench: _Bench) -> Iterator[Batch]:
    with bench.dataset() as dataset:
        for number in itertools.count():
            yield from dataset.epoch(number)


def _size(batch: Batch) -> float:
    return float(sum(values.nbytes for values in batch.inputs.values()))


def _pack(bench: _Bench) -> Rate:
    """Shuffled batches of the training part."""
    work = ((len(batch), _size(batch)) for batch in _batches(bench))
    return bench.timed("pack", work, f"read, selected, padded, shuffled; {bench.threads} threads")


def _train(bench: _Bench, learner: Learner) -> Rate:
    scaler = TargetScaler(bench.spec.targets) if bench.spec.targets else None
    if isinstance(learner, StreamingLearner):

        def work(streaming: StreamingLearner) -> Iterator[tuple[int, float]]:
            part = Part(bench.dataset(), 0, scaler)
            for batch in _batches(bench):
                streaming.learn(batch.inputs, part.truth(batch), batch.weights)
                yield len(batch), _size(batch)

        return bench.timed("train", work(learner), f"from the stream, batches of {bench.config.training.batch_size}")
    if not isinstance(learner, InMemoryLearner):
        raise ModelError(f"model {bench.choice.title} learns from pages on disk, which is not measured by this version")
    with bench.dataset() as dataset:
        rows = sum(one.train for one in bench.spec.statistics.samples.values())
        table = collect(learner, Part(dataset, rows, scaler).learned(0), rows=rows, update=bench.progress.update)
    begin = time.perf_counter()
    rounds = learner.fit(table, None, patience=bench.config.training.patience)
    took = time.perf_counter() - begin
    size = rows * table.x.shape[1] * 4.0 / took / 1e6
    return Rate(round(rows / took, 1), round(size, 3), round(took, 3), rows, f"one fit in memory, {len(rounds)} rounds")


def _score(bench: _Bench, learner: Learner) -> Rate:
    """The graph that would be served, on batches that lie in memory, one thread."""
    session = Session(merge(bench.spec, learner.export()))
    held = [
        ({name: np.array(values) for name, values in batch.inputs.items()}, len(batch), _size(batch))
        for batch in itertools.islice(_batches(bench), _HELD_BATCHES)
    ]

    def work() -> Iterator[tuple[int, float]]:
        for inputs, events, size in itertools.cycle(held):
            session.run(inputs)
            yield events, size

    return bench.timed("score", work(), "the served graph, one thread")


def read_table(data: bytes, *, where: str) -> Table:
    """What ``mlaas4hep benchmark -o`` wrote.

    Raises
    ------
    DataError
        It is something else.
    """
    try:
        table = msgspec.json.decode(data, type=Table)
    except msgspec.DecodeError as error:
        raise DataError(f"{where}: is no table of 'mlaas4hep benchmark -o': {error}") from error
    if table.version != _VERSION:
        raise DataError(f"{where}: table version {table.version}; this program reads version {_VERSION}")
    return table


def side_by_side(tables: Mapping[str, Table], cell: Callable[[float], str]) -> list[list[str]]:
    """Rows of a comparison, the head first: rates of each table and their ratios to the first."""
    first = next(iter(tables.values()))
    rows = [["stage", *itertools.chain.from_iterable((name, "ratio") for name in tables)]]
    for stage in STAGES:
        row = [f"{stage}, events/s"]
        for one in tables.values():
            own, base = one.rates.get(stage), first.rates.get(stage)
            row += ["-", "-"] if own is None else [cell(own.events_per_s), _ratio(own, base)]
        rows.append(row)
    return rows


def _ratio(own: Rate, base: Rate | None) -> str:
    return "-" if base is None else f"{own.events_per_s / base.events_per_s:.2f}"
