"""Numbers in text, read to the very bits that Python's ``float`` and ``int`` give.

Compiled, for text formats. Decimal digits become a float64 by the method of D. Lemire, *Number parsing at a gigabyte
per second* (2021): one or two 64-bit products with a power of five in 128 bits tell the nearest float64, or that they
cannot tell. Invariant: a `REAL` has exactly the bits of ``float(text)``; where that cannot be known cheaply the answer
is `HARD`, and the caller asks Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# What one cell can be. Kinds are bits, so that those of a whole column are told by one number.
MISSING, TRUTH, WHOLE, NEGATIVE, LARGE, REAL, TEXT, HARD = 1, 2, 4, 8, 16, 32, 64, 128

_SMALLEST, _LARGEST = -342, 308
_DIGITS = 19  # so many fit into 64 bits, whichever they are
_INFINITY = np.uint64(0x7FF << 52)
_LOW = np.uint64(0xFFFFFFFF)
_ZERO, _ONE, _TWO, _THREE, _TEN = (np.uint64(value) for value in (0, 1, 2, 3, 10))
_HALF_WORD = np.uint64(32)
_SPARE = np.uint64((1 << 9) - 1)  # bits of a product that 55 bits of precision leave over
_TOP_BIT = np.uint64(63)
_INT64_MAX = np.uint64(2**63 - 1)
_UINT64_MAX = np.uint64(2**64 - 1)
_HIDDEN = np.uint64(1 << 52)


def _powers_of_five() -> tuple[np.ndarray, np.ndarray]:
    """The 128 leading bits of 5**q for each exponent: as high and low words."""
    high, low = [], []
    for q in range(_SMALLEST, _LARGEST + 1):
        power = 5 ** abs(q)
        if q >= 0:
            shift = power.bit_length() - 128
            bits = power >> shift if shift > 0 else power << -shift
        else:
            bits = (1 << (power.bit_length() + 127)) // power + 1
        high.append(bits >> 64)
        low.append(bits & (2**64 - 1))
    return np.array(high, dtype=np.uint64), np.array(low, dtype=np.uint64)


_HIGH, _LOW_WORDS = _powers_of_five()
_EXACT_TENS = np.array([10.0**power for power in range(23)])


@intrinsic
def bits_of(typing_context, value):  # type: ignore[no-untyped-def]
    """The 64 bits of a float64 as int64."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), build


@njit(cache=True, nogil=True)
def _product(one, other):  # type: ignore[no-untyped-def]
    """Both words of the 128-bit product of two uint64."""
    one_high, one_low = one >> _HALF_WORD, one & _LOW
    other_high, other_low = other >> _HALF_WORD, other & _LOW
    low = one_low * other_low
    middle = one_high * other_low + (low >> _HALF_WORD)
    cross = one_low * other_high + (middle & _LOW)
    return one_high * other_high + (middle >> _HALF_WORD) + (cross >> _HALF_WORD), (cross << _HALF_WORD) | (low & _LOW)


@njit(cache=True, nogil=True)
def _leading_zeros(value):  # type: ignore[no-untyped-def]
    count = 0
    while value >> _TOP_BIT == _ZERO:
        value <<= _ONE
        count += 1
    return count


@njit(cache=True, nogil=True)
def _nearest_float(digits, power):  # type: ignore[no-untyped-def]
    """Bits of the float64 nearest to ``digits * 10**power``, digits a uint64; False where the products cannot tell."""
    if digits == _ZERO or power < _SMALLEST:
        return True, _ZERO
    if power > _LARGEST:
        return True, _INFINITY
    zeros = _leading_zeros(digits)
    shifted = digits << np.uint64(zeros)
    high, low = _product(shifted, _HIGH[power - _SMALLEST])
    if high & _SPARE == _SPARE:
        more, _ = _product(shifted, _LOW_WORDS[power - _SMALLEST])
        low += more
        if low < more:
            high += _ONE
    if low == _UINT64_MAX and not -27 <= power <= 55:
        return False, _ZERO
    upper = high >> _TOP_BIT
    mantissa = high >> (upper + np.uint64(9))
    exponent = (((152170 + 65536) * power) >> 16) + 63 + np.int64(upper) - zeros + 1023
    if exponent <= 0:
        return _small_float(mantissa, exponent)
    if low <= _ONE and -4 <= power <= 23 and mantissa & _THREE == _ONE and mantissa << (upper + np.uint64(9)) == high:
        mantissa &= ~_ONE  # exactly between two: to the even one
    mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
    if mantissa >= _HIDDEN << _ONE:
        mantissa = _HIDDEN
        exponent += 1
    if exponent >= 0x7FF:
        return True, _INFINITY
    return True, (mantissa & ~_HIDDEN) | (np.uint64(exponent) << np.uint64(52))


@njit(cache=True, nogil=True)
def _small_float(mantissa, exponent):  # type: ignore[no-untyped-def]
    """Below the normal numbers: fewer bits, and no hidden one."""
    if 1 - exponent >= 64:
        return True, _ZERO
    mantissa >>= np.uint64(1 - exponent)
    mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
    return True, mantissa  # a carry into bit 52 makes it the smallest normal number, as it should


@njit(cache=True, nogil=True)
def read_number(text, first, last, valued):  # type: ignore[no-untyped-def]
    """Kind and 64 bits of the cell ``text[first:last]``, which has no blanks around it; ``valued`` False: kind alone.

    Bits are those of an int64 (`WHOLE`, `NEGATIVE`), a uint64 (`LARGE`), a float64 (`REAL`), or 0 and 1 (`TRUTH`).
    """
    at = first
    if at == last:
        return MISSING, 0
    negative = text[at] == 45
    if negative or text[at] == 43:
        at += 1
    if at == last or text[at] > 57:
        return _read_word(text, first, last)
    digits, used, dropped, power, seen, whole = _ZERO, 0, 0, 0, 0, True
    while at < last:
        letter = text[at]
        if 48 <= letter <= 57:
            seen += 1
            if used < _DIGITS:
                digits = digits * _TEN + np.uint64(letter - 48)
                used += digits != _ZERO
                power -= not whole
            else:
                dropped += letter != 48
                power += whole
        elif letter == 46 and whole:
            whole = False
        else:
            break
        at += 1
    if seen == 0:
        return _read_word(text, first, last)
    plain = whole and at == last
    if at < last:
        fits, more = _exponent(text, at, last)
        if not fits:
            return TEXT, 0
        power += more
    if plain and power <= 1:
        kind, bits, done = _whole(digits, power, negative, text[last - 1])
        if done:
            return kind, bits
    return _real(digits, power, negative, dropped > 0) if valued else (REAL, 0)


@njit(cache=True, nogil=True)
def _exponent(text, at, last):  # type: ignore[no-untyped-def]
    """The number behind ``e``; held to a range beyond which every float64 is 0 or infinite."""
    if text[at] != 101 and text[at] != 69:
        return False, 0
    at += 1
    falls = at < last and text[at] == 45
    if falls or (at < last and text[at] == 43):
        at += 1
    if at == last:
        return False, 0
    power = 0
    while at < last:
        letter = text[at]
        if letter < 48 or letter > 57:
            return False, 0
        if power < 1 << 40:
            power = power * 10 + letter - 48
        at += 1
    return True, -power if falls else power


@njit(cache=True, nogil=True)
def _whole(digits, power, negative, final):  # type: ignore[no-untyped-def]
    """A whole number as such, where 64 bits hold it; ``power`` 1 means that one digit, ``final``, was left out."""
    if power == 1:
        final_digit = np.uint64(final - 48)
        if digits > (_UINT64_MAX - final_digit) // _TEN:
            return REAL, 0, False
        digits = digits * _TEN + final_digit
    if not negative:
        return (WHOLE if digits <= _INT64_MAX else LARGE), np.int64(digits), True
    if digits > _INT64_MAX + _ONE:
        return REAL, 0, False
    return NEGATIVE, np.int64(_ZERO - digits), True


@njit(cache=True, nogil=True)
def _real(digits, power, negative, more):  # type: ignore[no-untyped-def]
    """Digits and a power of ten to a float64; ``more`` where digits that are not zero were left out."""
    if not more and digits <= _HIDDEN << _ONE and -22 <= power <= 22:
        value = np.float64(digits)
        value = value / _EXACT_TENS[-power] if power < 0 else value * _EXACT_TENS[power]
        return REAL, bits_of(-value if negative else value)
    told, bits = _nearest_float(digits, power)
    if more and told:
        told, upper = _nearest_float(digits + _ONE, power)
        told = told and upper == bits
    if not told:
        return HARD, 0
    return REAL, np.int64(bits | (np.uint64(1) << _TOP_BIT)) if negative else np.int64(bits)


@njit(cache=True, nogil=True)
def _spells(text, first, last, word):  # type: ignore[no-untyped-def]
    """Whether a cell is a word, in any case."""
    if last - first != len(word):
        return False
    same = True
    for place in range(len(word)):
        same &= text[first + place] | 32 == word[place] | 32
    return same


_NAN, _NA, _N_A, _NULL, _NONE = (np.frombuffer(word, np.uint8) for word in (b"nan", b"na", b"n/a", b"null", b"none"))
_INF, _INFINITE = (np.frombuffer(word, np.uint8) for word in (b"inf", b"infinity"))
_TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"true", b"false"))


@njit(cache=True, nogil=True)
def _read_word(text, first, last):  # type: ignore[no-untyped-def]
    """Words that stand for something: a missing value, an infinity, a truth."""
    negative = text[first] == 45
    bare = first + 1 if negative or text[first] == 43 else first
    if _spells(text, bare, last, _NAN):
        return MISSING, 0
    if _spells(text, bare, last, _INF) or _spells(text, bare, last, _INFINITE):
        return REAL, bits_of(-np.inf if negative else np.inf)
    if bare == first:
        if _spells(text, first, last, _TRUE):
            return TRUTH, 1
        if _spells(text, first, last, _FALSE):
            return TRUTH, 0
        for word in (_NA, _N_A, _NULL, _NONE):
            if _spells(text, first, last, word):
                return MISSING, 0
    return TEXT, 0


@njit(cache=True, nogil=True)
def as_float(kind, bits):  # type: ignore[no-untyped-def]
    """Bits of the float64 of a cell that was read as ``kind``."""
    if kind == MISSING:
        return bits_of(np.nan)
    if kind == LARGE:
        return bits_of(np.float64(np.uint64(bits)))
    if kind == NEGATIVE and bits == 0:
        return bits_of(-0.0)
    if kind in (WHOLE, NEGATIVE, TRUTH):
        return bits_of(np.float64(bits))
    return bits
