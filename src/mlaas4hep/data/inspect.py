"""What is in files: trees, columns, ranges, lengths of lists. For people, before there is a config.

`survey` looks at no more than a given number of events and says at how many it looked. Invariant: every column of the
file is in the result, readable or not; what cannot be read carries its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import text_paths, whole
from mlaas4hep.data.comparing import SharedColumns
from mlaas4hep.data.quarantine import reason_of
from mlaas4hep.data.source import ONLY_TABLE, ColumnInfo, Source, list_trees, open_source
from mlaas4hep.errors import DataError, nearest, some_files, told_once
from mlaas4hep.spec.columns import Column, Jagged, concat_columns, values_of

DEFAULT_EVENTS = 20_000
_COLUMNS_AT_ONCE = 256
_NO_ENTRIES = "has no entries"


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of the lists of a jagged column: extremes, mean, and what 95 % and 99 % of events do not exceed."""

    minimum: int
    mean: float
    q95: int
    q99: int
    maximum: int


class ColumnSummary(msgspec.Struct, frozen=True):
    """One column: its type in the file, and figures of its finite values among the events looked at.

    Parameters
    ----------
    name, type
        As in the file, such as ``float32[]``.
    kind
        ``flat``, ``jagged``, or None where it cannot be read from all files.
    reason
        Why it cannot be read, or not from all files.
    partial
        Whether it can be read, but is not in all files, or not of one kind.
    values
        Finite values looked at.
    missing, infinite
        NaN, and infinities of either sign.
    distinct
        Different finite values, counted up to 100.
    """

    name: str
    type: str
    kind: str | None
    reason: str | None = None
    partial: bool = False
    values: int = 0
    missing: int = 0
    infinite: int = 0
    distinct: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    lengths: Lengths | None = None


class TreeSummary(msgspec.Struct, frozen=True):
    """One tree of one file: what a table of contents says of it."""

    path: str
    name: str
    kind: str
    entries: int | None = None
    clusters: int | None = None
    columns: int | None = None
    reason: str | None = None


class Survey(msgspec.Struct, frozen=True):
    """What `survey` found.

    Parameters
    ----------
    trees
        Of all files, readable or not.
    tree
        The one whose columns follow.
    paths
        Files that hold it.
    entries
        In all of them.
    looked_at
        Events that the figures are of.
    columns
        In the order of the first file.
    collections
        Jagged columns that have the same lengths in every event looked at, those with one prefix together.
    left_out
        By file that has events, but none in that tree, why; where the tree was not asked for by name.
    refused
        By file that cannot be read, holds no events, or lacks the tree that was asked for, why.
    """

    trees: tuple[TreeSummary, ...]
    tree: str
    paths: tuple[str, ...]
    entries: int
    looked_at: int
    columns: tuple[ColumnSummary, ...]
    collections: dict[str, tuple[str, ...]]
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}


@dataclass(frozen=True)
class _Look:
    """The first events of each file that can be read, by column; and why not those of the others."""

    shared: SharedColumns
    columns: dict[str, Column]
    refused: dict[str, str]


@dataclass(frozen=True)
class Found:
    """All trees of some files, the one that is looked at, the files with events in it, and why not the others.

    ``left_out`` and ``refused`` are those of a `Survey`.
    """

    trees: tuple[TreeSummary, ...]
    name: str
    paths: tuple[str, ...]
    left_out: dict[str, str]
    refused: dict[str, str]

    def entries(self, paths: Iterable[str]) -> int:
        """Of that tree in some of the files."""
        wanted = set(paths)
        return sum(one.entries or 0 for one in self.trees if one.path in wanted and one.name in (self.name, ONLY_TABLE))


def survey(paths: Sequence[str], *, tree: str | None = None, max_events: int = DEFAULT_EVENTS) -> Survey:
    """Look into files.

    Parameters
    ----------
    paths
        Files; the same number of events is looked at in each.
    tree
        Whose columns are looked at; None takes ``Events`` where there is one, else the one with most values.
    max_events
        Look at no more than so many events, the first of each file.

    Raises
    ------
    DataError
        No file can be read, or a tree that no file has. Where some cannot, the others are looked at.
    """
    max_events = whole(max_events, "max_events", least=1, error=DataError)
    held = find_tree(text_paths(paths, "paths", error=DataError), tree)
    look = _look(held.paths, held.name, max(max_events // len(held.paths), 1))
    looked_at = max((len(column) for column in look.columns.values()), default=0)
    paths = tuple(path for path in held.paths if path not in look.refused)
    shared = look.shared
    return Survey(
        trees=held.trees,
        tree=held.name,
        paths=paths,
        entries=held.entries(paths),
        looked_at=looked_at,
        columns=tuple(_summary(one, look.columns.get(one.name), shared) for one in shared.infos.values()),
        collections=_collections(look.columns),
        left_out=held.left_out,
        refused=held.refused | look.refused,
    )


def find_tree(paths: Sequence[str], tree: str | None = None) -> Found:
    """Which tree is meant, and the files that hold it; parameters and errors are those of `survey`."""
    trees, refused = _all_trees(paths)
    name = tree.partition(";")[0] if tree is not None else _choose_tree(trees)
    _refuse_unknown(name, trees)
    holders = [one for one in trees if one.name in (name, ONLY_TABLE)]
    if holders and all(one.name == ONLY_TABLE for one in holders):
        name = ONLY_TABLE
    refused |= {one.path: one.reason for one in holders if one.reason is not None}
    held = tuple(one.path for one in holders if one.entries and one.path not in refused)
    others = {path: _why_not(path, name, trees) for path in paths if path not in held and path not in refused}
    if not held:
        if tree is None:  # none was asked for: each file says what is wrong with its own
            others = {path: _of_no_use(path, trees) for path in others}
        raise DataError("\n".join(refusals(refused | others)))
    left_out = {} if tree is not None else {path: why for path, why in others.items() if _has_others(path, name, trees)}
    refused |= {path: why for path, why in others.items() if path not in left_out}
    return Found(trees, name, held, left_out, refused)


def refusals(refused: Mapping[str, str]) -> list[str]:
    """Lines for files that cannot be read; what several have in common is told once."""
    return told_once((path, f": {why}") for path, why in refused.items())


def is_empty(why: str) -> bool:
    """Whether a file was left out only because it has no entries; nothing is wrong with it then."""
    return why.endswith(_NO_ENTRIES)


def _all_trees(paths: Sequence[str]) -> tuple[tuple[TreeSummary, ...], dict[str, str]]:
    """Trees of the files that can be opened, and why the others cannot."""
    found: list[TreeSummary] = []
    refused: dict[str, str] = {}
    for path in paths:
        try:
            own = _trees(path)
        except DataError as error:
            refused[path] = reason_of(error, path)
            continue
        found.extend(own)
        if not own:
            refused[path] = "holds no table of events"
    if refused and not found:
        raise DataError("\n".join(refusals(refused)))
    return tuple(found), refused


def _refuse_unknown(name: str, trees: Sequence[TreeSummary]) -> None:
    """A table without a name is opened by whatever name is asked for, but not where others have names."""
    named = {one.name: one.path for one in trees if one.name != ONLY_TABLE}
    if named and name not in (*named, ONLY_TABLE):
        where = some_files(list(dict.fromkeys(one.path for one in trees)))
        raise DataError(f"{where}: has no tree '{name}'{nearest(name, named)}")


def prefix_of(name: str) -> str:
    """The collection that a name speaks of: ``Jet_pt`` and ``Jet.PT`` of Jet; a name without either of itself."""
    cut = min((place for place in (name.find("_"), name.find(".")) if place > 0), default=len(name))
    return name[:cut]


def _trees(path: str) -> list[TreeSummary]:
    found = []
    for info in list_trees(path):
        summary = TreeSummary(path, info.name, info.kind, reason=info.reason)
        if info.reason is None:
            try:
                with open_source(path, info.name) as source:
                    summary = TreeSummary(
                        path, info.name, info.kind, source.num_entries, len(source.clusters) - 1, len(source.columns)
                    )
            except DataError as error:
                summary = TreeSummary(path, info.name, info.kind, reason=reason_of(error, path, info.name))
        found.append(summary)
    return found


def _why_not(path: str, tree: str, trees: Sequence[TreeSummary]) -> str:
    own = [one for one in trees if one.path == path]
    if any(one.name == ONLY_TABLE for one in own):
        return _NO_ENTRIES
    if any(one.name == tree for one in own):
        return f"its tree '{tree}' {_NO_ENTRIES}"
    return f"has no tree '{tree}'; it holds {', '.join(map(_told, own))}"


def _of_no_use(path: str, trees: Sequence[TreeSummary]) -> str:
    """Why no tree of a file has events to look at."""
    own = [one for one in trees if one.path == path]
    if len(own) == 1 and own[0].reason is None:
        return _why_not(path, own[0].name, trees)
    return f"holds no events that can be read: {', '.join(map(_told, own))}"


def _told(tree: TreeSummary) -> str:
    """A tree of a file that has not the one that is meant; with the reason where it is of no use itself."""
    reason = tree.reason if tree.reason is not None else None if tree.entries else "no entries"
    return tree.name if reason is None else f"{tree.name} ({reason})"


def _has_others(path: str, tree: str, trees: Sequence[TreeSummary]) -> bool:
    """Whether a file that has not that tree has events in another: then it is of another kind, and not bad."""
    own = [one for one in trees if one.path == path]
    return all(one.name != tree for one in own) and any(one.entries for one in own)


def _choose_tree(trees: Sequence[TreeSummary]) -> str:
    readable = [one for one in trees if one.reason is None]
    useful = [one for one in readable if one.entries] or readable or list(trees)
    return max(useful, key=lambda one: (one.name == "Events", (one.entries or 0) * (one.columns or 0))).name


def _look(paths: Sequence[str], tree: str, events: int) -> _Look:
    shared, refused = SharedColumns(), {}
    parts: list[dict[str, Column]] = []
    for path in paths:
        try:
            with open_source(path, tree) as source:
                parts.append(_read_some(source, min(events, source.num_entries)))
                shared.add(path, source.columns)
        except DataError as error:
            refused[path] = reason_of(error, path, tree)
    if not parts:
        raise DataError("\n".join(refusals(refused)))
    same = list(shared.readable())
    return _Look(shared, concat_columns([{name: part[name] for name in same} for part in parts]), refused)


def _read_some(source: Source, events: int) -> dict[str, Column]:
    """A file of a thousand branches in groups, so that not all raw baskets are in memory at a time."""
    names = [name for name, info in source.columns.items() if info.type is not None]
    columns: dict[str, Column] = {}
    for start in range(0, len(names), _COLUMNS_AT_ONCE):
        columns.update(source.read(names[start : start + _COLUMNS_AT_ONCE], 0, events))
    return columns


def _summary(info: ColumnInfo, column: Column | None, shared: SharedColumns) -> ColumnSummary:
    if info.type is None or column is None:
        return ColumnSummary(info.name, info.description, None, shared.reason(info.name), shared.is_partial(info.name))
    values = values_of(column)
    finite = values[np.isfinite(values)]
    missing = int(np.count_nonzero(np.isnan(values)))
    figures: dict[str, Any] = {}
    if len(finite):
        figures = {
            "minimum": float(finite.min()),
            "maximum": float(finite.max()),
            "mean": float(finite.mean(dtype=np.float64)),
            "distinct": min(len(np.unique(finite[:100_000])), 100),
        }
    return ColumnSummary(
        name=info.name,
        type=info.description,
        kind=info.type.kind,
        values=len(finite),
        missing=missing,
        infinite=len(values) - len(finite) - missing,
        lengths=_lengths(column.counts) if isinstance(column, Jagged) else None,
        **figures,
    )


def _lengths(counts: NDArray[np.int64]) -> Lengths:
    q95, q99 = np.quantile(counts, [0.95, 0.99], method="higher").tolist()
    return Lengths(int(counts.min()), float(counts.mean()), int(q95), int(q99), int(counts.max()))


def _collections(columns: dict[str, Column]) -> dict[str, tuple[str, ...]]:
    """By prefix, the largest set of columns whose lists are of equal length in every event."""
    families: dict[str, dict[bytes, list[str]]] = {}
    for name, column in columns.items():
        if isinstance(column, Jagged):
            families.setdefault(prefix_of(name), {}).setdefault(column.offsets.tobytes(), []).append(name)
    return {prefix: tuple(_longest(sets.values())) for prefix, sets in families.items()}


def _longest(lists: Iterable[list[str]]) -> list[str]:
    return sorted(lists, key=len)[-1]
