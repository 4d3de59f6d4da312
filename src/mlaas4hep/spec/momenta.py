"""Arithmetic of four-vectors: numpy arrays of px, py, pz, energy and squared mass, in float64.

The squared mass is carried along instead of being taken from energy and momentum at the end, where nothing is left of
it for two nearly collinear particles. Invariant: every function works value by value or neighbour by neighbour within
one list, so an event's result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.functions import delta_phi, hypotenuse
from mlaas4hep.spec.operations import positionless
from mlaas4hep.spec.picking import Offsets, Selection

Array = NDArray[Any]

_cos, _sin, _cosh, _sinh = (positionless(one) for one in (np.cos, np.sin, np.cosh, np.sinh))
_arcsinh, _arctan2 = positionless(np.arcsinh), positionless(np.arctan2)


@dataclass(frozen=True)
class Momenta:
    """Four-vectors of events: one an event, or a list.

    Parameters
    ----------
    px, py, pz, energy
        float64 [M], in the unit of the columns; 0 where nothing asks for them.
    mass2
        float64 [M]: squared mass, negative for space-like ones.
    offsets
        int64 [N + 1] of the lists; None where there is one an event.
    """

    px: Array
    py: Array
    pz: Array
    energy: Array
    mass2: Array
    offsets: Offsets | None = None

    @property
    def parts(self) -> tuple[Array, Array, Array, Array, Array]:
        """The five arrays."""
        return self.px, self.py, self.pz, self.energy, self.mass2

    def pick(self, selection: Selection) -> Momenta:
        """Picked elements or lists; NaN where there is none."""
        return _joined([selection.of(part) for part in self.parts], selection.offsets)

    def repeated(self, offsets: Offsets) -> Momenta:
        """One an event, for every element of the lists of the event."""
        counts = np.diff(offsets)
        return _joined([np.repeat(part, counts) for part in self.parts], offsets)

    def massless(self) -> Momenta:
        """The same momentum without mass."""
        return Momenta(self.px, self.py, self.pz, self.p, nothing(self.px), self.offsets)

    def transverse(self) -> Momenta:
        """The transverse momentum alone, without mass."""
        zero = nothing(self.px)
        return Momenta(self.px, self.py, zero, self.pt, zero, self.offsets)

    @property
    def pt(self) -> Array:
        """Transverse momentum."""
        return hypotenuse(self.px, self.py)

    @property
    def p(self) -> Array:
        """Size of the momentum."""
        return hypotenuse(self.pt, self.pz)

    @property
    def eta(self) -> Array:
        """Pseudorapidity; NaN for no momentum at all."""
        return _arcsinh(np.divide(self.pz, self.pt))

    @property
    def phi(self) -> Array:
        """Azimuth from -pi to pi; NaN where there is no transverse momentum."""
        return np.where(self.pt == 0, np.nan, _arctan2(self.py, self.px))

    @property
    def rapidity(self) -> Array:
        """asinh(pz / mT), which is log((E + pz) / (E - pz)) / 2."""
        return _arcsinh(np.divide(self.pz, np.sqrt(self.mass2 + self.px * self.px + self.py * self.py)))

    @property
    def mass(self) -> Array:
        """sqrt(m^2); -sqrt(-m^2) for space-like ones, as ROOT has it."""
        return np.copysign(np.sqrt(np.abs(self.mass2)), self.mass2) + 0.0


def _joined(parts: Sequence[Array], offsets: Offsets | None = None) -> Momenta:
    px, py, pz, energy, mass2 = parts
    return Momenta(px, py, pz, energy, mass2, offsets)


def nothing(like: Array) -> Array:
    """Zeros; NaN where values are missing."""
    return np.where(np.isnan(like), np.nan, 0.0)


def from_polar(pt: Array, eta: Array, phi: Array) -> tuple[Array, Array, Array]:
    """px, py, pz."""
    return pt * _cos(phi), pt * _sin(phi), pt * _sinh(eta)


def with_mass(px: Array, py: Array, pz: Array, mass: Array) -> Momenta:
    """From a mass; a negative one is space-like, as in ROOT."""
    mass2 = np.copysign(mass * mass, mass)
    energy = np.sqrt(np.maximum(px * px + py * py + pz * pz + mass2, 0.0))
    return Momenta(px, py, pz, energy, mass2)


def with_energy(px: Array, py: Array, pz: Array, energy: Array) -> Momenta:
    """From an energy: the squared mass is (E - p)(E + p)."""
    p = hypotenuse(hypotenuse(px, py), pz)
    return Momenta(px, py, pz, energy, (energy - p) * (energy + p))


def add(one: Momenta, other: Momenta, sign: float = 1.0) -> Momenta:
    """Sum, or difference with ``sign`` -1; both of the same lists."""
    mass2 = one.mass2 + other.mass2 + sign * 2.0 * _product(one, other)
    sums = [left + sign * right for left, right in zip(one.parts[:4], other.parts[:4], strict=True)]
    return _joined([*sums, mass2], one.offsets)


def _product(one: Momenta, other: Momenta) -> Array:
    """E1 E2 - p1 p2, without taking two nearly equal numbers from each other.

    Of positive energies it is (E1 E2 - |p1||p2|) + (|p1||p2| - p1 p2), each written as a quotient whose terms add.
    """
    energies = one.energy * other.energy
    sign = np.where(energies < 0, -1.0, 1.0)
    along = sign * (one.px * other.px + one.py * other.py + one.pz * other.pz)
    first, second = one.p, other.p
    sizes = first * second
    masses = first * first * other.mass2 + second * second * one.mass2 + one.mass2 * other.mass2
    unequal = _quotient(masses, np.abs(energies) + sizes)
    across = _cross2(one, other)
    apart = np.where(along > 0, _quotient(across, sizes + along), sizes - along)
    return np.asarray(sign * (unequal + apart))


def _quotient(above: Array, below: Array) -> Array:
    return np.where(below == 0, 0.0 * above, np.divide(above, below))


def _cross2(one: Momenta, other: Momenta) -> Array:
    """Squared size of the vector product."""
    x = one.py * other.pz - one.pz * other.py
    y = one.pz * other.px - one.px * other.pz
    z = one.px * other.py - one.py * other.px
    return np.asarray(x * x + y * y + z * z)


def total(lists: Momenta) -> Momenta:
    """Sum of each list, neighbours pair by pair, then the sums of pairs, and so on; no particle at all is zero."""
    assert lists.offsets is not None
    offsets, parts = lists.offsets, lists
    while np.max(np.diff(offsets), initial=0) > 1:
        offsets, parts = _halved(offsets, parts)
    filled = np.diff(offsets) > 0
    sums = [np.zeros(len(filled)) for _ in parts.parts]
    for into, part in zip(sums, parts.parts, strict=True):
        into[filled] = part
    return _joined(sums)


def _halved(offsets: Offsets, parts: Momenta) -> tuple[Offsets, Momenta]:
    """Lists of half the length: each second one is added to the one before it."""
    counts = np.diff(offsets)
    slot = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    last = np.repeat(offsets[1:], counts) - 1
    even = slot % 2 == 0
    first = np.flatnonzero(even)
    paired = first < last[even]
    left = _joined([part[first[paired]] for part in parts.parts])
    right = _joined([part[first[paired] + 1] for part in parts.parts])
    sums = add(left, right)
    merged = []
    for part, joined in zip(parts.parts, sums.parts, strict=True):
        half = part[first]
        half[paired] = joined
        merged.append(half)
    halves = np.zeros_like(offsets)
    np.cumsum((counts + 1) // 2, out=halves[1:])
    return halves, _joined(merged)


def delta_r(one: Momenta, other: Momenta) -> Array:
    """Distance in pseudorapidity and azimuth."""
    return hypotenuse(one.eta - other.eta, delta_phi(one.phi, other.phi))
