"""``mlaas4hep inspect``: a table for people, JSON for programs, a draft for a start."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlaas4hep.cli.inspect import command
from mlaas4hep.config import parse_config
from mlaas4hep.errors import DataError
from mlaas4hep.testing import make_events, write_events


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(write_events(tmp_path / "a.root", make_events(40), extra={"Runs": {"sumw": np.ones(1)}}))


def test_the_table_is_aligned_and_says_how_many_events_it_is_of(path: str) -> None:
    lines = CliRunner().invoke(command, [path, "--max-events", "30"], catch_exceptions=False).output.splitlines()
    assert lines[0].split() == ["tree", "format", "entries", "clusters", "columns", "file"]
    assert "tree Events: figures of 30 of 40 events (the first events; --max-events looks at more)" in lines
    table = lines[lines.index(next(line for line in lines if line.startswith("column"))) :]
    assert table[1].startswith("run ")
    jet = next(line for line in table if line.startswith("Jet_pt"))
    assert "float32[]" in jet
    assert max(map(len, table)) <= 160


def test_json_and_draft_can_be_read_back(path: str) -> None:
    found = json.loads(CliRunner().invoke(command, [path, "--json"], catch_exceptions=False).output)
    assert found["entries"] == 40
    assert {one["name"] for one in found["columns"]} >= {"Jet_pt", "MET_pt"}
    draft = CliRunner().invoke(command, [path, "--draft"], catch_exceptions=False).output
    assert "jets" in {group.name for group in parse_config(draft).features.inputs}


def test_a_column_that_cannot_be_read_is_listed_with_its_reason(test_data: Path) -> None:
    output = CliRunner().invoke(command, [str(test_data / "ntuples/uproot-Zmumu.root")], catch_exceptions=False).output
    assert "1 columns that cannot be read:" in output
    assert "text, not numbers" in output


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "no.root")])
    assert isinstance(result.exception, DataError)
