"""The stream: batches of tensors in an exact order.

`EventDataset` says what is streamed, `BatchIterator` does it: plan, threads that read ahead, windows, batches cut
across windows. Invariant: the sequence of rows is a function of the files, the declaration, seed, epoch and window;
batch size only cuts it, threads and memory only change its speed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.filling import Filling, Read
from mlaas4hep.data.plan import STRANDS, Chunk, Plan, chunk_entries_for
from mlaas4hep.data.reader import MAX_READ_BYTES, Counts, EventReader, Events, reading_bytes
from mlaas4hep.data.rows import SIDE_BYTES, Rows, Window, split_table, targets_in, writer
from mlaas4hep.data.split import Part
from mlaas4hep.data.truth import target_texts
from mlaas4hep.data.weights import class_factors
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics

DEFAULT_WINDOW = 100_000
_STATE_VERSION = 2
_LEAST_CHUNK = 1_024


@dataclass(frozen=True)
class Batch:
    """Events side by side, n of them; the arrays are the consumer's own.

    Parameters
    ----------
    inputs
        float32 by group, [n, F] or [n, K, F], raw and padded with NaN: views of one table of rows.
    labels
        int64 [n]: position of the class; -1 where there is none, of kind ``data`` and of a regression.
    weights
        float64 [n].
    entries
        Structured [n]: ``file`` (number in the catalogue, int32) and ``entry`` (int64).
    targets
        float32 [n, T] of a regression, in the order of the declaration's ``target_texts``: a view of the same table;
        None where there are no targets.
    """

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]
    targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class EventDataset:
    """Events of a catalogue as a stream of batches.

    Parameters
    ----------
    catalogue
        The files.
    preprocessor
        Columns to tensors.
    part
        Of the split; None streams all events, and is the only one of kind ``data``.
    batch_size
        Events a batch; the last one of an epoch may be smaller.
    shuffle
        False gives the catalogue's order.
    shuffle_window
        W, entries that are shuffled together, counted before selection and split. Part of the order.
    seed
        Key of the order.
    weights
        ``physics``: as in the analysis; ``training``: as the declaration's ``weights.training`` says, which needs
        ``statistics`` where it is ``balanced``.
    statistics
        Of the scan.
    threads
        That read ahead; 0 reads when asked. Changes speed only.
    max_memory
        Bytes that the stream may take: a quarter of it for columns while they are read, the rest for rows held and read
        ahead. It cannot take less than one basket of each column (TTree) or one cluster (RNTuple) a thread; batches
        handed out are the consumer's. None sets no bound.
    chunk_entries
        Entries read at once; None chooses. Changes speed and memory only.

    Raises
    ------
    DataError
        A number out of range; a window that does not fit ``max_memory``, with the largest that does; a part or training
        weights of a catalogue of kind ``data``.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessor: Preprocessor,
        *,
        part: Part | None = None,
        batch_size: int = 256,
        shuffle: bool = False,
        shuffle_window: int = DEFAULT_WINDOW,
        seed: int = 0,
        weights: Literal["training", "physics"] = "physics",
        statistics: Statistics | None = None,
        threads: int = 2,
        max_memory: int | None = None,
        chunk_entries: int | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("shuffle_window", shuffle_window, 1),
            ("threads", threads, 0),
            ("chunk_entries", chunk_entries if chunk_entries is not None else 1, 1),
        ):
            if value < least:
                raise DataError(f"{name} must be at least {least}, got {value}")
        if catalogue.kind == "data" and (part is not None or weights == "training"):
            raise DataError("samples of kind data are not learned from: they have no parts and no training weights")
        self.catalogue = catalogue
        self.preprocessor = preprocessor
        self.part = part
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.shuffle_window = shuffle_window
        self.seed = seed
        self.threads = threads
        self._targets = len(target_texts(catalogue, preprocessor))
        self._width = preprocessor.features.width + self._targets
        self._row_bytes = 4 * self._width + SIDE_BYTES
        # Unshuffled, windows mean nothing; they must not hang on what changes from run to run, for states to fit.
        self._window = shuffle_window if shuffle else reading_unit(preprocessor)
        self._buffers = 2 if shuffle else threads + 2
        self._chunk_entries = chunk_entries or self._most_read(max_memory, STRANDS if shuffle else 1)
        self._ahead = self._read_ahead(max_memory)
        self._factors = class_factors(catalogue.classes, preprocessor.features, weights, statistics)
        self._reader = EventReader(catalogue, preprocessor, max_read_bytes=self._read_bytes(max_memory))
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """What identifies an event and so decides its part, in words."""
        return str(self.catalogue.identity)

    def epoch(self, number: int) -> BatchIterator:
        """Batches of one epoch; each number has an order of its own where shuffled."""
        return BatchIterator(self, number)

    def __iter__(self) -> BatchIterator:
        return self.epoch(0)

    def __str__(self) -> str:
        return f"{self.part or 'all'} events in batches of {self.batch_size}; {self.plan(0)}"

    def plan(self, epoch: int) -> Plan:
        """Order and reading units of an epoch."""
        return Plan(
            self.catalogue.files,
            self._window,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            chunk_entries=self._chunk_entries,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what fixes the sequence of rows: a saved state fits only where it is equal."""
        digest = hashlib.sha256()
        parts = (self.part, self.shuffle, self._window, self.seed, str(self.preprocessor.features))
        digest.update(repr(parts).encode())
        for file in self.catalogue.files:
            digest.update(repr((file.sample, file.index, file.tree)).encode() + file.clusters.tobytes())
        for sample in self.catalogue.samples:
            if sample.selection is not None or sample.rule is not None:
                digest.update(repr((sample.number, sample.selection, sample.rule)).encode())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files that are kept open between epochs."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_bytes(self, max_memory: int | None) -> int:
        if max_memory is None:
            return MAX_READ_BYTES
        return min(reading_bytes(max_memory - _for_rows(max_memory), threads=self.threads), MAX_READ_BYTES)

    def _most_read(self, max_memory: int | None, strands: int) -> int:
        """Entries of a chunk: as many as the declaration says, or as fit beside the windows."""
        wanted = reading_unit(self.preprocessor)
        if max_memory is None:
            return wanted
        fits = self._room(max_memory) // (strands + self.threads)
        return min(wanted, max(fits, _LEAST_CHUNK))

    def _room(self, max_memory: int) -> int:
        """Rows that fit beside the windows.

        Raises
        ------
        DataError
            The windows alone do not fit.
        """
        fits = _for_rows(max_memory) // (self._buffers * self._row_bytes)
        held = min(self._window, self.catalogue.num_entries)
        if held > fits:
            what = "shuffle_window" if self.shuffle else "a reading unit of"
            raise DataError(
                f"{what} {held} needs {self._buffers * self._row_bytes * held / 1e6:.1f} MB at {self._row_bytes} bytes "
                f"a row, more than rows may take of max_memory ({_for_rows(max_memory) / 1e6:.1f} of "
                f"{max_memory / 1e6:.1f} MB); the largest window that fits is {fits}"
            )
        return self._buffers * (fits - held)

    def _read_ahead(self, max_memory: int | None) -> int:
        """Entries that may be read before their window opens: those that must be, and a chunk a thread."""
        plan = self.plan(0)
        largest = max((one.num_entries for one in plan.chunks()), default=0)
        wanted = plan.most_held + max(self.threads, 1) * largest
        return wanted if max_memory is None else min(wanted, self._room(max_memory))

    def _fill(self, epoch: int, first: int, counts: dict[int, Counts]) -> Filling:
        """Windows of an epoch from one on; what became of the entries is added to ``counts``."""
        width = self._width
        plan = self.plan(epoch)
        # Refers to self by way of the work alone, which ends with the iterator.
        return Filling(
            plan,
            lambda chunk: self._read(chunk, counts),
            write=writer(plan.num_entries * width),
            width=width,
            first=first,
            threads=self.threads,
            buffers=self._buffers,
            ahead=self._ahead,
        )

    def _read(self, chunk: Chunk, counts: dict[int, Counts]) -> Iterator[Read]:
        """Work of a thread: the events of one chunk."""
        file = self.catalogue.files[chunk.file]
        for events in self._reader.read(file, chunk.start, chunk.stop, part=self.part):
            yield Read(file.number, events.entries, events.rows, events.labels, self._weights_of(events))
            with self._lock:
                counts[chunk.file] = counts.get(chunk.file, Counts()) + events.counts

    def _weights_of(self, events: Events) -> NDArray[np.float64]:
        if self._factors is None:
            return np.ones(len(events.labels))
        # Without classes there is one factor; events without a label are not kept, theirs means nothing.
        return events.weights * self._factors.take(events.labels, mode="clip")


class BatchIterator:
    """Batches of one epoch. Stops its threads when it ends, is closed, fails, or is forgotten.

    Attributes
    ----------
    counts
        By number of the file, what became of its entries so far (`Counts`); runs ahead of the batches by what is held.
    """

    def __init__(self, dataset: EventDataset, epoch: int) -> None:
        self._dataset = dataset
        self._epoch = epoch
        self._window: Window | None = None
        self._offset = 0
        self._start(window=0, offset=0)

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self._epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        parts: list[Rows] = []
        missing = self._dataset.batch_size
        while missing and (window := self._fill()) is not None:
            stop = min(self._offset + missing, len(window))
            parts.append(window.pick(self._offset, stop))
            missing -= stop - self._offset
            self._offset = stop
        if not parts:
            self.close()
            raise StopIteration
        rows = Rows.concat(parts)
        features, size = self._dataset.preprocessor.features, self._dataset._targets
        inputs = split_table(rows.table, features, targets=size)
        return Batch(inputs, rows.labels, rows.weights, rows.entries, targets_in(rows.table, features, size))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, between two batches: plain values, less than 1 kB."""
        window, offset = self._place()
        return {
            "version": _STATE_VERSION,
            "fingerprint": self._dataset.fingerprint,
            "epoch": self._epoch,
            "window": window,
            "offset": offset,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` gave; the rest is that of the iterator that was asked.

        Threads, memory and batch size may differ from then.

        Raises
        ------
        DataError
            The state belongs to other files, another declaration, seed or window.
        """
        if state.get("version") != _STATE_VERSION or state.get("fingerprint") != self._dataset.fingerprint:
            raise DataError(
                "this state was saved from another stream: files, inputs, selection, part, seed or shuffle_window "
                "differ"
            )
        self.close()
        self._epoch = int(state["epoch"])
        self._start(window=int(state["window"]), offset=int(state["offset"]))

    def close(self) -> None:
        """Stop the threads; no batch comes after it."""
        self._next = self._place()
        self._window = None
        self._filling.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, *, window: int, offset: int) -> None:
        self.counts: dict[int, Counts] = {}
        self._filling = self._dataset._fill(self._epoch, window, self.counts)
        self._window = None
        self._offset = offset
        self._next = (window, offset)

    def _fill(self) -> Window | None:
        """The current window, with rows left in it; None at the end of the epoch."""
        while self._window is None or self._offset >= len(self._window):
            self._next = self._after()
            self._window = None  # let go before the next one is put together
            following = next(self._filling, None)
            if following is None:
                return None
            self._offset = self._next[1] if following.number == self._next[0] else 0
            self._window = following
        return self._window

    def _after(self) -> tuple[int, int]:
        return self._next if self._window is None else (self._window.number + 1, 0)

    def _place(self) -> tuple[int, int]:
        return self._next if self._window is None else (self._window.number, self._offset)


def _for_rows(max_memory: int) -> int:
    """The part of the memory that rows may take; the rest is for columns while they are read."""
    return max_memory - max_memory // 4


def reading_unit(preprocessor: Preprocessor) -> int:
    """Entries read at once for a declaration: by the bytes of its raw columns and of its rows."""
    raw = sum(40 if one.kind == "jagged" else 8 for one in preprocessor.types.values())
    return chunk_entries_for(raw + 8 * preprocessor.features.width)


def default_threads() -> int:
    """Two, or one where only one core may be used: more only help where reading is slower than learning."""
    return min(2, len(os.sched_getaffinity(0)))
