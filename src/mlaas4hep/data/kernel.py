"""Columns into rows, compiled: the inner loop of the stream.

The same as `mlaas4hep.spec.padding.write_rows`, bit for bit, some five times as fast: rows are written in blocks that
stay in the processor's cache while one column after the other is put into them, so that a random place in the window
costs little more than the next one. Runs outside Python's global lock. Of all
modules only this one and `measuring_kernel` know numba.

Invariant: reads nothing beyond the arrays it was given, whatever the offsets say.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.spec.padding import Assembled

# Number types that columns have after the cast to declared types.
_CODES = {"bool": 0, "int64": 1, "uint64": 2, "float32": 3, "float64": 4}
# Bytes of rows that are filled column by column before the next ones: half of a core's second cache.
_BLOCK_BYTES = 256 * 1024


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill_flat(address, code, size, low, high, slots, table, column):  # type: ignore[no-untyped-def]  # pragma: no cover
    if code == 3:
        singles = numba.carray(_pointer(address), size, np.float32)
        for row in range(low, high):
            if slots[row] >= 0:
                table[slots[row], column] = singles[row]
    elif code == 4:
        doubles = numba.carray(_pointer(address), size, np.float64)
        for row in range(low, high):
            if slots[row] >= 0:
                table[slots[row], column] = np.float32(doubles[row])
    elif code == 1:
        signed = numba.carray(_pointer(address), size, np.int64)
        for row in range(low, high):
            if slots[row] >= 0:
                table[slots[row], column] = np.float32(signed[row])
    elif code == 2:
        unsigned = numba.carray(_pointer(address), size, np.uint64)
        for row in range(low, high):
            if slots[row] >= 0:
                table[slots[row], column] = np.float32(unsigned[row])
    else:
        flags = numba.carray(_pointer(address), size, np.uint8)
        for row in range(low, high):
            if slots[row] >= 0:
                table[slots[row], column] = np.float32(flags[row])


@numba.njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _fill_lists(values, offsets, order, low, high, slots, table, column, step, length):  # type: ignore[no-untyped-def]  # pragma: no cover
    ordered = len(order) > 0
    for row in range(low, high):
        slot = slots[row]
        if slot < 0:
            continue
        first = offsets[row]
        held = min(offsets[row + 1] - first, length)
        at = column
        for place in range(held):
            value = values[order[first + place]] if ordered else values[first + place]
            table[slot, at] = np.float32(value)
            at += step
        for _ in range(held, length):
            table[slot, at] = np.nan
            at += step


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill_column(address, code, size, offsets, order, low, high, slots, table, column, step, length):  # type: ignore[no-untyped-def]  # pragma: no cover
    if code == 3:
        singles = numba.carray(_pointer(address), size, np.float32)
        _fill_lists(singles, offsets, order, low, high, slots, table, column, step, length)
    elif code == 4:
        doubles = numba.carray(_pointer(address), size, np.float64)
        _fill_lists(doubles, offsets, order, low, high, slots, table, column, step, length)
    elif code == 1:
        signed = numba.carray(_pointer(address), size, np.int64)
        _fill_lists(signed, offsets, order, low, high, slots, table, column, step, length)
    elif code == 2:
        unsigned = numba.carray(_pointer(address), size, np.uint64)
        _fill_lists(unsigned, offsets, order, low, high, slots, table, column, step, length)
    else:
        flags = numba.carray(_pointer(address), size, np.uint8)
        _fill_lists(flags, offsets, order, low, high, slots, table, column, step, length)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fill(flats, flat_codes, collections, orders, columns, codes, slots, table, block):  # type: ignore[no-untyped-def]  # pragma: no cover
    rows = len(slots)
    for low in range(0, rows, block):
        high = min(low + block, rows)
        for channel in range(len(flats)):
            _fill_flat(flats[channel], flat_codes[channel], rows, low, high, slots, table, channel)
        for one in range(len(collections)):
            offsets = numba.carray(_pointer(np.uint64(collections[one, 0])), rows + 1, np.int64)
            size = collections[one, 1]
            begin, end = collections[one, 2], collections[one, 3]
            column, length = collections[one, 4], collections[one, 5]
            ordered = size if orders[one] != 0 else 0
            order = numba.carray(_pointer(orders[one]), ordered, np.int64)
            for variable in range(begin, end):
                _fill_column(
                    columns[variable], codes[variable], size, offsets, order, low, high,
                    slots, table, column + variable - begin, end - begin, length,
                )  # fmt: skip


def write_rows(rows: Assembled, table: NDArray[np.float32], slots: NDArray[np.int64]) -> None:
    """Put each event that is kept into its row: see `mlaas4hep.spec.padding.write_rows`.

    Raises
    ------
    DataError
        Offsets that do not rise from 0 to the number of values, or a row outside the table.
    """
    wanted = slots if rows.kept.all() else np.where(rows.kept, slots, -1)
    if len(wanted) and int(wanted.max()) >= len(table):
        raise DataError(f"row {int(wanted.max())} is outside a table of {len(table)} rows")
    flats = [np.ascontiguousarray(one) for one in rows.flats]
    lists = [[np.ascontiguousarray(one.values) for one in group.lists] for group in rows.collections]
    offsets = [_checked(group.lists[0].offsets, values) for group, values in zip(rows.collections, lists, strict=True)]
    orders = [None if one.order is None else np.ascontiguousarray(one.order) for one in rows.collections]
    table_of_collections, begin, at = [], 0, len(flats)
    for group, values, bounds in zip(rows.collections, lists, offsets, strict=True):
        end = begin + len(values)
        table_of_collections.append((_address(bounds), len(values[0]), begin, end, at, group.length))
        begin, at = end, at + group.length * len(values)
    flat_list = [one for values in lists for one in values]
    _fill(
        np.array([_address(one) for one in flats], dtype=np.uint64),
        np.array([_CODES[one.dtype.name] for one in flats], dtype=np.int64),
        np.array(table_of_collections, dtype=np.int64).reshape(len(lists), 6),
        np.array([0 if one is None else _address(one) for one in orders], dtype=np.uint64),
        np.array([_address(one) for one in flat_list], dtype=np.uint64),
        np.array([_CODES[one.dtype.name] for one in flat_list], dtype=np.int64),
        wanted,
        table,
        max(_BLOCK_BYTES // (4 * max(rows.width, 1)), 16),
    )


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _checked(offsets: NDArray[np.int64], values: list[NDArray[Any]]) -> NDArray[np.int64]:
    """What the compiled loop relies on; numpy would notice by itself."""
    bounds = np.ascontiguousarray(offsets, dtype=np.int64)
    if bounds[0] != 0 or np.any(np.diff(bounds) < 0) or any(len(one) != bounds[-1] for one in values):
        raise DataError("the lists of a collection do not fit its values")
    return bounds
