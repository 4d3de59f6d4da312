"""Whether outputs belong to inputs: entries, first and last event, and all events in their order, read once more.

Invariant: an output passes only if its table has a row for each entry of its input, the events of the input are those
that were scored, and so are its rows, as far as they hold what tells events apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.hashing import UInt64
from mlaas4hep.data.inputs import open_inputs
from mlaas4hep.data.locate import search
from mlaas4hep.data.quarantine import Quarantine, outside
from mlaas4hep.data.source import Source, open_source
from mlaas4hep.data.split import Identity
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.score.alignment import Alignment, Digest, Teller, differences, fills
from mlaas4hep.score.outputs import base_of, friends_of
from mlaas4hep.score.reading import STRETCH_ENTRIES, stretches
from mlaas4hep.score.stamp import Stamp
from mlaas4hep.score.writers import format_by_ending


@dataclass(frozen=True)
class Checked:
    """One input with its output.

    Parameters
    ----------
    output
        Its path; empty where there is none.
    input
        The file.
    stamp
        What the output says of itself.
    problems
        In words; empty where they belong together.
    """

    output: str
    input: str
    stamp: Stamp | None
    problems: tuple[str, ...]


def verify(
    outputs: str,
    files: Sequence[str],
    *,
    tree: str | None = None,
    friends: Sequence[str] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Checked, ...]:
    """Hold every input against its outputs.

    Parameters
    ----------
    outputs
        A folder of outputs, or one.
    files
        Inputs, wherever they lie now.
    tree
        Name of their table; None takes the one that was scored.
    friends
        As they were scored with.
    progress
        Called with a number of entries read.

    Raises
    ------
    DataError
        An input cannot be read; no output is found at all.
    """
    stamps = _stamps(outputs)
    likely = tuple(dict.fromkeys(stamp.tree for stamp in stamps.values()))
    found: list[Checked] = []
    unfit: list[Checked] = []
    for file in open_inputs(files, tree, Quarantine(), likely=(*likely, "Events"), friends=friends_of(friends)):
        tried = _tried(file, stamps, progress)
        fitting = [one for one in tried if not one.problems]
        found += fitting or tried[:1]
        unfit += [one for one in tried if one.problems]
    # An output that is of none of the inputs of its name would else be passed over beside one that is.
    told = {one.output for one in found}
    for one in unfit:
        if one.output not in told:
            found.append(one)
            told.add(one.output)
    return tuple(found)


def _stamps(outputs: str) -> dict[str, Stamp]:
    """By path, what each output says of itself."""
    located, problems = search([outputs])
    if problems:
        raise DataError("\n".join(problems))
    found = {}
    for one in located:
        stamp = stamp_of(one.path)
        if stamp is not None:
            found[one.path] = stamp
    if not found:
        raise DataError(f"{outputs}: none of its files says that it was written by 'mlaas4hep score'")
    return found


def stamp_of(path: str) -> Stamp | None:
    """What a file says of its scores; None where it says nothing.

    Raises
    ------
    DataError
        It cannot be read.
    """
    own = format_by_ending(path)
    data = None if own is None else own.stamp(path)
    return None if data is None else Stamp.from_json(data, where=path)


def _tried(file: FileEntry, stamps: dict[str, Stamp], progress: Callable[[int], None]) -> list[Checked]:
    """An input with each output that says it was made of a file of its name; the nearest first."""
    name = base_of(file.path)
    candidates = [path for path, stamp in stamps.items() if stamp.input == name]
    if not candidates and len(stamps) == 1:
        candidates = list(stamps)  # one was named: whatever the input is called now
    if not candidates:
        hint = nearest(name, [stamp.input for stamp in stamps.values()])
        return [Checked("", file.path, None, (f"no output says that it was made of '{name}'{hint}",))]
    tried = [
        Checked(path, file.path, stamps[path], _problems(file, path, stamps[path], progress)) for path in candidates
    ]
    return sorted(tried, key=lambda one: len(one.problems))


def _problems(file: FileEntry, path: str, stamp: Stamp, progress: Callable[[int], None]) -> tuple[str, ...]:
    problems = _problems_inside(path, stamp)
    if file.num_entries != stamp.alignment.entries:
        told = stamp.alignment.entries
        return (*problems, f"the input has {file.num_entries} entries, the output was made of {told}")
    try:
        with file.open() as source:
            found = alignment_of(source, stamp, progress)
    except DataError as error:
        return (*problems, f"the input cannot be read: {error}")
    return (*problems, *differences(found, stamp.alignment))


def _problems_inside(path: str, stamp: Stamp) -> list[str]:
    """Whether the table of an output is the one that it tells of."""
    told = stamp.alignment
    with open_source(path, stamp.table or None) as source:
        if source.num_entries != told.entries:
            return [f"the output has {source.num_entries} rows, and says that it has {told.entries}"]
        if not _holds(source, stamp):
            return []
        if not differences(alignment_of(source, stamp), told):
            return []
    by = ", ".join(told.columns[:4]) + (", ..." if len(told.columns) > 4 else "")
    return [f"the rows of the output, told apart by {by}, are not those that it says it has, or in another order"]


def _holds(source: Source, stamp: Stamp) -> bool:
    """Whether the columns that tell events apart stand in an output as they stood in its input."""
    others = {one.name for one in stamp.columns if one.kind != "identity"}
    types = {name for name, info in source.columns.items() if info.type is not None}
    return set(stamp.alignment.columns) <= types - others


def alignment_of(source: Source, stamp: Stamp, progress: Callable[[int], None] = lambda _: None) -> Alignment:
    """Of an input as it is now, by the columns that an output names.

    Raises
    ------
    DataError
        A column is not there any more, or cannot be read.
    """
    told = stamp.alignment
    types = {name: info.type for name, info in source.columns.items() if info.type is not None}
    for name in told.columns:
        if name not in types:
            raise DataError(f"{source.path}, tree '{source.tree}': has no column '{name}'{nearest(name, types)}")
    identity = Identity(told.columns, told.origin)
    teller, digest = Teller(identity, types), Digest(identity)
    lost = tuple((one.start, one.stop) for one in stamp.unreadable)
    for one in stretches(source.clusters, STRETCH_ENTRIES):
        at = one.start
        for low, high in outside(one.start, one.stop, lost):
            _add_nothing(digest, teller, low - at)
            columns = source.read(teller.columns, low, high)
            digest.add(teller.hashes(columns, high - low), teller.values(columns))
            at = high
        _add_nothing(digest, teller, one.stop - at)
        progress(one.num_entries)
    return digest.alignment()


def _add_nothing(digest: Digest, teller: Teller, entries: int) -> None:
    hashes: UInt64 = teller.nothing(entries)
    digest.add(hashes, fills(tuple(teller.shown), teller.shown, entries))
