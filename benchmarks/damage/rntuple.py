"""Damage to RNTuples: anchor, envelopes, page lists and pages, with and without checksums that are right again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import cast

import cramjam
import numpy as np

from benchmarks.damage.anywhere import Chance, Damage
from benchmarks.damage.surgery import CHECKSUM, RNTupleFile, frame

X, Y, N, EV, ENDS, PT, ENDS_OF_ETA, ETA = range(8)
"""Columns as uproot numbers them: list ends before the values of the list."""
_Change = Callable[[RNTupleFile, Chance], None]


def _rntuple(change: _Change) -> Damage:
    return lambda file, chance: change(cast(RNTupleFile, file), chance)


def anchor(name: str, value: int, *, sealed: bool = True) -> Damage:
    """A number of the anchor is another one."""

    def change(file: RNTupleFile, _: Chance) -> None:
        file.write(file.anchor[name], ">Q", value)
        if sealed:
            file.seal_anchor()

    return _rntuple(change)


def anchor_bit(file: RNTupleFile, chance: Chance) -> None:
    """A bit of the anchor."""
    file.flip(file.anchor_at, file.key.stop, chance)


def envelope_bit(name: str) -> Damage:
    """A bit of header or footer."""

    def change(file: RNTupleFile, chance: Chance) -> None:
        start, length = file.envelopes[name]
        file.flip(start, start + length, chance)

    return _rntuple(change)


def envelope_number(name: str, before: bytes, offset: int, after: bytes) -> Damage:
    """A number in header or footer, found by what stands there, under a right checksum."""

    def change(file: RNTupleFile, _: Chance) -> None:
        start, length = file.envelopes[name]
        at = file.data.index(before, start, start + length) + offset
        file.data[at : at + len(after)] = after
        file.seal_envelope(name)

    return _rntuple(change)


def page_list_link(offset: int, layout: str, value: int) -> Damage:
    """Where the footer says that a page list is: its length (8 bytes), stored bytes (4), place (8)."""

    def change(file: RNTupleFile, _: Chance) -> None:
        start, length = file.envelopes["footer"]
        first, stop = file.lists[2]
        at = file.data.index(struct.pack("<QiQ", stop - first, stop - first, first), start, start + length)
        file.write(at + offset, layout, value)
        file.seal_envelope("footer")

    return _rntuple(change)


def swapped_lists(file: RNTupleFile, _: Chance) -> None:
    """Two page lists in each other's place."""
    start, length = file.envelopes["footer"]
    places = []
    for first, stop in (file.lists[1], file.lists[3]):
        places.append(file.data.index(struct.pack("<QiQ", stop - first, stop - first, first), start, start + length))
    one, two = (bytes(file.data[at : at + 20]) for at in places)
    file.data[places[0] : places[0] + 20], file.data[places[1] : places[1] + 20] = two, one
    file.seal_envelope("footer")


def page_list_bit(file: RNTupleFile, chance: Chance) -> None:
    """A bit of a page list."""
    file.flip(*file.lists[2], chance)


def cluster(number: int, first: int | None, entries: int | None) -> Damage:
    """What the page list says of its cluster's entries."""

    def change(file: RNTupleFile, _: Chance) -> None:
        start, stop = file.lists[number]
        low, span = file.spans[number]
        at = file.data.index(struct.pack("<QQ", low, span), start, stop)
        file.write(at, "<QQ", low if first is None else first, span if entries is None else entries)
        file.seal(start, stop)

    return _rntuple(change)


def described(
    column: int, *, elements: int | None = None, stored: int | None = None, seek: int | None = None
) -> Damage:
    """What the page list says of a page of the third cluster."""

    def change(file: RNTupleFile, _: Chance) -> None:
        page = file.pages[2][column]
        file.describe(
            2,
            column,
            page.elements if elements is None else elements,
            page.stored if stored is None else stored,
            page.seek if seek is None else seek,
        )

    return _rntuple(change)


def swapped_pages(first: int, second: int) -> Damage:
    """Two columns with each other's pages."""

    def change(file: RNTupleFile, _: Chance) -> None:
        one, two = file.pages[2][first], file.pages[2][second]
        file.describe(2, first, one.elements, two.stored, two.seek)
        file.describe(2, second, two.elements, one.stored, one.seek)

    return _rntuple(change)


def page_bits(column: int, bits: int = 1) -> Damage:
    """Bits of a stored page."""

    def change(file: RNTupleFile, chance: Chance) -> None:
        page = file.pages[2][column]
        file.flip(page.seek, page.seek + page.stored, chance, bits)

    return _rntuple(change)


def page_checksum(file: RNTupleFile, chance: Chance) -> None:
    """A bit of the checksum behind a page."""
    page = file.pages[2][X]
    file.flip(page.seek + page.stored, page.seek + page.stored + CHECKSUM, chance)


def page_content(column: int, change: Callable[[bytearray], bytes], size: int | None = None) -> Damage:
    """Other content of a page, stored as if it had been written so."""

    def apply(file: RNTupleFile, _: Chance) -> None:
        stored = file.stored_page(2, column)
        whole = change(bytearray(bytes(cramjam.zstd.decompress(stored[9:]))))
        packed = bytes(cramjam.zstd.compress(whole, 5))
        file.put_page(2, column, frame(b"ZS", packed, len(whole) if size is None else size))

    return _rntuple(apply)


def _end(place: int, value: int) -> Callable[[bytearray], bytes]:
    def change(data: bytearray) -> bytes:
        struct.pack_into("<q", data, 8 * place, value)
        return bytes(data)

    return change


def header_bomb(file: RNTupleFile, _: Chance) -> None:
    """A header that says 16 MB and inflates to 256 MB."""
    stored = frame(b"ZS", bytes(cramjam.zstd.compress(bytes(256 << 20), 5)), 0xFFFFFF)
    seek = file.append(stored)
    for name, value in (("seek_header", seek), ("nbytes_header", len(stored)), ("len_header", 0xFFFFFF)):
        file.write(file.anchor[name], ">Q", value)
    file.seal_anchor()


def page_garbage(file: RNTupleFile, chance: Chance) -> None:
    """Any bytes, of the right length, with a right checksum."""
    stored = file.stored_page(2, X)
    file.put_page(2, X, stored[:9] + chance.bytes(len(stored) - 9))


def page_plain(file: RNTupleFile, chance: Chance) -> None:
    """A page that is said to be stored as it is, of too few bytes."""
    file.put_page(2, X, np.zeros(100, np.float32).tobytes())


RNTUPLE: Mapping[str, Damage] = {
    "anchor_bit": _rntuple(anchor_bit),
    "anchor_seek_header": anchor("seek_header", 2**40),
    "anchor_seek_header_unsealed": anchor("seek_header", 64, sealed=False),
    "anchor_nbytes_header": anchor("nbytes_header", 20),
    "anchor_len_header_huge": anchor("len_header", 2**40),
    "anchor_seek_footer": anchor("seek_footer", 100),
    "anchor_nbytes_footer_huge": anchor("nbytes_footer", 2**50),
    "anchor_len_footer_2_gb": anchor("len_footer", 2**31),
    "header_bomb": _rntuple(header_bomb),
    "header_bit": envelope_bit("header"),
    "header_type": envelope_number("header", b"float", 0, b"flood"),
    "header_column_type": envelope_number("header", struct.pack("<HH", 13, 64), 0, struct.pack("<HH", 0x66, 64)),
    "header_column_bits": envelope_number("header", struct.pack("<HH", 13, 64), 2, struct.pack("<H", 999)),
    "header_parent": envelope_number("header", b"Jet_pt", -12, b"\xff\xff\xff\x7f"),
    "footer_bit": envelope_bit("footer"),
    "footer_groups_huge": envelope_number("footer", struct.pack("<QQI", 0, 4000, 1), -12, b"\xff\xff\xff\x7f"),
    "footer_clusters_more": envelope_number("footer", struct.pack("<QQI", 4000, 4000, 1), 16, struct.pack("<I", 2)),
    "footer_span": envelope_number("footer", struct.pack("<QQI", 4000, 4000, 1), 8, struct.pack("<Q", 3000)),
    "page_list_beyond_the_end": page_list_link(12, "<Q", 2**40),
    "page_list_length_huge": page_list_link(0, "<Q", 2**40),
    "page_list_stored_huge": page_list_link(8, "<i", 2**31 - 1),
    "page_lists_swapped": _rntuple(swapped_lists),
    "page_list_bit": _rntuple(page_list_bit),
    "cluster_overlaps": cluster(2, 7_000, None),
    "cluster_gap": cluster(2, 9_000, None),
    "cluster_entries_less": cluster(4, None, 3_000),
    "cluster_entries_more": cluster(4, None, 5_000),
    "cluster_entries_huge": cluster(4, None, 2**55),
    "page_elements_less": described(X, elements=-3_999),
    "page_elements_of_lists_less": described(PT, elements=-11_000),
    "page_elements_huge": described(PT, elements=-(2**31)),
    "page_elements_zero": described(X, elements=0),
    "page_without_checksum": described(X, elements=4_000),
    "page_stored_zero": described(X, stored=0),
    "page_stored_negative": described(X, stored=-10),
    "page_stored_huge": described(X, stored=2**31 - 1),
    "page_seek_zero": described(X, seek=0),
    "page_seek_beyond_the_end": described(X, seek=2**40),
    "page_seek_shifted": described(X, seek=5_000),
    "pages_of_two_columns_swapped": swapped_pages(X, Y),
    "page_bit": page_bits(X),
    "page_bits_of_list_ends": page_bits(ENDS),
    "page_bits_of_lists": page_bits(PT, 30),
    "page_checksum": _rntuple(page_checksum),
    "page_garbage": _rntuple(page_garbage),
    "page_plain": _rntuple(page_plain),
    "page_short": page_content(X, lambda data: bytes(data[:-4])),
    "page_long": page_content(X, lambda data: bytes(data) + bytes(4000)),
    "list_end_negative": page_content(ENDS, _end(50, -1)),
    "list_end_falls": page_content(ENDS, _end(50, 3)),
    "list_end_beyond": page_content(ENDS, _end(3999, 2**40)),
    "list_end_one_more": page_content(ENDS, _end(3999, 60_000)),
    "bomb_behind_right_lengths": page_content(X, lambda data: bytes(256 << 20), 16_000),
    "bomb_of_16_mb": page_content(X, lambda data: bytes(256 << 20), 0xFFFFFF),
}

RNTUPLE_BLIND: Mapping[str, Damage] = {
    "other_values_with_right_checksum": page_content(X, lambda data: bytes(4) + bytes(data[4:])),
}
