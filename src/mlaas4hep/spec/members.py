"""Which columns a collection stands for: ``Jet`` for Jet_pt, Jet_eta, Jet_phi and Jet_mass.

The rule knows names alone, so that a source can be asked for the columns before anything is read. Invariant: with fewer
columns known, but those found among them, the same are found; a sealed contract, which keeps only the columns that it
needs, therefore means what it meant in training.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Literal, NamedTuple

from mlaas4hep.errors import nearest
from mlaas4hep.spec.spelling import spell_name

Need = Literal["transverse", "momentum", "all"]

_SEPARATORS = ("_", ".")
_SPELLINGS = {
    "pt": ("pt", "PT", "Pt", "pT", "MET"),
    "eta": ("eta", "Eta", "ETA"),
    "phi": ("phi", "Phi", "PHI"),
    "mass": ("mass", "m", "Mass", "M"),
    "energy": ("energy", "E", "e", "Energy"),
    "px": ("px", "Px", "PX"),
    "py": ("py", "Py", "PY"),
    "pz": ("pz", "Pz", "PZ"),
}
_SYSTEMS: dict[Need, tuple[tuple[str, ...], ...]] = {
    "transverse": (("pt", "phi"), ("px", "py")),
    "momentum": (("pt", "eta", "phi"), ("px", "py", "pz")),
    "all": (
        ("pt", "eta", "phi", "mass"),
        ("pt", "eta", "phi", "energy"),
        ("px", "py", "pz", "energy"),
        ("px", "py", "pz", "mass"),
    ),
}


class Members(NamedTuple):
    """Coordinates of a four-vector, such as pt, eta, phi, mass, and the columns that hold them."""

    coordinates: tuple[str, ...]
    columns: tuple[str, ...]


def members(name: str, need: Need, known: Container[str]) -> Members | None:
    """Columns of a collection; None where some are not known.

    Parameters
    ----------
    name
        Of the collection, such as ``Jet``: its columns are ``Jet_pt`` or ``Jet.PT`` and so on.
    need
        How much of a four-vector is asked for: transverse, all of the momentum, or mass and energy too.
    known
        Names of columns and new variables.
    """
    for separator in _SEPARATORS:
        for system in _SYSTEMS[need]:
            found = [_member(f"{name}{separator}", one, known) for one in system]
            columns = tuple(column for column in found if column is not None)
            if len(columns) == len(system):
                return Members(system, columns)
    return None


def _member(prefix: str, coordinate: str, known: Container[str]) -> str | None:
    return next((prefix + one for one in _SPELLINGS[coordinate] if prefix + one in known), None)


def why_not(name: str, need: Need, known: Iterable[str]) -> str:
    """Why a collection has not the columns that are asked for, in words."""
    names = set(known)
    momentum, plane = members(name, "momentum", names), members(name, "transverse", names)
    if momentum is not None and need == "all":
        separator = momentum.columns[0][len(name)]
        wanted = " or ".join(f"{name}{separator}{one}" for one in ("mass", "energy"))
        return (
            f"'{name}' has {', '.join(momentum.columns)}, but neither mass nor energy ({wanted}): write "
            f"massless({spell_name(name)}) if it has none"
        )
    if plane is not None:
        return (
            f"'{name}' has {' and '.join(plane.columns)} alone, so it is transverse: only pt, phi, px, py and deltaphi "
            f"can be asked of it; transverse({spell_name(name)}) makes a four-vector of it, in the plane and massless"
        )
    columns = _nearest_system(name, need, names)
    lacking = [one for one in columns if one not in names]
    stands = ", ".join(columns)
    if len(lacking) < len(columns):
        return f"'{name}' stands for the columns {stands} here, and there is no {' and no '.join(lacking)}"
    close = nearest(name, sorted(collections(names)))
    return f"'{name}' stands for the columns {stands} here, and there are none such{close}"


def _nearest_system(name: str, need: Need, known: Container[str]) -> list[str]:
    """Columns of the coordinates of which there are most, as they are spelled; the first ones where there are none."""
    spelled = [
        [_member(name + separator, one, known) or f"{name}{separator}{one}" for one in system]
        for separator in _SEPARATORS
        for system in _SYSTEMS[need]
    ]
    return max(spelled, key=lambda columns: sum(one in known for one in columns))


def collections(known: Iterable[str]) -> Iterator[str]:
    """Names in front of the transverse momenta among some columns."""
    for column in known:
        for separator in _SEPARATORS:
            prefix, found, last = column.rpartition(separator)
            if found and prefix and last in (*_SPELLINGS["pt"], *_SPELLINGS["px"]):
                yield prefix
