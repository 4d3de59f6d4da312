"""Batches, cut from events in their final order.

Invariant: batch size only cuts the sequence of rows; where one stands in it is told by two numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.account import Account, Counts
from mlaas4hep.data.filling import Filling
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.rows import Rows, S, Window, cuts_of
from mlaas4hep.data.split import Part
from mlaas4hep.data.states import VERSION, read_state
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import FeatureSpec


class Place(NamedTuple):
    """Where an order stands.

    Parameters
    ----------
    counted
        Slots of it whose entries count (`mlaas4hep.data.account`): those of whole windows.
    gone
        Slots of it that are gone. An entry has its slot whether it is delivered or not: what is cut away or cannot be
        read makes no difference to those behind it. Of kept rows, which are permuted themselves, rows.
    rows
        Names the kept rows that are permuted, of which one more or less makes another order; 0 where entries are.
    """

    counted: int = 0
    gone: int = 0
    rows: int = 0


BEGINNING = Place()


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
    table
        float32 [n, W]: the flat view as one table, where the inputs are views of one.
    """

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]
    targets: NDArray[np.float32] | None = None
    table: NDArray[np.float32] | None = None

    @property
    def flat(self) -> NDArray[np.float32]:
        """The flat view [n, W]: ``event`` first, then each collection slot by slot; not copied where it is a table."""
        if self.table is not None:
            return self.table
        return np.concatenate([one.reshape(len(self), -1) for one in self.inputs.values()], axis=1)

    def __len__(self) -> int:
        return len(self.labels)


def rows_to_batch(features: FeatureSpec, targets: int) -> Callable[[list[Rows]], Batch]:
    """What joins rows, with so many targets of a regression beside the inputs, to a batch."""

    groups, learned = cuts_of(features, targets=targets)

    def join(parts: list[Rows]) -> Batch:
        rows = Rows.concat(parts)
        inputs = {name: cut.of(rows.table) for name, cut in groups.items()}
        if targets:
            return Batch(inputs, rows.labels, rows.weights, rows.entries, learned.of(rows.table))
        return Batch(inputs, rows.labels, rows.weights, rows.entries, table=rows.table)

    return join


class Order(Protocol):
    """Events of an epoch in their order."""

    def take(self, wanted: int) -> list[Any]:
        """The next events, as many as wanted together, or those that are left."""
        ...

    def place(self) -> Place:
        """Where the next one stands."""
        ...

    def close(self) -> None:
        """Stop what works ahead; may be called twice."""


class Windowed(Generic[S]):
    """Events window by window.

    Parameters
    ----------
    filling
        Windows from the one on that the place is in.
    place
        Where it begins.
    account
        Told of each window that is passed.
    window
        W, slots of a window.
    start
        Slots of the order before the first window there is.
    """

    def __init__(self, filling: Filling[S], place: Place, account: Account, *, window: int, start: int = 0) -> None:
        self._filling = filling
        self._account = account
        self._passed: list[int] = []
        self._size, self._start = window, start
        self._window: Window[S] | None = None
        self._offset = 0
        self._place = place

    def take(self, wanted: int) -> list[Any]:
        """See `Order.take`."""
        parts: list[Any] = []
        before = self._place
        self._passed = []
        try:
            while wanted and (window := self._current()) is not None:
                stop = min(self._offset + wanted, len(window))
                parts.append(window.pick(self._offset, stop))
                wanted -= stop - self._offset
                self._move(window, stop)
        except BaseException:
            self._window, self._place = None, before  # what was taken is not handed out
            raise
        for number in self._passed:
            self._account.pass_window(number)
        return parts

    def place(self) -> Place:
        """See `Order.place`."""
        return self._place

    def close(self) -> None:
        """See `Order.close`."""
        self._window = None
        self._filling.close()

    def _current(self) -> Window[S] | None:
        """The current window, with events left in it; None at the end of the epoch."""
        while self._window is None or self._offset >= len(self._window):
            self._window = None
            following = next(self._filling, None)
            if following is None:
                return None
            self._window = following
            self._move(following, following.before(max(self._place.gone - self._first(following), 0)))
        return self._window

    def _first(self, window: Window[S]) -> int:
        return self._start + window.number * self._size

    def _move(self, window: Window[S], offset: int) -> None:
        """Be behind so many events of a window; behind the last one, all of its slots are gone."""
        self._offset, first = offset, self._first(window)
        if offset == len(window):
            end = first + window.size
            self._place = Place(end, max(end, self._place.gone))
            self._passed.append(window.number)
        elif offset:
            self._place = Place(first, max(first + window.behind(offset - 1), self._place.gone))


class Gathered:
    """Rows of an order that is gathered in stretches, each a whole number of batches.

    Parameters
    ----------
    stretches
        Rows one stretch after the other.
    place
        Where the first one begins.
    account
        Told of each row, and with the last one of all entries that are none.
    rest
        Those, by file.
    rows
        How many there are from the beginning of the order on.
    """

    def __init__(
        self,
        stretches: Prefetch[Any, Rows],
        place: Place,
        account: Account,
        *,
        rest: Iterable[tuple[int, Counts]],
        rows: int,
    ) -> None:
        self._account, self._rest, self._size = account, rest, rows
        self._all_told = place.gone == rows > 0
        self._stretches = stretches
        self._rows: Rows | None = None
        self._offset = 0
        self._place = place

    def take(self, wanted: int) -> list[Rows]:
        """See `Order.take`; the rows are views of a stretch that nobody else writes to."""
        parts: list[Rows] = []
        missing = wanted
        while missing and (rows := self._current()) is not None:
            stop = min(self._offset + missing, len(rows))
            parts.append(rows.view(self._offset, stop))
            missing -= stop - self._offset
            self._offset = stop
        self._tell(parts, self._place.gone + wanted - missing)
        return parts

    def _tell(self, parts: list[Rows], gone: int) -> None:
        for one in parts:
            self._account.add_rows(one.entries["file"])
        if gone == self._size and not self._all_told:
            self._all_told = True
            for file, counts in self._rest:
                self._account.add(file, counts)
        self._place = self._place._replace(counted=gone, gone=gone)

    def place(self) -> Place:
        """See `Order.place`."""
        return self._place

    def close(self) -> None:
        """See `Order.close`."""
        self._rows = None
        self._stretches.close()

    def _current(self) -> Rows | None:
        while self._rows is None or self._offset >= len(self._rows):
            self._rows, self._offset = None, 0
            following = next(self._stretches, None)
            if following is None:
                return None
            self._rows = following[1]
        return self._rows


Begin = Callable[[int, Place, Account], Order]
B = TypeVar("B")


class BatchIterator(Generic[B]):
    """Batches of one epoch. Stops its threads when it ends, is closed, fails, or is forgotten.

    Once it failed it fails again: only `load_state_dict` takes it on, from the last batch that came or another place.

    Parameters
    ----------
    begin
        Gives the order of an epoch from a place on; what became of entries is added to the counts.
    epoch
        Its number.
    batch_size
        Events a batch.
    join
        Makes a batch of events that were taken.
    fingerprint
        Of all that fixes the order.
    part
        Of the split that it gives.

    """

    def __init__(
        self,
        begin: Begin,
        epoch: int,
        *,
        batch_size: int,
        join: Callable[[list[Any]], B],
        fingerprint: Callable[[], str],
        part: Part | None = None,
    ) -> None:
        self._part = part
        self._begin = begin
        self._epoch = epoch
        self._batch_size = batch_size
        self._join = join
        self._fingerprint = fingerprint
        self._failed: str | None = None
        self._start(BEGINNING)

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self._epoch

    @property
    def counts(self) -> dict[int, Counts]:
        """By number of the file, what became of its entries so far: of windows passed since the place it began at.

        What is counted before a stop and after it is together what an undisturbed epoch counts.
        """
        return self._account.files

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if os.getpid() != self._process:
            raise DataError(
                "this epoch was begun before the process was forked, and what reads it is not here; ask the stream for "
                "an epoch of its own"
            )
        if self._failed is not None:
            raise DataError(self._failed)
        try:
            parts = self._order.take(self._batch_size)
        except BaseException as error:
            # In words: the error itself would hold on to all that was under way.
            self._failed = f"this epoch ended with an error before: {str(error) or type(error).__name__}"
            self.close()
            raise
        if not parts:
            self.close()
            raise StopIteration
        return self._join(parts)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, between two batches: plain values, less than 1 kB."""
        return {
            "version": VERSION,
            "fingerprint": self._fingerprint(),
            "epoch": self._epoch,
            **self._order.place()._asdict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` gave; the rest is that of the iterator that was asked.

        Threads, memory and batch size may differ from then.

        Raises
        ------
        DataError
            It is no state of a stream, or one of other files, another declaration, seed or window, or of an exact order
            of other rows.
        """
        told = read_state(state, ("epoch", *Place._fields), fingerprint=self._fingerprint())
        self.close()
        self._epoch = told.pop("epoch")
        self._start(Place(**told))

    def close(self) -> None:
        """Stop the threads; no batch comes after it."""
        self._order.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, place: Place) -> None:
        self._account = Account(self._part)
        self._failed = None
        self._process = os.getpid()
        self._order = self._begin(self._epoch, place, self._account)
