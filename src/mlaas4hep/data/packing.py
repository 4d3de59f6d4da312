"""Columns into rows, compiled: the inner loop of the stream.

The same as `mlaas4hep.spec.padding.write_rows`, bit for bit, and several times as fast: each row is written whole, from
values in whatever number type and byte order they lie in the file, so that no column is ever copied on its way from an
inflated basket to its place in the window. Runs outside Python's global lock.

Invariant: reads nothing beyond the arrays it was given, whatever the offsets say.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mlaas4hep.data.kernel import address, copy_bytes, soon
from mlaas4hep.data.rows import Beside, Rows
from mlaas4hep.errors import DataError
from mlaas4hep.spec.padding import Assembled, Collection

# Number types that a column may have in memory or as it is stored in a file, in either byte order.
_KINDS = ("f4", "f8", "i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1")
_CODES = {np.dtype(order + kind): 2 * at + (order == ">") for at, kind in enumerate(_KINDS) for order in "<>"}
_CODES[np.dtype(np.bool_)] = _CODES[np.dtype("u1")]
_SINGLE, _SINGLE_SWAPPED = _CODES[np.dtype("<f4")], _CODES[np.dtype(">f4")]
_LONG, _INT_SWAPPED = _CODES[np.dtype("<i8")], _CODES[np.dtype(">i4")]


def _loader(number: Any, bits: int, *, swapped: bool = False) -> Any:
    """Reads a number at an address, which need not be aligned, from the machine's byte order or the other one."""
    stored = ir.IntType(bits)
    real = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}.get(number)

    @intrinsic  # type: ignore[untyped-decorator]
    def load(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(builder.inttoptr(arguments[0], stored.as_pointer()), align=1)
            value = builder.bswap(value) if swapped else value
            return value if real is None else builder.bitcast(value, real)

        return number(types.uint64), generate

    return load


@intrinsic  # type: ignore[untyped-decorator]
def _put(context: Any, address: Any, value: Any) -> Any:
    """Write a float32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.FloatType().as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, types.float32), generate


_single, _single_swapped = _loader(types.float32, 32), _loader(types.float32, 32, swapped=True)
_double, _double_swapped = _loader(types.float64, 64), _loader(types.float64, 64, swapped=True)
_long, _long_swapped = _loader(types.int64, 64), _loader(types.int64, 64, swapped=True)
_ulong, _ulong_swapped = _loader(types.uint64, 64), _loader(types.uint64, 64, swapped=True)
_int, _int_swapped = _loader(types.int32, 32), _loader(types.int32, 32, swapped=True)
_uint, _uint_swapped = _loader(types.uint32, 32), _loader(types.uint32, 32, swapped=True)
_short, _short_swapped = _loader(types.int16, 16), _loader(types.int16, 16, swapped=True)
_ushort, _ushort_swapped = _loader(types.uint16, 16), _loader(types.uint16, 16, swapped=True)
_byte, _ubyte = _loader(types.int8, 8), _loader(types.uint8, 8)

_4, _8, _LINE = np.uint64(4), np.uint64(8), np.uint64(64)
# Parts of a run, see `_runs`.
_CODE, _BEGIN, _END, _COLUMN, _LISTS, _LENGTH, _STEP, _ITEM = range(8)
# Rows whose values are fetched ahead: processors by themselves follow fewer columns at a time than events have.
_AHEAD = 64


@numba.njit(nogil=True, cache=True)
def _value(column, at, code):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Number ``at`` of a column of any kind."""
    # Each kind is a type of its own to the compiler, so that none can be picked by its number from a table.
    kind, place = code >> 1, np.uint64(at)
    if kind >= 8:
        return np.float32(_byte(column + place)) if kind == 8 else np.float32(_ubyte(column + place))
    if code & 1:
        if kind == 0:
            return _single_swapped(column + place * _4)
        if kind == 1:
            return np.float32(_double_swapped(column + place * _8))
        if kind == 2:
            return np.float32(_long_swapped(column + place * _8))
        if kind == 3:
            return np.float32(_ulong_swapped(column + place * _8))
        if kind == 4:
            return np.float32(_int_swapped(column + place * _4))
        if kind == 5:
            return np.float32(_uint_swapped(column + place * _4))
        if kind == 6:
            return np.float32(_short_swapped(column + place * np.uint64(2)))
        return np.float32(_ushort_swapped(column + place * np.uint64(2)))
    if kind == 0:
        return _single(column + place * _4)
    if kind == 1:
        return np.float32(_double(column + place * _8))
    if kind == 2:
        return np.float32(_long(column + place * _8))
    if kind == 3:
        return np.float32(_ulong(column + place * _8))
    if kind == 4:
        return np.float32(_int(column + place * _4))
    if kind == 5:
        return np.float32(_uint(column + place * _4))
    if kind == 6:
        return np.float32(_short(column + place * np.uint64(2)))
    return np.float32(_ushort(column + place * np.uint64(2)))


@numba.njit(nogil=True, cache=True, inline="always")
def _copy_values(begin, end, at, code, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Number ``at`` of each column of a run, side by side; kinds that files are full of need no choice a value."""
    by_4, by_8 = np.uint64(at) * _4, np.uint64(at) * _8
    if code == _SINGLE_SWAPPED:
        while begin < end:
            _put(out, _single_swapped(_ulong(begin) + by_4))
            begin += _8
            out += _4
    elif code == _SINGLE:
        while begin < end:
            _put(out, _single(_ulong(begin) + by_4))
            begin += _8
            out += _4
    elif code == _INT_SWAPPED:
        while begin < end:
            _put(out, np.float32(_int_swapped(_ulong(begin) + by_4)))
            begin += _8
            out += _4
    elif code == _LONG:
        while begin < end:
            _put(out, np.float32(_long(_ulong(begin) + by_8)))
            begin += _8
            out += _4
    else:
        while begin < end:
            _put(out, _value(_ulong(begin), at, code))
            begin += _8
            out += _4


@numba.njit(nogil=True, cache=True, inline="always")
def _copy_lists(begin, end, offsets, order, code, length, step, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The first values of the lists of a run."""
    first, last = np.int64(_ulong(offsets)), np.int64(_ulong(offsets + _8))
    for at in range(first, min(last, first + length)):
        place = np.int64(_ulong(order + np.uint64(at) * _8)) if order != 0 else at
        _copy_values(begin, end, place, code, out)
        out += step


@numba.njit(nogil=True, cache=True)
def _fetch(runs, columns, offsets, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Have the values of some rows brought near the processor."""
    for one in range(len(runs)):
        begin = columns + np.uint64(runs[one, _BEGIN]) * _8
        end = columns + np.uint64(runs[one, _END]) * _8
        first, last = np.uint64(low), np.uint64(high)
        if runs[one, _LISTS] >= 0:
            bounds = offsets[runs[one, _LISTS]]
            first, last = _ulong(bounds + first * _8), _ulong(bounds + last * _8)
        size = np.uint64(runs[one, _ITEM])
        while begin < end:
            at, stop = _ulong(begin) + first * size, _ulong(begin) + last * size
            while at < stop:
                soon(at)
                at += _LINE
            begin += _8


@numba.njit(nogil=True, cache=True)
def _fill(runs, columns, offsets, orders, missing, slots, table, row_bytes):  # type: ignore[no-untyped-def]  # pragma: no cover
    rows = len(slots)
    empty, flat_bytes = np.uint64(4 * len(missing)), row_bytes - np.uint64(4 * len(missing))
    nothing = np.uint64(missing.ctypes.data)
    for row in range(rows):
        if row % _AHEAD == 0 and row + _AHEAD < rows:
            _fetch(runs, columns, offsets, row + _AHEAD, min(row + 2 * _AHEAD, rows))
        if slots[row] < 0:
            continue
        into = table + np.uint64(slots[row]) * row_bytes
        by_8 = np.uint64(row) * _8
        copy_bytes(into + flat_bytes, nothing, empty)
        for one in range(len(runs)):
            begin = columns + np.uint64(runs[one, _BEGIN]) * _8
            end = columns + np.uint64(runs[one, _END]) * _8
            out = into + np.uint64(runs[one, _COLUMN]) * _4
            number = runs[one, _LISTS]
            if number < 0:
                _copy_values(begin, end, row, runs[one, _CODE], out)
            else:
                _copy_lists(
                    begin, end, offsets[number] + by_8, orders[number], runs[one, _CODE],
                    runs[one, _LENGTH], np.uint64(runs[one, _STEP]) * _4, out,
                )  # fmt: skip


def write_rows(rows: Assembled, table: NDArray[np.float32], slots: NDArray[np.int64]) -> None:
    """Put each event that is kept into its row: see `mlaas4hep.spec.padding.write_rows`.

    Raises
    ------
    DataError
        Columns of different lengths, offsets that do not rise from 0 to the number of values, or a row outside the
        table.
    """
    events = len(rows.kept)
    if len(slots) != events or any(len(one) != events for one in rows.flats):
        raise DataError(f"columns and places of {events} events differ in length")
    wanted = slots if rows.kept.all() else np.where(rows.kept, slots, -1)
    if events and int(wanted.max()) >= len(table):
        raise DataError(f"row {int(wanted.max())} is outside a table of {len(table)} rows")
    if table.shape[1] != rows.width or not table.flags.c_contiguous or table.dtype != np.float32:
        raise DataError(f"rows of {rows.width} numbers do not fit a table of {table.dtype} {table.shape}")
    flats = [np.ascontiguousarray(one) for one in rows.flats]
    lists = [[np.ascontiguousarray(one.values) for one in group.lists] for group in rows.collections]
    groups = list(zip(rows.collections, lists, strict=True))
    offsets = [_offsets(group, values, events) for group, values in groups]
    orders = [_order(group, values[0]) for group, values in groups]
    columns = np.array([address(one) for one in (*flats, *(one for some in lists for one in some))], dtype=np.uint64)
    _fill(
        _runs(flats, groups),
        np.uint64(address(columns)),
        np.array([address(one) for one in offsets], dtype=np.uint64),
        np.array([0 if one is None else address(one) for one in orders], dtype=np.uint64),
        np.full(rows.width - len(flats), np.nan, dtype=np.float32),
        wanted,
        np.uint64(address(table)),
        np.uint64(4 * rows.width),
    )


@numba.njit(nogil=True, cache=True)
def _fill_beside(slots, kept, labels, weights, file, entries, into):  # type: ignore[no-untyped-def]  # pragma: no cover
    to_labels, to_weights, to_entries = into
    for at in range(len(slots)):
        if kept[at]:
            slot = slots[at]
            to_labels[slot] = labels[at]
            to_weights[slot] = weights[at]
            to_entries[slot].file = file
            to_entries[slot].entry = entries[at]


def write_beside(rows: Rows, slots: NDArray[np.int64], beside: Beside) -> None:
    """Put what stands beside the variables into its rows: see `mlaas4hep.data.rows.write_beside`.

    Raises
    ------
    DataError
        Arrays of different lengths, or a row that is not there.
    """
    kept, labels, weights, file, entries = beside
    if {len(kept), len(labels), len(weights), len(entries)} != {len(slots)}:
        raise DataError(f"labels, weights and places of {len(slots)} events differ in length")
    if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(rows):
        raise DataError(f"rows {int(slots.min())} to {int(slots.max())} asked for of {len(rows)}")
    _fill_beside(slots, kept, labels, weights, file, entries, (rows.labels, rows.weights, rows.entries))


def _runs(flats: list[NDArray[Any]], groups: list[tuple[Collection, list[NDArray[Any]]]]) -> NDArray[np.int64]:
    """Neighbouring columns of one kind and one collection, int64 [R, 8].

    Kind, first column and the one behind the last, number in the row, collection (-1 for none), its length, numbers
    from one object to the next, and bytes of a value.
    """
    found: list[list[int]] = []
    at, column = 0, 0
    for number, length, values in (
        (-1, 1, flats),
        *((number, group.length, values) for number, (group, values) in enumerate(groups)),
    ):
        for place, one in enumerate(values):
            code = _CODES[one.dtype]
            if found and found[-1][_LISTS] == number and found[-1][_CODE] == code:
                found[-1][_END] += 1
            else:
                found.append([code, at, at + 1, column + place, number, length, len(values), one.itemsize])
            at += 1
        column += length * len(values)
    return np.array(found, dtype=np.int64).reshape(len(found), 8)


def _offsets(group: Collection, values: list[NDArray[Any]], events: int) -> NDArray[np.int64]:
    """What the compiled loop relies on; numpy would notice by itself."""
    bounds = np.ascontiguousarray(group.lists[0].offsets, dtype=np.int64)
    if (
        len(bounds) != events + 1
        or bounds[0] != 0
        or np.any(bounds[1:] < bounds[:-1])
        or any(len(one) != bounds[-1] for one in values)
    ):
        raise DataError(f"the lists of the collection '{group.name}' do not fit its values")
    return bounds


def _order(group: Collection, values: NDArray[Any]) -> NDArray[np.int64] | None:
    if group.order is None:
        return None
    order = np.ascontiguousarray(group.order, dtype=np.int64)
    if len(order) != len(values) or (len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(values)):
        raise DataError(f"the order of the collection '{group.name}' does not fit its values")
    return order
