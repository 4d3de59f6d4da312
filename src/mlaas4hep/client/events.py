"""Events by name, as JSON: from mappings one an event, or from tables of any kind that physicists have.

A table is a mapping of columns, a structured array of numpy, an awkward array of records, a data frame of pandas or
Polars, or a table of Arrow: none of these libraries is imported here. Invariant: a number keeps all its digits; NaN
becomes null and infinities words, since JSON has neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mlaas4hep.errors import RequestError


def _other(value: Any) -> None:
    """What JSON has no word for: a missing value of pandas' nullable columns."""
    if type(value).__name__ != "NAType":
        raise TypeError(f"found {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_other)
# Looked at for every number: a tuple is ten times faster to test than a union made on the spot.
_NUMPY = (np.ndarray, np.generic)
_SEQUENCES = (list, tuple)
# Columns become Python values so many events at a time.
_SLICE = 4096


def encode_events(events: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """JSON of each event.

    Raises
    ------
    RequestError
        What is no list of mappings, or holds what JSON cannot.
    """
    if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
        raise RequestError(f"events: asked for a list of mappings, found {type(events).__name__}")
    try:
        return [_encode(event, index) for index, event in enumerate(events)]
    except TypeError as error:
        raise RequestError(f"an event holds what JSON cannot: {error}") from error
    except RecursionError as error:
        raise RequestError("an event is nested too deeply") from error


def _encode(event: Mapping[str, Any], index: int) -> bytes:
    if not isinstance(event, Mapping):
        raise RequestError(f"events: asked for a list of mappings, found {type(event).__name__} at [{index}]")
    return _encoder.encode({name: _plain(value) for name, value in event.items()})


def _plain(value: Any) -> Any:
    """A value as JSON knows it; infinities become the words that the server reads, since JSON has no such number."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _word(value)  # numpy's float64 is one, and not known to JSON
    if isinstance(value, _NUMPY):
        return _plain(value.tolist())
    if isinstance(value, _SEQUENCES):
        return [_plain(one) for one in value]
    return value


def _word(value: float) -> str | None:
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def columns_of(table: Any) -> dict[str, Any]:
    """Columns of a table, by name; each can be cut into slices.

    Raises
    ------
    RequestError
        It is none, has no columns, or they differ in length.
    """
    names = _names(table)
    if names is None:
        asked = "a mapping of columns, a structured array, an awkward array of records, a data frame or an Arrow table"
        raise RequestError(f"asked for {asked}; found {type(table).__name__}")
    columns = {str(name): table[name] for name in names}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:8]) or "none"
        raise RequestError(f"the columns of a table are equally long; found {told}")
    return columns


def _names(table: Any) -> list[Any] | None:
    if isinstance(table, Mapping):
        return list(table)
    if isinstance(table, np.ndarray):
        return None if table.dtype.names is None else list(table.dtype.names)
    # Arrow, then awkward, then data frames.
    for attribute in ("column_names", "fields", "columns"):
        found = getattr(table, attribute, None)
        if found is not None and not callable(found):
            return list(found)
    return None


def encode_columns(columns: Mapping[str, Any]) -> Iterator[bytes]:
    """JSON of each event of a table, in order.

    Raises
    ------
    RequestError
        A column holds what JSON cannot.
    """
    count = len(next(iter(columns.values())))
    names = list(columns)
    for start in range(0, count, _SLICE):
        lists = [_listed(name, column[start : start + _SLICE]) for name, column in columns.items()]
        try:
            for values in zip(*lists, strict=True):
                yield _encoder.encode(dict(zip(names, values, strict=True)))
        except TypeError as error:
            raise RequestError(f"a column holds what JSON cannot: {error}") from error


def _listed(name: str, part: Any) -> Sequence[Any]:
    """Values of a part of a column, for JSON."""
    if isinstance(part, np.ndarray) and part.dtype.kind in "fiub":
        finite = part.dtype.kind != "f" or bool(np.isfinite(part).all())
        return part.tolist() if finite else [_plain(one) for one in part.tolist()]
    for method in ("to_pylist", "to_list", "tolist"):  # Arrow; pandas, Polars and awkward; all that numpy has
        if (listed := getattr(part, method, None)) is not None:
            part = listed()
            break
    if not isinstance(part, _SEQUENCES):
        raise RequestError(f"column '{name}': asked for an array or a list, found {type(part).__name__}")
    return [_plain(one) for one in part]
