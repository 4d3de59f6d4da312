"""Runs a program over the records of an Avro block, compiled.

Every byte that is read is checked to be there, and no list may announce more items than bytes are left. Invariant:
damaged bytes end in a status, never outside the block or in a loop without end.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mlaas4hep.data.tables import avro_schema as ops
from mlaas4hep.data.tables.numbers import bits_of

_SKIP_WHOLE, _SKIP_BYTES, _SKIP_TEXT, _TAKE_WHOLE = ops.SKIP_WHOLE, ops.SKIP_BYTES, ops.SKIP_TEXT, ops.TAKE_WHOLE
_TAKE_FLOAT, _TAKE_DOUBLE, _TAKE_TRUTH, _TAKE_NOTHING = (
    ops.TAKE_FLOAT,
    ops.TAKE_DOUBLE,
    ops.TAKE_TRUTH,
    ops.TAKE_NOTHING,
)
_CHOOSE, _JUMP, _COUNT_NOTHINGS = ops.CHOOSE, ops.JUMP, ops.COUNT_NOTHINGS
_EMPTY_LIST, _BEGIN_LIST, _END_LIST = ops.EMPTY_LIST, ops.BEGIN_LIST, ops.END_LIST
_DEPTH = ops.MAX_DEPTH + 2


@njit(cache=True, nogil=True)
def _whole(data, at):  # type: ignore[no-untyped-def]
    """A whole number in Avro's variable length, and the byte behind it; -1 where there is none."""
    value, shift, stop = np.uint64(0), np.uint64(0), len(data)
    while at < stop and shift < np.uint64(70):
        byte = np.uint64(data[at])
        value |= (byte & np.uint64(127)) << shift
        at += 1
        if byte < np.uint64(128):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return 0, -1


@njit(cache=True, nogil=True)
def _little(data, at, size):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for place in range(size):
        value |= np.uint64(data[at + place]) << np.uint64(8 * place)
    return value


@njit(cache=True, nogil=True)
def _float32(bits):  # type: ignore[no-untyped-def]
    """The float64 of the bits of a float32, NaN and infinities included."""
    sign = -1.0 if bits >> np.uint64(31) else 1.0
    exponent = np.int64((bits >> np.uint64(23)) & np.uint64(0xFF))
    fraction = np.float64(np.int64(bits & np.uint64(0x7FFFFF)))
    if exponent == 0xFF:
        return sign * np.inf if fraction == 0 else np.nan
    if exponent == 0:
        return sign * fraction * 2.0**-149
    return sign * (8388608.0 + fraction) * 2.0 ** (exponent - 150)


@njit(cache=True, nogil=True)
def _list_items(data, at, stop):  # type: ignore[no-untyped-def]
    """Items of the next part of a list and where they begin; no byte (-1) where that cannot be."""
    count, at = _whole(data, at)
    if at >= 0 and count < 0:
        count = -count
        _, at = _whole(data, at)
    if at < 0 or count < 0:
        return 0, -1
    return count, at


@njit(cache=True, nogil=True)
def run(data, records, code, targets, base, values, store):  # type: ignore[no-untyped-def]
    """Take columns out of the records of a block.

    Parameters
    ----------
    data
        uint8 [n]: the block, inflated.
    code, targets
        See `avro_schema.Program`.
    base
        int64 [streams]: where the values of each column, and the lengths of each list, begin in ``values``.
    values
        int64 [m]: bits of int64 or float64.
    store
        Whether to write ``values``, or only to count them.

    Returns
    -------
    Values of each stream (int64 [streams]), and the byte behind the last record; -1 where the bytes are damaged.
    """
    stop, found = len(data), np.zeros(len(base), dtype=np.int64)
    left, depth, at = np.zeros(_DEPTH, np.int64), 0, 0
    for _ in range(records):
        step = 0
        while step < len(code):
            operation, one, other = code[step]
            step += 1
            if operation == _SKIP_WHOLE:
                _, at = _whole(data, at)
            elif operation == _SKIP_BYTES:
                at += one
            elif operation == _SKIP_TEXT:
                size, at = _whole(data, at)
                at = at + size if at >= 0 and 0 <= size <= stop - at else -1
            elif operation == _CHOOSE:
                branch, at = _whole(data, at)
                if at < 0 or branch < 0 or branch >= other:
                    return found, -1
                step = targets[one + branch]
            elif operation == _JUMP:
                step = one
            elif operation == _EMPTY_LIST:
                if store:
                    values[base[one] + found[one]] = 0
                found[one] += 1
            elif operation in (_BEGIN_LIST, _END_LIST):
                if operation == _BEGIN_LIST and other >= 0:
                    if store:
                        values[base[other] + found[other]] = 0
                    found[other] += 1
                elif operation == _END_LIST:
                    left[depth - 1] -= 1
                    if left[depth - 1]:
                        step = one
                        continue
                    step, (_, one, other) = one, code[one - 1]
                    depth -= 1
                items, at = _list_items(data, at, stop)
                if at < 0 or items > stop - at:
                    return found, -1
                if items == 0:
                    step = one
                    continue
                if store and other >= 0:
                    values[base[other] + found[other] - 1] += items
                left[depth] = items
                depth += 1
            elif operation == _COUNT_NOTHINGS:
                items = 1
                while items and at >= 0:
                    items, at = _list_items(data, at, stop)
            else:
                bits, at = _take(data, at, stop, operation, other)
                if store:
                    values[base[one] + found[one]] = bits
                found[one] += 1
            if at < 0 or at > stop:
                return found, -1
    return found, at


@njit(cache=True, nogil=True)
def _take(data, at, stop, operation, as_float):  # type: ignore[no-untyped-def]
    """Bits of one value and the byte behind it."""
    if operation == _TAKE_NOTHING:
        return bits_of(np.nan), at
    if operation == _TAKE_WHOLE:
        value, at = _whole(data, at)
        return (bits_of(np.float64(value)) if as_float else value), at
    if operation == _TAKE_TRUTH:
        if at >= stop or data[at] > 1:
            return 0, -1
        return (bits_of(np.float64(data[at])) if as_float else np.int64(data[at])), at + 1
    if operation == _TAKE_FLOAT:
        return (bits_of(_float32(_little(data, at, 4))), at + 4) if at + 4 <= stop else (0, -1)
    return (np.int64(_little(data, at, 8)), at + 8) if at + 8 <= stop else (0, -1)
