"""Served = offline, bit for bit: whatever the events, whatever their number, however they are asked."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.bundle import Bundle
from mlaas4hep.client import Client
from mlaas4hep.config import parse_config
from mlaas4hep.data.source import open_source
from mlaas4hep.serve.bulk import ARROW, PARQUET, read_bulk
from mlaas4hep.serve.events import EventReader
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.spec.columns import Column, Jagged, Nested
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import write_events
from tests.small_bundle import (
    CONFIG,
    GROWN_TYPES,
    TYPES,
    as_instances,
    make_events,
    make_grown_events,
    write_small_bundle,
)

FLOATS = st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), -0.0, 1e-45, 3.4e38])
JETS = st.tuples(FLOATS, st.floats() | st.just(float("nan")), st.integers(0, 2**64 - 1), st.lists(FLOATS, max_size=3))
EVENTS = st.lists(st.tuples(st.booleans(), st.integers(-(2**63), 2**63 - 1), FLOATS, st.lists(JETS, max_size=5)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("models"), grown=True)


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[Client]:
    with background(InferenceService(open_repository(bundle.path))) as url, Client(url) as client:
        yield client


def columns_of(events: list[Any]) -> dict[str, Column]:
    """What a file would give for the same events."""
    jets = [jet for *_, jets in events for jet in jets]
    counts = [len(jets) for *_, jets in events]
    arrays = {
        "HLT": np.array([one[0] for one in events], bool),
        "nJet": np.array([one[1] for one in events], np.int64),
        "MET_pt": np.array([one[2] for one in events], np.float32),
    }
    lists = {
        "Jet_pt": np.array([jet[0] for jet in jets], np.float32),
        "Jet_btag": np.array([jet[1] for jet in jets], np.float64),
        "Jet_id": np.array([jet[2] for jet in jets], np.uint64),
    }
    hits = Nested.from_counts(counts, Jagged.from_lists([jet[3] for jet in jets]))
    return {**arrays, **{name: Jagged.from_counts(counts, values) for name, values in lists.items()}, "Jet_hits": hits}


def bits(column: Column) -> tuple[bytes, ...]:
    """Bits of a column, with one NaN for all: JSON has no other."""
    if isinstance(column, Nested):
        return (column.offsets.tobytes(), *bits(column.inner))
    if isinstance(column, Jagged):
        return (column.offsets.tobytes(), *bits(column.values))
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.array(np.nan, column.dtype), column)
    return (str(column.dtype).encode(), column.tobytes())


def as_json(events: list[Any]) -> bytes:
    """The events as a client writes them: null where a value is missing, infinities as words."""
    instances = [{name: in_words(value) for name, value in one.items()} for one in as_instances(columns_of(events))]
    return json.dumps({"instances": instances}, allow_nan=False).encode()


def in_words(value: Any) -> Any:
    if isinstance(value, list):
        return [in_words(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@settings(max_examples=100, deadline=None)
@given(events=EVENTS)
def test_an_event_in_json_has_the_bits_of_the_same_event_in_a_file(events: list[Any]) -> None:
    read, count = EventReader(GROWN_TYPES).read(as_json(events), max_instances=1000)
    assert count == len(events)
    expected = columns_of(events)
    assert {name: bits(column) for name, column in read.items()} == {
        name: bits(column) for name, column in expected.items()
    }


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, media_type=st.sampled_from([ARROW, PARQUET]))
def test_an_event_in_a_table_has_the_bits_of_the_same_event_in_a_file(events: list[Any], media_type: str) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    expected = columns_of(events)
    kinds = {"flat": lambda one: one, "jagged": pyarrow.list_, "nested": lambda one: pyarrow.list_(pyarrow.list_(one))}
    types = {name: kinds[one.kind](pyarrow.type_for_alias(one.dtype)) for name, one in GROWN_TYPES.items()}
    table = pyarrow.table({name: pyarrow.array(expected[name].tolist(), kind) for name, kind in types.items()})
    sink = io.BytesIO()
    if media_type == PARQUET:
        parquet.write_table(table, sink)
    else:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    read, count = read_bulk(sink.getvalue(), media_type, GROWN_TYPES, max_instances=1000)
    assert count == len(events)
    assert {name: bits(read[name]) for name in expected} == {name: bits(one) for name, one in expected.items()}


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_events_by_name_get_the_offline_scores(client: Client, bundle: Bundle, events: list[Any]) -> None:
    columns = columns_of(events)
    prepared = bundle.spec.preprocessor().run(columns, len(events))
    offline = bundle.session().run(prepared.inputs)
    predictions = client.predict("tth", as_instances(columns))
    assert [one is not None for one in predictions] == prepared.selected.tolist()
    served = np.array([one["signal"] for one in predictions if one is not None], np.float32)
    assert served.tobytes() == offline.tobytes()


@pytest.mark.parametrize("size", [0, 1, 2, 7, 64, 256, 1000])
def test_tensors_get_the_offline_scores_alone_and_in_any_company(client: Client, bundle: Bundle, size: int) -> None:
    prepared = bundle.spec.preprocessor().run(make_grown_events(2000, seed=4), 2000)
    rows = {name: tensor[:size] for name, tensor in prepared.inputs.items()}
    assert len(rows["event"]) == size
    together = client.infer("tth", rows)["scores"]
    assert together.tobytes() == bundle.session().run(rows).tobytes()
    for row in range(0, size, 100):
        alone = client.infer("tth", {name: tensor[row : row + 1] for name, tensor in rows.items()})["scores"]
        assert alone.tobytes() == together[row : row + 1].tobytes()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 30))
def test_a_root_file_json_and_arrow_give_the_same_tensors(seed: int, count: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    events, preprocessor = make_events(count, seed=seed), Preprocessor(parse_config(CONFIG).features, TYPES)
    with tempfile.TemporaryDirectory() as folder:
        path = write_events(Path(folder) / "events.root", events)
        with open_source(str(path)) as source:
            asked = {"file": source.read(list(TYPES), 0, count)}
    instances = [{name: in_words(value) for name, value in one.items()} for one in as_instances(events)]
    asked["json"], _ = EventReader(TYPES).read(json.dumps({"instances": instances}).encode(), max_instances=30)
    table, sink = pyarrow.table({name: column.tolist() for name, column in events.items()}), io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    asked["arrow"], _ = read_bulk(sink.getvalue(), ARROW, TYPES, max_instances=30)
    made = {way: preprocessor.run(columns, count) for way, columns in asked.items()}
    for way in ("json", "arrow"):
        assert made[way].selected.tolist() == made["file"].selected.tolist()
        for name, tensor in made["file"].inputs.items():
            assert bits(made[way].inputs[name]) == bits(tensor)
