"""What every source keeps; a new format adds a class here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.data.source import Source, open_source
from mlaas4hep.spec.columns import Column, Jagged, Nested
from mlaas4hep.testing import Format, SourceContract, ending, supports_jagged, write_events
from mlaas4hep.testing_tables import as_stored, text_clusters


def every_kind(num_entries: int = 230) -> dict[str, Column]:
    """All number types that have a counterpart, with NaN, infinities and empty lists among them."""
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 4, num_entries)
    floats = rng.normal(size=num_entries).astype(np.float32)
    floats[:3] = [np.nan, np.inf, -np.inf]
    columns: dict[str, Column] = {"flag": rng.integers(0, 2, num_entries).astype(np.bool_), "x": floats}
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64"):
        columns[f"n_{name}"] = rng.integers(0, 100, num_entries).astype(name)
    for name in ("float32", "float64", "int32"):
        columns[f"Jet_{name}"] = Jagged.from_counts(counts, rng.integers(0, 100, counts.sum()).astype(name))
    return columns


class RootContract(SourceContract):
    format: Format

    @pytest.fixture
    def expected(self) -> dict[str, Column]:
        return every_kind()

    @pytest.fixture
    def source(self, expected: dict[str, Column], tmp_path: Path) -> Iterator[Source]:
        path = write_events(tmp_path / "a.root", expected, format=self.format, cluster=60)
        with open_source(str(path)) as source:
            yield source


class TestTTree(RootContract):
    format = "ttree"


class TestRNTuple(RootContract):
    format = "rntuple"


class TableContract(SourceContract):
    format: Format

    @pytest.fixture
    def written(self) -> dict[str, Column]:
        columns = every_kind()
        if not supports_jagged(self.format):
            return {name: column for name, column in columns.items() if not isinstance(column, Jagged)}
        counts = np.arange(len(columns["x"])) % 3
        inner = Jagged.from_counts(np.arange(counts.sum()) % 4, np.arange(float(sum(np.arange(counts.sum()) % 4))))
        return columns | {"Jet_hits": Nested.from_counts(counts, inner)}

    @pytest.fixture
    def expected(self, written: dict[str, Column]) -> dict[str, Column]:
        return as_stored(written, self.format)

    @pytest.fixture
    def source(self, written: dict[str, Column], tmp_path: Path) -> Iterator[Source]:
        path = write_events(tmp_path / f"a{ending(self.format)}", written, format=self.format, cluster=60)
        with text_clusters(60), open_source(str(path)) as source:
            assert source.clusters.tolist() == [0, 60, 120, 180, 230]
            yield source


class TestParquet(TableContract):
    format = "parquet"


class TestCsv(TableContract):
    format = "csv"


class TestJson(TableContract):
    format = "json"


class TestAvro(TableContract):
    format = "avro"
