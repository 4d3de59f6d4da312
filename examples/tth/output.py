"""Output: columns with NanoAOD's habits, written as TTree or RNTuple, one cluster at a time.

Last step of ``generate.py``. Both formats get the same values, the same column names and the same cluster
boundaries, so a file and its twin in the other format are one data set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

# Explicit mantissa bits that are kept; 10 bits are a relative step of 0.1 %, well under any resolution here.
MANTISSA_BITS = 10
DIRECTION_BITS = 12
EXACT_COLUMNS = ("genWeight",)
DIRECTION_COLUMNS = ("eta", "phi", "PuppiMET_phi")

COLUMN_TYPES = {
    "run": np.uint32,
    "luminosityBlock": np.uint32,
    "event": np.uint64,
    "nBTagMedium": np.int32,
    "hadronFlavour": np.uint8,
    "nBHadrons": np.uint8,
}

Columns = dict[str, Any]


@dataclass(frozen=True)
class Production:
    """All that one file holds: the columns of ``Events``, the one entry of ``Runs``, and the settings."""

    events: Columns
    runs: Columns
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.events["event"])


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 values with all but ``bits`` mantissa bits rounded away, so that they compress well.

    >>> round_mantissa(np.array([3.14159265, np.nan]), 10)
    array([3.140625,      nan], dtype=float32)
    """
    dropped = 23 - bits
    raw = np.asarray(values, dtype=np.float32).view(np.uint32)
    rounded = (raw + np.uint32(1 << (dropped - 1))) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), np.float32(np.nan)).astype(np.float32)


def stored(columns: Columns) -> Columns:
    """Columns, and groups of columns, in the type and precision in which they are written."""
    return {
        name: stored(values) if isinstance(values, dict) else _stored_column(name, values)
        for name, values in columns.items()
    }


def flat_columns(columns: Columns) -> Columns:
    """Each column under its full name, ``Jet_pt``, with a counter, ``nJet``, before each collection."""
    flat: Columns = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            flat[name] = values
            continue
        members = values.items() if isinstance(values, dict) else [("", values)]
        group = {f"{name}_{field}".rstrip("_"): column for field, column in members}
        flat[f"n{name}"] = ak.to_numpy(ak.num(next(iter(group.values())))).astype(np.int32)
        flat |= group
    return flat


def digest(events: Columns) -> str:
    """SHA-256 over names, types and values: equal for equal events, whatever file holds them."""
    total = hashlib.sha256()
    for name, values in sorted(flat_columns(events).items()):
        plain = values if isinstance(values, np.ndarray) else ak.to_numpy(ak.flatten(values))
        total.update(f"{name} {plain.dtype.str}".encode())
        total.update(np.ascontiguousarray(plain).tobytes())
    return total.hexdigest()


def write(path: Path, production: Production, *, file_format: str, cluster_size: int) -> None:
    """Write one file, replacing what is there.

    ``Events`` gets a cluster every ``cluster_size`` entries: a basket in each branch of a TTree, a cluster of
    an RNTuple. ``Settings`` is a string with JSON in it.
    """
    write_table = {"ttree": _write_ttree, "rntuple": _write_rntuple}[file_format]
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path, compression=uproot.ZLIB(9)) as file:
        write_table(file, "Events", production.events, cluster_size)
        write_table(file, "Runs", production.runs, 1)
        file["Settings"] = json.dumps(production.settings, indent=1)


def _stored_column(name: str, values: Any) -> Any:
    if isinstance(values, ak.Array):
        return ak.unflatten(_stored_column(name, ak.to_numpy(ak.flatten(values))), ak.num(values))
    if name in COLUMN_TYPES:
        return np.asarray(values).astype(COLUMN_TYPES[name])
    if name in EXACT_COLUMNS:
        return np.asarray(values, dtype=np.float32)
    return round_mantissa(values, DIRECTION_BITS if name in DIRECTION_COLUMNS else MANTISSA_BITS)


def _write_ttree(file: Any, name: str, columns: Columns, cluster_size: int) -> None:
    # Zipped collections, so that uproot writes one counter for all branches of a collection.
    columns = {key: ak.zip(value) if isinstance(value, dict) else value for key, value in columns.items()}
    # Room for exactly the baskets to come: uproot's default reserves kilobytes a branch.
    clusters = -(-len(next(iter(columns.values()))) // cluster_size)
    table = file.mktree(name, _types(columns), title=name, initial_basket_capacity=clusters)
    _extend(table, columns, cluster_size)


def _write_rntuple(file: Any, name: str, columns: Columns, cluster_size: int) -> None:
    # One field a column, because members of a record would be called Jet.pt and not Jet_pt.
    columns = flat_columns(columns)
    _extend(file.mkrntuple(name, _types(columns)), columns, cluster_size)


def _types(columns: Columns) -> Columns:
    return {
        name: values.dtype if isinstance(values, np.ndarray) else values.type.content
        for name, values in columns.items()
    }


def _extend(table: Any, columns: Columns, cluster_size: int) -> None:
    entries = len(next(iter(columns.values())))
    for start in range(0, entries, cluster_size):
        cluster = slice(start, start + cluster_size)
        table.extend({name: ak.to_packed(values[cluster]) for name, values in columns.items()})
