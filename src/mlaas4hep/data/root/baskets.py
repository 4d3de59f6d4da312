"""Baskets of a TTree: from byte ranges of a file to checked, inflated values.

A basket is a key, then values and, for lists, the offset of each event, compressed together. Invariant: a basket that
leaves this module has the length and the number of events that both the tree and its own key announce.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Buffer, Place, ReadsInto
from mlaas4hep.data.recycled import recycled
from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.codecs import inflate
from mlaas4hep.data.root.layout import Branch, Layout
from mlaas4hep.errors import DataError

GAP_BYTES = 32 * 1024
"""Ranges nearer than this are read as one: the bytes between cost less than another request."""
JOINED_BYTES = 256 * 1024
"""Ranges are not joined beyond this: what is read from a disk at hand is inflated while it lies near the processor."""
MEMO_BYTES = 64 * 2**20

_KEY = struct.Struct(">ihiIhh")
_COUNTS = struct.Struct(">ii")
_COUNTS_FROM_END = 9
_LEAST_KEY = _KEY.size + _COUNTS_FROM_END
_MOST_BEHIND = 16
"""Bytes an entry behind the values: an offset, in old files a displacement too."""
_BIG_KEYS = 1000
"""Keys of later versions have places of eight bytes, not four."""


class Basket(NamedTuple):
    """Values of the entries from ``first`` to ``last`` (excluded) of one branch, inflated.

    Parameters
    ----------
    number
        Within its branch.
    data
        Values up to the byte ``border``, then offsets, if any.
    keylen
        What was added to each offset.
    """

    number: int
    first: int
    last: int
    data: Buffer
    border: int
    keylen: int

    def offsets(self) -> NDArray[np.int32] | None:
        """int32 [entries + 1], bytes at which each event begins, and the end; None where the basket has none.

        Raises
        ------
        DamageError
            They are not as many as events, do not begin at 0, fall, or reach beyond the values.
        """
        stored = self.stored_offsets()
        if stored is None:
            return None
        found = np.empty(self.last - self.first + 1, np.int32)
        np.subtract(np.frombuffer(stored, ">i4"), np.int32(self.keylen), out=found[:-1])
        found[-1] = self.border
        if found[0] != 0 or np.any(found[1:] < found[:-1]):
            raise DamageError("its list offsets do not rise from the first value to the last")
        return found

    def stored_offsets(self) -> memoryview | None:
        """Bytes of the offsets as they stand there, int32 a number, key included; None where there are none."""
        rest, entries = len(self.data) - self.border, self.last - self.first
        if not rest:
            return None
        if rest < 4:
            raise DamageError(f"{rest} bytes after its values are too few for list offsets")
        count = int.from_bytes(self.data[self.border : self.border + 4], "big")
        if count not in (entries, entries + 1) or rest < 4 * (count + 1):
            raise DamageError(f"it has {count} list offsets in {rest} bytes for {entries} entries")
        return memoryview(self.data)[self.border + 4 : self.border + 4 * (entries + 1)]


class Wanted(NamedTuple):
    """Some baskets of a branch: those of the numbers ``numbers``, which begin and end at the entries ``bounds``."""

    branch: Branch
    numbers: range
    bounds: list[int]


class Cuts:
    """Which baskets hold an entry range, found once for all branches that are cut alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], tuple[range, list[int]]] = {}

    def wanted(self, branch: Branch, start: int, stop: int) -> Wanted:
        """The baskets of a branch that hold some of the entries from ``start`` to ``stop`` (excluded)."""
        key = id(branch.entries), start, stop  # branches share this array where they are cut alike
        found = self._known.get(key)
        if found is None:
            numbers = branch.baskets(start, stop)
            bounds = branch.entries[numbers.start : numbers.stop + 1].tolist() if numbers else []
            found = self._known[key] = numbers, bounds
        return Wanted(branch, *found)


def open_basket(
    branch: Branch,
    number: int,
    first: int,
    last: int,
    stored: memoryview,
    *,
    others: Collection[bytes] = (),
    value_bytes: int | None = None,
) -> Basket:
    """Check the key of a basket against its tree, and inflate it.

    Nothing is allocated for a length that the tree does not bear out. A basket that bears one of the names ``others``
    and not its branch's is not its own; any other name is one that the branch had before. ``value_bytes`` is what a
    counter announces.

    Raises
    ------
    DamageError
        Lengths or numbers of entries do not fit, or the compressed bytes are damaged.
    """
    if len(stored) < _LEAST_KEY:
        raise DamageError(f"{len(stored)} bytes are less than its key")
    length, _, size, _, keylen, _ = _KEY.unpack_from(stored)
    if length != len(stored):
        raise DamageError(f"the tree announces {len(stored)} bytes, its key {length}")
    if not _LEAST_KEY <= keylen <= length:
        raise DamageError(f"its key of {keylen} bytes does not fit the {length} that are there")
    named = _name_in(stored[:keylen])
    if named in others and named != branch_name(branch.path):
        raise DamageError(f"the basket that is there belongs to the branch '{named.decode(errors='replace')}'")
    entries, end = _COUNTS.unpack_from(stored, keylen - _COUNTS_FROM_END)
    if entries != last - first:
        raise DamageError(f"the tree announces {last - first} entries, its key {entries}")
    border = end - keylen
    if not 0 <= border <= size:
        raise DamageError(f"its values end at byte {border} of {size}")
    if keylen + size > branch.inflated_bytes:
        raise DamageError(f"it announces {size} bytes, all baskets of its branch have {branch.inflated_bytes}")
    _check_length(branch.layout, entries, border)
    _check_values(branch.layout, border, value_bytes)
    if branch.layout is not None and size - border > _MOST_BEHIND * (entries + _MOST_BEHIND):
        raise DamageError(f"{size - border} bytes behind its values are too many for {entries} entries")
    return Basket(number, first, last, inflate(stored[keylen:], size, room=recycled), border, keylen)


def _check_values(layout: Layout | None, border: int, value_bytes: int | None) -> None:
    if layout is not None and value_bytes is not None and value_bytes != border:
        each = layout.element.itemsize
        told = f"its counter '{layout.counter}' announces {value_bytes // each} values of {each} bytes"
        raise DamageError(f"{told}, but {border} bytes are there")


def branch_name(path: str) -> bytes:
    """The name of a branch as it stands in the keys of its baskets."""
    return path.rpartition("/")[2].encode()


def _name_in(key: memoryview) -> bytes:
    """The name that a key bears, behind its class; cut off where the key is too short for it."""
    at = _KEY.size + (16 if (key[4] << 8 | key[5]) > _BIG_KEYS else 8)
    for _ in range(2):
        length = key[at] if at < len(key) else 0
        begin, at = at + 1, at + 1 + length
    return bytes(key[begin:at])


def _check_length(layout: Layout | None, entries: int, border: int) -> None:
    """Where each entry has one element, the number of entries gives the bytes."""
    if layout is not None and not layout.jagged and border != entries * layout.element.itemsize:
        needed = entries * layout.element.itemsize
        raise DamageError(f"it has {border} bytes of values, but {entries} entries take {needed}")


class BasketReader:
    """Reads baskets of one file, many at once, and keeps those that the next read begins with.

    Parameters
    ----------
    place
        Where the file is.
    tree
        Named in messages.
    branches
        Paths of all branches of the tree: baskets that bear another one's name are refused.
    memo_bytes
        Bound of the inflated baskets kept between reads.
    """

    def __init__(self, place: Place, tree: str, *, branches: Iterable[str] = (), memo_bytes: int = MEMO_BYTES) -> None:
        self._place = place
        self._tree = tree
        self._names = frozenset(map(branch_name, branches))
        self._memo_bytes = memo_bytes
        self._memo: dict[tuple[str, int], Basket] = {}
        self._held = 0

    def read(
        self, wanted: Sequence[Wanted], end: int, *, value_bytes: ValueBytes = lambda *_: None
    ) -> Iterator[list[Basket]]:
        """Baskets, branch by branch.

        All bytes are asked for at once; a branch is read, where that costs no request, and inflated when its turn
        comes. Baskets that go beyond the entry ``end`` are kept for the next read. ``value_bytes`` is asked when the
        baskets of a branch are inflated.
        """
        kept = self._memo
        stored = self._fetch(
            (branch, number)
            for branch, numbers, _ in wanted
            for number in numbers
            if (branch.path, number) not in kept and number < len(branch.seeks)
        )
        self._memo, self._held = {}, 0
        for branch, numbers, bounds in wanted:
            found = [
                kept.get((branch.path, number))
                or self._open(branch, number, first, last, stored, value_bytes(branch, first, last))
                for number, first, last in zip(numbers, bounds, bounds[1:], strict=False)
            ]
            if found and found[-1].last > end:
                self._keep(branch, found[-1])
            yield found

    def where(self, branch: Branch, number: int) -> str:
        """A basket as messages name it."""
        first, last = branch.entries[number : number + 2].tolist()
        return f"{self.named(branch)}, basket {number} (entries {first} to {last})"

    def forget(self) -> None:
        """Give back what is kept."""
        self._memo, self._held = {}, 0

    def named(self, branch: Branch) -> str:
        """A branch as messages name it."""
        return f"{self._place.url}, tree '{self._tree}', branch '{branch.path}'"

    def _fetch(self, wanted: Iterable[tuple[Branch, int]]) -> _Stored:
        """Stored bytes of baskets; neighbours are read together."""
        ranges: list[_Range] = []
        size = self._place.size
        for branch, number in wanted:
            start, length = branch.seeks.item(number), branch.stored.item(number)
            if not (0 < start < start + length <= size):
                raise DataError(
                    f"{self.where(branch, number)}: is announced at the bytes {start} to {start + length}, but the "
                    f"file has {size}"
                )
            ranges.append((start, start + length, (branch.path, number)))
        return _Stored(self._place, _joined(ranges))

    def _open(
        self, branch: Branch, number: int, first: int, last: int, stored: _Stored, value_bytes: int | None
    ) -> Basket:
        try:
            if number >= len(branch.seeks):
                return _embedded(branch, number, first, last)
            found = stored.take((branch.path, number))
            return open_basket(branch, number, first, last, found, others=self._names, value_bytes=value_bytes)
        except DamageError as error:
            raise DataError(f"{self.where(branch, number)}: {error}") from error

    def _keep(self, branch: Branch, basket: Basket) -> None:
        if basket.number >= len(branch.seeks) or self._held + len(basket.data) > self._memo_bytes:
            return
        if isinstance(basket.data, memoryview):
            basket = basket._replace(data=bytes(basket.data))  # else it would keep all that was read with it
        self._memo[branch.path, basket.number] = basket
        self._held += len(basket.data)


def _embedded(branch: Branch, number: int, first: int, last: int) -> Basket:
    one = branch.embedded[number - len(branch.seeks)]
    _check_length(branch.layout, last - first, one.border)
    return Basket(number, first, last, one.data, one.border, one.keylen)


ValueBytes = Callable[[Branch, int, int], int | None]
"""Bytes of values that a basket of some entries must have; None where nobody knows."""
_Key = tuple[str, int]
_Range = tuple[int, int, _Key]


class _Stored:
    """Stored bytes of baskets by path and number, in groups that are read as one; each basket is taken once."""

    def __init__(self, place: Place, groups: list[list[_Range]]) -> None:
        spans = [(group[0][0], max(stop for _, stop, _ in group)) for group in groups]
        self._found: dict[_Key, memoryview] = {}
        self._unread: dict[_Key, tuple[ReadsInto, tuple[int, int], list[_Range]]] = {}
        if isinstance(place, ReadsInto):
            place.expect(spans)
            for span, group in zip(spans, groups, strict=True):
                self._unread.update(dict.fromkeys((key for _, _, key in group), (place, span, group)))
        elif groups:
            for group, buffer in zip(groups, place.read(spans), strict=True):
                self._share(group, memoryview(buffer))

    def take(self, key: _Key) -> memoryview:
        """Bytes of a basket, read now where that was put off."""
        if key not in self._found:
            place, (start, stop), group = self._unread[key]
            buffer = recycled(stop - start)
            place.read_into(start, buffer)
            self._share(group, buffer)
        return self._found.pop(key)

    def _share(self, group: list[_Range], buffer: memoryview) -> None:
        origin = group[0][0]
        for start, stop, key in group:
            self._found[key] = buffer[start - origin : stop - origin]


def _joined(ranges: list[_Range]) -> list[list[_Range]]:
    """Ranges in the order of the file, those near each other in one group of `JOINED_BYTES` at most."""
    groups: list[list[_Range]] = []
    end = -GAP_BYTES
    for one in sorted(ranges):
        if not groups or one[0] > end + GAP_BYTES or one[1] > groups[-1][0][0] + JOINED_BYTES:
            groups.append([])
            end = one[1]
        groups[-1].append(one)
        end = max(end, one[1])
    return groups
