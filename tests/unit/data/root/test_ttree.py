"""TTrees by our own code: the same bits as uproot's, few reads, nothing inflated twice, damage named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from mlaas4hep.data.places import Buffer, open_place
from mlaas4hep.data.root import baskets as baskets_module
from mlaas4hep.data.root import format as format_module
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import list_trees, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType, Jagged, Nested
from mlaas4hep.testing import make_events, same_column, write_events
from tests.memory_files import in_memory, table_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_events(tmp_path / "a.root", make_events(500, seed=3), cluster=100)


def readable(source: TTreeSource) -> list[str]:
    return [name for name, info in source.columns.items() if info.type is not None]


# Same bits


@pytest.mark.parametrize("codec", [None, uproot.ZLIB(1), uproot.LZ4(1), uproot.ZSTD(1), uproot.LZMA(1)])
def test_every_kind_has_the_bits_that_uproot_reads(tmp_path: Path, codec: Any) -> None:
    rng = np.random.default_rng(1)
    types = {"array": np.dtype(("f4", (3,))), "matrix": np.dtype(("i2", (2, 3))), "flat": "f8", "x": "var * float32"}
    with uproot.recreate(tmp_path / "a.root", compression=codec) as file:
        tree = file.mktree("t", types)
        for entries in (50, 1, 107):
            counts = rng.integers(0, 4, entries)
            tree.extend(
                {
                    "array": rng.normal(size=(entries, 3)).astype("f4"),
                    "matrix": rng.integers(0, 99, (entries, 2, 3)).astype("i2"),
                    "flat": np.arange(entries, dtype="f8"),
                    "nx": counts.astype("i4"),
                    "x": _awkward(Jagged.from_counts(counts, rng.normal(size=counts.sum()).astype("f4"))),
                }
            )
    with open_source(str(tmp_path / "a.root")) as source:
        assert isinstance(source, TTreeSource)
        names = readable(source)
        assert {str(source.columns[name].type) for name in ("array", "matrix")} == {"float32[]", "int64[][]"}
        assert source.columns["matrix"].description == "int16[2][3]"
        for start, stop in ((0, 158), (49, 52), (50, 51), (157, 158), (158, 158), (0, 0)):
            own, others = source._read_own(names, start, stop), source._read_by_uproot(names, start, stop)
            assert all(same_column(own[name], others[name]) for name in names)
        assert isinstance(own["matrix"], Nested)


def _awkward(lists: Jagged) -> Any:
    import awkward as ak

    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(lists.offsets), ak.contents.NumpyArray(lists.values)))


@pytest.mark.slow
def test_real_files_have_the_bits_that_uproot_reads(test_data: Path) -> None:
    columns = 0
    for path in sorted(test_data.rglob("*.root")):
        try:
            trees = [info.name for info in list_trees(str(path)) if info.kind == "TTree"]
        except DataError:
            continue  # other tests say which are refused, and why
        for tree in trees:
            columns += _compare_with_uproot(path, tree) if path.name != "old_cs_compression.root" else 0
    assert columns > 5000


def _compare_with_uproot(path: Path, tree: str) -> int:
    with open_source(str(path), tree) as source:
        assert isinstance(source, TTreeSource)
        names = [name for name in readable(source) if source._layout(name) is not None]
        entries = source.num_entries
        own, others = (
            source._read_own(names, entries // 3, entries),
            source._read_by_uproot(names, entries // 3, entries),
        )
        assert [name for name in names if not same_column(own[name], others[name])] == []
        return len(names)


# Names


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("ntuples/uproot-HZZ-objects.root", "jetp4.fP.fX", ColumnType("jagged", "float64")),
        ("ntuples/uproot-HZZ-objects.root", "MET.fX", ColumnType("flat", "float64")),
        ("jets/quark_gluon_tracks.root", "jet1P4.fE", ColumnType("flat", "float64")),
        ("delphes/delphes.root", "Jet.FracPt", ColumnType("nested", "float32")),
        ("delphes/delphes.root", "Jet.Area.fP.fZ", ColumnType("jagged", "float64")),
        ("ntuples/uproot-double32-float16.root", "array_30", ColumnType("jagged", "float64")),
        ("ntuples/uproot-from-geant4.root", "Energy", ColumnType("flat", "float32")),
    ],
)
def test_members_of_objects_and_arrays_are_columns(
    test_data: Path, name: str, column: str, expected: ColumnType
) -> None:
    tree = "HitStrips" if "geant4" in name else None
    with open_source(str(test_data / name), tree) as source:
        assert source.columns[column].type == expected
        assert len(source.read([column], 1, 4)[column]) == 3


def test_fixed_arrays_become_lists_of_equal_lengths(test_data: Path) -> None:
    with open_source(str(test_data / "ntuples/uproot-double32-float16.root")) as source:
        column = source.read(["array_30"], 2, 6)["array_30"]
    assert isinstance(column, Jagged)
    assert column.counts.tolist() == [3] * 4


# Reading tables


def test_a_table_survives_being_sent_to_another_process(path: Path) -> None:
    place, table = in_memory(path)
    sent = pickle.loads(pickle.dumps(table))
    names = list(table.plans)
    own, other = TTreeSource(place, table).read(names, 90, 310), TTreeSource(place, sent).read(names, 90, 310)
    assert all(same_column(own[name], other[name]) for name in names)


def test_a_file_that_was_open_is_not_parsed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_source(str(path)) as source:
        first = source.read(["MET_pt"], 0, 10)["MET_pt"]
    monkeypatch.setattr(format_module, "open_root", lambda _: pytest.fail("parsed again"))
    for tree in (None, "Events"):
        with open_source(str(path), tree) as source:
            assert same_column(source.read(["MET_pt"], 0, 10)["MET_pt"], first)


def test_a_file_that_changed_is_parsed_again(path: Path) -> None:
    table_of(path)
    write_events(path, make_events(300), cluster=100)
    assert table_of(path).num_entries == 300


# Few reads


def test_a_read_asks_the_place_once_and_joins_neighbours(path: Path) -> None:
    place, table = in_memory(path)
    TTreeSource(place, table).read(list(table.plans), 0, 500)
    assert len(place.reads) == 1
    assert len(place.reads[0]) == 1
    assert sum(stop - start for start, stop in place.reads[0]) <= place.size


def test_ranges_are_not_joined_beyond_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, table = in_memory(path)
    names = list(table.plans)
    whole = TTreeSource(place, table).read(names, 0, 500)
    monkeypatch.setattr(baskets_module, "JOINED_BYTES", 2000)
    read = TTreeSource(place, table).read(names, 0, 500)
    assert len(place.reads[1]) > len(place.reads[0])
    assert all(stop - start <= 2000 for start, stop in place.reads[1])
    assert all(same_column(read[name], whole[name]) for name in names)


def test_ranges_say_what_will_be_read(path: Path) -> None:
    place, table = in_memory(path)
    ranges = table.ranges(["Jet_pt", "MET_pt"], 100, 300)
    assert len(ranges) == 6  # two baskets of each and of the counter
    TTreeSource(place, table).read(["Jet_pt", "MET_pt"], 100, 300)
    [(start, stop)] = place.reads[0]
    assert (start, stop) == (ranges[0][0], ranges[-1][1])


def test_columns_of_one_counter_share_their_offsets(path: Path) -> None:
    with open_source(str(path)) as source:
        read = source.read(["Jet_pt", "Jet_eta"], 50, 150)
    assert isinstance(read["Jet_pt"], Jagged)
    assert isinstance(read["Jet_eta"], Jagged)
    assert read["Jet_pt"].offsets is read["Jet_eta"].offsets


def test_chunks_that_cut_baskets_inflate_each_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, table = in_memory(path)
    inflated: list[int] = []
    inflate = baskets_module.inflate

    def counted(data: Buffer, size: int, **settings: Any) -> Buffer:
        inflated.append(size)
        return inflate(data, size, **settings)

    monkeypatch.setattr(baskets_module, "inflate", counted)
    with TTreeSource(place, table) as source:
        parts = [source.read(["Jet_pt", "MET_pt"], start, start + 70) for start in range(0, 490, 70)]
    assert len(inflated) == 15
    whole = TTreeSource(place, table).read(["Jet_pt", "MET_pt"], 0, 490)["Jet_pt"]
    assert isinstance(whole, Jagged)
    assert same_column(Jagged.concat([part["Jet_pt"] for part in parts]), whole)  # type: ignore[misc]


def test_what_is_kept_between_reads_is_bounded(path: Path) -> None:
    place, table = in_memory(path)
    reader = baskets_module.BasketReader(place, "Events", memo_bytes=500)
    branch, cuts = table.branches["MET_pt"], baskets_module.Cuts()
    list(reader.read([cuts.wanted(branch, 0, 50), cuts.wanted(table.branches["genWeight"], 0, 50)], 50))
    assert sum(len(one.data) for one in reader._memo.values()) == 400
    reader.forget()
    assert not reader._memo


def test_a_place_is_closed_with_its_source(path: Path) -> None:
    source = TTreeSource(open_place(str(path)), table_of(path))
    source.close()
    with pytest.raises(DataError, match="is closed"):
        source.read(["MET_pt"], 0, 1)
