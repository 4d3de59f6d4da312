"""Questions made of a description, asked of a real server: none fails it, and what comes back is as described.

Schemathesis makes them, of our own description and of that of the Open Inference Protocol. Each operation is asked with
what fits the description and with what does not, for models that are there and for others. Seeds are fixed; the long
run asks more: ``MLAAS4HEP_QUESTIONS=1000 python -m pytest -m slow tests/integration/test_openapi.py``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlaas4hep.serve.http import create_app
from mlaas4hep.serve.openapi import describe
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.operation import Operation
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.oip_description import DESCRIPTION
from tests.plain_graph import write_plain_graph
from tests.small_bundle import write_small_bundle

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

FEW, MANY = 8, int(os.environ.get("MLAAS4HEP_QUESTIONS", "100"))
CHECKED = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
THERE = {"name": "tth", "version": "1", "file": "style.css"}


def our_description() -> dict[str, Any]:
    service = InferenceService(ModelRepository())
    return describe(create_app(service, more=Operation(service).routes()).routes)


def operations(description: Any) -> dict[str, Any]:
    """By method and path; those of one description share what was made of it."""
    schema = schemathesis.openapi.from_dict(copy.deepcopy(dict(description)))
    found = [one.ok() for one in schema.get_all_operations()]
    return {one.label: one for one in found}


OURS, PROTOCOL = operations(our_description()), operations(DESCRIPTION)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    write_plain_graph(folder)
    with background(InferenceService(open_repository(folder))) as url:
        yield url


def good_bodies(label: str) -> list[Any]:
    """Questions that are answered, as a fuzzer would hardly find them."""
    if label.endswith(":predict"):
        event = {
            "HLT": True,
            "nJet": 2,
            "MET_pt": None,
            "Jet_pt": [88.1, 42],
            "Jet_btag": [0.9, None],
            "Jet_id": [6, 2],
        }
        return [{"instances": [event, event | {"HLT": False}]}]
    if label.endswith("/infer"):
        inputs = [
            {"name": "event", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, 3]},
            {"name": "jets", "shape": [1, 3, 3], "datatype": "FP32", "data": [0] * 9},
        ]
        return [{"inputs": inputs}, {"id": "7", "inputs": inputs, "outputs": [{"name": "scores"}]}]
    if label.endswith("/json"):
        return [{"values": [1.5] * 12, "model": "tth"}]
    return []


def questions(operation: Any) -> st.SearchStrategy[Any]:
    """Those that fit and those that do not, of models that are there and of any."""
    names = {one["name"] for one in operation.definition.raw.get("parameters", ()) if one["in"] == "path"}
    there = {name: THERE[name] for name in names}
    fits, fits_not = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    kinds = [operation.as_strategy(generation_mode=fits)]
    if names:
        kinds += [operation.as_strategy(generation_mode=fits_not), operation.as_strategy(path_parameters=there)]
    if operation.body:
        kinds.append(operation.as_strategy(generation_mode=fits_not, path_parameters=there))
    for body in good_bodies(operation.label):
        kinds.append(operation.as_strategy(path_parameters=there, body=body, media_type="application/json"))
    return st.one_of(kinds)


def ask(operation: Any, url: str, count: int) -> None:
    load_all_checks()
    checks = [CHECKS.get_one(name) for name in CHECKED]

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=questions(operation))
    def one(case: Any) -> None:
        response = case.call(base_url=url)
        assert response.status_code < 500 or is_too_late(case, response), response.text
        case.validate_response(response, checks=checks)

    one()


def is_too_late(case: Any, response: Any) -> bool:
    """Whether who asked would not wait as long as an answer takes; only that is refused with 503 here."""
    waits = "X-Request-Timeout-Ms" in (case.headers or {}) or "timeout" in str(case.body)
    return response.status_code == 503 and "retry-after" in response.headers and waits


@pytest.mark.parametrize("label", OURS)
def test_what_our_description_says_is_so(label: str, url: str) -> None:
    ask(OURS[label], url, FEW)


@pytest.mark.parametrize("label", PROTOCOL)
def test_what_the_protocol_says_is_so(label: str, url: str) -> None:
    ask(PROTOCOL[label], url, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("label", OURS)
def test_what_our_description_says_is_so_of_many_questions(label: str, url: str) -> None:
    ask(OURS[label], url, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("label", PROTOCOL)
def test_what_the_protocol_says_is_so_of_many_questions(label: str, url: str) -> None:
    ask(PROTOCOL[label], url, MANY)
