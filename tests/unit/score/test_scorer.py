"""Scores in analysis code: any table in, the offline scores out."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

import mlaas4hep
from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import BundleError, DataError, UserError
from mlaas4hep.score.asked import ask
from mlaas4hep.spec.columns import Column, Jagged
from tests.scored import offline
from tests.small_bundle import (
    as_instances,
    make_events,
    make_grown_events,
    write_small_bundle,
)

COUNT = 200
COLUMNS = make_events(COUNT)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> mlaas4hep.Scorer:
    return mlaas4hep.Scorer(bundle.path)


def lists(columns: dict[str, Column]) -> dict[str, Any]:
    return {name: column.tolist() for name, column in columns.items()}


def awkward(columns: dict[str, Column]) -> dict[str, Any]:
    return {
        name: ak.unflatten(one.values, one.counts) if isinstance(one, Jagged) else np.asarray(one)
        for name, one in columns.items()
    }


def records(columns: dict[str, Column]) -> Any:
    arrays = awkward(columns)
    return ak.zip(arrays, depth_limit=1)


def nanoevents(columns: dict[str, Column]) -> Any:
    """As coffea's schemas nest them."""
    arrays = awkward(columns)
    jets = ak.zip({name.removeprefix("Jet_"): one for name, one in arrays.items() if name.startswith("Jet_")})
    met = ak.zip({"pt": arrays["MET_pt"]})
    return ak.zip({"Jet": jets, "MET": met, "HLT": arrays["HLT"]}, depth_limit=1)


def objects(columns: dict[str, Column]) -> dict[str, Any]:
    """As RDataFrame's AsNumpy gives lists: arrays of objects that are sequences."""
    found: dict[str, Any] = {}
    for name, one in columns.items():
        if isinstance(one, Jagged):
            found[name] = np.empty(len(one), object)
            found[name][:] = [np.array(part, one.dtype) for part in one.tolist()]
        else:
            found[name] = np.asarray(one)
    return found


def arrow(columns: dict[str, Column]) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table(lists(columns))


def pandas(columns: dict[str, Column]) -> Any:
    return pytest.importorskip("pandas").DataFrame(objects(columns))


@pytest.mark.parametrize(
    "make", [dict, lists, awkward, records, nanoevents, objects, arrow, pandas], ids=lambda make: make.__name__
)
def test_every_table_gives_the_offline_scores(
    scorer: mlaas4hep.Scorer, bundle: Bundle, make: Callable[[dict[str, Column]], Any]
) -> None:
    found = scorer(make(COLUMNS))
    assert found.tobytes() == offline(bundle, COLUMNS)[:, 0].tobytes()
    assert found.shape == (COUNT,)


def test_flat_tables_may_be_structured_arrays(tmp_path: Path) -> None:
    config = "samples: {s: {files: s.root, label: signal}, b: {files: b.root, label: background}}\n"
    flat = write_small_bundle(tmp_path, config=config + "inputs: {event: [MET_pt, nJet]}\n")
    table = np.zeros(COUNT, [("MET_pt", "f4"), ("nJet", "i4"), ("other", "f8")])
    table["MET_pt"], table["nJet"] = COLUMNS["MET_pt"], COLUMNS["nJet"]
    assert mlaas4hep.Scorer(flat)(table).tobytes() == offline(flat, COLUMNS)[:, 0].tobytes()


def test_lists_of_lists_are_taken_too(tmp_path: Path) -> None:
    grown = write_small_bundle(tmp_path, grown=True)
    columns = make_grown_events(COUNT)
    wanted = offline(grown, columns)[:, 0].tobytes()
    scorer = mlaas4hep.Scorer(grown)
    assert scorer(lists(columns)).tobytes() == wanted


def test_missing_values_of_tables_are_missing_values_of_files(scorer: mlaas4hep.Scorer, bundle: Bundle) -> None:
    events = as_instances(COLUMNS)
    plain = ak.from_iter(events)
    none = ak.where(np.isnan(plain["MET_pt"]), ak.Array([None]), plain["MET_pt"])
    found = scorer(ak.with_field(plain, none, "MET_pt"))
    assert found.tobytes() == offline(bundle, COLUMNS)[:, 0].tobytes()
    with pytest.raises(DataError, match="'nJet' holds no numbers or lists of numbers"):
        scorer(ak.with_field(plain, ak.mask(plain["nJet"], plain["nJet"] > 1), "nJet"))


def test_events_that_are_not_selected_have_the_fill_value(bundle: Bundle) -> None:
    found = mlaas4hep.Scorer(bundle, fill=-1).by_name(COLUMNS)
    assert found["signal"].tobytes() == offline(bundle, COLUMNS, fill=-1.0)[:, 0].tobytes()
    assert np.array_equal(found["selected"], found["signal"] != -1)


def test_no_events_give_no_scores(scorer: mlaas4hep.Scorer) -> None:
    assert scorer(make_events(0)).shape == (0,)


def test_what_is_missing_or_of_another_kind_is_told(scorer: mlaas4hep.Scorer) -> None:
    less = {name: one for name, one in COLUMNS.items() if name != "MET_pt"}
    with pytest.raises(DataError, match=r"lack 'MET_pt' \(float32\); did you mean 'MET_pT'"):
        scorer(less | {"MET_pT": COLUMNS["MET_pt"]})
    with pytest.raises(DataError, match="column 'Jet_pt': asked for"):
        scorer(COLUMNS | {"Jet_pt": COLUMNS["MET_pt"]})
    with pytest.raises(DataError, match="column 'MET_pt' is jagged, where the model takes float32"):
        scorer(COLUMNS | {"MET_pt": COLUMNS["Jet_pt"]})
    with pytest.raises(DataError, match="equally long"):
        scorer(COLUMNS | {"MET_pt": np.zeros(3, np.float32)})
    assert scorer.columns["Jet_pt"] == "float32[]"


def test_a_scorer_travels_to_other_processes(scorer: mlaas4hep.Scorer) -> None:
    assert pickle.loads(pickle.dumps(scorer))(COLUMNS).tobytes() == scorer(COLUMNS).tobytes()


def test_what_is_no_bundle_or_has_no_folds_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        mlaas4hep.Scorer(tmp_path / "none")
    with pytest.raises(UserError, match="was not trained in folds"):
        mlaas4hep.Scorer(bundle, out_of_fold=True)


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, mlaas4hep; assert not {'numpy', 'onnxruntime'} & set(sys.modules); mlaas4hep.Scorer"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'scorer_of'"):
        mlaas4hep.scorer_of  # noqa: B018


def test_a_model_behind_preprocessing_says_what_to_give_it(bundle: Bundle, tmp_path: Path) -> None:
    spec = bundle.spec.with_provenance({"preprocessing_sha256": "ab" * 32})
    hooked = dataclasses.replace(bundle, spec=spec)
    with pytest.raises(UserError, match=r"went through preprocessing\(rec\).*mlaas4hep.Scorer\('.*tth/1'\)"):
        ask([hooked])
    scorer = mlaas4hep.Scorer(hooked)
    assert scorer(ak.Array(as_instances(COLUMNS))).tobytes() == offline(bundle, COLUMNS)[:, 0].tobytes()
    with pytest.raises(DataError, match=r"lack 'MET_pt'.*give events as that function returns them"):
        scorer({name: one for name, one in COLUMNS.items() if name != "MET_pt"})
