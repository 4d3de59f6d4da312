"""What a cache keeps already of the rows of a run, and whether the others fit: for people, before the run.

Invariant: it is looked up alone; no folder is made, nothing is written, removed or marked as used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from mlaas4hep.config import Cache
from mlaas4hep.data.cache import bytes_of_all, key_of, why_not_usable
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.delivery import declaration, readable_ranges, source_of
from mlaas4hep.data.journal import Block
from mlaas4hep.data.kept import CachedFile, LostError
from mlaas4hep.data.room import account_of, enough_in_words, in_words
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor


class Holdings(msgspec.Struct, frozen=True):
    """What is there of a cache.

    Parameters
    ----------
    folder, limit_bytes
        As declared.
    kept_entries, lacking_entries, lacking_files
        Entries of which rows are kept, those of which none are, and the files that those are in.
    needed_bytes
        Of all rows on disk, at most.
    own_bytes
        Of those, what lies there.
    others_bytes
        Rows of others that living runs use now.
    disk_bytes
        What may still be written on the disk: what is free, and what is used by nobody.
    measured_entries, measured_seconds
        Kept rows that were read in one thread, for the estimate; 0 where there are none.
    refused
        Why a run would stop: the folder cannot be made, written or read; None where it can.
    unused
        Why a run goes without a cache all the same; None where it does not.
    """

    folder: str
    limit_bytes: int
    kept_entries: int = 0
    lacking_entries: int = 0
    lacking_files: int = 0
    needed_bytes: int = 0
    own_bytes: int = 0
    others_bytes: int = 0
    disk_bytes: int = 0
    measured_entries: int = 0
    measured_seconds: float = 0.0
    refused: str | None = None
    unused: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether rows are kept there."""
        return self.refused is None and self.unused is None

    @property
    def is_whole(self) -> bool:
        """Whether no epoch reads a file any more."""
        return self.is_usable and not self.lacking_entries and self.measured_entries > 0

    @property
    def lacking_share(self) -> float:
        """Of all entries, those that the next epoch reads from the files."""
        return self.lacking_entries / (self.kept_entries + self.lacking_entries) if self.is_usable else 1.0

    def shortage(self) -> str | None:
        """Why not all rows fit, with what would do; None where they do, as far as is known."""
        if not self.is_usable or self.is_whole:
            return None
        needed = f"cache {self.folder}: all rows need {in_words(self.needed_bytes)} at most"
        if self.needed_bytes > self.limit_bytes - self.others_bytes:
            others = f", of which other runs use {in_words(self.others_bytes)} now" if self.others_bytes else ""
            enough = enough_in_words(self.needed_bytes + self.others_bytes)
            return f"{needed}; cache.limit is {in_words(self.limit_bytes)}{others}; {enough} is enough"
        if self.needed_bytes - self.own_bytes > self.disk_bytes:
            more = in_words(self.needed_bytes - self.own_bytes)
            left = in_words(self.disk_bytes)
            return f"{needed}, {more} of it still to be written; the disk has {left} left for it; choose another folder"
        return None

    def warnings(self, *, exact: bool) -> Iterator[str]:
        """Where the cache will not do what it is for, given whether the order needs all rows there."""
        if self.refused is not None or (self.unused is not None and exact):
            yield f"the run would stop: {self.refused or self.unused}"
        elif self.unused is not None:
            yield f"the cache is not used: {self.unused}"
        shortage = self.shortage()
        if shortage is not None and exact:
            yield f"the run would stop if so many rows come out: {shortage}, or shuffle by windows"
        elif shortage is not None:
            yield f"{shortage}, else what does not fit is read from the files in every epoch"


def look_into_cache(
    cache: Cache, catalogue: Catalogue, preprocessor: Preprocessor, *, width: int, rows: int | None
) -> Holdings:
    """Look up what a cache keeps.

    Parameters
    ----------
    width
        Numbers a row.
    rows
        Rows of all files where that is known; None takes one an entry.
    """
    folder = Path(cache.path)
    if catalogue.hook is not None:
        why = f"nothing is kept behind a function of your own ({catalogue.hook.path}), which may depend on anything"
        return Holdings(cache.path, cache.limit_bytes, unused=why)
    why_not = why_not_usable(folder)
    if why_not is not None:
        return Holdings(cache.path, cache.limit_bytes, refused=why_not)
    declared = declaration(catalogue, preprocessor)
    names = {file.number: folder / key_of(declared, source_of(catalogue, file)) for file in catalogue.files}
    try:
        held = {number: CachedFile(name, width) for number, name in names.items()}
    except DataError as error:
        return Holdings(cache.path, cache.limit_bytes, refused=str(error))
    counts = [_count(catalogue, held[file.number], file.number) for file in catalogue.files]
    kept, lacking = (sum(one) for one in zip(*counts, strict=True))
    account = account_of(folder, [one.name for one in names.values()])
    entries, seconds = _measure(held.values())
    return Holdings(
        cache.path,
        cache.limit_bytes,
        kept_entries=kept,
        lacking_entries=lacking,
        lacking_files=sum(other > 0 for _, other in counts),
        needed_bytes=bytes_of_all(kept + lacking if rows is None else rows, width, kept + lacking, files=len(names)),
        own_bytes=account.own,
        others_bytes=account.others,
        disk_bytes=account.free + account.idle,
        measured_entries=entries,
        measured_seconds=seconds,
    )


def _count(catalogue: Catalogue, held: CachedFile, number: int) -> tuple[int, int]:
    """Entries of a file that are kept, and those that are not, in its clusters that can be read."""
    found = list(_segments(catalogue, held, number))
    kept = sum(size for size, block in found if block is not None)
    return kept, sum(size for size, _ in found) - kept


def _segments(catalogue: Catalogue, held: CachedFile, number: int) -> Iterator[tuple[int, Block | None]]:
    for low, high in readable_ranges(catalogue, catalogue.files[number]):
        yield from ((stop - start, block) for start, stop, block in held.segments(low, high))


def _measure(held: Iterable[CachedFile]) -> tuple[int, float]:
    """Entries of the largest kept block, and the seconds that reading its rows takes in one thread."""
    blocks = [(block, one) for one in held for block in one.blocks]
    if not blocks:
        return 0, 0.0
    block, one = max(blocks, key=lambda found: found[0].stop - found[0].start)
    try:
        begin = time.perf_counter()
        table, sides = one.read(block, block.start, block.stop, None)
        one.fates(block, block.start, block.stop)
        np.copy(table[np.argsort(sides[:, 0], kind="stable")])  # into their places, as windows take them
    except LostError:  # somebody removed it at this moment: a run then reads its source
        return 0, 0.0
    return block.stop - block.start, time.perf_counter() - begin
