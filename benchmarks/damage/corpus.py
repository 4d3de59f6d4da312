"""The corpus: each good file with each damage that fits it.

``make_corpus`` writes it; the names are stable, so that a failure can be made again alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.damage.anywhere import EVERYWHERE, Damage, tree_object
from benchmarks.damage.bases import BASES, open_base, write_base, write_companion
from benchmarks.damage.rntuple import RNTUPLE, RNTUPLE_BLIND
from benchmarks.damage.ttree import LZ4, TTREE, TTREE_BLIND

_SOME = ("cut_at_a_third", "cut_by_a_byte", "hole", "key_list_objlen_huge", "streamer_info_bits")
DAMAGES: Mapping[str, Mapping[str, Damage]] = {
    "zlib": {**EVERYWHERE, **TTREE, "tree_object_bit": tree_object(1), "tree_object_bits": tree_object(30)},
    "lz4": {**{name: EVERYWHERE[name] for name in _SOME}, **LZ4},
    "rntuple": {**EVERYWHERE, **RNTUPLE},
    "wide": {**{name: EVERYWHERE[name] for name in _SOME}, "tree_object_bit": tree_object(1)},
}
BLIND: Mapping[str, Mapping[str, Damage]] = {"zlib": TTREE_BLIND, "rntuple": RNTUPLE_BLIND}
"""Damage that leaves a file of which all lengths, counts and checksums are right: nobody can see it."""


@dataclass(frozen=True)
class Case:
    """A file of the corpus.

    Parameters
    ----------
    name
        Good file and damage.
    base
        Name of the good file.
    path
        Of the damaged file.
    """

    name: str
    base: str
    path: Path


def write_good(folder: Path, bases: Collection[str] = tuple(BASES)) -> dict[str, Path]:
    """The good files by name, and beside them the small ones that are read along with each."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in {BASES[base] for base in bases}:
        write_companion(kind, folder)
    return {base: write_base(base, folder) for base in bases}


def make_corpus(
    folder: Path,
    good: Mapping[str, Path],
    *,
    seed: int = 0,
    names: Collection[str] | None = None,
    damages: Mapping[str, Mapping[str, Damage]] = DAMAGES,
) -> Iterator[Case]:
    """Write damaged files, one at a time.

    Parameters
    ----------
    folder
        Where to.
    good
        By name, from `write_good`.
    seed
        Of the places where bits are flipped.
    names
        Of the cases wanted; None makes all.
    damages
        By good file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for base in good:
        for damage, apply in damages.get(base, {}).items():
            name = f"{base}/{damage}"
            if names is not None and name not in names:
                continue
            file = open_base(good[base])
            apply(file, np.random.default_rng([seed, zlib.crc32(name.encode())]))
            path = folder / f"{base}_{damage}.root"
            path.write_bytes(file.data)
            yield Case(name, base, path)
