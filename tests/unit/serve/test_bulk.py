"""Events by name as Arrow and Parquet: the tensors and scores of the same events in JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import RequestError
from mlaas4hep.serve import asking, bulk
from mlaas4hep.serve.asking import Refusal, read_predict
from mlaas4hep.serve.bulk import ARROW, PARQUET, _unpacked_bytes
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.service import InferenceService, Limits
from tests.small_bundle import as_instances, make_grown_events, write_small_bundle

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

EVENTS = make_grown_events(40, seed=5)
TABLE = pa.table({name: column.tolist() for name, column in EVENTS.items()})
KINDS = pytest.mark.parametrize("media_type", [ARROW, PARQUET])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> InferenceService:
    folder = tmp_path_factory.mktemp("models")
    write_small_bundle(folder, grown=True)
    return InferenceService(open_repository(folder), limits=Limits(max_instances=50))


def body_of(table: Any, media_type: str) -> bytes:
    sink = io.BytesIO()
    if media_type == PARQUET:
        parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def asked(service: InferenceService, body: bytes, media_type: str) -> Any:
    return read_predict(service, ("tth", None), {b"content-type": media_type.encode()}, body)


@KINDS
def test_tables_give_the_tensors_and_scores_of_the_same_events_in_json(
    service: InferenceService, media_type: str
) -> None:
    instances = json.loads(json.dumps(as_instances(EVENTS)).replace("NaN", "null"))
    expected = asked(service, json.dumps({"instances": instances}).encode(), "application/json")
    found = asked(service, body_of(TABLE, media_type), media_type)
    assert {name: one.tobytes() for name, one in found.inputs.items()} == {
        name: one.tobytes() for name, one in expected.inputs.items()
    }
    reply = found.run()
    assert reply.media_type == media_type
    read = (
        parquet.read_table(io.BytesIO(reply.body))
        if media_type == PARQUET
        else pa.ipc.open_stream(reply.body).read_all()
    )
    predictions = json.loads(expected.run().body)["predictions"]
    assert [one and np.float32(one["signal"]) for one in predictions] == read["signal"].to_pylist()
    assert None in predictions
    assert read.schema.metadata[b"model_name"] == b"tth"


@KINDS
def test_lists_that_are_all_empty_need_no_type_of_their_values(service: InferenceService, media_type: str) -> None:
    plain = {name: column.tolist()[:3] for name, column in EVENTS.items()}
    plain |= {name: [[]] * 3 for name, values in plain.items() if isinstance(values[0], list)}
    expected = asked(
        service,
        json.dumps(
            {
                "instances": [
                    {name: None if values[row] != values[row] else values[row] for name, values in plain.items()}
                    for row in range(3)
                ]
            }
        ).encode(),
        "application/json",
    )
    found = asked(service, body_of(pa.table(plain), media_type), media_type)
    assert {name: one.tobytes() for name, one in found.inputs.items()} == {
        name: one.tobytes() for name, one in expected.inputs.items()
    }


@KINDS
def test_no_events_are_a_valid_table(service: InferenceService, media_type: str) -> None:
    assert asked(service, body_of(TABLE.slice(0, 0), media_type), media_type).rows == 0


@KINDS
@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TABLE.drop_columns(["MET_pt"]), r"column 'MET_pt' \(flat, float32\) is missing"),
        (TABLE.append_column("MET_ptt", TABLE["MET_pt"]), "'MET_ptt' is not one of the model's; did you mean 'MET_pt'"),
        (TABLE.set_column(0, "HLT", TABLE["nJet"]), r"column 'HLT' \(flat, bool\): asked for bool, found int64"),
        (TABLE.set_column(2, "MET_pt", TABLE["Jet_pt"]), "asked for float32, found list<"),
        (TABLE.set_column(1, "nJet", pa.array([None] * 40, pa.int64())), r"column 'nJet' .*: 40 values are null"),
        (TABLE.set_column(1, "nJet", pa.array([2**63] * 40, pa.uint64())), "found 9223372036854775808 to"),
        (pa.concat_tables([TABLE, TABLE]), r"\d\d events are asked; this server takes 50"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_words(
    service: InferenceService, media_type: str, table: Any, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        asked(service, body_of(table, media_type), media_type)


@KINDS
def test_bytes_that_are_no_table_are_refused(service: InferenceService, media_type: str) -> None:
    good = body_of(TABLE, media_type)
    for body in (b"", b"PAR1", good[:-9], good[:200], b"\xff" * 64, good.replace(b"MET_pt", b"MET\xffpt")):
        with pytest.raises(RequestError, match=f"the body is not {media_type}"):
            asked(service, body, media_type)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_counted_before_they_are_unpacked(
    service: InferenceService, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compressed(table: Any) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        return sink.getvalue()

    assert _unpacked_bytes(body_of(TABLE, ARROW)) == 0
    small = pa.table({"x": pa.array(np.zeros(1000))})
    assert 8000 <= _unpacked_bytes(compressed(small)) < 9000
    plain, packed = (asked(service, body, ARROW) for body in (body_of(TABLE, ARROW), compressed(TABLE)))
    assert all(plain.inputs[name].tobytes() == packed.inputs[name].tobytes() for name in plain.inputs)

    bomb = compressed(pa.table({"x": pa.array(np.zeros(1 << 20))}))
    assert len(bomb) < 100_000
    monkeypatch.setattr(bulk, "MAX_EXPANDED_BYTES", 1 << 22)
    monkeypatch.setattr(pa.ipc, "open_stream", None)  # nothing is to be unpacked
    with pytest.raises(RequestError, match="this server takes 4194304"):
        asked(service, bomb, ARROW)


def test_without_pyarrow_the_answer_says_what_to_install(
    service: InferenceService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"415: .*mlaas4hep\[parquet\]"):
        asked(service, b"", ARROW)
