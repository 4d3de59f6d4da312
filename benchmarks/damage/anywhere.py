"""Damage that every ROOT file can suffer: cut off, bits flipped in header, keys, lists, and class descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.damage.surgery import RootFile

Chance = np.random.Generator
Damage = Callable[[RootFile, Chance], None]


def cut(share: float, less: int = 0) -> Damage:
    """Only the first bytes are there."""

    def apply(file: RootFile, _: Chance) -> None:
        del file.data[max(int(share * len(file.data)) - less, 0) :]

    return apply


def cut_at(bytes_left: int) -> Damage:
    """Only so many bytes are there."""

    def apply(file: RootFile, _: Chance) -> None:
        del file.data[bytes_left:]

    return apply


def cut_and_told(share: float) -> Damage:
    """Cut off, and the header says that it should be so."""

    def apply(file: RootFile, _: Chance) -> None:
        del file.data[int(share * len(file.data)) :]
        file.write(file.header("end"), ">i", len(file.data))

    return apply


def zeroed(share: float, length: int) -> Damage:
    """A hole, as a copy that was broken off and taken up again leaves it."""

    def apply(file: RootFile, _: Chance) -> None:
        at = int(share * len(file.data))
        file.data[at : at + length] = bytes(min(length, len(file.data) - at))

    return apply


def header(name: str, value: int) -> Damage:
    """A number of the header is another one."""

    def apply(file: RootFile, _: Chance) -> None:
        file.write(file.header(name), ">i", value)

    return apply


def header_flip(start: int, stop: int) -> Damage:
    """A bit of the header."""
    return lambda file, chance: file.flip(start, stop, chance)


def listed(offset: int, layout: str, value: int) -> Damage:
    """A number in the list of keys: of the tree's key, or (below 0) how many keys there are."""
    return lambda file, _: file.write(file.listed_key() + offset, layout, value)


def listed_class(file: RootFile, _: Chance) -> None:
    """The class of the tree has another letter in the list of keys."""
    at = file.listed_key() + file.key.keylen - 4 - len(file.key.name) - 1 - 2
    file.data[at] ^= 0x20


def directory(file: RootFile, _: Chance) -> None:
    """The directory says that the list of keys is elsewhere."""
    begin, name = file.number(file.header("begin")), file.number(file.header("nbytes_name"))
    at = file.data.index(file.seek_keys.to_bytes(8, "big")[4:], begin + name)
    file.write(at, ">i", file.seek_keys + 1000)


def own_key(offset: int, layout: str, value: int) -> Damage:
    """A number in the key before the tree's object."""
    return lambda file, _: file.write(file.key.at + offset, layout, value)


def streamer_info(bits: int) -> Damage:
    """Bits in the description of the classes."""

    def apply(file: RootFile, chance: Chance) -> None:
        start, length = file.number(file.header("seek_info")), file.number(file.header("nbytes_info"))
        file.flip(start, start + length, chance, bits)

    return apply


def free_list(file: RootFile, chance: Chance) -> None:
    """Bits in the list of free places, which no reader needs."""
    start = file.number(file.header("seek_free"))
    file.flip(start + 30, start + 60, chance, 8)


def tree_object(bits: int) -> Damage:
    """Bits in the tree's object as it is stored."""
    return lambda file, chance: file.flip(file.key.body, file.key.stop, chance, bits)


EVERYWHERE: Mapping[str, Damage] = {
    "empty": cut_at(0),
    "cut_in_magic": cut_at(3),
    "cut_in_header": cut_at(20),
    "cut_in_first_key": cut_at(110),
    "cut_in_streamer_info": cut_at(900),
    "cut_at_a_third": cut(0.33),
    "cut_in_the_middle_and_told": cut_and_told(0.5),
    "cut_near_the_end_and_told": cut_and_told(0.97),
    "cut_by_a_byte": cut(1.0, 1),
    "hole": zeroed(0.7, 4096),
    "hole_at_the_end": zeroed(0.999, 2000),
    "header_magic": header_flip(0, 4),
    "header_version": header("version", 2_000_000),
    "header_begin": header("begin", 64),
    "header_end_beyond": header("end", 2**31 - 1),
    "header_end_before": header("end", 200),
    "header_nbytes_name": header("nbytes_name", -5),
    "header_seek_info": header("seek_info", 7),
    "directory_seek_keys": directory,
    "key_list_count_huge": listed(-4, ">i", 2**31 - 1),
    "key_list_count_negative": listed(-4, ">i", -1),
    "key_list_count_zero": listed(-4, ">i", 0),
    "key_list_nbytes": listed(0, ">i", -100),
    "key_list_objlen_huge": listed(6, ">i", 2**31 - 1),
    "key_list_keylen": listed(14, ">h", 7),
    "key_list_seek": listed(18, ">i", 0x7FFFFF00),
    "key_list_class": listed_class,
    "tree_key_objlen_huge": own_key(6, ">i", 2**31 - 1),
    "tree_key_nbytes": own_key(0, ">i", 1),
    "tree_key_keylen": own_key(14, ">h", 30000),
    "streamer_info_bit": streamer_info(1),
    "streamer_info_bits": streamer_info(40),
    "free_list": free_list,
}
"""Done to one TTree file and to one RNTuple file."""
