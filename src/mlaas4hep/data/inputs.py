"""Files named on a command line, opened once without a config: what a pass over their events in file order needs.

Invariant: every file that can be opened is here once, in the order in which it was named; each other one is in
quarantine, where that is allowed, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.locate import Located, search
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.quarantine import Quarantine, Skipped, reason_of
from mlaas4hep.data.source import Source, list_trees
from mlaas4hep.errors import DataError

Friends = Callable[[str], tuple[str, ...]]


def open_inputs(
    patterns: Sequence[str],
    tree: str | None,
    quarantine: Quarantine,
    *,
    likely: Sequence[str] = (),
    friends: Friends = lambda _: (),
    look: Callable[[Source], object] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[FileEntry, ...]:
    """Find and open files.

    Parameters
    ----------
    patterns
        As of `mlaas4hep.data.locate.locate`.
    tree
        Name of the table; None takes the first of ``likely`` that a file has, else its only one.
    quarantine
        Takes those that cannot be opened, or refuses.
    likely
        Names of tables, in the order of preference.
    friends
        Files whose trees stand beside that of an input, entry by entry.
    look
        Shown each open source; what it raises is no damage and ends everything.
    progress
        Called with 1 for each file.

    Raises
    ------
    DataError
        Nothing is found, or a file cannot be opened and may not be left out.
    """
    located, problems = search(patterns)
    for line in problems:
        path, _, why = line.partition(": ")
        quarantine.add_file(Skipped("", path, why))
    found: list[FileEntry] = []
    for one in located:
        try:
            source, opening = _open(one, tree, likely, friends(one.path))
        except DataError as error:
            quarantine.add_file(Skipped("", one.path, reason_of(error, one.path)))
            continue
        with source:
            look(source)
            found.append(_entry(len(found), source, opening))
        progress(1)
    if not found:
        raise DataError("none of the files can be read:\n" + "\n".join(map(str, quarantine.records)))
    quarantine.total = sum(one.num_entries for one in found)
    quarantine.unopened = len(quarantine) * quarantine.total // len(found)
    quarantine.check()
    return tuple(found)


def _open(one: Located, tree: str | None, likely: Sequence[str], friends: tuple[str, ...]) -> tuple[Source, Opening]:
    name = _likely(one, likely) if tree is None else tree
    opening = Opening(one.path, name, one.replicas, friends)
    source = opening.open()
    return source, Opening(one.path, source.tree, one.replicas, friends)


def _likely(one: Located, likely: Sequence[str]) -> str | None:
    """The first of the names that the file has; None for its only table."""
    names = [info.name for info in list_trees(one.replicas[0] if one.replicas else one.path)] if likely else []
    return next((name for name in likely if name in names), None)


def _entry(number: int, source: Source, opening: Opening) -> FileEntry:
    return FileEntry(
        number, 0, number, source.path, source.tree, source.clusters, source.num_entries, source.identity, opening
    )
