"""Bundles that an earlier version wrote are read for ever, and give the scores that they gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.bundle import load_bundle, verify_bundle
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.spec.contract import ModelSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle_v1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def columns_for(spec: ModelSpec) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, declared in spec.columns.items():
        values = EXPECTED["columns"][name]
        if declared.kind == "jagged":
            found[name] = Jagged.from_lists(values, declared.dtype)
        else:
            found[name] = np.array(values, declared.dtype)
    return found


@pytest.mark.parametrize("name", ["network", "trees"])
def test_a_golden_bundle_gives_the_scores_that_it_gave(name: str) -> None:
    bundle, expected = load_bundle(GOLDEN / name), EXPECTED["models"][name]
    assert bundle.spec_sha256 == bundle.spec.sha256 == expected["spec_sha256"]
    assert bundle.model_sha256 == expected["model_sha256"]
    scores, selected = bundle.score(columns_for(bundle.spec), 40)
    assert selected.tolist() == expected["selected"]
    np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["network", "trees"])
def test_a_golden_bundle_is_verified_on_this_machine(name: str) -> None:
    report = verify_bundle(load_bundle(GOLDEN / name))
    assert report.ok, str(report)


def test_a_contract_read_back_is_written_with_the_same_bytes() -> None:
    data = (GOLDEN / "network" / "1" / "spec.json").read_bytes()
    assert ModelSpec.from_json(data).to_json() == data
