"""Permuted numbers and gathered rows, compiled: the inner loops of the order.

Runs outside Python's global lock. Of all modules only this one, `packing`, `measuring_kernel` and `root.vectors` know
numba. Invariant: reads nothing beyond the arrays it was given, whatever the numbers say.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mlaas4hep.data.hashing import feistel_keys, feistel_sides
from mlaas4hep.data.recycled import recycled
from mlaas4hep.data.rows import ENTRY, Rows
from mlaas4hep.errors import DataError


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


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


@numba.njit(nogil=True, cache=True)
def _copy_sides(addresses, width, rows, file, labels, weights, entries):  # pragma: no cover
    for at in range(len(rows)):
        source = numba.carray(_pointer(addresses[file[at]] + np.uint64(8 * rows[at] * width)), 3, np.int64)
        entries[at].file = file[at]
        entries[at].entry = source[0]
        weights[at] = source[1]
        labels[at] = source[2]


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
        if any(most > min(len(one), len(other)) for most, one, other in zip(last, tables, sides, strict=True)):
            raise DataError("rows are counted that are not there")
        # Where to begin looking for a block: a search by halves would mispredict every branch of it.
        size = int(ends[-1]) if len(ends) else 0
        shift = max(size.bit_length() - (8 * len(ends)).bit_length(), 0)
        guide = np.searchsorted(ends, np.arange((size >> shift) + 1, dtype=np.int64) << shift, side="right")
        self._blocks = (ends, firsts, files, guide.astype(np.int64), shift)
        self._tables, self._sides = tables, sides

    def gather(self, start: int, count: int, stride: int, key: int) -> Rows:
        """The rows of the numbers ``start``, ``start + stride``, ... after the permutation of a key."""
        ends = self._blocks[0]
        size = int(ends[-1]) if len(ends) else 0
        if count and not 0 <= start <= start + (count - 1) * stride < size:
            raise DataError(f"rows {start} to {start + (count - 1) * stride} of {size} asked for")
        rows, file = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        halves = map(np.uint64, feistel_sides(size) if size > 1 else (1, 1))
        # First all places, then all rows: a copy does not wait for the next place to be computed.
        _locate(start, stride, np.uint64(size), *halves, feistel_keys(key), *self._blocks, rows, file)
        found = Rows(
            self._copied(rows, file).view(np.float32),
            np.empty(count, np.int64),
            np.empty(count, np.float64),
            np.empty(count, ENTRY),
        )
        beside = found.labels, found.weights.view(np.int64), found.entries
        _copy_sides(_addresses(self._sides), self._sides[0].shape[1], rows, file, *beside)
        return found

    def _copied(self, rows: NDArray[np.int64], file: NDArray[np.int64]) -> NDArray[np.uint32]:
        tables = self._tables
        width, dtype = tables[0].shape[1], tables[0].dtype
        target = np.frombuffer(recycled(len(rows) * width * dtype.itemsize), dtype).reshape(len(rows), width)
        if len(tables) == 1:
            # "clip" spares a second copy that only "raise" needs; the rows were located inside the table.
            return tables[0].take(rows, axis=0, out=target, mode="clip")
        _copy(_addresses(tables), rows, file, target)
        return target


def _addresses(tables: list[NDArray[Any]]) -> NDArray[np.uint64]:
    return np.array([address(one) for one in tables], dtype=np.uint64)


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
