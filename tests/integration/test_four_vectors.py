"""Four-vectors of real files, by the names that their experiments gave: as uproot and the package vector have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.data.source import open_source
from mlaas4hep.spec.columns import cast, values_of
from mlaas4hep.spec.expressions import Expression

ak = pytest.importorskip("awkward")
uproot = pytest.importorskip("uproot")
vector = pytest.importorskip("vector", reason="four-vectors are compared with the package 'vector'")


def found_in(path: Path, tree: str, text: str) -> Any:
    expression = Expression.parse(text)
    with open_source(str(path), tree) as source:
        types = {name: info.type for name, info in source.columns.items() if info.type is not None}
        needed = expression.needs(types)
        columns = source.read(sorted(needed), 0, source.num_entries)
        typed = cast(columns, {name: types[name] for name in needed})
        result = expression.evaluate(typed, source.num_entries)
        assert expression.result_type(types).dtype == result.dtype.name
    return values_of(result)


def objects_of(path: Path, tree: str, members: dict[str, str]) -> Any:
    with uproot.open(path) as file:
        arrays = {name: file[tree][branch].array() for name, branch in members.items()}
    return vector.zip({name: ak.values_astype(array, "float64") for name, array in arrays.items()})


@pytest.mark.parametrize(
    ("name", "tree", "collection", "members"),
    [
        ("nanoaod/nano_tt_v12.root", "Events", "Jet", {one: f"Jet_{one}" for one in ("pt", "eta", "phi", "mass")}),
        (
            "delphes/delphes.root",
            "Delphes",
            "Jet",
            {"pt": "Jet.PT", "eta": "Jet.Eta", "phi": "Jet.Phi", "mass": "Jet.Mass"},
        ),
    ],
)
def test_masses_and_distances_of_real_jets(
    test_data: Path, name: str, tree: str, collection: str, members: dict[str, str]
) -> None:
    path, j = test_data / name, collection
    jets = objects_of(path, tree, members)
    padded = ak.pad_none(jets, 2)
    first, second = padded[:, 0], padded[:, 1]
    hard = jets[jets.pt > 30][:, :4]
    for text, expected in [
        (f"mass({j}[0] + {j}[1])", (first + second).mass),
        (f"deltaR({j}[0], {j}[1])", first.deltaR(second)),
        (f"deltaphi({j}[0], {j}[1])", first.deltaphi(second)),
        (f"rapidity({j}[0])", first.rapidity),
        (f"px(sum({j}[{members['pt']} > 30][:4]))", ak.sum(hard.px, axis=1)),
    ]:
        wanted = ak.to_numpy(ak.fill_none(expected, np.nan))
        assert np.isfinite(wanted).any()
        np.testing.assert_allclose(found_in(path, tree, text), wanted, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found_in(path, tree, f"energy({j})"), ak.to_numpy(ak.flatten(jets.E)), rtol=1e-12)
