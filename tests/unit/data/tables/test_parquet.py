"""Parquet files."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.source import Source, open_source
from mlaas4hep.data.tables import parquet
from mlaas4hep.errors import DataError, MissingExtraError

JETS = [[{"pt": 1.0, "q": 1}, {"pt": None, "q": 2}], None, [], [{"pt": 3.0, "q": 3}]]
COLUMNS: dict[str, tuple[Any, str, list[Any]]] = {
    "flag": (pa.array([True, False, True, True]), "bool", [True, False, True, True]),
    "half": (pa.array(np.arange(4, dtype=np.float16)), "float32", [0, 1, 2, 3]),
    "whole": (pa.array([2**53 + 1, 2, 3, -4]), "int64", [2**53 + 1, 2, 3, -4]),
    "large": (pa.array([2**64 - 1, 0, 0, 0], pa.uint64()), "uint64", [2**64 - 1, 0, 0, 0]),
    "gaps": (pa.array([1, None, 3, 4], pa.int32()), "float64", [1, None, 3, 4]),
    "perhaps": (pa.array([True, None, False, True]), "float64", [1, None, 0, 1]),
    "real": (pa.array([1.5, None, math.nan, math.inf]), "float64", [1.5, None, None, math.inf]),
    "never": (pa.nulls(4), "float64", [None] * 4),
    "dictionary": (pa.array([1.5, 2.5, 1.5, 2.5]).dictionary_encode(), "float64", [1.5, 2.5, 1.5, 2.5]),
    "list": (pa.array([[1, 2], None, [], [3]], pa.list_(pa.int16())), "int64[]", [[1, 2], [], [], [3]]),
    "fixed": (pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)), "float32[]", [[1, 2]] * 4),
    "hits": (
        pa.array([[[1.0], []], None, [], [[2.0, None], None]]),
        "float64[][]",
        [[[1], []], [], [], [[2, None], []]],
    ),
    "a.b": (pa.array([1, 2, 3, 4], pa.uint8()), "int64", [1, 2, 3, 4]),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "name": (pa.array(["a", "b", "c", "d"]), "text, not numbers"),
    "coded": (pa.array(["a", "b", "c", "d"]).dictionary_encode(), "text, not numbers"),
    "day": (pa.array([1, 2, 3, 4], pa.int32()).cast(pa.date32()), "values of the type date32"),
    "money": (pa.array([1, 2, 3, 4], pa.decimal128(5, 2)), "values of the type decimal128"),
    "map": (pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int32())), "a map, not numbers"),
    "deep": (pa.array([[[[1]]]] * 4), "lists more than two deep"),
}


def write(folder: Path, table: pa.Table, **options: Any) -> str:
    pq.write_table(table, folder / "a.parquet", **options)
    return str(folder / "a.parquet")


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def all_of(source: Source) -> dict[str, Any]:
    names = [name for name, info in source.columns.items() if info.type is not None]
    with source:
        return {name: plain(column.tolist()) for name, column in source.read(names, 0, source.num_entries).items()}


def test_columns_of_every_kind(tmp_path: Path) -> None:
    table = pa.table({name: one[0] for name, one in (COLUMNS | REFUSED).items()})
    with open_source(write(tmp_path, table, row_group_size=3), "Events") as source:
        assert source.clusters.tolist() == [0, 3, 4]
        for name, (_, words) in REFUSED.items():
            assert (source.columns[name].reason or "").startswith(words)
        assert {name: str(source.columns[name].type) for name in COLUMNS} == {
            name: one[1] for name, one in COLUMNS.items()
        }
        for start, stop in ((0, 4), (1, 4), (2, 3), (0, 0), (3, 4)):
            read = source.read(list(COLUMNS), start, stop)
            assert {name: plain(one.tolist()) for name, one in read.items()} == {
                name: one[2][start:stop] for name, one in COLUMNS.items()
            }


def test_members_of_structs_are_named_with_dots(tmp_path: Path) -> None:
    met = pa.array(
        [{"pt": 1.5, "n": 1, "in": {"x": True}}, None, {"pt": None, "n": 3, "in": None}, {"pt": 2.5, "n": 4}]
    )
    with open_source(write(tmp_path, pa.table({"jet": pa.array(JETS), "met": met}))) as source:
        assert source.columns["jet.q"].description == "int64[]"
        assert all_of(source) == {
            "jet.pt": [[1, None], [], [], [3]],
            "jet.q": [[1, 2], [], [], [3]],
            "met.pt": [1.5, None, None, 2.5],
            "met.n": [1, None, 3, 4],
            "met.in.x": [1, None, None, None],
        }


def test_a_null_in_any_row_group_makes_all_of_the_column_float64(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"n": pa.array([1, 2, 3, None])}), row_group_size=2)
    with open_source(path) as source:
        assert source.read(["n"], 0, 2)["n"].dtype == np.float64


@pytest.mark.parametrize("values", [[1, 2, 3, None], [[1], [2, None], [], [3]]])
def test_a_null_that_no_statistics_tell_of_is_an_error(tmp_path: Path, values: list[Any]) -> None:
    path = write(tmp_path, pa.table({"n": pa.array(values)}), row_group_size=2, write_statistics=False)
    with open_source(path) as source:
        first = 0 if isinstance(values[1], int) else 2
        assert source.read(["n"], first, first + 1)["n"].dtype == np.int64
        with pytest.raises(DataError, match=r"a\.parquet.*column 'n' \(int64\) has a null"):
            source.read(["n"], 2 - first, 4 - first)


def test_parts_of_a_row_group_come_from_one_running_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 100)
    columns = {"x": np.arange(1000.0), "l": pa.array([[i] * (i % 3) for i in range(1000)])}
    with open_source(write(tmp_path, pa.table(columns), row_group_size=1000)) as source:
        for start, stop in ((0, 150), (150, 310), (310, 311), (311, 999), (5, 7), (990, 1000), (0, 1000), (450, 460)):
            read = source.read(["l", "x"], start, stop)
            assert read["x"].tolist() == list(range(start, stop))
            assert read["l"].tolist() == [[i] * (i % 3) for i in range(start, stop)]


def test_giant_row_groups_are_cut_by_their_values(tmp_path: Path) -> None:
    """A dictionary makes 8 MB of values 10 kB in the file."""
    with open_source(write(tmp_path, pa.table({"x": np.zeros(10**6), "y": np.zeros(10**6)}))) as source:
        bounds = source.cut(["x"], 0, 10**6, 10**6)  # type: ignore[attr-defined]
        assert len(bounds) == 13
        assert bounds[0] == 0
        assert bounds[-1] == 10**6
        assert max(np.diff(bounds)) < 90_000


def test_real_nanoaod_has_the_values_of_its_root_file(test_data: Path) -> None:
    with (
        open_source(str(test_data / "nanoaod/nano_dy.parquet")) as one,
        open_source(str(test_data / "nanoaod/nano_dy.root"), "Events") as other,
    ):
        common = [name for name, info in one.columns.items() if info.type and name in other.columns]
        common = [name for name in common if one.columns[name].type == other.columns[name].type]
        assert len(common) > 1400
        first, second = (source.read(common, 0, 40) for source in (one, other))
        for name in common:
            assert plain(first[name].tolist()) == plain(second[name].tolist()), name


def test_a_missing_pyarrow_is_told_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, pa.table({"x": [1.0]}))
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"a\.parquet.*pip install 'mlaas4hep\[parquet\]'"):
        open_source(path)


def packed(compression: str = "snappy") -> bytes:
    file = io.BytesIO()
    table = pa.table({"x": np.arange(500.0), "n": np.arange(500), "jet": pa.array((JETS * 125)[:500])})
    pq.write_table(table, file, row_group_size=200, compression=compression, write_page_checksum=True)
    return file.getvalue()


@pytest.mark.parametrize("size", [4, 10, 100, 3000, -1, -9])
def test_a_truncated_file_is_told(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.parquet").write_bytes(packed()[:size])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        open_source(str(tmp_path / "a.parquet"))


def test_a_column_whose_name_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(packed().replace(b"jet", b"\x80et"))
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read: .*decode byte 0x80"):
        open_source(str(tmp_path / "a.parquet"))


def test_a_wrong_byte_in_a_page_is_seen_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(packed("none"))
    data[data.index(np.arange(100.0, 110.0).tobytes()) + 3] ^= 0x40
    (tmp_path / "a.parquet").write_bytes(data)
    with open_source(str(tmp_path / "a.parquet")) as source:
        assert source.read(["n"], 0, 500)["n"][3] == 3
        with pytest.raises(DataError, match=r"a\.parquet, row group 0: .*CRC"):
            source.read(["x"], 0, 500)


@given(st.data())
def test_any_changed_byte_gives_values_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(packed())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        all_of(open_source(str(path)))
