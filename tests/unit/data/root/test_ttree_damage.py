"""TTrees with baskets that are damaged, or that few writers make: good values or one error that names the place."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.data.root import baskets as baskets_module
from mlaas4hep.data.root.layout import Branch, ColumnPlan, Layout, TTreeTable
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.testing import make_events, same_column, write_events
from tests.memory_files import BytesPlace, in_memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_events(tmp_path / "a.root", make_events(500, seed=3), cluster=100)


# Baskets as ROOT may write them


def stored_again(place: BytesPlace, branch: Branch, change: Any) -> Branch:
    """The branch with its baskets uncompressed at the end of the file, after a change to (data, border, keylen)."""
    seeks, lengths = [], []
    reader = baskets_module.BasketReader(place, "t")
    wanted = baskets_module.Cuts().wanted(branch, 0, int(branch.entries[-1]))
    for basket in next(iter(reader.read([wanted], wanted.bounds[-1]))):
        data, border = change(bytes(basket.data), basket.border)
        keylen, seek = 60, len(place.data)
        key = struct.pack(">ihiIhh", keylen + len(data), 4, len(data), 0, keylen, 1).ljust(keylen - 9, b"\0")
        key += struct.pack(">iib", basket.last - basket.first, border + keylen, 0)
        shift = keylen - basket.keylen
        rest = np.frombuffer(data[border:], ">i4").copy()
        rest[1:] += shift
        place.data += key + data[:border] + rest.tobytes()
        seeks.append(seek)
        lengths.append(keylen + len(data))
    place.size = len(place.data)
    return replace(branch, seeks=np.array(seeks), stored=np.array(lengths), inflated_bytes=sum(lengths))


def with_branch(table: TTreeTable, branch: Branch) -> TTreeTable:
    return replace(table, branches={**table.branches, branch.path: branch})


def test_lists_without_offsets_are_cut_by_their_counter(path: Path) -> None:
    place, table = in_memory(path)
    expected = TTreeSource(place, table).read(["Jet_pt"], 30, 270)["Jet_pt"]
    bare = stored_again(place, table.branches["Jet_pt"], lambda data, border: (data[:border], border))
    read = TTreeSource(place, with_branch(table, bare)).read(["Jet_pt"], 30, 270)["Jet_pt"]
    assert same_column(read, expected)


def test_lists_without_counter_are_cut_by_their_offsets(path: Path) -> None:
    place, table = in_memory(path)
    expected = TTreeSource(place, table).read(["Jet_pt"], 30, 270)["Jet_pt"]
    branch = table.branches["Jet_pt"]
    assert branch.layout is not None
    alone = replace(branch, layout=replace(branch.layout, counter=None))
    place.reads.clear()
    read = TTreeSource(place, with_branch(table, alone)).read(["Jet_pt"], 30, 270)["Jet_pt"]
    assert same_column(read, expected)
    bare = stored_again(place, alone, lambda data, border: (data[:border], border))
    with pytest.raises(DataError, match=r"basket 0 \(entries 0 to 100\): it has no list offsets, and its branch no"):
        TTreeSource(place, with_branch(table, bare)).read(["Jet_pt"], 30, 270)


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        (1, r"branch 'Jet_pt', basket 0 \(entries 0 to 100\): its counter 'nJet' announces"),
        (1_000_000, "its counter 'nJet' announces"),
        (-1000, "branch 'nJet': entry 17 has a list of -99"),
        (2**31 - 100, "'nJet': entry 17 has a list of 21474"),
    ],
)
def test_a_counter_that_disagrees_never_reads_out_of_bounds(path: Path, amount: int, says: str) -> None:
    place, table = in_memory(path)

    def change(data: bytes, border: int) -> tuple[bytes, int]:
        counts = np.frombuffer(data, ">i4").copy()
        counts[17] += amount
        return counts.tobytes(), border

    counter = stored_again(place, table.branches["nJet"], change)
    with pytest.raises(DataError, match=says):
        TTreeSource(place, with_branch(table, counter)).read(["Jet_pt"], 30, 70)


def test_offsets_and_counter_must_agree_entry_by_entry(path: Path) -> None:
    place, table = in_memory(path)

    def swap(data: bytes, border: int) -> tuple[bytes, int]:
        counts = np.frombuffer(data, ">i4").copy()
        counts[[10, 11]] = counts[10] + 1, counts[11] - 1
        return counts.tobytes(), border

    counter = stored_again(place, table.branches["nJet"], swap)
    with pytest.raises(DataError, match="list offsets and its counter 'nJet' disagree at entry 10"):
        TTreeSource(place, with_branch(table, counter)).read(["Jet_pt"], 0, 70)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("nbytes", 77, "the tree announces .* bytes, its key 77"),
        ("size", 2**30, "all baskets of its branch have"),
        ("size", -5, "its values end at byte"),
        ("keylen", 3, "its key of 3 bytes does not fit"),
        ("keylen", 32000, "its key of 32000 bytes does not fit"),
        ("entries", 99, "the tree announces 100 entries, its key 99"),
        ("last", 20, "its values end at byte -"),
        ("last", 2**30, "its values end at byte"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_with_its_place(path: Path, field: str, value: int, says: str) -> None:
    place, table = in_memory(path)
    branch = table.branches["Jet_eta"]
    seek = int(branch.seeks[2])
    keylen = struct.unpack_from(">h", place.data, seek + 14)[0]
    where = {"nbytes": 0, "size": 6, "keylen": 14, "entries": keylen - 9, "last": keylen - 5}[field]
    struct.pack_into(">h" if field == "keylen" else ">i", place.data, seek + where, value)
    source = TTreeSource(place, table)
    assert len(source.read(["Jet_eta"], 0, 200)["Jet_eta"]) == 200
    with pytest.raises(
        DataError, match=rf"^memory.root, tree 'Events', branch 'Jet_eta', basket 2 \(entries 200 to 300\): .*{says}"
    ):
        source.read(["Jet_eta"], 150, 250)


def test_a_basket_outside_the_file_is_refused_before_it_is_read(path: Path) -> None:
    place, table = in_memory(path)
    branch = table.branches["MET_pt"]
    for seek, length in ((place.size - 10, 100), (0, 100), (100, 2**40), (-5, 10), (100, 0)):
        moved = replace(branch, seeks=np.array([seek] * 5), stored=np.array([length] * 5))
        place.reads.clear()
        with pytest.raises(DataError, match=r"'MET_pt', basket 0 .*is announced at the bytes"):
            TTreeSource(place, with_branch(table, moved)).read(["MET_pt"], 0, 5)
        assert not place.reads


def test_damaged_values_are_named_by_branch_and_basket(path: Path) -> None:
    place, table = in_memory(path)
    seek, length = int(table.branches["event"].seeks[1]), int(table.branches["event"].stored[1])
    place.data[seek + length - 30] ^= 64
    with pytest.raises(DataError, match=r"branch 'event', basket 1 \(entries 100 to 200\): a zlib frame is damaged"):
        TTreeSource(place, table).read(["MET_pt", "event"], 0, 500)


# Vectors


def vectors(lists: list[list[int]], **wrong: int) -> bytes:
    """Values and offsets of a basket of ``std::vector<int32_t>``."""
    data, starts = b"", []
    for number, one in enumerate(lists):
        starts.append(len(data))
        length = 6 + 4 * len(one) + (wrong.get("length", 0) if number == 1 else 0)
        count = len(one) + (wrong.get("count", 0) if number == 1 else 0)
        data += struct.pack(">IHI", 0x40000000 | length, 9, count) + struct.pack(f">{len(one)}i", *one)
    offsets = struct.pack(f">{len(lists) + 2}i", len(lists) + 1, *(start + 60 for start in starts), 0)
    return _key(len(lists), len(data), len(data) + len(offsets)) + data + offsets


def _key(entries: int, border: int, size: int) -> bytes:
    key = struct.pack(">ihiIhh", 60 + size, 4, size, 0, 60, 1).ljust(51, b"\0")
    return key + struct.pack(">iib", entries, border + 60, 0)


def vector_source(data: bytes, entries: int) -> TTreeSource:
    place = BytesPlace(b"root" + data)
    layout = Layout(np.dtype(">i4"), True, 10)
    branch = Branch("v", np.array([0, entries]), np.array([4]), np.array([len(data)]), (), layout, len(data))
    plan = ColumnPlan("v", None, (), np.dtype("int32"))
    info = ColumnInfo("v", ColumnType("jagged", "int64"), "int32[]")
    return TTreeSource(place, TTreeTable("t", entries, {"v": info}, {"v": plan}, {"v": branch}, np.array([0, entries])))


def test_vectors_are_read_without_their_heads() -> None:
    lists = [[1, 2], [], [3, -4, 5], [6]]
    source = vector_source(vectors(lists), 4)
    assert source.read(["v"], 0, 4)["v"].tolist() == lists
    assert source.read(["v"], 1, 3)["v"].tolist() == lists[1:3]
    assert source.read(["v"], 2, 2)["v"].tolist() == []


@pytest.mark.parametrize("wrong", [{"length": 4}, {"length": -4}, {"count": 1}, {"count": -1}, {"count": 2**30}])
def test_a_vector_of_another_length_than_it_announces_is_refused(wrong: dict[str, int]) -> None:
    source = vector_source(vectors([[1, 2], [7], [3]], **wrong), 3)
    with pytest.raises(DataError, match=r"branch 'v', basket 0 .*the vector of entry 1 does not have the length"):
        source.read(["v"], 0, 3)


@pytest.mark.parametrize(
    ("offsets", "says"),
    [
        ([4, 60, 74, 60, 0], "do not rise"),
        ([4, 61, 74, 88, 0], "do not rise"),
        ([4, 60, 74, 900_000, 0], "do not rise"),
        ([4, 60, -(2**31), 88, 0], "do not rise"),
        ([9, 60, 74, 88, 0], "it has 9 list offsets in 20 bytes for 3 entries"),
        ([4, 60, 70, 88, 0], "the vector of entry 0 does not have the length"),
    ],
)
def test_offsets_that_lead_nowhere_are_refused(offsets: list[int], says: str) -> None:
    good = vectors([[1], [2], [3]])
    source = vector_source(good[:-20] + struct.pack(">5i", *offsets), 3)
    with pytest.raises(DataError, match=says):
        source.read(["v"], 0, 3)
