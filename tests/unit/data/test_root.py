"""ROOT files: kinds of columns, and files that are not what they should be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.data.root import TTreeSource
from mlaas4hep.data.source import list_trees, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType, Jagged
from mlaas4hep.testing import ROOT_FORMATS, Format, make_events, write_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_events(tmp_path / "a.root", make_events(500), cluster=100, extra={"Runs": {"sumw": [1.0]}})


def test_a_tree_is_found_by_name_and_the_only_one_without(path: Path, tmp_path: Path) -> None:
    assert [info.name for info in list_trees(str(path))] == ["Events", "Runs"]
    with open_source(str(path), "Events") as source:
        assert (source.tree, source.num_entries, len(source.clusters)) == ("Events", 500, 6)
    with open_source(str(write_events(tmp_path / "one.root", {"x": [1.0, 2.0]}, tree="t"))) as source:
        assert source.tree == "t"


def test_a_tree_that_is_not_there_is_refused_with_the_nearest(path: Path) -> None:
    with pytest.raises(DataError, match="no tree 'Event'; did you mean 'Events'"):
        open_source(str(path), "Event")
    with pytest.raises(DataError, match="holds 2 trees: Events, Runs; say which"):
        open_source(str(path))


def test_only_what_the_bytes_provoke_is_blamed_on_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    def not_found(*_: object) -> None:
        raise AttributeError("in a library")  # this module is none of the package's

    with open_source(str(path), "Events") as source:
        monkeypatch.setattr(TTreeSource, "_read", no_memory)
        with pytest.raises(MemoryError):
            source.read(["MET_pt"], 0, 10)
        monkeypatch.setattr(TTreeSource, "_read", not_found)
        with pytest.raises(DataError, match=r"in a library \(AttributeError\)"):
            source.read(["MET_pt"], 0, 10)
        monkeypatch.undo()
        monkeypatch.delattr(source, "table")
        with pytest.raises(AttributeError, match="no attribute 'table'"):
            source.read(["MET_pt"], 0, 10)


@pytest.mark.parametrize("keep", [3, 30, 400, 10_000])
def test_a_truncated_file_is_refused_by_size(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.root: is (truncated|not a file of a known format)"):
        open_source(str(path), "Events")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"EventId,pt\n1,2\n", "not a file of a known format .*; it begins with b'EventId,pt"),
        (b"\x89HDF....", "looks like HDF5"),
        (b"<html>404</html>", "looks like HTML"),
    ],
)
def test_what_is_not_root_is_refused_with_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.root").write_bytes(content)
    with pytest.raises(DataError, match=says):
        open_source(str(tmp_path / "x.root"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_source(str(tmp_path / "no.root"))
    with pytest.raises(DataError, match="is a folder"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("format", ROOT_FORMATS)
def test_damaged_bytes_end_in_one_error_or_good_values(tmp_path: Path, format: Format) -> None:
    """Wherever bytes are overwritten: an error that names the file, or what was written; nothing else escapes."""
    good = write_events(tmp_path / "good.root", make_events(300), format=format, cluster=100)
    whole = good.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for place in rng.integers(64, len(whole) - 32, 40).tolist():
        bad = tmp_path / "bad.root"
        bad.write_bytes(whole[:place] + rng.bytes(32) + whole[place + 32 :])
        try:
            with open_source(str(bad), "Events") as source:
                readable = [name for name, info in source.columns.items() if info.type is not None]
                source.read(readable, 0, source.num_entries)
        except DataError as error:
            refused += "bad.root" in str(error)
    assert refused >= 10


@pytest.mark.parametrize("format", ROOT_FORMATS)
def test_dots_slices_and_order_of_names_are_kept(tmp_path: Path, format: Format) -> None:
    columns = {"b": np.arange(5.0), "a": Jagged.from_lists([[1], [], [2, 3], [], [4]])}
    with open_source(str(write_events(tmp_path / "a.root", columns, format=format, cluster=2))) as source:
        read = source.read(["a", "b"], 1, 4)
    assert list(read) == ["a", "b"]
    assert read["a"].tolist() == [[], [2, 3], []]
    assert read["b"].tolist() == [1, 2, 3]


def test_a_tree_without_entries_opens_with_no_clusters(test_data: Path) -> None:
    with open_source(str(test_data / "broken/uproot-empty.root")) as source:
        assert source.num_entries == 0
        assert source.clusters.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken/old_cs_compression.root", "unsupported compression algorithm"),
        ("broken/rntuple_prerelease.root", "pre-release format"),
    ],
)
def test_files_of_other_times_are_refused_in_plain_words(test_data: Path, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_source(str(test_data / name))


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("ntuples/uproot-HZZ.root", "Jet_Px", ColumnType("jagged", "float32")),
        ("ntuples/uproot-HZZ.root", "NJet", ColumnType("flat", "int64")),
        ("ntuples/uproot-HZZ-objects.root", "jetid", ColumnType("jagged", "bool")),
        ("ntuples/uproot-double32-float16.root", "double32_32", ColumnType("flat", "float64")),
        ("ntuples/uproot-double32-float16.root", "float16_10", ColumnType("flat", "float32")),
        ("delphes/delphes.root", "Jet.PT", ColumnType("jagged", "float32")),
        ("rntuple/test_nested_structs_rntuple_v1-0-0-0.root", "my_struct.i", ColumnType("flat", "int64")),
        ("jets/jets_qcd_rntuple.root", "part.pt", ColumnType("jagged", "float32")),
    ],
)
def test_columns_of_other_people_have_their_kind(test_data: Path, name: str, column: str, expected: ColumnType) -> None:
    with open_source(str(test_data / name)) as source:
        assert source.columns[column].type == expected
        read = source.read([column], 1, 4)[column]
        assert len(read) == 3
        assert isinstance(read, Jagged) == (expected.kind == "jagged")


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        ("ntuples/uproot-Zmumu.root", "Type", "text, not numbers"),
        ("delphes/delphes.root", "Jet.Constituents", "objects of the class"),
        ("delphes/delphes.root", "Jet.TrimmedP4", "arrays of objects"),
        ("delphes/delphes.root", "Jet.fBits", "bookkeeping of TObject"),
    ],
)
def test_columns_that_are_no_numbers_are_refused_by_name(test_data: Path, name: str, column: str, says: str) -> None:
    with open_source(str(test_data / name)) as source, pytest.raises(DataError, match=says) as refused:
        source.read([column], 0, 1)
    assert f"'{column}'" in str(refused.value)


def test_ttree_and_rntuple_of_the_same_jets_hold_the_same_values(test_data: Path) -> None:
    with (
        open_source(str(test_data / "jets/jets_top.root")) as tree,
        open_source(str(test_data / "jets/jets_top_rntuple.root")) as ntuple,
    ):
        one, other = tree.read(["part_pt"], 10, 900)["part_pt"], ntuple.read(["part.pt"], 10, 900)["part.pt"]
    assert one.tolist() == other.tolist()


def test_a_file_that_changes_under_a_stream_is_noticed(tmp_path: Path, path: Path) -> None:
    from mlaas4hep.data.entries import FileEntry
    from mlaas4hep.data.pool import SourcePool

    with open_source(str(path), "Events") as source:
        entry = FileEntry(0, 0, 0, str(path), "Events", source.clusters, source.num_entries)
    shutil.copy(write_events(tmp_path / "b.root", make_events(400)), path)
    with pytest.raises(DataError, match="has 400 entries now, had 500"), SourcePool().source(entry):
        pass
