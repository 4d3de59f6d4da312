"""Copies of the input with new columns: what is copied keeps its bits, what is not is refused by name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import DataError
from mlaas4hep.score import copied
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import Manner, score_files
from mlaas4hep.score.verify import verify
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from tests.scored import identified, offline, read_output, write_input
from tests.small_bundle import write_small_bundle

COUNT = 130


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


def copy(bundle: Bundle, path: Path, *drop: str, tree: str | None = None) -> Path:
    out = path.parent / "out"
    done = score_files(ask([bundle]), [str(path)], str(out), tree=tree, manner=Manner("copy", drop=drop))
    assert not verify(str(out), [str(path)], tree=tree)[0].problems
    return Path(done.outputs[0].path)


def jagged(values: Any) -> Any:
    return ak.unflatten(values.values, values.counts) if isinstance(values, Jagged) else np.asarray(values)


def rich() -> dict[str, Any]:
    """All that uproot writes into an RNTuple and reads back as it was."""
    random = np.random.default_rng(3)
    more = {
        "text": ak.Array([f"trigger {number}" * (number % 3) for number in range(COUNT)]),
        "vectors": ak.Array([[[1.5] * (number % 3)] * (number % 2) for number in range(COUNT)]),
        "matrix": ak.to_regular(ak.Array(random.normal(size=(COUNT, 3)).astype(np.float32)), axis=1),
        "maybe": ak.Array([None if number % 4 == 0 else float(number) for number in range(COUNT)]),
        "small": random.integers(-100, 100, COUNT).astype(np.int8),
    }
    return {name: jagged(one) for name, one in identified(COUNT).items()} | more


def write_rntuple(path: Path, columns: dict[str, Any], *, pieces: int = 3) -> None:
    with uproot.recreate(path) as file:
        parts = np.linspace(0, COUNT, pieces + 1).astype(int)
        first = {name: one[: parts[1]] for name, one in columns.items()}
        made = file.mkrntuple("Events", first)
        for low, high in pairwise(parts[1:]):
            made.extend({name: one[low:high] for name, one in columns.items()})
        file["note"] = "of the run"
        file["more/Runs"] = {"sum": np.arange(4.0)}


def test_fields_of_an_rntuple_keep_their_types_and_values(bundle: Bundle, tmp_path: Path) -> None:
    path, columns = tmp_path / "a.root", rich()
    write_rntuple(path, columns)
    with uproot.open(copy(bundle, path)) as made, uproot.open(path) as was:
        assert {one.name: one.typename for one in was["Events"].fields}.items() <= {
            one.name: one.typename for one in made["Events"].fields
        }.items()
        before, after = was["Events"].arrays(), made["Events"].arrays()
        for name in columns:
            assert str(after[name].type) == str(before[name].type), name
            assert ak.array_equal(after[name], before[name], equal_nan=True), name
        assert made["note"] == "of the run"
        assert made["more/Runs"].arrays(library="np")["sum"].tolist() == [0, 1, 2, 3]
        wanted = offline(bundle, identified(COUNT))[:, 0]
        assert after["tth_signal"].to_numpy().tobytes() == wanted.tobytes()


def test_fields_that_are_not_copied_as_they_were_are_named(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    records = ak.zip({"x": np.arange(COUNT), "y": np.arange(COUNT) * 0.5})
    write_rntuple(path, rich() | {"point": records})
    with pytest.raises(DataError, match=r"fields that uproot cannot write: 'point' \(a record.*--drop NAME"):
        copy(bundle, path)
    assert list((tmp_path / "out").iterdir()) == []
    with uproot.open(copy(bundle, path, "point", "maybe")) as made:
        names = [one.name for one in made["Events"].fields]
        assert not {"point", "maybe"} & set(names)
        assert "vectors" in names


@pytest.mark.parametrize("format", ["ttree", "rntuple", "parquet"])
def test_a_copy_is_written_in_pieces(
    bundle: Bundle, tmp_path: Path, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{'parquet' if format == 'parquet' else 'root'}"
    columns = write_input(path, COUNT, format=format, cluster=40)
    monkeypatch.setattr(copied, "_READ_BYTES", 2_000)  # less than a cluster
    found, before = read_output(copy(bundle, path)), read_output(path)
    assert found["tth_signal"].tobytes() == offline(bundle, columns)[:, 0].tobytes()
    for name, values in before.items():
        assert np.array_equal(found[name], values, equal_nan=True), name


def test_a_tree_in_a_folder_comes_with_what_lies_beside_it(bundle: Bundle, tmp_path: Path) -> None:
    path, columns = tmp_path / "a.root", identified(COUNT)
    write_events(path, columns, tree="ntuples/Events", extra={"ntuples/Runs": {"sum": np.arange(3.0)}})
    with uproot.open(copy(bundle, path, tree="ntuples/Events")) as made:
        assert made["ntuples/Runs"]["sum"].array(library="np").tolist() == [0, 1, 2]
        assert made["ntuples/Events"].num_entries == COUNT


def test_what_is_no_table_is_named(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    write_input(path, COUNT)
    with uproot.update(path) as file:
        file["weights"] = np.histogram(np.arange(10.0), bins=3)
    with pytest.raises(DataError, match=r"cannot be copied whole: 'weights' \(TH1D\).*--drop NAME"):
        copy(bundle, path)
    for drop in ("weights", "*"):
        with uproot.open(copy(bundle, path, drop)) as made:
            assert [one.partition(";")[0] for one in made.keys()] == ["Events", "mlaas4hep_score"]  # noqa: SIM118
        (tmp_path / "out" / "a_scores.root").unlink()


def test_a_copy_of_parquet_keeps_types_missing_values_and_what_is_said_of_them(bundle: Bundle, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    write_input(path, COUNT, format="parquet", cluster=40)
    more = {
        "text": arrow.array([None if one % 5 == 0 else f"t{one}" for one in range(COUNT)]).dictionary_encode(),
        "point": arrow.array([{"x": one, "y": [0.5] * (one % 3)} for one in range(COUNT)]),
        "a.b": arrow.array(range(COUNT)),
    }
    table = parquet.read_table(path)
    for name, values in more.items():
        table = table.append_column(name, values)
    parquet.write_table(table.replace_schema_metadata({"of": "the run"}), path, row_group_size=33)
    made = copy(bundle, path, "point")
    before, after = parquet.read_table(path), parquet.read_table(made)
    assert after.column_names == [*(one for one in before.column_names if one != "point"), "tth_signal", "tth_selected"]
    for name in after.column_names[:-2]:
        assert after[name].type == before[name].type
        assert after[name].to_pylist() == before[name].to_pylist() or name in ("MET_pt", "Jet_btag")
    assert after.schema.metadata[b"of"] == b"the run"
    wanted = offline(bundle, identified(COUNT))[:, 0]
    assert after["tth_signal"].to_numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("format", ["json", "avro"])
def test_other_formats_are_not_copied(bundle: Bundle, tmp_path: Path, format: Any) -> None:
    path = tmp_path / f"a.{format}"
    write_input(path, 20, format=format)
    with pytest.raises(DataError, match=rf"is {format.upper()}, and copies are made of ROOT and Parquet files alone"):
        copy(bundle, path)


def test_a_column_of_that_name_is_not_written_twice(bundle: Bundle, tmp_path: Path) -> None:
    for format, ending in (("ttree", "root"), ("rntuple", "root"), ("parquet", "parquet")):
        path = tmp_path / f"{format}.{ending}"
        write_events(path, identified(30) | {"tth_signal": np.zeros(30)}, format=format)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=r"has a column 'tth_signal' already.*--column"):
            copy(bundle, path)
