"""RNTuples read by pages: against uproot, in any steps, and where they are damaged."""

from __future__ import annotations

import math
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas4hep.data.places import Buffer, Place, open_place
from mlaas4hep.data.root import format as root_format
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.data.root.fields import Shape, Stored
from mlaas4hep.data.root.ntable import Pages, RNTupleTable, describe_ntuple
from mlaas4hep.data.root.pagememo import PageMemo
from mlaas4hep.data.root.pages import Encoding
from mlaas4hep.data.root.rntuple import RNTupleSource
from mlaas4hep.data.root.source import from_layout, typed
from mlaas4hep.data.source import cut_reads, list_trees, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged, Nested
from mlaas4hep.testing import make_events, refusal, same_column, write_events

GOLDEN = Path(__file__).parents[3] / "golden/rntuple_v1.root"
"""Written by ROOT (see make_rntuple_v1.C beside it): 60 entries in pages of some 8 to 32 elements."""


class Watched:
    """A place that counts what is read of it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.url, self.size, self.identity = place.url, place.size, place.identity
        self.requests: list[list[tuple[int, int]]] = []

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        self.requests.append(list(ranges))
        return self._place.read(ranges)

    def close(self) -> None:
        self._place.close()

    @property
    def nbytes(self) -> int:
        return sum(stop - start for ranges in self.requests for start, stop in ranges)


def table_of(path: Path, tree: str = "Events") -> RNTupleTable:
    place = open_place(str(path))
    try:
        return describe_ntuple(open_root(place)[tree], place, tree)
    finally:
        place.close()


def readable(source: Any) -> list[str]:
    return [name for name, info in source.columns.items() if info.type is not None]


def in_steps(source: Any, names: Sequence[str], bounds: Sequence[int]) -> Iterator[tuple[int, int, dict[str, Column]]]:
    for start, stop in pairwise(bounds):
        yield start, stop, source.read(names, start, stop)


# ------------------------------------------------------------------------------------------------- what ROOT writes


def member(value: Any, path: Sequence[str], lists: int) -> Any:
    """A member of what awkward gives as Python objects; nothing becomes an empty list or NaN."""
    if value is None:
        return [] if lists else math.nan
    if isinstance(value, list):
        return [member(one, path, lists - 1) for one in value]
    if path:
        return member(value[int(path[0])] if isinstance(value, tuple) else value[path[0]], path[1:], lists)
    return value


def comparable(value: Any) -> Any:
    if isinstance(value, list):
        return [comparable(one) for one in value]
    return "missing" if isinstance(value, float) and math.isnan(value) else value


def in_cpp(ntuple: Any, name: str, lists: int) -> list[Any]:
    top, *path = name.split(".")
    values = ntuple[top].array().tolist()
    if str(ntuple[top].typename).startswith("std::unique_ptr"):  # a list of none or one, says uproot
        values = [one[0] if one else None for one in values]
    return [comparable(member(one, path, lists)) for one in values]


def test_all_that_root_writes_has_the_values_that_uproot_finds() -> None:
    with open_source(str(GOLDEN)) as source, uproot.open(GOLDEN) as file:
        names = readable(source)
        assert len(names) == 34
        for name, column in source.read(names, 0, 60).items():
            lists = {"flat": 0, "jagged": 1, "nested": 2}[source.columns[name].type.kind]
            assert comparable(column.tolist()) == in_cpp(file["Events"], name, lists), name


def test_what_is_no_number_is_refused_in_plain_words() -> None:
    with open_source(str(GOLDEN)) as source:
        reasons = {name: info.reason for name, info in source.columns.items() if info.type is None}
    assert reasons == {
        "text": "text, not numbers",
        "deep": "lists inside lists inside lists",
        "either": "values of several types",
    }


def test_fields_that_were_added_late_are_zero_before() -> None:
    with open_source(str(GOLDEN)) as source:
        read = source.read(["late", "late_list", "late_pair"], 0, 60)
        again = source.read(["late", "late_list", "late_pair"], 22, 28)
    assert np.flatnonzero(read["late"])[0] == 25
    assert read["late_list"].counts[:25].sum() == 0 < read["late_list"].counts[25:].sum()
    assert not read["late_pair"].values[:50].any()
    assert np.diff(read["late_pair"].offsets).tolist() == [2] * 60
    for name, column in again.items():
        assert same_column(column, read[name][22:28])


def test_missing_values_are_nan_and_missing_lists_empty() -> None:
    with open_source(str(GOLDEN)) as source:
        types = {name: str(info.type) for name, info in source.columns.items()}
        read = source.read(["maybe", "maybe_whole", "owned", "list_of_maybe"], 0, 60)
    assert types["maybe"] == "float32"
    assert types["maybe_whole"] == "float64"
    assert types["maybe_list"] == types["list_of_maybe"] == "float32[]"
    assert all(0 < np.isnan(getattr(one, "values", one)).sum() < len(one) for one in read.values())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60), max_size=12), st.booleans())
def test_any_steps_give_the_same_values(places: list[int], in_order: bool) -> None:
    table = TABLE
    with RNTupleSource(open_place(str(GOLDEN)), table, memo=PageMemo()) as source:
        whole = source.read(list(table.shapes), 0, 60)
        bounds = [0, *(sorted(places) if in_order else places), 60]
        for start, stop in pairwise(bounds):
            low, high = min(start, stop), max(start, stop)
            for name, column in source.read(list(table.shapes), low, high).items():
                assert same_column(column, whole[name][low:high]), (name, low, high)


TABLE = table_of(GOLDEN)


# ------------------------------------------------------------------------------------------------ real files, uproot

REAL = [
    "jets/jets_top_rntuple.root",
    "jets/jets_qcd_rntuple.root",
    "rntuple/Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root",
    "rntuple/test_1jag_int_float_rntuple_v1-0-0-0.root",
    "rntuple/test_multiple_cluster_groups_rntuple_v1-0-0-0.root",
    "rntuple/test_nested_structs_rntuple_v1-0-0-0.root",
    "rntuple/test_stl_containers_rntuple_v1-0-0-0.root",
    # Hundreds of columns, for five seconds.
    pytest.param("rntuple/uproot-physlite-rntuple_v1-0-0-0.root", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", REAL)
def test_every_column_of_real_files_is_bit_equal_to_uproot(test_data: Path, name: str) -> None:
    path = str(test_data / name)
    compared = 0
    for tree in (info.name for info in list_trees(path) if info.kind == "RNTuple"):
        with open_source(path, tree) as source, uproot.open(path) as file:
            arrays = file[tree].arrays()
            half = source.num_entries // 2
            parts = [source.read(readable(source), *one) for one in ((half, source.num_entries), (0, half))]
            for column in readable(source):
                expected = arrays
                for part in column.split("."):
                    expected = expected[part]
                second, first = from_layout(expected.layout[half:]), from_layout(expected.layout[:half])
                assert same_column(parts[0][column], second), column
                assert same_column(parts[1][column], first), column
                compared += 1
    assert compared > 0


@st.composite
def any_columns(draw: st.DrawFn) -> tuple[dict[str, Column], int]:
    """Columns of all kinds that uproot can write, and the entries of a cluster."""
    entries = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    columns: dict[str, Column] = {}
    for number in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(["bool", "int8", "uint16", "int32", "uint64", "float32", "float64"]))
        depth = draw(st.integers(0, 2))
        sizes: list[np.ndarray[Any, Any]] = []
        total = entries
        for _ in range(depth):
            sizes.append(rng.integers(0, 4, total))
            total = int(sizes[-1].sum())
        column: Any = rng.integers(0, 2 if dtype == "bool" else 100, total).astype(dtype)
        if depth:
            column = Jagged.from_counts(sizes[-1], column)
        if depth == 2:
            column = Nested.from_counts(sizes[0], column)
        columns[f"x{number}"] = column
    return columns, draw(st.integers(1, 12))


def as_awkward(column: Column) -> Any:
    def layout(one: Column) -> Any:
        if isinstance(one, np.ndarray):
            return ak.contents.NumpyArray(one)
        inner = one.inner if isinstance(one, Nested) else one.values
        return ak.contents.ListOffsetArray(ak.index.Index64(one.offsets), layout(inner))

    return ak.Array(layout(column))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_columns(), st.data())
def test_what_uproot_writes_comes_back(
    tmp_path: Path, written: tuple[dict[str, Column], int], data: st.DataObject
) -> None:
    columns, cluster = written
    entries = len(next(iter(columns.values())))
    types = {name: as_awkward(column).type.content for name, column in columns.items()}
    compression = data.draw(st.sampled_from([None, uproot.ZLIB(1), uproot.LZ4(4), uproot.ZSTD(1), uproot.LZMA(1)]))
    with uproot.recreate(tmp_path / "a.root", compression=compression) as file:
        tree = file.mkrntuple("t", {name: str(one) for name, one in types.items()})
        for start in range(0, entries, cluster):
            tree.extend({name: as_awkward(column[start : start + cluster]) for name, column in columns.items()})
    low = data.draw(st.integers(0, entries))
    high = data.draw(st.integers(low, entries))
    with open_source(str(tmp_path / "a.root")) as source:
        assert np.diff(source.clusters).max() <= cluster
        for start, stop in ((0, entries), (low, high)):
            for name, column in source.read(list(columns), start, stop).items():
                assert same_column(column, columns[name][start:stop]), name


def test_an_ntuple_without_entries_or_without_numbers_opens(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("empty", {"x": "float32", "e": "var * float32"})
        file.mkrntuple("text", {"name": "string"})
        file["text"].extend({"name": ak.Array(["a", "b"])})
    with open_source(str(tmp_path / "a.root"), "empty") as source:
        assert (source.num_entries, source.clusters.tolist()) == (0, [0])
        read = source.read(["x", "e"], 0, 0)
        assert read["x"].shape == (0,)
        assert read["e"].tolist() == []
    with open_source(str(tmp_path / "a.root"), "text") as source:
        assert (source.num_entries, source.columns["name"].reason) == (2, "text, not numbers")


# --------------------------------------------------------------------------------------------------- what is read


def test_steps_of_any_size_read_and_inflate_each_page_once() -> None:
    names = list(TABLE.shapes)
    stored = sum(stop - start for start, stop in TABLE.ranges(names, 0, 60))
    for step in (60, 20, 7, 1):
        place = Watched(open_place(str(GOLDEN)))
        memo = PageMemo()
        with RNTupleSource(place, TABLE, memo=memo) as source:
            for _ in in_steps(source, names, [*range(0, 60, step), 60]):
                pass
            assert memo.nbytes == 0, "every page was used up"
        assert place.nbytes == stored, step


def test_only_pages_that_hold_the_entries_are_read() -> None:
    pages = TABLE.pages.overlapping(TABLE.shapes["number"].stored, 1, 3, 9)
    place = Watched(open_place(str(GOLDEN)))
    with RNTupleSource(place, TABLE, memo=PageMemo()) as source:
        source.read(["number"], 23, 29)
    assert place.requests == [[TABLE.pages.range_of(page) for page in pages]]
    assert 0 < len(pages) < len(TABLE.pages.overlapping(TABLE.shapes["number"].stored, 1, 0, 20))


def test_whole_clusters_are_asked_for_at_once() -> None:
    place = Watched(open_place(str(GOLDEN)))
    with RNTupleSource(place, TABLE, memo=PageMemo()) as source:
        source.read(list(TABLE.shapes), 20, 60)
    assert len(place.requests) == 1
    assert sorted(place.requests[0]) == TABLE.ranges(list(TABLE.shapes), 20, 60)


def test_a_memo_without_room_costs_time_and_changes_nothing() -> None:
    memo = PageMemo(max_bytes=100)
    with RNTupleSource(open_place(str(GOLDEN)), TABLE, memo=memo) as source:
        whole = source.read(list(TABLE.shapes), 0, 60)
        for start, stop, read in in_steps(source, list(TABLE.shapes), [*range(0, 60, 7), 60]):
            assert memo.nbytes <= 100
            assert all(same_column(one, whole[name][start:stop]) for name, one in read.items())


def test_threads_that_need_the_same_pages_read_them_once() -> None:
    names, memo = ["number", "flag", "i64", "u64", "half", "floats"], PageMemo()
    places = [Watched(open_place(str(GOLDEN))) for _ in range(5)]
    *sources, alone = [RNTupleSource(place, TABLE, memo=memo) for place in places]
    expected = alone.read(names, 0, 2)
    once = places[-1].nbytes
    alone.close()
    assert memo.nbytes == 0
    with ThreadPoolExecutor(len(sources)) as pool:
        for _ in range(20):
            for read in pool.map(lambda source: source.read(names, 0, 2), sources):
                assert all(same_column(column, expected[name]) for name, column in read.items())
    assert sum(place.nbytes for place in places[:-1]) == once
    for source in sources:
        source.close()
    assert memo.nbytes == 0


def test_a_page_that_one_thread_cannot_read_is_refused_to_all_and_blocks_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.root"
    damage(GOLDEN, bad, TABLE.pages.range_of(next(iter(TABLE.pages.overlapping(stored_number("floats"), 0, 0, 1))))[0])
    memo = PageMemo()
    sources = [RNTupleSource(open_place(str(bad)), TABLE, memo=memo) for _ in range(4)]
    with ThreadPoolExecutor(len(sources)) as pool:
        done = [pool.submit(source.read, ["floats", "number"], 0, 19) for source in sources]
        for one in done:
            assert "field 'floats'" in str(one.exception(timeout=30))
    assert sources[0].read(["number"], 0, 19)["number"].shape == (19,)


def stored_number(name: str) -> int:
    return TABLE.shapes[name].stored


def test_opening_again_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_events(tmp_path / "a.root", make_events(50), format="rntuple"))
    with open_source(path) as source:
        first = source.read(["MET_pt"], 0, 50)["MET_pt"]

    def never(*_: object) -> None:
        raise AssertionError("was parsed again")

    monkeypatch.setattr(root_format, "open_root", never)
    with open_source(path) as source:
        assert same_column(source.read(["MET_pt"], 0, 50)["MET_pt"], first)
    shutil.copy(write_events(tmp_path / "b.root", make_events(60), format="rntuple"), path)
    with pytest.raises(DataError, match="parsed again"):
        open_source(path)


def test_a_table_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(TABLE))
    with (
        RNTupleSource(open_place(str(GOLDEN)), TABLE) as one,
        RNTupleSource(open_place(str(GOLDEN)), sent) as other,
    ):
        first, second = one.read(list(TABLE.shapes), 3, 57), other.read(list(TABLE.shapes), 3, 57)
    assert all(same_column(column, second[name]) for name, column in first.items())
    assert sent.nbytes == TABLE.nbytes > 10_000


def test_a_giant_cluster_is_cut_by_bytes(tmp_path: Path) -> None:
    columns = {"x": np.arange(5000.0), "e": Jagged.from_counts(np.full(5000, 50), np.zeros(250_000, np.float32))}
    path = str(write_events(tmp_path / "a.root", columns, format="rntuple", cluster=5000))
    with open_source(path) as source:
        assert cut_reads(source, ["x"], 0, 5000, max_bytes=40_000) == [0, 5000]
        bounds = cut_reads(source, ["x", "e"], 100, 5000, max_bytes=100_000)
        assert (bounds[0], bounds[-1]) == (100, 5000)
        assert max(np.diff(bounds)) * 216 <= 110_000
        assert len(bounds) - 1 == 11
        smallest = np.diff(cut_reads(source, ["e"], 0, 5000, max_bytes=1))
        assert smallest.min() >= 64
        for start, stop, read in in_steps(source, ["x", "e"], bounds):
            assert all(same_column(read[name], columns[name][start:stop]) for name in columns)


def test_a_column_stored_in_two_ways_is_read_by_what_its_cluster_uses() -> None:
    """As ROOT allows from one cluster to the next; the other representation has no pages there."""
    whole, half = np.array([1.5, 2.5, -3.0], np.float32), np.array([0.5, 4.0], np.float16)
    content = whole.tobytes() + half.tobytes()
    pages = Pages(
        bounds=np.array([[0, 1, 2]]),
        seek=np.array([0, 12]),
        stored=np.array([12, 4]),
        first=np.array([0, 0]),
        count=np.array([3, 2]),
        checked=np.zeros(2, np.bool_),
        elements=np.array([[3, 2]]),
        missing=np.zeros((1, 2), np.int64),
        representation=np.array([[0, 1]], np.int16),
        same=np.array([0, 1]),
        twin=np.zeros((1, 2), np.int64),
    )
    encodings = (Encoding(0x0C, 32), Encoding(0x0B, 16))
    stored = Stored("x", (0, 1), encodings, (0, 0), 1, np.dtype("float32"))
    info = typed("x", np.dtype("float32"), "flat", "")
    table = RNTupleTable("t", 5, {"x": info}, {"x": Shape((), 0)}, [stored], np.array([0, 3, 5]), pages)
    with RNTupleSource(InMemory(content), table) as source:
        assert source.read(["x"], 0, 5)["x"].tolist() == [1.5, 2.5, -3.0, 0.5, 4.0]
        assert source.read(["x"], 2, 4)["x"].tolist() == [-3.0, 0.5]


class InMemory:
    def __init__(self, content: bytes) -> None:
        self.url, self.size, self.identity, self._content = "memory", len(content), f"{id(self)}", content

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return [self._content[start:stop] for start, stop in ranges]

    def close(self) -> None:
        """Nothing to give back."""


# ----------------------------------------------------------------------------------------------------------- damage


def damage(good: Path, bad: Path, place: int, new: bytes | None = None) -> Path:
    content = bytearray(good.read_bytes())
    new = bytes([content[place] ^ 0x55]) if new is None else new
    content[place : place + len(new)] = new
    bad.write_bytes(content)
    return bad


def test_one_wrong_bit_in_any_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    for name in ("number", "floats", "lists", "flag", "quant13"):
        number = stored_number(name)
        page = next(iter(TABLE.pages.overlapping(number, 1, 5, 6)))
        bad = damage(GOLDEN, tmp_path / "bad.root", TABLE.pages.range_of(page)[0] + 3)
        with open_source(str(bad)) as source:
            message = refusal(lambda name=name: source.read([name], 20, 40))  # type: ignore[misc]
            assert "bad.root" in message
            assert "'Events'" in message
            assert f"field '{name}" in message
            assert "entries 20 to 40" in message
            assert "page " in message
            source.read([name], 40, 60)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An RNTuple without compression: 10 entries in one cluster, lists of 0 to 3 values."""
    path = tmp_path / "plain.root"
    with uproot.recreate(path, compression=None) as file:
        file.mkrntuple("t", {"x": "float32", "e": "var * float32"})
        lists = as_awkward(Jagged.from_counts([0, 1, 2, 3, 0, 1, 2, 3, 0, 1], np.arange(13, dtype=np.float32)))
        file["t"].extend({"x": np.arange(10, dtype=np.float32), "e": lists})
    return path


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        (4, 1, "list ends fall"),
        (4, -1, "list ends fall"),
        (0, -5, "list ends fall, or are negative"),
        (9, 12, "lists end at 12, but 13 elements are there"),
        (9, 14, "its lists hold 14 elements, 13 are there"),
        (9, 2**62, f"its lists hold {2**62} elements, 13 are there"),
    ],
)
def test_list_ends_that_cannot_be_are_refused_before_memory_is_asked_for(
    plain: Path, tmp_path: Path, entry: int, value: int, says: str
) -> None:
    table = table_of(plain, "t")
    seek = first_seek(table, table.shapes["e"].steps[0].stored)
    bad = damage(plain, tmp_path / "bad.root", seek + 8 * entry, struct.pack("<q", value))
    with open_source(str(bad)) as source:
        message = refusal(lambda: source.read(["e"], 0, 10))
        assert says in message
        assert "field 'e'" in message
        assert "bad.root" in message
        assert source.read(["x"], 0, 10)["x"].tolist() == list(range(10))


def first_seek(table: RNTupleTable, number: int) -> int:
    return int(table.pages.seek[table.pages.bounds[number, 0]])


def forged(plain: Path, bad: Path, change: Callable[[bytearray], None]) -> Path:
    """The file with another page list, whose checksum fits."""
    with uproot.open(plain) as file:
        link = file["t"].footer.cluster_group_records[0].page_list_link.locator
    content = bytearray(plain.read_bytes())
    envelope = content[link.offset : link.offset + link.num_bytes]
    change(envelope)
    envelope[-8:] = xxhash.xxh3_64_intdigest(bytes(envelope[:-8])).to_bytes(8, "little")
    content[link.offset : link.offset + link.num_bytes] = envelope
    bad.write_bytes(content)
    return bad


X_PAGE = struct.Struct("<iiQ")


@pytest.mark.parametrize(
    ("elements", "stored", "seek", "says"),
    [
        (11, 40, None, "has 11 elements for the entries 0 to 10, 10 are expected"),
        (9, 36, None, "has 9 elements"),
        (2**31 - 1, 40, None, "elements"),
        (10, 41, None, "in 41 bytes"),
        (10, 0, None, "in 0 bytes"),
        (10, 40, 10**9, "from byte 1000000000 on"),
        (10, 40, 2**64 - 8, "from byte 18446744073709551608 on"),
        (10, -7, None, "beyond 2 GB"),
    ],
)
def test_page_lists_that_cannot_be_are_refused_when_the_file_is_opened(
    plain: Path, tmp_path: Path, elements: int, stored: int, seek: int | None, says: str
) -> None:
    table = table_of(plain, "t")
    true_seek = first_seek(table, table.shapes["x"].stored)

    def change(envelope: bytearray) -> None:
        at = envelope.index(X_PAGE.pack(10, 40, true_seek))
        envelope[at : at + X_PAGE.size] = X_PAGE.pack(elements, stored, true_seek if seek is None else seek)

    bad = forged(plain, tmp_path / "bad.root", change)
    with pytest.raises(DataError, match="damaged") as refused:
        open_source(str(bad))
    assert says in str(refused.value)
    assert "bad.root, tree 't'" in str(refused.value)


def test_a_page_of_more_bytes_than_its_elements_need_is_not_read_beyond_them(plain: Path, tmp_path: Path) -> None:
    """A page may be announced shorter than it is needed: then it must be compressed, which it is not."""
    table = table_of(plain, "t")
    true_seek = first_seek(table, table.shapes["x"].stored)

    def change(envelope: bytearray) -> None:
        at = envelope.index(X_PAGE.pack(10, 40, true_seek))
        envelope[at : at + X_PAGE.size] = X_PAGE.pack(10, 36, true_seek)

    with open_source(str(forged(plain, tmp_path / "bad.root", change))) as source:
        assert "page 0: is damaged" in refusal(lambda: source.read(["x"], 0, 10))


def test_damage_anywhere_in_metadata_is_an_error_that_names_the_file(plain: Path, tmp_path: Path) -> None:
    """Frames of a page list with a valid checksum, byte by byte: an error, or all values as they were."""
    with open_source(str(plain)) as source:
        good = source.read(["x", "e"], 0, 10)
    with uproot.open(plain) as file:
        length = file["t"].footer.cluster_group_records[0].page_list_link.locator.num_bytes
    refused: list[tuple[int, str]] = []
    for at in range(16, length - 8, 3):

        def change(envelope: bytearray, at: int = at) -> None:
            envelope[at] ^= 0xA5

        bad = forged(plain, tmp_path / f"bad{at}.root", change)
        try:
            with open_source(str(bad)) as source:
                read = source.read(["x", "e"], 0, source.num_entries)
                moved = read["x"].tolist() != good["x"].tolist() or read["e"].tolist() != good["e"].tolist()
                assert not moved or read["x"].shape == (10,), "pages of uproot have no checksum: only their place moved"
        except DataError as error:
            refused.append((at, str(error)))
    assert len(refused) > 40
    assert all(f"bad{at}.root" in message for at, message in refused)


def test_a_page_list_with_a_wrong_checksum_is_refused(plain: Path, tmp_path: Path) -> None:
    with uproot.open(plain) as file:
        seek = file["t"].footer.cluster_group_records[0].page_list_link.locator.offset
    bad = damage(plain, tmp_path / "bad.root", seek + 40)
    with pytest.raises(DataError, match="checksum of a page list does not match"):
        open_source(str(bad))
