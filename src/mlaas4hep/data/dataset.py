"""The stream: batches of tensors in an exact order.

`EventDataset` says what is streamed, `BatchIterator` does it: plan, threads that read ahead, windows, batches cut
across windows. Invariant: the sequence of rows is a function of the files, the declaration, seed, epoch and window;
batch size only cuts it, threads and memory only change its speed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal, Self

from mlaas4hep.arguments import whole, word
from mlaas4hep.config import Cache, bytes_of
from mlaas4hep.data.account import Account
from mlaas4hep.data.asked import MOST_EPOCH, MOST_SEED, rank_of, require_inputs
from mlaas4hep.data.batches import Batch, BatchIterator, Gathered, Order, Place, Windowed, rows_to_batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.delivery import Delivery, open_cache
from mlaas4hep.data.exact import ExactOrder, KeptRows
from mlaas4hep.data.filling import Filling, Work
from mlaas4hep.data.fingerprint import fingerprint
from mlaas4hep.data.journal import Block
from mlaas4hep.data.memory import Shares, buffers, for_rows, share_memory
from mlaas4hep.data.pace import readers, reading_unit
from mlaas4hep.data.plan import Plan
from mlaas4hep.data.ragged import RaggedBatch, RaggedSlots, ReadRagged, to_ragged_batch
from mlaas4hep.data.reader import MAX_READ_BYTES, EventReader, reading_bytes
from mlaas4hep.data.recycled import forget
from mlaas4hep.data.rows import SIDE_BYTES, LentRows, Rows, S, pays_compiling, permuter, writer
from mlaas4hep.data.split import PARTS, Part
from mlaas4hep.data.truth import target_texts
from mlaas4hep.data.weights import class_factors
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics

DEFAULT_WINDOW = 100_000


class EventDataset:
    """Events of a catalogue as a stream of batches.

    May be pickled, and used in a process forked from this one: there it opens files of its own.

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
        False gives the catalogue's order; True shuffles by windows. ``exact`` is a global permutation from the second
        epoch on, out of the cache that the first one fills, itself shuffled by windows.
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
        That read ahead, at least `FAR_THREADS` where files are not on this machine: they mostly wait. 0 reads when
        asked. Changes speed only.
    max_memory
        Bytes that the stream may take, or words such as ``2 GB``: a quarter of it for columns while they are read, the
        rest for rows held and read ahead. It cannot take less than one basket of each column (TTree) or one cluster
        (RNTuple) a thread; batches handed out are the consumer's. None sets no bound.
    chunk_entries
        Entries read at once; None chooses. Changes speed and memory only.
    cache
        Where rows are kept while they are read, so that later epochs and other runs do not touch the files. Changes
        speed only.
    rank, ranks
        The share of one of several processes: disjoint, together complete, of equal size to a few events.

    Raises
    ------
    ConfigError
        ``max_memory`` is no size.
    DataError
        An argument of another kind or out of range; a cache that cannot be written, or is too small for an exact order;
        a window that does not fit ``max_memory``, with the largest that does; a part or training weights of a catalogue
        of kind ``data``.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessor: Preprocessor,
        *,
        part: Part | None = None,
        batch_size: int = 256,
        shuffle: bool | Literal["exact"] = False,
        shuffle_window: int = DEFAULT_WINDOW,
        seed: int = 0,
        weights: Literal["training", "physics"] = "physics",
        statistics: Statistics | None = None,
        threads: int = 2,
        max_memory: int | str | None = None,
        chunk_entries: int | None = None,
        cache: Cache | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        require_inputs(catalogue, preprocessor, statistics, cache)
        for name, value, known in (
            ("shuffle", shuffle, (True, False, "exact")),
            ("weights", weights, ("training", "physics")),
            ("part", part, (None, *PARTS)),
        ):
            word(value, name, known, error=DataError)
        if catalogue.kind == "data" and (part is not None or weights == "training"):
            raise DataError("samples of kind data are not learned from: they have no parts and no training weights")
        self.catalogue = catalogue
        self.preprocessor = preprocessor
        self.part = part
        self.batch_size = whole(batch_size, "batch_size", least=1, error=DataError)
        if shuffle == "exact" and cache is None:
            raise DataError("shuffle: exact needs a cache: an order over all events needs all of them on a local disk")
        if shuffle == "exact" and catalogue.hook is not None:
            raise DataError(
                f"shuffle: exact keeps rows, and none are kept behind a function of your own ({catalogue.hook.path}), "
                "which may depend on anything; shuffle by windows, or say it in expressions"
            )
        self._exact = shuffle == "exact"
        self.shuffle = bool(shuffle)
        self.shuffle_window = whole(shuffle_window, "shuffle_window", least=1, error=DataError)
        self.seed = whole(seed, "seed", most=MOST_SEED, error=DataError)
        self.threads = readers(catalogue, whole(threads, "threads", error=DataError))
        self.rank, self.ranks = rank_of(rank, ranks)
        self.max_memory = bytes_of(max_memory, "max_memory")
        self._chunk_asked = (
            None if chunk_entries is None else whole(chunk_entries, "chunk_entries", least=1, error=DataError)
        )
        self.num_targets = len(target_texts(catalogue, preprocessor))
        self._width = preprocessor.features.width + self.num_targets
        self._row_bytes = 4 * self._width + SIDE_BYTES
        self._kept_in = cache
        self._checked: set[Block] = set()
        self._factors = class_factors(catalogue.classes, preprocessor.features, weights, statistics)
        self._inherited: object = None
        self._open()
        if self._exact:
            self._delivery.require_room(statistics)

    def _open(self) -> None:
        """All that belongs to one process: sizes, open files, locks."""
        max_memory, cache = self.max_memory, self._kept_in
        self._process = os.getpid()
        self._shares = self._share(max_memory)
        self._ahead = self._read_ahead()
        self._reader = EventReader(self.catalogue, self.preprocessor, max_read_bytes=self._read_bytes(max_memory))
        # What a process knows to be whole need not be looked at again by the workers that it starts.
        settings: dict[str, Any] = {"required": self._exact, "checked": self._checked}
        self._cache = open_cache(cache, self.catalogue, self.preprocessor, self._width, **settings)
        self._delivery = Delivery(
            self.catalogue,
            self._reader,
            part=self.part,
            factors=self._factors,
            write=writer(self.catalogue.num_entries * self._width),
            cache=self._cache,
        )

    def __getstate__(self) -> dict[str, Any]:
        left = {"_reader", "_cache", "_delivery", "_inherited", "fingerprint"}
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _inherited=None)
        self._open()

    def _in_this_process(self) -> Delivery:
        """What reads: opened anew where this process was forked, which shares no file and no lock with the other."""
        if os.getpid() != self._process:
            # Never to be forgotten, or it would be closed here: connections, and locks that nobody will open.
            self._inherited = (self._inherited, self._reader)
            self.catalogue = replace(self.catalogue, quarantine=copy.copy(self.catalogue.quarantine))
            self._open()
        return self._delivery

    def share(self, rank: int, ranks: int, *, max_memory: int | str | None = None) -> EventDataset:
        """The same stream for one of several processes; ``max_memory`` None keeps that of the whole.

        Raises
        ------
        DataError
            No such rank, or a window that does not fit.
        """
        self._in_this_process()
        rank, ranks = rank_of(rank, ranks)
        state = self.__getstate__() | {"rank": rank, "ranks": ranks}
        if max_memory is not None:
            state["max_memory"] = bytes_of(max_memory, "max_memory")
        shared = object.__new__(type(self))
        shared.__setstate__(state)
        return shared

    @property
    def identity(self) -> str:
        """What identifies an event and so decides its part, in words."""
        return str(self.catalogue.identity)

    @property
    def not_cached(self) -> tuple[str, ...]:
        """Files of which some rows had no room in the cache so far."""
        return () if self._cache is None else self._cache.not_kept

    @property
    def lacks_rows(self) -> bool:
        """Whether `fill_cache` has something to read before an exact order."""
        return self._exact and bool(self._in_this_process().lacking())

    def epoch(self, number: int) -> BatchIterator[Batch]:
        """Batches of one epoch; each number has an order of its own where shuffled."""
        return BatchIterator(
            self._begin,
            whole(number, "epoch", most=MOST_EPOCH, error=DataError),
            batch_size=self.batch_size,
            join=rows_to_batch(self.preprocessor.features, self.num_targets),
            fingerprint=lambda: self.fingerprint,
            part=self.part,
        )

    def ragged(self, number: int) -> BatchIterator[RaggedBatch]:
        """The same events in the same order as `epoch`, collections in their true lengths; states fit both.

        They come out of the files, not out of a cache, which keeps padded rows, and have no exact order. A window holds
        4 bytes a value, 8 an event and collection, `SIDE_BYTES` + 8 an event; ``max_memory`` counts them as if padded.
        """
        if self._exact:
            raise DataError("shuffle: exact permutes rows of a cache, which are padded; shuffle lists by windows")
        return BatchIterator(
            self._begin_ragged,
            whole(number, "epoch", most=MOST_EPOCH, error=DataError),
            batch_size=self.batch_size,
            join=to_ragged_batch(self.preprocessor.features, self.num_targets),
            fingerprint=lambda: self.fingerprint,
            part=self.part,
        )

    def __iter__(self) -> BatchIterator[Batch]:
        return self.epoch(0)

    def __str__(self) -> str:
        return f"{self.part or 'all'} events in batches of {self.batch_size}; {self.plan(0)}"

    def plan(self, epoch: int) -> Plan:
        """Order and reading units of an epoch."""
        return self._plan(whole(epoch, "epoch", most=MOST_EPOCH, error=DataError), self._shares)

    def _plan(self, epoch: int, shares: Shares, start: int = 0) -> Plan:
        return Plan(
            self.catalogue.files,
            shares.window,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            ranks=self.ranks,
            chunk_entries=shares.chunk,
            early=shares.early,
            start=start,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of all that fixes the rows and their sequence: see `mlaas4hep.data.fingerprint`."""
        order = ("exact" if self._exact else self.shuffle, self.shuffle and self.shuffle_window, self.seed)
        factors = None if self._factors is None else self._factors.tolist()
        return fingerprint(
            self.catalogue,
            self.preprocessor.features,
            columns=self._reader.columns,
            settings=(self.part, order, self.rank, self.ranks, factors),
            shuffled=self.shuffle,
        )

    def close(self) -> None:
        """Close the files that are kept open between epochs, and give back memory; in a forked process its own."""
        if os.getpid() != self._process:
            return
        self._reader.close()
        if self._cache is not None:
            self._delivery.settle()
            self._cache.close()
        forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_bytes(self, max_memory: int | None) -> int:
        if max_memory is None:
            return MAX_READ_BYTES
        return min(reading_bytes(max_memory - for_rows(max_memory), threads=self.threads), MAX_READ_BYTES)

    def _share(self, max_memory: int | None) -> Shares:
        """What windows and chunks have of the memory. Unshuffled, windows mean nothing: they are as large as fits."""
        unit = reading_unit(self.preprocessor)
        return share_memory(
            self._plan(0, Shares(self.shuffle_window if self.shuffle else unit, unit)),
            unit=unit,
            threads=self.threads,
            max_memory=max_memory,
            row_bytes=self._row_bytes,
            asked=self._chunk_asked,
        )

    def _read_ahead(self) -> int:
        """Entries that may be read before their window opens: those that must be, and some for threads to go on with.

        Two threads find enough in the windows that are open: half a chunk more is as fast as two, and 30 MB less.
        """
        plan, beside = self.plan(0), self._shares.beside
        largest = max((one.num_entries for one in plan.chunks()), default=0)
        wanted = plan.most_held + largest // 2 + max(self.threads - 2, 0) * largest
        return wanted if beside is None else min(wanted, beside)

    def _begin(self, epoch: int, place: Place, account: Account) -> Order:
        """The rows of an epoch from a place on; what became of the entries is told to ``account``."""
        delivery, width = self._in_this_process(), self._width
        if self._exact and epoch > 0:
            return self._exactly(epoch, place, account)
        # Who learns lets go of a batch soon; who reads in order may be collecting.
        slots = partial((LentRows if self.shuffle else Rows).empty, width=width, lasting=False)
        return self._windowed(epoch, place, account, lambda chunk: delivery.read(chunk, account), slots)

    def _begin_ragged(self, epoch: int, place: Place, account: Account) -> Order:
        delivery = self._in_this_process()
        return self._windowed(
            epoch, place, account, lambda chunk: map(ReadRagged, delivery.columns(chunk, account)), RaggedSlots
        )

    def _windowed(
        self, epoch: int, place: Place, account: Account, work: Work[S], slots: Callable[[int], S]
    ) -> Windowed[S]:
        # Unshuffled, windows begin where the stream does: their size may be another one than when the place was told.
        start = 0 if self.shuffle else place.counted
        plan, window = self._plan(epoch, self._shares, start), self._shares.window
        filling = Filling(
            plan,
            work,
            slots=slots,
            first=-((start - place.counted) // window),
            threads=self.threads,
            buffers=buffers(plan, self.threads),
            ahead=self._ahead,
            permute=permuter(self.catalogue.num_entries * self._width),
        )
        return Windowed(filling, place, account, window=window, start=start)

    def _exactly(self, epoch: int, place: Place, account: Account) -> Order:
        self.fill_cache()
        rows = KeptRows(self.catalogue, self._delivery, self.part)
        place = rows.require(place)
        compiled = pays_compiling(len(rows) * self._width)
        order = ExactOrder(rows, seed=self.seed, epoch=epoch, rank=self.rank, ranks=self.ranks, compiled=compiled)
        memory = None if self.max_memory is None else for_rows(self.max_memory)
        settings: dict[str, Any] = {"threads": self.threads, "max_memory": memory}
        read = order.read(place.gone, self.batch_size, weigh=self._delivery.weigh, **settings)
        return Gathered(read, place, account, rest=rows.rest(self.rank, self.ranks), rows=order.num_rows)

    def fill_cache(self, progress: Callable[[int], None] | None = None) -> None:
        """Read what the cache lacks: an order over all rows needs all of them.

        What is kept is compared with its checksums, once a process, and read anew where it is damaged.

        Parameters
        ----------
        progress
            Called with a number of further entries read.

        Raises
        ------
        DataError
            They do not fit, or cannot be read.
        """
        delivery = self._in_this_process()
        delivery.fill(self._shares, threads=self.threads, progress=progress)
