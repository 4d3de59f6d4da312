"""What a stream gives, as one hash: a saved state fits only where it is equal.

Invariant: it hangs on all that decides which rows come, with what in them and in which order; not on where files lie,
and not on what was found to be unreadable, which no declaration says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.spec.features import FeatureSpec


def fingerprint(
    catalogue: Catalogue, features: FeatureSpec, *, columns: Collection[str], settings: Sequence[Any], shuffled: bool
) -> str:
    """SHA-256 over files, declaration and settings of a stream.

    Parameters
    ----------
    catalogue, features
        What is read, and what is made of it.
    columns
        Those that are read; a type of any other changes nothing.
    settings
        Plain values that say which part comes in which order with which weights.
    shuffled
        Whether what lies where in the files (their strata) decides the order.
    """
    parts = [
        *settings,
        catalogue.kind,
        catalogue.classes,
        catalogue.identity.columns if catalogue.kind == "mc" else None,
        [(name, str(one)) for name, one in sorted(catalogue.types.items()) if name in columns],
        None if catalogue.hook is None else catalogue.hook.sha256,
        [(one.number, one.label, one.selection, one.rule, one.factor) for one in catalogue.samples],
    ]
    digest = hashlib.sha256(repr(parts).encode() + msgspec.json.encode(features))
    for file in catalogue.files:
        digest.update(repr((file.sample, file.index, file.tree)).encode() + file.clusters.tobytes())
        if shuffled:
            digest.update(repr(file.strata).encode())
    return digest.hexdigest()
