"""What an output says of itself: its input and the events in it, the models with their hashes, and its columns.

Written into every output: a `TObjString` called `KEY` in ROOT files, a key of the metadata in Parquet. It is the
journal of a scoring as well: an output that says it was made of the same input by the same models is not made again.
Invariant: it names no folder, no host and no time, so that equal work gives equal stamps.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlaas4hep.errors import DataError
from mlaas4hep.score.alignment import Alignment
from mlaas4hep.score.names import OutputColumn

KEY = "mlaas4hep_score"
VERSION = 1


class ScoredBy(msgspec.Struct, frozen=True):
    """One model of an output.

    Parameters
    ----------
    name, version, task
        Of the bundle.
    spec_sha256, model_sha256
        Of its contract and graph.
    out_of_fold
        Whether each event was scored by the model that had not seen it.
    scored
        Entries that have a score, of all.
    """

    name: str
    version: int
    task: str
    spec_sha256: str
    model_sha256: str
    out_of_fold: bool
    scored: int


class Unreadable(msgspec.Struct, frozen=True):
    """Entries that could not be read, and why."""

    start: int
    stop: int
    reason: str


class Stamp(msgspec.Struct, frozen=True):
    """What an output says of itself.

    Parameters
    ----------
    input, tree
        Name of the file, without folders, and its table.
    table
        Name of the table that holds the scores; empty where the format names none.
    alignment
        Of its events.
    models, columns
        What scored, and what stands in the output.
    fill
        Score of entries that have none; null is NaN.
    unreadable
        What was left out.
    work
        Hash of all that it depends on.
    """

    input: str
    tree: str
    table: str
    alignment: Alignment
    models: tuple[ScoredBy, ...]
    columns: tuple[OutputColumn, ...]
    fill: float | None
    unreadable: tuple[Unreadable, ...]
    work: str
    version: int = VERSION

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Stamp:
        """Read what `to_json` wrote.

        Raises
        ------
        DataError
            It is none, or of another version.
        """
        try:
            found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
            if found.get("version") != VERSION:
                raise DataError(
                    f"{where}: what it says of its scores is of version {found.get('version')}; this program reads "
                    f"version {VERSION}"
                )
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"{where}: what it says of its scores cannot be read: {error}") from error
