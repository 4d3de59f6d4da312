"""Keyed 64-bit integer hash: where the order of events and their split into parts come from.

The mixing step is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, doi:10.1145/2660193.2660195). A
library's own permutation may change with its version, this cannot: golden values are committed in the tests.
Invariant: the same words give the same 64 bits on every machine, alone or in an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged, Nested

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_ROUNDS = 6
# Of lists, about so many are hashed together; some 3 MB beside them, whatever is read at once.
_VALUES_AT_ONCE = 1 << 16

UInt64 = NDArray[np.uint64]


def fold(*words: int) -> int:
    """Hash of a sequence of integers, each taken modulo 2^64; the order of the words matters.

    Examples
    --------
    >>> hex(fold(0, 1, 2))
    '0xf8e377fca03af0b6'
    """
    state = 0
    for word in words:
        state = _mix_int((state ^ _mix_int((word + _GOLDEN) & _MASK)) & _MASK)
    return state


def fold_array(key: int | UInt64, words: NDArray[Any]) -> UInt64:
    """`fold` continued by one more word an element: ``fold(a, b, w)`` is ``fold_array(fold(a, b), [w])``.

    Parameters
    ----------
    key
        State so far, one for all or one an element.
    words
        Integers [N]; uint64 [N] comes out.
    """
    mixed = mix(words.astype(np.uint64, copy=False) + np.uint64(_GOLDEN))
    np.bitwise_xor(mixed, np.uint64(key) if isinstance(key, int) else key, out=mixed)
    return mix(mixed)


def mix(values: UInt64) -> UInt64:
    """The finaliser, element by element; overwrites and returns ``values``."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(_M1)
    values ^= values >> np.uint64(27)
    values *= np.uint64(_M2)
    values ^= values >> np.uint64(31)
    return values


def uniform(hashes: UInt64) -> NDArray[np.float64]:
    """Hashes to numbers in [0, 1), by their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Images of some numbers under a keyed permutation of ``0 .. size - 1``.

    A Feistel network over pairs whose halves have nearly equal, not necessarily binary sizes (Black and Rogaway,
    CT-RSA 2002, doi:10.1007/3-540-45760-7_9); what falls outside is sent round again. Needs no table, so an order of
    10^9 events costs nothing before its first batch.

    Parameters
    ----------
    index
        int64 [N], each at least 0 and less than ``size``.

    Returns
    -------
    int64 [N].

    Raises
    ------
    DataError
        A number outside of that.

    Examples
    --------
    >>> sorted(permuted(np.arange(10), 10, key=3).tolist()) == list(range(10))
    True
    """
    require_inside(index, size)
    if size < 2:
        return index.copy()
    left_size, right_size = feistel_sides(size)
    keys = feistel_keys(key)
    images = _feistel(index.astype(np.uint64), left_size, right_size, keys)
    outside = np.flatnonzero(images >= np.uint64(size))
    while len(outside):
        images[outside] = _feistel(images[outside], left_size, right_size, keys)
        outside = outside[images[outside] >= np.uint64(size)]
    return images.astype(np.int64)


def require_inside(index: NDArray[np.int64], size: int) -> None:
    """Refuse numbers that are not permuted: from outside, the way back in may never be found.

    From inside it always is: a permutation goes in circles, and leaves out no place of one.

    Raises
    ------
    DataError
        With the numbers.
    """
    low, high = int(index.min(initial=size)), int(index.max(initial=-1))
    if len(index) and not 0 <= low <= high < size:
        raise DataError(f"places {low} to {high} are asked for in an order of {size}: some count of entries is damaged")


def feistel_sides(size: int) -> tuple[int, int]:
    """Two factors, nearly equal, whose product is at least ``size`` and less than one factor above it."""
    left = math.isqrt(size - 1) + 1
    return left, -(-size // left)


def feistel_keys(key: int) -> UInt64:
    """Keys of the rounds, uint64 [6]."""
    return np.array([fold(key, number) for number in range(_ROUNDS)], dtype=np.uint64)


def _feistel(values: UInt64, left_size: int, right_size: int, keys: UInt64) -> UInt64:
    left, right = values % np.uint64(left_size), values // np.uint64(left_size)
    for number, key in enumerate(keys):
        modulus = np.uint64(left_size if number % 2 == 0 else right_size)
        moved = (mix(right ^ key) >> np.uint64(32)) * modulus >> np.uint64(32)
        moved += left
        moved -= np.where(moved >= modulus, modulus, np.uint64(0))
        left, right = right, moved
    return left + np.uint64(left_size) * right


def hash_columns(key: int, columns: Sequence[Column], num_entries: int) -> UInt64:
    """One hash an event over the bits of its values, uint64 [N].

    Floating-point values count by their bits, with -0 as 0 and all NaN alike. Lists count with their length and the
    order of their values.
    """
    state = np.full(num_entries, key, dtype=np.uint64)
    for column in columns:
        state = fold_array(state, _words(column))
    return state


def _words(column: Column) -> UInt64:
    """One word an event."""
    if isinstance(column, Nested):
        return _hash_lists(Jagged(column.offsets, _hash_lists(column.inner)))
    return _hash_lists(column) if isinstance(column, Jagged) else bits_of(column)


def _hash_lists(column: Jagged) -> UInt64:
    """One word a list, some lists after others: what is needed beside a value is several times as wide as it is."""
    offsets = column.offsets
    words = np.empty(len(offsets) - 1, dtype=np.uint64)
    start = 0
    while start < len(words):
        enough = int(np.searchsorted(offsets, offsets[start] + _VALUES_AT_ONCE, side="right")) - 1
        stop = max(enough, start + 1)
        values = column.values[offsets[start] : offsets[stop]]
        words[start:stop] = _hash_some(Jagged(offsets[start : stop + 1] - offsets[start], values))
        start = stop
    return words


def _hash_some(column: Jagged) -> UInt64:
    counts = column.counts
    slots = np.arange(len(column.values), dtype=np.uint64) - np.repeat(column.offsets[:-1], counts).astype(np.uint64)
    hashed = fold_array(fold_array(0, slots), bits_of(column.values))
    running = np.zeros(len(hashed) + 1, dtype=np.uint64)
    np.cumsum(hashed, out=running[1:])  # modulo 2^64, so differences are exact
    return fold_array(running[column.offsets[1:]] - running[column.offsets[:-1]], counts)


def bits_of(values: NDArray[Any]) -> UInt64:
    """The bits of plain values, with -0 as 0 and all NaN alike."""
    if values.dtype.kind != "f":
        return values.astype(np.uint64)
    plain = values + values.dtype.type(0)  # turns -0 into 0
    plain[np.isnan(plain)] = np.nan
    bits: NDArray[Any] = plain.view(np.uint32 if values.dtype.itemsize == 4 else np.uint64)
    return bits.astype(np.uint64)


def _mix_int(value: int) -> int:
    value ^= value >> 30
    value = (value * _M1) & _MASK
    value ^= value >> 27
    value = (value * _M2) & _MASK
    return value ^ (value >> 31)
