"""ROOT files taken apart and put together again, to damage them at a known place.

Knows as much of the format as that takes: keys, the TTree object, baskets, RNTuple anchors, page lists and pages. What
is put back goes to the end of the file, with lengths and checksums that are right unless the caller wants them wrong.
Invariant: a file that is opened and put together again without a change reads as before, bit for bit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot
import xxhash
from numpy.typing import NDArray

TREE = "Events"
_KEY = struct.Struct(">ihiIhh")
_BIG_KEYS = 1000
_HEADER = {"version": 4, "begin": 8, "end": 12, "seek_free": 16, "nbytes_name": 28, "seek_info": 37, "nbytes_info": 41}
CHECKSUM = 8


def frame(codec: bytes, data: bytes, size: int) -> bytes:
    """Compressed bytes with the header that ROOT puts before them."""
    level = {b"ZL": 8, b"L4": 1, b"ZS": 1}.get(codec, 0)
    return codec + bytes([level]) + len(data).to_bytes(3, "little") + size.to_bytes(3, "little") + data


def zlib_frame(data: bytes) -> bytes:
    """One zlib frame of up to 16 MB."""
    return frame(b"ZL", zlib.compress(data, 6), len(data))


def lz4_frame(block: bytes, size: int) -> bytes:
    """An LZ4 frame of a compressed block, with a checksum that is right."""
    return frame(b"L4", xxhash.xxh64_digest(block) + block, size)


@dataclass(frozen=True)
class Key:
    """A key in the file: where it is, how long it and its object are, and what it names."""

    at: int
    nbytes: int
    objlen: int
    keylen: int
    name: str

    @property
    def body(self) -> int:
        """First byte of the object."""
        return self.at + self.keylen

    @property
    def stop(self) -> int:
        """Behind the last byte of the object."""
        return self.at + self.nbytes


class RootFile:
    """Bytes of a file with one tree, and where its parts are."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        with uproot.open(path) as file:
            self.key = key_at(self.data, int(file.key(TREE).fSeekKey))
            self.seek_keys = int(file.file.root_directory.fSeekKeys)
            self._find(file[TREE])

    def header(self, name: str) -> int:
        """Where a number of the file's header is."""
        return _HEADER[name]

    def number(self, at: int, layout: str = ">i") -> int:
        """A number somewhere in the file."""
        return int(struct.unpack_from(layout, self.data, at)[0])

    def write(self, at: int, layout: str, *values: Any) -> None:
        """Overwrite numbers somewhere in the file."""
        struct.pack_into(layout, self.data, at, *values)

    def append(self, data: bytes) -> int:
        """Put bytes at the end; gives where they begin."""
        at = len(self.data)
        self.data += data
        self.write(self.header("end"), ">i", len(self.data))
        return at

    def listed_key(self) -> int:
        """Where the key of the tree stands in the list of keys of the file."""
        first = key_at(self.data, self.seek_keys)
        return first.body + 4  # one key alone, behind their number

    def flip(self, start: int, stop: int, chance: np.random.Generator, bits: int = 1) -> None:
        """Flip bits at places that chance finds."""
        for at in chance.choice(stop - start, min(bits, stop - start), replace=False):
            self.data[start + int(at)] ^= 1 << int(chance.integers(8))

    def put_object(self, stored: bytes, objlen: int) -> None:
        """Store the object of the tree's key anew, at the end of the file."""
        old = self.key
        head = self._new_head(old, stored, objlen)
        at = self.append(head + stored)
        listed = self.listed_key()
        self.data[listed : listed + old.keylen] = head
        self.key = key_at(self.data, at)

    def _new_head(self, old: Key, stored: bytes, objlen: int) -> bytes:
        """A key for an object that goes to the end of the file."""
        head = bytearray(self.data[old.at : old.body])
        struct.pack_into(">i", head, 0, old.keylen + len(stored))
        struct.pack_into(">i", head, 6, objlen)
        big = struct.unpack_from(">h", head, 4)[0] > _BIG_KEYS
        struct.pack_into(">q" if big else ">i", head, _KEY.size, len(self.data))
        return bytes(head)

    def _find(self, tree: Any) -> None:
        raise NotImplementedError


def key_at(data: bytes | bytearray, at: int) -> Key:
    """The key that begins at a byte."""
    nbytes, version, objlen, _, keylen, _ = _KEY.unpack_from(data, at)
    where, names = at + _KEY.size + (16 if version > _BIG_KEYS else 8), []
    for _ in range(2):  # class and name; the title is not needed
        names.append(data[where + 1 : where + 1 + data[where]].decode("latin-1"))
        where += 1 + data[where]
    return Key(at, nbytes, objlen, keylen, names[1])


@dataclass
class BranchPlaces:
    """Where the arrays of a branch stand in the inflated TTree object, and what they say.

    Parameters
    ----------
    bytes_at, entries_at, seeks_at
        First number of each array; int32, int64, int64.
    write_at
        Its number of written baskets, int32.
    room_at
        Length of the arrays, int32; 8 bytes behind that its entries, 24 its inflated bytes, int64 each.
    seeks, sizes, entries
        What the arrays say.
    """

    bytes_at: int
    entries_at: int
    seeks_at: int
    write_at: int
    room_at: int
    seeks: NDArray[np.int64]
    sizes: NDArray[np.int64]
    entries: NDArray[np.int64]


class TTreeFile(RootFile):
    """A file with a TTree. ``tree`` are the inflated bytes of the object: change them, then `put_tree`."""

    tree: bytearray
    branches: Mapping[str, BranchPlaces]
    entries_at: int

    def _find(self, tree: Any) -> None:
        stored = bytes(self.data[self.key.body : self.key.stop])
        whole = stored if len(stored) == self.key.objlen else zlib.decompress(stored[9:])
        self.tree = bytearray(whole)
        self.num_entries = int(tree.num_entries)
        self.entries_at = self.tree.index(struct.pack(">q", self.num_entries))
        self.branches = {branch.name: self._places(branch) for branch in tree.branches}

    def _places(self, branch: Any) -> BranchPlaces:
        written, room = int(branch.member("fWriteBasket")), int(branch.member("fMaxBaskets"))
        seeks = np.asarray(branch.member("fBasketSeek"))[:written].astype(np.int64)
        seeks_at = self.tree.index(seeks.astype(">i8").tobytes())
        entries_at = seeks_at - 1 - 8 * room
        bytes_at = entries_at - 1 - 4 * room
        counts = struct.pack(">iiq", room, int(branch.member("fSplitLevel")), int(branch.member("fEntries")))
        room_at = self.tree.rindex(counts, 0, bytes_at)
        before = struct.pack(">iii", int(branch.member("fBasketSize")), int(branch.member("fEntryOffsetLen")), written)
        write_at = self.tree.rindex(before, 0, room_at) + 8
        sizes = np.asarray(branch.member("fBasketBytes"))[:written].astype(np.int64)
        bounds = np.asarray(branch.member("fBasketEntry"))[: written + 1].astype(np.int64)
        return BranchPlaces(bytes_at, entries_at, seeks_at, write_at, room_at, seeks, sizes, bounds)

    def put_tree(self, stored: bytes | None = None) -> None:
        """Store the TTree object anew, compressed as ROOT does it."""
        self.put_object(zlib_frame(bytes(self.tree)) if stored is None else stored, len(self.tree))

    def basket(self, branch: str, number: int) -> Key:
        """The key of a basket."""
        return key_at(self.data, int(self.branches[branch].seeks[number]))

    def inflated(self, branch: str, number: int) -> bytes:
        """Values and list offsets of a basket."""
        key = self.basket(branch, number)
        stored = bytes(self.data[key.body : key.stop])
        if len(stored) == key.objlen:
            return stored
        return zlib.decompress(stored[9:]) if stored[:2] == b"ZL" else _unpack_lz4(stored, key.objlen)

    def border(self, branch: str, number: int) -> int:
        """Where values end and list offsets begin."""
        key = self.basket(branch, number)
        return self.number(key.body - 5) - key.keylen

    def put_basket(self, branch: str, number: int, stored: bytes, objlen: int) -> None:
        """Store a basket anew, and its new place in the tree object; `put_tree` must follow."""
        key, places = self.basket(branch, number), self.branches[branch]
        at = self.append(self._new_head(key, stored, objlen) + stored)
        places.seeks[number] = at
        struct.pack_into(">q", self.tree, places.seeks_at + 8 * number, at)
        struct.pack_into(">i", self.tree, places.bytes_at + 4 * number, key.keylen + len(stored))


def _unpack_lz4(stored: bytes, size: int) -> bytes:
    import cramjam

    return bytes(cramjam.lz4.decompress_block(stored[9 + CHECKSUM :], output_len=size))


@dataclass
class PagePlace:
    """A page: where its page list describes it, and what that says (without a checksum: elements rise above 0)."""

    described_at: int
    elements: int
    stored: int
    seek: int


class RNTupleFile(RootFile):
    """A file with an RNTuple whose metadata is not compressed, as uproot writes it.

    Attributes
    ----------
    pages
        By cluster and column, the first page of each.
    lists
        Page list envelopes: first byte and behind the last.
    """

    FIELDS = ("seek_header", "nbytes_header", "len_header", "seek_footer", "nbytes_footer", "len_footer")

    def _find(self, tree: Any) -> None:
        self.anchor_at = self.key.body
        begin = self.anchor_at + 6 + 8  # bytes and version of the object, then four numbers of two bytes
        self.anchor = {name: begin + 8 * number for number, name in enumerate(self.FIELDS)}
        self.envelopes = {
            name: (self.number(self.anchor[f"seek_{name}"], ">Q"), self.number(self.anchor[f"len_{name}"], ">Q"))
            for name in ("header", "footer")
        }
        groups = tree.footer.cluster_group_records
        self.spans = [(int(one.min_entry_num), int(one.entry_span)) for one in groups]
        links = [one.page_list_link.locator for one in groups]
        self.lists = [(int(one.offset), int(one.offset) + int(one.num_bytes)) for one in links]
        self.pages = [
            [self._page(cluster, column.pages[0]) for column in columns]
            for cluster, columns in enumerate(tree.page_link_list)
        ]

    def _page(self, cluster: int, found: Any) -> PagePlace:
        start, stop = self.lists[cluster]
        seek, stored = int(found.locator.offset), int(found.locator.num_bytes)
        at = self.data.index(struct.pack("<iQ", stored, seek), start, stop) - 4
        return PagePlace(at, self.number(at, "<i"), stored, seek)

    def seal(self, start: int, stop: int) -> None:
        """Make the checksum at the end of an envelope right."""
        self.write(stop - CHECKSUM, "<Q", xxhash.xxh3_64_intdigest(bytes(self.data[start : stop - CHECKSUM])))

    def seal_envelope(self, name: str) -> None:
        """Make the checksum of the header or the footer right."""
        start, length = self.envelopes[name]
        self.seal(start, start + length)

    def seal_anchor(self) -> None:
        """Make the checksum of the anchor right; it covers what stands behind bytes and version of the object."""
        body = bytes(self.data[self.anchor_at + 6 : self.key.stop - CHECKSUM])
        self.write(self.key.stop - CHECKSUM, ">Q", xxhash.xxh3_64_intdigest(body))

    def stored_page(self, cluster: int, column: int) -> bytes:
        """Its bytes as they are in the file."""
        page = self.pages[cluster][column]
        return bytes(self.data[page.seek : page.seek + page.stored])

    def put_page(self, cluster: int, column: int, stored: bytes, *, checksum: int | None = None) -> None:
        """Store a page anew, with a checksum behind it; page list and its checksum follow."""
        page = self.pages[cluster][column]
        right = xxhash.xxh3_64_intdigest(stored)
        page.seek = self.append(stored + struct.pack("<Q", right if checksum is None else checksum))
        page.stored, page.elements = len(stored), -abs(page.elements)
        self.describe(cluster, column, page.elements, page.stored, page.seek)

    def describe(self, cluster: int, column: int, elements: int, stored: int, seek: int) -> None:
        """Let the page list say something of a page, under a right checksum."""
        self.write(self.pages[cluster][column].described_at, "<iiQ", elements, stored, seek)
        self.seal(*self.lists[cluster])

    def add_checksums(self) -> None:
        """Give every page a checksum, as ROOT writes them."""
        for cluster, columns in enumerate(self.pages):
            for column in range(len(columns)):
                self.put_page(cluster, column, self.stored_page(cluster, column))
