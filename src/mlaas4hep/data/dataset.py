"""The stream: batches of tensors in an exact order.

`EventDataset` says what is streamed, `BatchIterator` does it: plan, threads that read ahead, windows, batches cut
across windows. Invariant: the sequence of rows is a function of the files, the declaration, seed, epoch and window;
batch size only cuts it, threads and memory only change its speed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.plan import Chunk, Plan, chunk_entries_for
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.reader import MAX_READ_BYTES, Counts, EventReader, reading_bytes
from mlaas4hep.data.shuffle import ENTRY, Rows, Window, windows
from mlaas4hep.data.split import Part
from mlaas4hep.data.weights import require_classes, training_factors
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics

DEFAULT_WINDOW = 100_000
_ROW_OVERHEAD = 44  # label, weight, entry, position, key
_STATE_VERSION = 1
_LEAST_CHUNK = 1_024


@dataclass(frozen=True)
class Batch:
    """Events side by side, n of them; the arrays are the consumer's own.

    Parameters
    ----------
    inputs
        float32 by group, [n, F] or [n, K, F], raw and padded with NaN.
    labels
        int64 [n]: position of the class.
    weights
        float64 [n].
    entries
        Structured [n]: ``file`` (number in the catalogue, int32) and ``entry`` (int64).
    """

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]

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
        Of the split; None streams all events.
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
        A number out of range; a window that does not fit ``max_memory``, with the largest that does.
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
        self.catalogue = catalogue
        self.preprocessor = preprocessor
        self.part = part
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.shuffle_window = shuffle_window
        self.seed = seed
        self.threads = threads
        self._row_bytes = 4 * preprocessor.features.width + _ROW_OVERHEAD
        self._chunk_entries = chunk_entries or self._reading_unit(max_memory)
        # Unshuffled, windows mean nothing; they must not hang on what changes from run to run, for states to fit.
        self._window = shuffle_window if shuffle else reading_unit(preprocessor)
        self._ahead = self._read_ahead(max_memory)
        self._factors = _factors(catalogue, preprocessor, weights, statistics)
        self._reader = EventReader(catalogue, preprocessor, max_read_bytes=self._read_bytes(max_memory))

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

    def _reading_unit(self, max_memory: int | None) -> int:
        """Entries of a chunk: as many as the declaration says, or as fit beside a window and the other threads."""
        wanted = reading_unit(self.preprocessor)
        if max_memory is None:
            return wanted
        fits = _for_rows(max_memory) // (4 * (self.threads + 1) * self._row_bytes)
        return min(wanted, max(fits, _LEAST_CHUNK))

    def _read_ahead(self, max_memory: int | None) -> int:
        """Entries to work on ahead: a window, so that threads are busy while the last one is consumed."""
        wanted = max(self._window, (self.threads + 1) * self._chunk_entries)
        if max_memory is None:
            return wanted
        fits = _for_rows(max_memory) // (2 * self._row_bytes)
        if self._window > fits:
            raise DataError(
                f"shuffle_window {self._window} needs {2 * self._row_bytes * self._window / 1e6:.0f} MB at "
                f"{self._row_bytes} bytes a row, more than rows may take of max_memory ("
                f"{_for_rows(max_memory) / 1e6:.0f} of {max_memory / 1e6:.0f} MB); the largest window that fits is "
                f"{fits}"
            )
        return min(wanted, _for_rows(max_memory) // self._row_bytes - self._window)

    def _rows(self, plan: Plan, chunk: Chunk) -> tuple[Rows, Counts]:
        """Work of a thread: one chunk to rows with their place in the order."""
        file = self.catalogue.files[chunk.file]
        events = self._reader.read(file, chunk.start, chunk.stop, part=self.part)
        label = self.catalogue.samples[file.sample].label
        size = len(events.entries)
        positions = chunk.positions()[events.entries - chunk.start]
        entries = np.empty(size, dtype=ENTRY)
        entries["file"], entries["entry"] = file.number, events.entries
        rows = Rows(
            inputs=events.inputs,
            labels=np.full(size, label, dtype=np.int64),
            weights=self._weights(events.weights, label),
            entries=entries,
            positions=positions,
            keys=plan.keys(chunk.file, events.entries, positions),
        )
        return rows, events.counts

    def _weights(self, physics: NDArray[np.float64], label: int) -> NDArray[np.float64]:
        return np.ones(len(physics)) if self._factors is None else physics * self._factors[label]


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
        return Batch(rows.inputs, rows.labels, rows.weights, rows.entries)

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
        self._windows.close()
        self._prefetch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, *, window: int, offset: int) -> None:
        dataset = self._dataset
        plan = dataset.plan(self._epoch)
        self.counts: dict[int, Counts] = {}
        self._prefetch = Prefetch(
            partial(dataset._rows, plan),
            tuple(plan.chunks(window)),
            threads=dataset.threads,
            ahead=dataset._ahead,
        )
        self._windows = windows(_counted(self._prefetch, self.counts), plan.window, first=window)
        self._window = None
        self._offset = offset
        self._next = (window, offset)

    def _fill(self) -> Window | None:
        """The current window, with rows left in it; None at the end of the epoch."""
        while self._window is None or self._offset >= len(self._window):
            self._next = self._after()
            self._window = None  # let go before the next one is put together
            following = next(self._windows, None)
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


def _counted(results: Prefetch[Chunk, tuple[Rows, Counts]], counts: dict[int, Counts]) -> Iterator[tuple[Chunk, Rows]]:
    for chunk, (rows, found) in results:
        counts[chunk.file] = counts.get(chunk.file, Counts()) + found
        yield chunk, rows


def _factors(
    catalogue: Catalogue,
    preprocessor: Preprocessor,
    weights: Literal["training", "physics"],
    statistics: Statistics | None,
) -> NDArray[np.float64] | None:
    ones = np.ones(len(catalogue.classes))
    training = preprocessor.features.weights.training
    if weights == "physics":
        return ones
    if training == "balanced" and statistics is None:
        raise DataError("balanced training weights need the statistics of a scan")
    sums = {} if statistics is None else {name: statistics.classes[name] for name in catalogue.classes}
    require_classes(sums)
    return ones if training == "physics" else training_factors(training, sums)
