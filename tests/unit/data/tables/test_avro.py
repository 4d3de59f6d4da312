"""Avro object container files."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.source import Source, open_source
from mlaas4hep.data.tables import avro_codecs
from mlaas4hep.errors import DataError
from mlaas4hep.testing_tables import text_clusters

JET = {
    "type": "record",
    "name": "Jet",
    "namespace": "hep",
    "fields": [{"name": "pt", "type": "float"}, {"name": "q", "type": "int"}],
}
FIELDS: list[dict[str, Any]] = [
    {"name": "run", "type": "long"},
    {"name": "s", "type": "string"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["sig", "bkg"]}},
    {"name": "jets", "type": {"type": "array", "items": JET}},
    {"name": "lead", "type": ["null", "hep.Jet"]},
    {"name": "mu", "type": ["null", {"type": "array", "items": ["null", "double"]}]},
    {"name": "hits", "type": {"type": "array", "items": ["null", {"type": "array", "items": "int"}]}},
    {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "long"}}},
    {"name": "raw", "type": {"type": "fixed", "name": "Raw", "size": 3}},
    {"name": "n", "type": ["int", "null"]},
    {"name": "either", "type": ["int", "float", "double"]},
    {"name": "word", "type": ["int", "string"]},
    {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "ok", "type": "boolean"},
    {"name": "nothing", "type": "null"},
    {"name": "voids", "type": {"type": "array", "items": "null"}},
    {"name": "x", "type": "double"},
]  # fmt: skip
SCHEMA = fastavro.parse_schema({"type": "record", "name": "Event", "namespace": "hep", "fields": FIELDS})


def event(number: int) -> dict[str, Any]:
    jets = [{"pt": number + one / 4, "q": one - 1} for one in range(number % 4)]
    return {
        "run": number * 10**12,
        "s": "text" * number,
        "kind": "sig",
        "jets": jets,
        "lead": jets[0] if jets else None,
        "mu": [None, [], [0.5, None], [float(number)]][number % 4],
        "hits": [[[1, 2], None, []], [], [[-number]], [None]][number % 4],
        "tags": {"a": [1, 2], "b": []} if number % 2 else {},
        "raw": b"abc",
        "n": None if number % 3 == 0 else -number,
        "either": [1, 2.5][number % 2],
        "word": "x",
        "when": 5,
        "ok": number % 2 == 0,
        "nothing": None,
        "voids": [None] * (number % 3),
        "x": math.inf if number == 5 else number / 3,
    }


EVENTS = [event(number) for number in range(23)]


def packed(codec: str = "null", events: list[dict[str, Any]] = EVENTS, sync: int = 200, schema: Any = SCHEMA) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, schema, events, codec=codec, sync_interval=sync)
    return file.getvalue()


def opened(folder: Path, data: bytes) -> Source:
    (folder / "a.avro").write_bytes(data)
    return open_source(str(folder / "a.avro"), "Events")


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def all_of(source: Source) -> dict[str, Any]:
    names = [name for name, info in source.columns.items() if info.type is not None]
    with source:
        return {name: plain(column.tolist()) for name, column in source.read(names, 0, source.num_entries).items()}


def expected(events: list[dict[str, Any]]) -> dict[str, Any]:
    def lead(one: dict[str, Any], name: str) -> Any:
        return one["lead"] and one["lead"][name]

    return {
        "run": [one["run"] for one in events],
        "jets.pt": [[jet["pt"] for jet in one["jets"]] for one in events],
        "jets.q": [[jet["q"] for jet in one["jets"]] for one in events],
        "lead.pt": [lead(one, "pt") for one in events],
        "lead.q": [lead(one, "q") for one in events],
        "mu": [one["mu"] or [] for one in events],
        "hits": [[inner or [] for inner in one["hits"]] for one in events],
        "n": [one["n"] for one in events],
        "either": [one["either"] for one in events],
        "ok": [one["ok"] for one in events],
        "x": [one["x"] for one in events],
    }


@pytest.mark.parametrize("codec", sorted(avro_codecs.CODECS))
def test_records_become_columns_with_every_codec(tmp_path: Path, codec: str) -> None:
    found = all_of(opened(tmp_path, packed(codec)))
    assert found == expected(EVENTS)


def test_types_are_those_of_the_schema(tmp_path: Path) -> None:
    with opened(tmp_path, packed()) as source:
        assert {name: str(info.type or info.reason) for name, info in source.columns.items()} == {
            "run": "int64",
            "s": "text, not numbers",
            "kind": "text, not numbers",
            "jets.pt": "float32[]",
            "jets.q": "int64[]",
            "lead.pt": "float32",
            "lead.q": "float64",
            "mu": "float64[]",
            "hits": "int64[][]",
            "tags": "a map, not numbers",
            "raw": "bytes, not numbers",
            "n": "float64",
            "either": "float64",
            "word": "values of several types, not all of them numbers",
            "when": "values of the type timestamp-millis, not numbers",
            "ok": "bool",
            "nothing": "not numbers",
            "voids": "not numbers",
            "x": "float64",
        }


def test_any_range_of_any_columns_is_read_from_its_blocks(tmp_path: Path) -> None:
    whole = expected(EVENTS)
    with text_clusters(5), opened(tmp_path, packed("deflate")) as source:
        assert len(source.clusters) > 3
        for start, stop in ((0, 23), (4, 9), (22, 23), (7, 7), (0, 1)):
            for names in (["hits"], ["x", "lead.q"], ["jets.q", "mu", "run"]):
                read = source.read(names, start, stop)
                assert {name: plain(one.tolist()) for name, one in read.items()} == {
                    name: whole[name][start:stop] for name in names
                }


def test_bits_of_floats_are_kept(tmp_path: Path) -> None:
    schema = {
        "type": "record",
        "name": "E",
        "fields": [{"name": "f", "type": "float"}, {"name": "d", "type": "double"}],
    }
    values = [0.0, -0.0, 1e-45, 1.1754942e-38, 3.4028235e38, math.inf, -math.inf, 0.1]
    data = packed(events=[{"f": one, "d": one} for one in values], schema=fastavro.parse_schema(schema))
    with opened(tmp_path, data) as source:
        read = source.read(["f", "d"], 0, len(values))
    assert read["f"].tobytes() == np.array(values, np.float32).tobytes()
    assert read["d"].tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": "int"}, "events are records"),
        ({"type": "record", "name": "L", "fields": [{"name": "n", "type": ["null", "L"]}]}, "holds itself: L"),
        ({"type": "record", "name": "L", "fields": [{"name": "n", "type": "Missing"}]}, "does not define: Missing"),
        ("nonsense {", "its schema cannot be read"),
    ],
)
def test_schemas_that_are_no_events_are_refused(tmp_path: Path, schema: Any, words: str) -> None:
    text = (schema if isinstance(schema, str) and "{" in schema else json.dumps(schema)).encode()
    data = b"Obj\x01" + entry(b"avro.schema", text) + b"\0" + b"m" * 16
    with pytest.raises(DataError, match=rf"a\.avro: .*{words}"):
        opened(tmp_path, data)


def number(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def entry(name: bytes, value: bytes) -> bytes:
    return number(1) + number(len(name)) + name + number(len(value)) + value


def crafted(blocks: list[tuple[int, bytes]], codec: bytes = b"null") -> bytes:
    """A file of events {l: [null | double], x: double} with blocks as given."""
    items = {"type": "array", "items": "double"}
    schema = {"type": "record", "name": "E", "fields": [{"name": "l", "type": items}, {"name": "x", "type": "double"}]}
    head = b"Obj\x01" + entry(b"avro.schema", json.dumps(schema).encode()) + entry(b"avro.codec", codec) + b"\0"
    return head + b"m" * 16 + b"".join(number(count) + number(len(data)) + data + b"m" * 16 for count, data in blocks)


GOOD = number(1) + b"\0" * 8 + b"\0" + b"\0" * 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (crafted([(1, GOOD)])[:-1], "block 0: is truncated"),
        (crafted([(1, GOOD)])[:-1] + b"x", "block 0: is damaged: the marker behind it"),
        (crafted([(1, GOOD)]) + b"\xff" * 20, "block 1: is damaged"),
        (crafted([(2, GOOD)]), "block 0: is damaged: its 2 records do not fill its 18 bytes"),
        (crafted([(1, GOOD + b"\0")]), "block 0: is damaged: its 1 records do not fill its 19 bytes"),
        (crafted([(1, number(2**60) + GOOD)]), "block 0: is damaged"),
        (crafted([(1, number(-(2**62)) + number(9) + GOOD)]), "block 0: is damaged"),
        (crafted([(2**50, GOOD)]), "block 0: is damaged: it announces"),
        (crafted([(1, b"\xff" * 30)]), "block 0: is damaged"),
        (crafted([(1, zlib.compress(GOOD)[2:-4][:-3])], b"deflate"), "block 0: is damaged: deflate says"),
        (crafted([(1, b"\x03\x00nonsense")], b"snappy"), "block 0: is damaged: snappy says"),
        (crafted([(1, GOOD)], b"lzo"), "is packed by 'lzo', which is not read here"),
        (b"Obj\x01" + number(2**40), "its header"),
        (b"Obj\x01" + number(1) + number(2**40) + b"x", "its header announces"),
    ],
)
def test_damage_is_told_with_its_block(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=rf"a\.avro.*{words}"):
        all_of(opened(tmp_path, data))


def test_lists_may_come_in_parts(tmp_path: Path) -> None:
    part = number(-1) + number(8) + np.float64(1.5).tobytes()
    data = part + number(2) + np.array([2.5, 3.5]).tobytes() + b"\0" + np.float64(9).tobytes()
    with opened(tmp_path, crafted([(2, data + data)])) as source:
        read = source.read(["l", "x"], 0, 2)
    assert read["l"].tolist() == [[1.5, 2.5, 3.5]] * 2
    assert read["x"].tolist() == [9, 9]


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "zstandard", "snappy"])
def test_a_block_that_grows_without_bounds_is_refused(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avro_codecs, "MAX_BLOCK_BYTES", 1 << 20)
    fields = [{"name": "b", "type": "bytes"}, {"name": "x", "type": "double"}]
    schema = fastavro.parse_schema({"type": "record", "name": "E", "fields": fields})
    data = packed(codec, [{"b": bytes(8 << 20), "x": 1.0}], schema=schema)
    with pytest.raises(DataError, match=r"block 0: (would take more than|is damaged)"):
        all_of(opened(tmp_path, data))


@given(st.data())
def test_any_changed_byte_gives_records_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(packed(data.draw(st.sampled_from(["null", "deflate"]))))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(4, len(good) - 1))] = data.draw(st.integers(0, 255))
    good = good[: data.draw(st.integers(len(good) // 2, len(good)))]
    with contextlib.suppress(DataError):
        all_of(opened(tmp_path_factory.mktemp("avro"), bytes(good)))
