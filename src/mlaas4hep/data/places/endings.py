"""Which files of a folder are taken: by the endings of the formats that are read.

The one table of them; a new format adds its line. Invariant: a file that is named is read whatever its ending; only
folders go by this table, and lists of files.
"""

from __future__ import annotations

from collections.abc import Mapping

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "root": (".root",),
    "parquet": (".parquet",),
    "csv": (".csv", ".csv.gz", ".csv.bz2"),
    "tsv": (".tsv", ".tsv.gz", ".tsv.bz2"),
    "json": tuple(f"{one}{packed}" for one in (".json", ".jsonl", ".ndjson") for packed in ("", ".gz", ".bz2")),
    "avro": (".avro",),
}
"""By format, in lower case."""

LISTS = (".txt", ".list")
"""Endings of text files with a path or address a line."""


def has_known_ending(name: str) -> bool:
    """Whether a name ends like a file of events.

    Examples
    --------
    >>> has_known_ending("data/ttH.ROOT"), has_known_ending("README.md")
    (True, False)
    """
    return name.lower().endswith(tuple(one for endings in ENDINGS.values() for one in endings))


def is_list(name: str) -> bool:
    """Whether a name ends like a list of files."""
    return name.partition("?")[0].lower().endswith(LISTS)


def endings_told() -> str:
    """The endings in words."""
    return ", ".join(one for endings in ENDINGS.values() for one in endings)
