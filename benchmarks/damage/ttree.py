"""Damage to TTrees: wrong counts and places in the tree's object, damaged, missing, swapped and lying baskets.

What changes the tree's object or the content of a basket is stored under right lengths and checksums again, so that no
codec notices it: only comparing what is said in several places does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from benchmarks.damage.anywhere import Chance, Damage
from benchmarks.damage.surgery import BranchPlaces, RootFile, TTreeFile, frame, lz4_frame, zlib_frame

_Change = Callable[[TTreeFile, Chance], None]


def _ttree(change: _Change, *, store: bool = True) -> Damage:
    def apply(file: RootFile, chance: Chance) -> None:
        tree = cast(TTreeFile, file)
        change(tree, chance)
        if store:
            tree.put_tree()

    return apply


def tree_entries(value: int) -> Damage:
    """The tree announces other entries than its branches."""
    return _ttree(lambda file, _: struct.pack_into(">q", file.tree, file.entries_at, value))


def branch(name: str, where: Callable[[BranchPlaces], int], layout: str, value: int) -> Damage:
    """A number of a branch is another one."""
    return _ttree(lambda file, _: struct.pack_into(layout, file.tree, where(file.branches[name]), value))


def _bound(number: int) -> Callable[[BranchPlaces], int]:
    return lambda one: one.entries_at + 8 * number


def _seek(number: int) -> Callable[[BranchPlaces], int]:
    return lambda one: one.seeks_at + 8 * number


def _bytes(number: int) -> Callable[[BranchPlaces], int]:
    return lambda one: one.bytes_at + 4 * number


def swapped(first: tuple[str, int], second: tuple[str, int], *, sizes: bool) -> Damage:
    """Two baskets in each other's place."""

    def change(file: TTreeFile, _: Chance) -> None:
        (name, one), (other, two) = first, second
        here, there = file.branches[name], file.branches[other]
        pairs = [(here.seeks_at + 8 * one, there.seeks_at + 8 * two, 8)]
        if sizes:
            pairs.append((here.bytes_at + 4 * one, there.bytes_at + 4 * two, 4))
        for left, right, size in pairs:
            kept = file.tree[left : left + size]
            file.tree[left : left + size] = file.tree[right : right + size]
            file.tree[right : right + size] = kept

    return _ttree(change)


def basket_key(name: str, number: int, offset: int, layout: str, value: int) -> Damage:
    """A number in the key of a basket; counted from its end where negative."""

    def change(file: TTreeFile, _: Chance) -> None:
        key = file.basket(name, number)
        file.write((key.body if offset < 0 else key.at) + offset, layout, value)

    return _ttree(change, store=False)


def frame_byte(name: str, number: int, offset: int, value: bytes) -> Damage:
    """The head of a compressed frame."""

    def change(file: TTreeFile, _: Chance) -> None:
        at = file.basket(name, number).body + offset
        file.data[at : at + len(value)] = value

    return _ttree(change, store=False)


def payload(name: str, number: int, low: float, high: float, bits: int = 1) -> Damage:
    """Bits of compressed content."""

    def change(file: TTreeFile, chance: Chance) -> None:
        key = file.basket(name, number)
        size = key.stop - key.body - 9
        file.flip(key.body + 9 + int(low * size), key.body + 9 + int(high * size), chance, bits)

    return _ttree(change, store=False)


def garbage(file: TTreeFile, chance: Chance) -> None:
    """Any bytes, of the right length."""
    key = file.basket("y", 1)
    file.data[key.body + 9 : key.stop] = chance.bytes(key.stop - key.body - 9)


def content(name: str, number: int, change: Callable[[bytearray, int], bytes]) -> Damage:
    """Other content of a basket, stored as if it had been written so; ``change`` is told where values end."""

    def apply(file: TTreeFile, _: Chance) -> None:
        found = change(bytearray(file.inflated(name, number)), file.border(name, number))
        file.put_basket(name, number, zlib_frame(found), len(found))

    return _ttree(apply)


def _counts(change: Callable[[np.ndarray[tuple[int], np.dtype[np.int32]]], None]) -> Damage:
    def apply(data: bytearray, border: int) -> bytes:
        counts = np.frombuffer(data, ">i4", border // 4).astype(np.int32)
        change(counts)
        return counts.astype(">i4").tobytes() + bytes(data[border:])

    return content("nJet", 2, apply)


def _set(place: int, value: int) -> Callable[[np.ndarray[tuple[int], np.dtype[np.int32]]], None]:
    def change(counts: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        counts[place] = value

    return change


def _moved(counts: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
    """One jet goes to another event: the sum stays."""
    full = np.flatnonzero(counts > 1)
    counts[full[0]] -= 1
    counts[full[-1]] += 1


def _offset(place: int, value: int) -> Damage:
    """A list offset; they stand behind the values, their number first."""

    def apply(data: bytearray, border: int) -> bytes:
        struct.pack_into(">i", data, border + 4 + 4 * place, value)
        return bytes(data)

    return content("Jet_pt", 2, apply)


def lying_frame(size: int, codec: bytes = b"ZL") -> Damage:
    """All announce 2 GB; the frame itself says so too as far as it can, and has a hundred bytes."""

    def apply(file: TTreeFile, _: Chance) -> None:
        stored = frame(codec, zlib.compress(bytes(100)), min(size, 0xFFFFFF))
        file.put_basket("x", 1, stored, size)

    return _ttree(apply)


def bomb(announced: int, real: int, *, frames: int = 1, believed: bool = False) -> Damage:
    """Frames of zeros, each inflating to ``real`` bytes; ``believed``: the branch announces as much."""

    def apply(file: TTreeFile, _: Chance) -> None:
        one = frame(b"ZL", _zeros(real), min(announced // frames, 0xFFFFFF))
        file.put_basket("x", 1, one * frames, announced)
        if believed:
            struct.pack_into(">q", file.tree, file.branches["x"].room_at + 24, announced * 2)

    return _ttree(apply)


def list_bomb(file: TTreeFile, _: Chance) -> None:
    """Lists of 1 GB, as the basket and the branch say; the counter knows better."""
    size = 60 * 0xFFFFFF
    file.put_basket("Jet_pt", 1, frame(b"ZL", _zeros(0xFFFFFF), 0xFFFFFF) * 60, size)
    key = file.basket("Jet_pt", 1)
    file.write(key.body - 5, ">i", key.keylen + size - 4 * 4002)
    struct.pack_into(">q", file.tree, file.branches["Jet_pt"].room_at + 24, 2 * size)


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(min(size - at, 1 << 20))) for at in range(0, size, 1 << 20)) + packer.flush()


def tree_bomb(file: TTreeFile, _: Chance) -> None:
    """The tree's object announces 2 GB, and inflates to 256 MB."""
    file.put_object(frame(b"ZL", _zeros(256 << 20), 0xFFFFFF), 2**31 - 1)


def lz4_garbage(file: TTreeFile, chance: Chance) -> None:
    """A block that is none, with a right checksum."""
    key = file.basket("x", 2)
    stored = lz4_frame(chance.bytes(key.nbytes - key.keylen - 17), key.objlen)
    file.put_basket("x", 2, stored, key.objlen)


def lz4_long(file: TTreeFile, _: Chance) -> None:
    """A block that inflates to more than it announces, with a right checksum."""
    import cramjam

    key = file.basket("x", 2)
    block = bytes(cramjam.lz4.compress_block(bytes(64 << 20), store_size=False))
    file.put_basket("x", 2, lz4_frame(block, key.objlen), key.objlen)


def missing_baskets(file: TTreeFile, _: Chance) -> None:
    """The second half of a branch was never written, and the branch does not say so."""
    places = file.branches["n"]
    for number in range(3, len(places.seeks)):
        struct.pack_into(">q", file.tree, places.seeks_at + 8 * number, 0)
        struct.pack_into(">i", file.tree, places.bytes_at + 4 * number, 0)


TTREE: Mapping[str, Damage] = {
    "entries_one_more": tree_entries(20_001),
    "entries_one_less": tree_entries(19_999),
    "entries_none": tree_entries(0),
    "entries_negative": tree_entries(-1),
    "entries_huge": tree_entries(2**62),
    "branch_entries_less": branch("n", lambda one: one.room_at + 8, ">q", 100),
    "bound_shifted": branch("x", _bound(2), ">q", 8_100),
    "bound_falls": branch("x", _bound(2), ">q", 3_000),
    "bound_huge": branch("x", _bound(3), ">q", 2**61),
    "bound_last": branch("x", _bound(5), ">q", 19_000),
    "bound_of_counter": branch("nJet", _bound(2), ">q", 7_900),
    "bound_first": branch("x", _bound(0), ">q", 1),
    "seek_zero": branch("x", _seek(2), ">q", 0),
    "seek_negative": branch("x", _seek(2), ">q", -100),
    "seek_beyond_the_end": branch("x", _seek(2), ">q", 2**40),
    "seek_at_the_end": branch("x", _seek(4), ">q", 500_000),
    "seek_shifted": branch("Jet_pt", _seek(2), ">q", 100_000),
    "seeks_missing": _ttree(missing_baskets),
    "seeks_of_two_branches_swapped": swapped(("x", 2), ("n", 2), sizes=False),
    "baskets_of_two_branches_swapped": swapped(("Jet_pt", 2), ("Jet_eta", 2), sizes=True),
    "baskets_of_two_flat_branches_swapped": swapped(("x", 2), ("n", 2), sizes=True),
    "baskets_of_lists_swapped": swapped(("Jet_pt", 1), ("Jet_pt", 3), sizes=True),
    "baskets_of_counter_swapped": swapped(("nJet", 1), ("nJet", 3), sizes=True),
    "stored_zero": branch("x", _bytes(2), ">i", 0),
    "stored_negative": branch("x", _bytes(2), ">i", -8),
    "stored_huge": branch("x", _bytes(2), ">i", 2**31 - 1),
    "stored_one_more": branch("x", _bytes(2), ">i", 8_000),
    "room_huge": branch("x", lambda one: one.room_at, ">i", 2**31 - 1),
    "room_negative": branch("x", lambda one: one.room_at, ">i", -1),
    "written_more": branch("x", lambda one: one.write_at, ">i", 6),
    "written_less": branch("x", lambda one: one.write_at, ">i", 4),
    "written_huge": branch("x", lambda one: one.write_at, ">i", 2**30),
    "written_negative": branch("x", lambda one: one.write_at, ">i", -3),
    "basket_nbytes": basket_key("x", 2, 0, ">i", 77),
    "basket_nbytes_huge": basket_key("x", 2, 0, ">i", 2**31 - 1),
    "basket_objlen_huge": basket_key("x", 2, 6, ">i", 2**31 - 1),
    "basket_objlen_negative": basket_key("x", 2, 6, ">i", -1),
    "basket_objlen_as_stored": basket_key("x", 2, 6, ">i", 8_100),
    "basket_keylen": basket_key("x", 2, 14, ">h", 5),
    "basket_keylen_long": basket_key("Jet_pt", 2, 14, ">h", 30_000),
    "basket_entries": basket_key("x", 2, -9, ">i", 3_999),
    "basket_entries_huge": basket_key("Jet_pt", 2, -9, ">i", 2**31 - 1),
    "basket_border": basket_key("Jet_pt", 2, -5, ">i", 20_000),
    "basket_border_beyond": basket_key("Jet_pt", 2, -5, ">i", 2**31 - 1),
    "frame_codec": frame_byte("y", 1, 0, b"QQ"),
    "frame_other_codec": frame_byte("y", 1, 0, b"ZS"),
    "frame_length": frame_byte("y", 1, 3, b"\xff\xff\xff"),
    "frame_short": frame_byte("y", 1, 3, b"\x10\0\0"),
    "frame_size_huge": frame_byte("y", 1, 6, b"\xff\xff\xff"),
    "frame_size_zero": frame_byte("y", 1, 6, b"\0\0\0"),
    "values_bit": payload("y", 1, 0.0, 0.98),
    "values_bits": payload("x", 3, 0.0, 1.0, 20),
    "values_checksum": payload("ev", 1, 0.9995, 1.0),
    "counter_bit": payload("nJet", 2, 0.0, 1.0),
    "lists_bit": payload("Jet_pt", 2, 0.0, 0.8),
    "list_offsets_bit": payload("Jet_eta", 2, 0.95, 1.0),
    "values_garbage": _ttree(garbage, store=False),
    "values_short": content("x", 1, lambda data, _: bytes(data[:-4])),
    "values_long": content("x", 1, lambda data, border: bytes(data[:border]) + bytes(400)),
    "values_empty": content("x", 1, lambda data, border: b"\0"),
    "counter_negative": _counts(_set(10, -1)),
    "counter_huge": _counts(_set(10, 2**31 - 1)),
    "counter_most_negative": _counts(_set(10, -(2**31))),
    "counter_one_more": _counts(_set(10, 23)),
    "counter_moved": _counts(_moved),
    "list_offset_falls": _offset(100, 40),
    "list_offset_beyond": _offset(100, 2**31 - 1),
    "list_offset_negative": _offset(100, -(2**31)),
    "list_offset_first": _offset(0, 8),
    "list_offset_count": _offset(-1, 2**31 - 1),
    "lists_without_offsets": content("Jet_pt", 2, lambda data, border: bytes(data[:border]) + b"\0\0"),
    "announces_2_gb": lying_frame(2**31 - 1),
    "announces_2_gb_of_lz4": lying_frame(2**31 - 1, b"L4"),
    "bomb_behind_right_lengths": bomb(16_000, 512 << 20),
    "bomb_of_1_gb": bomb(60 * 0xFFFFFF, 0xFFFFFF, frames=60),
    "bomb_that_the_branch_believes": bomb(60 * 0xFFFFFF, 0xFFFFFF, frames=60, believed=True),
    "bomb_in_lists": _ttree(list_bomb),
    "bomb_in_the_tree": _ttree(tree_bomb, store=False),
}

LZ4: Mapping[str, Damage] = {
    "values_bit": payload("x", 2, 0.01, 1.0),
    "checksum_bit": payload("x", 2, 0.0, 0.0009),
    "lists_bits": payload("Jet_pt", 2, 0.01, 1.0, 10),
    "values_garbage": _ttree(lz4_garbage),
    "values_long": _ttree(lz4_long),
    "frame_size_huge": frame_byte("y", 1, 6, b"\xff\xff\xff"),
    "bound_shifted_in_plain_object": branch("x", _bound(2), ">q", 8_100),
    "written_huge_in_plain_object": branch("x", lambda one: one.write_at, ">i", 2**30),
}

TTREE_BLIND: Mapping[str, Damage] = {
    "flat_baskets_of_one_branch_swapped": swapped(("x", 1), ("x", 3), sizes=True),
    "other_values_with_right_checksum": content("x", 1, lambda data, _: bytes(4) + bytes(data[4:])),
}
