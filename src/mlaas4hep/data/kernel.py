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

from mlaas4hep.data.hashing import feistel_keys, feistel_sides
from mlaas4hep.errors import DataError
from mlaas4hep.spec.padding import Assembled

# Number types that columns have after the cast to declared types.
_CODES = {np.dtype(name): code for code, name in enumerate(("bool", "int64", "uint64", "float32", "float64"))}
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


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(value):  # pragma: no cover
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(nogil=True, cache=True, inline="always")
def _image(number, size, left_size, right_size, keys):  # pragma: no cover
    half = np.uint64(32)
    value = np.uint64(number)
    while True:
        left, right = value % left_size, value // left_size
        for turn in range(len(keys)):
            modulus = left_size if turn % 2 == 0 else right_size
            moved = left + (((_mix(right ^ keys[turn]) >> half) * modulus) >> half)
            if moved >= modulus:
                moved -= modulus
            left, right = right, moved
        value = left + left_size * right
        if value < size:
            return value


@numba.njit(nogil=True, cache=True)
def _permute(index, size, left_size, right_size, keys, images):  # pragma: no cover
    for at in range(len(index)):
        images[at] = np.int64(_image(index[at], size, left_size, right_size, keys))


@numba.njit(nogil=True, cache=True)
def _locate(
    start, stride, size, left_size, right_size, keys, ends, firsts, files, guide, shift, rows, file
):  # pragma: no cover
    for at in range(len(rows)):
        number = np.int64(start + at * stride)
        if size > 1:
            number = np.int64(_image(number, size, left_size, right_size, keys))
        low = guide[number >> shift]
        while ends[low] <= number:
            low += 1
        rows[at] = firsts[low] + number
        file[at] = files[low]


@numba.njit(nogil=True, cache=True)
def _copy(addresses, rows, file, target):  # pragma: no cover
    width = target.shape[1]
    for at in range(len(rows)):
        offset = np.uint64(rows[at] * width * target.itemsize)
        source = numba.carray(_pointer(addresses[file[at]] + offset), width, target.dtype)
        for column in range(width):
            target[at, column] = source[column]


def permuted(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Images of some numbers: see `mlaas4hep.data.hashing.permuted`."""
    if size < 2:
        return index.copy()
    images = np.empty(len(index), dtype=np.int64)
    _permute(
        np.ascontiguousarray(index), np.uint64(size), *map(np.uint64, feistel_sides(size)), feistel_keys(key), images
    )
    return images


class Gatherer:
    """Rows from several tables by the numbers of a permuted order, compiled.

    Parameters
    ----------
    ends
        int64 [B], rising: how many rows there are up to the end of each block.
    firsts
        int64 [B]: the row in its table with which a block begins, less the rows before the block.
    files
        int64 [B]: table of each block.
    tables, sides
        uint32 [rows, width] and int64 [rows, S] of each file.
    """

    def __init__(
        self,
        ends: NDArray[np.int64],
        firsts: NDArray[np.int64],
        files: NDArray[np.int64],
        tables: list[NDArray[np.uint32]],
        sides: list[NDArray[np.int64]],
    ) -> None:
        if int(files.max(initial=-1)) >= len(tables):
            raise DataError("a block of rows without a table")
        last = np.zeros(len(tables), dtype=np.int64)
        np.maximum.at(last, files, firsts + ends)
        if any(most > min(len(one), len(other)) for most, one, other in zip(last, tables, sides, strict=True)):
            raise DataError("rows are counted that are not there")
        # Where to begin looking for a block: a search by halves would mispredict every branch of it.
        size = int(ends[-1]) if len(ends) else 0
        shift = max(size.bit_length() - (8 * len(ends)).bit_length(), 0)
        guide = np.searchsorted(ends, np.arange((size >> shift) + 1, dtype=np.int64) << shift, side="right")
        self._blocks = (ends, firsts, files, guide.astype(np.int64), shift)
        self._tables, self._sides = tables, sides

    def gather(
        self, start: int, count: int, stride: int, key: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """Rows, sides and files of the numbers ``start``, ``start + stride``, ... after the permutation of a key."""
        ends = self._blocks[0]
        size = int(ends[-1]) if len(ends) else 0
        if count and not 0 <= start <= start + (count - 1) * stride < size:
            raise DataError(f"rows {start} to {start + (count - 1) * stride} of {size} asked for")
        rows, file = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        halves = map(np.uint64, feistel_sides(size) if size > 1 else (1, 1))
        # First all places, then all rows: a copy does not wait for the next place to be computed.
        _locate(start, stride, np.uint64(size), *halves, feistel_keys(key), *self._blocks, rows, file)
        return self._copied(self._tables, rows, file), self._copied(self._sides, rows, file), file

    def _copied(self, tables: list[NDArray[Any]], rows: NDArray[np.int64], file: NDArray[np.int64]) -> NDArray[Any]:
        if len(tables) == 1:
            return tables[0].take(rows, axis=0)
        target = np.empty((len(rows), tables[0].shape[1]), dtype=tables[0].dtype)
        addresses = np.array([_address(one) for one in tables], dtype=np.uint64)
        _copy(addresses, rows, file, target)
        return target


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
        np.array([_CODES[one.dtype] for one in flats], dtype=np.int64),
        np.array(table_of_collections, dtype=np.int64).reshape(len(lists), 6),
        np.array([0 if one is None else _address(one) for one in orders], dtype=np.uint64),
        np.array([_address(one) for one in flat_list], dtype=np.uint64),
        np.array([_CODES[one.dtype] for one in flat_list], dtype=np.int64),
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
