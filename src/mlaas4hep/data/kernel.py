"""Permuted numbers and gathered rows, compiled: the inner loops of the order.

Runs outside Python's global lock. Of all modules only this one, `packing`, `measuring_kernel` and `root.vectors` know
numba. Invariant: reads nothing beyond the arrays it was given, whatever the numbers say.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mlaas4hep.data.hashing import feistel_keys, feistel_sides, require_inside
from mlaas4hep.data.rows import Rows
from mlaas4hep.errors import DataError


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy bytes from an address to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(one, ir.IntType(8).as_pointer()) for one in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def soon(context: Any, address: Any) -> Any:
    """Have the processor fetch what is at an address, whatever that is: it never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [builder.inttoptr(arguments[0], byte), number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _whole(context: Any, address: Any) -> Any:
    """Read an int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=8)

    return types.int64(types.uint64), generate


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


# Rows that are fetched ahead: a row anywhere in a large table is half a microsecond away, and processors by themselves
# do not look that far ahead.
_AHEAD = 32
_4, _8, _LINE = np.uint64(4), np.uint64(8), np.uint64(64)


@numba.njit(nogil=True, cache=True)
def _copy_rows(tables, sides, width, side_width, rows, file, into):  # pragma: no cover
    table, labels, weights, entries = into
    size, side_size = np.uint64(width) * _4, np.uint64(side_width) * _8
    for at in range(len(rows)):
        if at + _AHEAD < len(rows):
            later, number = file[at + _AHEAD], np.uint64(rows[at + _AHEAD])
            begin = tables[later] + number * size
            end = begin + size
            while begin < end:
                soon(begin)
                begin += _LINE
            soon(sides[later] + number * side_size)
        copy_bytes(table + np.uint64(at) * size, tables[file[at]] + np.uint64(rows[at]) * size, size)
        side = sides[file[at]] + np.uint64(rows[at]) * side_size
        entries[at].file = file[at]
        entries[at].entry = _whole(side)
        weights[at] = _whole(side + _8)
        labels[at] = _whole(side + _8 + _8)


def permuted(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Images of some numbers: see `mlaas4hep.data.hashing.permuted`."""
    require_inside(index, size)
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
        uint32 [rows, width] of each file, and int64 [rows, 3]: entry, the bits of the weight, label.
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
        beyond = any(most > min(len(one), len(other)) for most, one, other in zip(last, tables, sides, strict=True))
        if beyond or np.any(np.diff(ends, prepend=0) < 0):
            raise DataError("rows are counted that are not there")
        # Where to begin looking for a block: a search by halves would mispredict every branch of it.
        size = int(ends[-1]) if len(ends) else 0
        shift = max(size.bit_length() - (8 * len(ends)).bit_length(), 0)
        guide = np.searchsorted(ends, np.arange((size >> shift) + 1, dtype=np.int64) << shift, side="right")
        self._blocks = (ends, firsts, files, guide.astype(np.int64), shift)
        self._tables, self._sides = tables, sides
        self._places = _addresses(tables), _addresses(sides)

    def gather(self, start: int, count: int, stride: int, key: int) -> Rows:
        """The rows of the numbers ``start``, ``start + stride``, ... after the permutation of a key."""
        ends = self._blocks[0]
        size = int(ends[-1]) if len(ends) else 0
        if count and not 0 <= start <= start + (count - 1) * stride < size:
            raise DataError(f"rows {start} to {start + (count - 1) * stride} of {size} asked for")
        rows, file = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        halves = map(np.uint64, feistel_sides(size) if size > 1 else (1, 1))
        # First all places, then all rows, so that rows can be fetched ahead.
        _locate(start, stride, np.uint64(size), *halves, feistel_keys(key), *self._blocks, rows, file)
        found = Rows.empty(count, self._tables[0].shape[1], lasting=False)
        beside = found.labels, found.weights.view(np.int64), found.entries
        widths = self._tables[0].shape[1], self._sides[0].shape[1]
        _copy_rows(*self._places, *widths, rows, file, (np.uint64(address(found.table)), *beside))
        return found


def _addresses(tables: list[NDArray[Any]]) -> NDArray[np.uint64]:
    return np.array([address(one) for one in tables], dtype=np.uint64)


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
