"""The user's own ``preprocessing(rec)``: a Python function that sees each event before anything else does.

It is called once an event with a dictionary of plain Python values, which costs microseconds an event where expressions
cost nanoseconds. Invariant: the columns that come out have one type each for all batches; what does not fit is refused
with the event, never turned into something else in silence.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import path_of
from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.errors import DataError, DeclarationError, nearest
from mlaas4hep.spec.columns import Column, Columns, ColumnType, DType, Jagged, Kind, Nested

FUNCTION = "preprocessing"
_DEPTH: dict[Kind, int] = {"flat": 0, "jagged": 1, "nested": 2}
_KINDS: tuple[Kind, ...] = ("flat", "jagged", "nested")
_NUMPY = (np.ndarray, np.generic)
_PLAIN = frozenset({bool, int, float, type(None), list})

Record = dict[str, Any]


class _OddError(Exception):
    """Values that make no column, in words that follow its name."""


@dataclass(frozen=True)
class _Layout:
    """Values of one column, taken apart.

    Parameters
    ----------
    counts
        Lengths of the lists, and of the lists in them: as many as the values are deep.
    leaves
        The numbers or conditions.
    dtype
        Of those; None where there are none.
    """

    counts: tuple[list[int], ...]
    leaves: Sequence[Any]
    dtype: DType | None

    @property
    def kind(self) -> Kind:
        return _KINDS[len(self.counts)]


class RecordHook:
    """Calls the user's function for every event. May be shared by threads.

    Parameters
    ----------
    path
        The file, for messages.
    source
        Its text.
    function
        Takes a dictionary by column of ``bool``, ``int``, ``float`` or lists of those (NaN where a value is missing),
        and returns such a dictionary, the same or another; None drops the event. All events must come out with the
        same keys.

    Notes
    -----
    Whole numbers become int64 and all other numbers float64. Types are settled by the first events that are given
    (`types`); later ones are brought to them, or refused.
    """

    def __init__(self, path: str, source: bytes, function: Callable[[Record], Record | None]) -> None:
        self.path = path
        self.source = source
        self._function = function
        self._types: dict[str, ColumnType] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str) -> RecordHook:
        """Run a Python file and find its ``preprocessing``.

        Raises
        ------
        DataError
            It is not there, cannot be run, or has no such function.
        """
        return cls.compile(path, _read(path_of(path, "preproc", error=DataError)))

    @classmethod
    def compile(cls, path: str, source: bytes) -> RecordHook:
        """Run the text of a Python file: see `load`."""
        # A name of its own: two files called preproc.py are two modules.
        module = types.ModuleType(f"mlaas4hep_preproc_{hashlib.sha256(source).hexdigest()[:12]}")
        module.__file__ = path
        sys.modules[module.__name__] = module
        try:
            exec(compile(source, path, "exec"), module.__dict__)
        except Exception as error:  # the user's code may raise anything; it is told with its line
            raise DataError(f"{path}: cannot be run: {_blame(error, path)}") from error
        function = module.__dict__.get(FUNCTION)
        if not callable(function):
            names = [name for name, one in module.__dict__.items() if callable(one) and not name.startswith("_")]
            raise DataError(
                f"{path}: has no function '{FUNCTION}'{nearest(FUNCTION, names)}; write def {FUNCTION}(rec): ..."
            )
        return cls(path, source, function)

    def __reduce__(self) -> tuple[Any, ...]:
        # The function belongs to a module that another process has not: it runs the same text again.
        return _again, (self.path, self.source, self._types)

    @property
    def sha256(self) -> str:
        """Hash of the source."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def types(self) -> Mapping[str, ColumnType] | None:
        """Type of every column that comes out; None before the first event."""
        return self._types

    def apply(self, columns: Columns, num_entries: int) -> tuple[dict[str, Column], NDArray[np.bool_]]:
        """Call the function for every event.

        Parameters
        ----------
        columns
            Of ``num_entries`` = N events.

        Returns
        -------
        Columns of the n events that were kept, and which they are, bool [N].

        Raises
        ------
        DeclarationError
            The function raises, returns something else than a dictionary or other keys than before, or a value that
            is neither a number nor a condition nor lists of those, or does not fit the type of its column.
        """
        records = self._call(columns, num_entries)
        kept = np.array([record is not None for record in records], dtype=np.bool_)
        events = np.flatnonzero(kept).tolist()
        left = [record for record in records if record is not None]
        if not left and self._types is None:
            return {}, kept
        types = self._settle(left, events)
        return {name: self._column(name, one, left, events) for name, one in types.items()}, kept

    def _call(self, columns: Columns, num_entries: int) -> list[Record | None]:
        lists = {name: column.tolist() for name, column in columns.items()}
        results: list[Record | None] = []
        for event in range(num_entries):
            record = {name: values[event] for name, values in lists.items()}
            try:
                result = self._function(record)
            except Exception as error:  # the user's code may raise anything; it is told with its line
                message = f"{FUNCTION} failed in event {event}: {_blame(error, self.path)}"
                raise DeclarationError(f"{self.path}: {message}") from error
            if result is not None and not isinstance(result, dict):
                raise self._wrong(
                    event, f"{FUNCTION} returned {type(result).__name__}; wants a dictionary, or None to drop it"
                )
            results.append(result)
        return results

    def _settle(self, records: Sequence[Record], events: Sequence[int]) -> dict[str, ColumnType]:
        """Types of the columns: those of the first events, once and for all."""
        if self._types is None:  # else no lock: one that was taken when this process was forked is never opened here
            with self._lock:
                self._types = self._types or self._first_types(records, events)
        self._check_keys(list(self._types), records, events)
        return self._types

    def _first_types(self, records: Sequence[Record], events: Sequence[int]) -> dict[str, ColumnType]:
        names = list(records[0])
        self._check_keys(names, records, events)
        found = {name: self._layout(name, [one[name] for one in records], events) for name in names}
        return {name: ColumnType(one.kind, one.dtype or "float64") for name, one in found.items()}

    def _check_keys(self, names: Sequence[str], records: Sequence[Record], events: Sequence[int]) -> None:
        wanted = set(names)
        for record, event in zip(records, events, strict=True):
            if record.keys() != wanted:
                more, less = sorted(map(str, record.keys() - wanted)), sorted(map(str, wanted - record.keys()))
                told = [f"has {', '.join(more)}"] * bool(more) + [f"lacks {', '.join(less)}"] * bool(less)
                raise self._wrong(event, f"{' and '.join(told)}, unlike the events before: all need the same keys")

    def _column(self, name: str, asked: ColumnType, records: Sequence[Record], events: Sequence[int]) -> Column:
        values = [record[name] for record in records]
        found = self._layout(name, values, events)
        try:
            _check_fit(found, asked)
            return _made(found, asked)
        except _OddError as odd:
            raise self._wrong(_culprit(values, events, asked), f"'{name}' {odd}") from None
        except OverflowError as error:
            raise DeclarationError(
                f"{self.path}: '{name}' holds a whole number beyond 64 bits; return a float"
            ) from error

    def _layout(self, name: str, values: Sequence[Any], events: Sequence[int]) -> _Layout:
        try:
            return _layout(values)
        except _OddError as odd:
            raise self._wrong(_odd_one(values, events), f"'{name}' {odd}") from None

    def _wrong(self, event: int, problem: str) -> DeclarationError:
        return DeclarationError(f"{self.path}: event {event}: {problem}")


def _again(path: str, source: bytes, types: dict[str, ColumnType] | None) -> RecordHook:
    hook = RecordHook.compile(path, source)
    hook._types = types
    return hook


def _layout(values: Sequence[Any]) -> _Layout:
    level = _plain(values)
    counts: list[list[int]] = []
    while lists := sum(isinstance(one, list) for one in level):
        if lists < len(level):
            raise _OddError("mixes lists and single values")
        if len(counts) == 2:
            raise _OddError("has lists three deep; two are the most")
        counts.append([len(one) for one in level])
        level = _plain(list(chain.from_iterable(level)))
    return _Layout(tuple(counts), level, _leaf_type(level))


def _leaf_type(leaves: Sequence[Any]) -> DType | None:
    kinds = set(map(type, leaves))
    if not kinds or kinds == {bool}:
        return "bool" if kinds else None
    odd = kinds - {bool, int, float, type(None)}
    if odd:
        raise _OddError(
            f"holds {min(one.__name__ for one in odd)}; wants numbers, conditions, or lists of one of those"
        )
    if bool in kinds:
        raise _OddError("mixes conditions and numbers")
    return "int64" if kinds == {int} else "float64"


def _check_fit(found: _Layout, asked: ColumnType) -> None:
    empty = found.dtype is None
    depth = len(found.counts)
    if depth != _DEPTH[asked.kind] and not (empty and (depth < _DEPTH[asked.kind]) and (depth or not found.leaves)):
        raise _OddError(f"is {found.kind}, and was {asked.kind} in the events before")
    if empty or found.dtype == asked.dtype or (found.dtype, asked.dtype) == ("int64", "float64"):
        return
    advice = "; return float(...) in every event" if (found.dtype, asked.dtype) == ("float64", "int64") else ""
    raise _OddError(f"is {found.dtype}, and was {asked.dtype} in the events before{advice}")


def _made(found: _Layout, asked: ColumnType) -> Column:
    values = np.array(found.leaves, dtype=asked.dtype)
    if asked.kind == "flat":
        return values
    outer, inner = (*found.counts, [], [])[:2]
    if asked.kind == "jagged":
        return Jagged.from_counts(outer, values)
    return Nested.from_counts(outer, Jagged.from_counts(inner, values))


def _odd_one(values: Sequence[Any], events: Sequence[int]) -> int:
    """The first event that does not go with those before it."""
    for stop in range(1, len(values) + 1):
        try:
            _layout(values[stop - 1 : stop])
            if stop > 1:
                _layout([values[0], values[stop - 1]])
        except _OddError:
            return events[stop - 1]
    return events[0]


def _culprit(values: Sequence[Any], events: Sequence[int], asked: ColumnType) -> int:
    """The first event that does not fit the type of its column."""
    for value, event in zip(values, events, strict=True):
        try:
            _check_fit(_layout([value]), asked)
        except _OddError:
            return event
    return events[0]


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """Values without numpy's and tuples among them; of lists, what is in them comes later."""
    if set(map(type, values)) <= _PLAIN:
        return values
    return [one.tolist() if isinstance(one, _NUMPY) else list(one) if isinstance(one, tuple) else one for one in values]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"preproc: {path} does not exist{nearest_file(path)}") from error
    except OSError as error:
        raise DataError(f"preproc: {path} cannot be read: {error.strerror}") from error


def _blame(error: Exception, path: str) -> str:
    """What went wrong, with the last line of the user's file that was reached."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    place = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{place}: {error}"
