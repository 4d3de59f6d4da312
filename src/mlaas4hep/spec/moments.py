"""Mean and variance of float32 values without any rounding, for `statistics`.

A float32 is a 24-bit whole number times a power of two, so sums of values and of squares can be kept as whole
numbers, one per sign and exponent. Invariant: the result is the correctly rounded one, hence the same bits for
every order and grouping of the values (law 9 asks for 1e-12).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.measuring import FRACTION_BITS, NUMPY, Loops

MAX_BLOCK = 2**16
"""Most values that may be added at once: their squared fractions (46 bits each) must sum up in 64 bits."""

_KEYS = 512  # sign bit and 8 exponent bits of a float32


class ExactMoments:
    """Sums of values and of their squares, per sign and exponent.

    Kept are, for each of the 512 upper halves of a float32, the number of values, the sum of their 23-bit
    fractions, and that of the squared fractions in two words of 32 bits; the leading bit that a float32 leaves out
    is added at the end. Good for 2^31 blocks.

    Parameters
    ----------
    loops
        To add with.
    """

    __slots__ = ("_loops", "_sums")

    def __init__(self, loops: Loops = NUMPY) -> None:
        self._loops = loops
        self._sums = np.zeros((4, _KEYS), dtype=np.int64)

    def add_sorted(self, values: NDArray[np.float32]) -> None:
        """Add up to `MAX_BLOCK` finite values [n] in rising order, zeros all of one sign."""
        self._loops.add_sorted(self._sums, values)

    def merge(self, other: ExactMoments) -> None:
        """Add what another one has seen."""
        self._sums += other._sums

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self._sums[0].sum())

    def mean_and_variance(self) -> tuple[float, float] | None:
        """Mean and variance (divided by the number of values), correctly rounded; None of no values."""
        count = self.count
        if not count:
            return None
        total, squares = self._totals()
        # Python divides whole numbers of any size with one rounding. Units: 2^-149 and its square.
        mean = total / (count << 149)
        variance = (count * squares - total * total) / (count * count << 298)
        return mean, variance

    def _totals(self) -> tuple[int, int]:
        """Sum of values in units of 2^-149, the smallest float32, and of squares in units of 2^-298."""
        total = squares = 0
        for key in np.flatnonzero(self._sums[0]).tolist():
            count, first, high, low = self._sums[:, key].tolist()
            second = (high << 32) + low
            exponent = key & 255
            if exponent:
                leading = 1 << FRACTION_BITS
                second += 2 * leading * first + count * leading * leading
                first += count * leading
            shift = max(exponent, 1) - 1
            total += (-first if key & 256 else first) << shift
            squares += second << 2 * shift
        return total, squares
