"""CSV, TSV and their relatives."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.source import Source, open_source
from mlaas4hep.data.tables import rows
from mlaas4hep.data.tables import text as text_module
from mlaas4hep.errors import DataError
from mlaas4hep.testing_tables import text_clusters


def opened(folder: Path, text: str | bytes, name: str = "a.csv") -> Source:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(str(path), "Events")


def all_of(source: Source) -> dict[str, list[float]]:
    names = [name for name, info in source.columns.items() if info.type is not None]
    with source:
        return {name: column.tolist() for name, column in source.read(names, 0, source.num_entries).items()}


def types(source: Source) -> dict[str, str]:
    return {name: str(info.type or info.reason) for name, info in source.columns.items()}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", " ", "  ", " \t "])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    lines = [["run", "pt", "eta"], ["1", "20.5", "-1"], ["2", "30", "0.25"]]
    text = "".join(delimiter.join(line) + "\n" for line in lines)
    assert all_of(opened(tmp_path, text)) == {"run": [1, 2], "pt": [20.5, 30], "eta": [-1, 0.25]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_any_system_and_a_last_line_without_one(tmp_path: Path, end: str, last: bool) -> None:
    text = end.join(["a,b", "1,2", "", "3,4"]) + (end if last else "")
    assert all_of(opened(tmp_path, text)) == {"a": [1, 3], "b": [2, 4]}


def test_without_a_line_of_names_columns_are_counted(tmp_path: Path) -> None:
    assert all_of(opened(tmp_path, "1,2.5\n3,4.5\n")) == {"c0": [1, 3], "c1": [2.5, 4.5]}
    assert all_of(opened(tmp_path, "1,s,2\n3,b,4\n", "b.csv")) == {"c0": [1, 3], "c2": [2, 4]}


def test_names_may_stand_in_a_comment_as_numpy_writes_them(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.dat", [[1.5, 2], [3, 4]], header="pt eta")
    with open_source(str(tmp_path / "a.dat")) as source:
        assert all_of(source) == {"pt": [1.5, 3], "eta": [2, 4]}


def test_quotes_blanks_comments_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf# a comment, with commas\n"pt", "a ""b"", c" ,eta\n# 9,9,9\n "1.5" , "x,\ny",  2\n 3 ,z, "" \n'
    found = all_of(source := opened(tmp_path, text))
    assert types(source) == {"pt": "float64", 'a "b", c': "text, not numbers", "eta": "float64"}
    assert found["pt"] == [1.5, 3]
    assert found["eta"][0] == 2
    assert math.isnan(found["eta"][1])


def test_types_hang_on_all_rows(tmp_path: Path) -> None:
    """Whatever is read, and however far down the odd cell stands."""
    text = "i,f,m,t,b,u,v,w,x\n" + "1,1,1,1,true,1,-1,1,true\n" * 500
    text += f"2,1.5,,x,false,{2**64 - 1},{2**64 - 1},{2**63 + 1},NA\n"
    with text_clusters(100), opened(tmp_path, text) as source:
        assert types(source) == {
            "i": "int64",
            "f": "float64",
            "m": "float64",
            "t": "text, not numbers",
            "b": "bool",
            "u": "uint64",
            "v": "float64",
            "w": "uint64",
            "x": "float64",
        }
        first = source.read(["m", "f", "u", "x"], 0, 2)
        assert [first[name].dtype for name in ("m", "f", "u", "x")] == [np.float64, np.float64, np.uint64, np.float64]
        assert source.read(["u"], 500, 501)["u"][0] == 2**64 - 1


def test_whole_numbers_beyond_the_floats_are_exact(tmp_path: Path) -> None:
    numbers = [2**53 + 1, 2**62 + 3, -(2**63), 2**63 - 1]
    assert all_of(opened(tmp_path, "event,x\n" + "".join(f"{one},1\n" for one in numbers)))["event"] == numbers


def test_two_columns_of_one_name_are_refused_by_that_name(tmp_path: Path) -> None:
    assert types(opened(tmp_path, "a,b,a\n1,2,3\n"))["a"] == "several columns have this name"


def test_an_index_that_pandas_wrote_has_no_name(tmp_path: Path) -> None:
    assert all_of(opened(tmp_path, ",pt\n0,2.5\n1,3.5\n")) == {"c0": [0, 1], "pt": [2.5, 3.5]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "line 3: has 1 cells, but there are 2 columns"),
        ("a,b\n1,2\n\n# x\n3,4,5\n", "line 5: has 3 cells, but there are 2 columns"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3: a quoted cell begins there that never ends"),
        ("# nothing but a comment\n", "holds no row"),
    ],
)
def test_lines_that_are_no_rows_are_told_with_their_number(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv.*{words}"):
        opened(tmp_path, text)


def test_a_row_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 500)
    with pytest.raises(DataError, match="line 2: no row ends within"):
        opened(tmp_path, "a,b\n1," + "9" * 5000 + "\n")


def test_clusters_are_bounded_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a,b\n" + "".join(f"{number},{number}\n" for number in range(1000))
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 64)
    with text_clusters(300), opened(tmp_path, text) as source:
        assert source.clusters.tolist() == [0, 300, 600, 900, 1000]
    monkeypatch.setattr(rows, "CLUSTER_BYTES", 1000)
    with opened(tmp_path, text, "b.csv") as source:
        assert np.diff(source.clusters).max() < 260
        assert source.read(["a"], 123, 789)["a"].tolist() == list(range(123, 789))


@pytest.mark.parametrize("pack", [gzip.compress, partial(bz2.compress, compresslevel=1)], ids=["gzip", "bzip2"])
@pytest.mark.parametrize(("members", "room"), [(1, 1 << 30), (3, 1 << 30), (2, 1 << 17)])
def test_compressed_text_is_read_by_ranges(  # type: ignore[no-untyped-def]
    tmp_path: Path, pack, members: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any point, backwards too, where several compressed files were joined, and where little can be kept."""
    monkeypatch.setattr(text_module, "_MAX_SPOOL_BYTES", room)
    monkeypatch.setattr(text_module, "_POINTS_PER_FILE", 3)
    for module, name, eighth in (
        (text_module, "_STEP_BYTES", 1 << 17),
        (text_module, "_READ_BYTES", 1 << 15),
        (rows, "CLUSTER_BYTES", 1 << 18),
    ):
        assert getattr(module, name) == 8 * eighth
        monkeypatch.setattr(module, name, eighth)
    values = np.random.default_rng(3).normal(size=50_000)
    text = ("x\n" + "".join(f"{one!r}\n" for one in values.tolist())).encode()
    cuts = np.linspace(0, len(text), members + 1).astype(int)
    name = "a.csv.gz" if pack is gzip.compress else "a.csv.bz2"
    packed = b"".join(pack(text[a:b]) for a, b in pairwise(cuts))
    with opened(tmp_path, packed, name) as source:
        assert len(source.clusters) > 4
        for start in (49_000, 0, 25_000, 100, 37_500):
            assert np.array_equal(source.read(["x"], start, start + 1000)["x"], values[start : start + 1000])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_damaged_compression_is_told(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    packed = pack(b"a,b\n" + b"1,2\n3,4.5\n" * 5000)
    name = "a.csv.gz" if pack is gzip.compress else "a.csv.bz2"
    with pytest.raises(DataError, match=r"a\.csv\.\w+: is truncated"):
        opened(tmp_path, packed[: len(packed) // 2], name)
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.csv\.\w+"):
        opened(tmp_path, bytes(broken), f"b{name}")


def test_a_page_of_the_web_and_binary_bytes_are_no_table(tmp_path: Path) -> None:
    for data, words in ((b"<html><body>404</body></html>", "HTML"), (b"a,\0\0,b\n1,2,3\n", "begins with")):
        with pytest.raises(DataError, match=words):
            opened(tmp_path, data)


CELLS = st.one_of(
    st.integers(-(2**63), 2**64 - 1).map(str),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(["", "NA", "nan", "inf", "-Infinity"]),
)


@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=20), st.sampled_from([",", "\t", ";", "|"])
)
def test_what_is_read_is_what_pythons_csv_and_float_read(
    tmp_path_factory: pytest.TempPathFactory, table: Sequence[Sequence[str]], delimiter: str
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *table])
    with open_source(str(folder / "a.csv")) as source:
        assert source.num_entries == len(table)
        for place, name in enumerate("ab"):
            cells = [row[place] for row in table]
            column = source.read([name], 0, len(table))[name]
            if column.dtype == np.float64:
                plain = [math.nan if cell in ("", "NA") else float(cell) for cell in cells]
                assert np.array(plain).tobytes() == np.where(np.isnan(column), math.nan, column).tobytes()
            else:
                assert column.tolist() == [int(cell) for cell in cells]


@given(st.binary(max_size=300))
def test_any_bytes_give_a_table_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(DataError):
        all_of(opened(folder, b"a,b\n1,2\n" + data))


def test_real_tables_are_read_as_pythons_csv_reads_them(test_data: Path) -> None:
    for path in sorted(test_data.glob("*/*.csv")):
        with path.open(newline="") as file:
            header, *table = csv.reader(file)
        with open_source(str(path)) as source:
            assert list(source.columns) == header
            assert source.num_entries == len(table)
            for place, (name, info) in enumerate(source.columns.items()):
                if info.type is not None:
                    expected = np.array([float(row[place]) for row in table])
                    assert np.array_equal(source.read([name], 0, len(table))[name].astype(float), expected), (
                        path,
                        name,
                    )
