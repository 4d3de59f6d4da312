"""The description of the routes says what there is, no more and no less."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.applications import Starlette

from mlaas4hep.serve.http import create_app
from mlaas4hep.serve.openapi import describe, described
from mlaas4hep.serve.operation import Operation
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.route_table import TABLE, TAGS
from mlaas4hep.serve.service import InferenceService


@pytest.fixture(scope="module")
def app() -> Starlette:
    service = InferenceService(ModelRepository())
    return create_app(service, more=Operation(service).routes())


def test_every_route_is_in_the_table_and_every_entry_is_a_route(app: Starlette) -> None:
    found = set(described(app.routes))
    assert found - TABLE.keys() == set(), "add these to serve/route_table.py"
    assert TABLE.keys() - found == set(), "no route has these"


def test_the_description_names_each_operation_once_and_all_that_it_refers_to(app: Starlette) -> None:
    description = describe(app.routes)
    operations = [entry for methods in description["paths"].values() for entry in methods.values()]
    assert len(operations) == len(TABLE)
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert {tag for one in operations for tag in one["tags"]} == TAGS.keys()
    references = re.findall(r"'#/([^']+)'", str(description))
    assert references
    for reference in references:
        found: Any = description
        for piece in reference.split("/"):
            found = found[piece]


def test_every_parameter_of_a_path_is_described(app: Starlette) -> None:
    for path, methods in describe(app.routes)["paths"].items():
        for entry in methods.values():
            told = [one["name"] for one in entry.get("parameters", ()) if one["in"] == "path"]
            assert told == re.findall(r"\{(\w+)\}", path)
