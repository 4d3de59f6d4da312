"""The kit finds every fault that is planted in a server, and none in a server without."""

from __future__ import annotations

import pytest

from conformance.checks import Result, all_checks, run_checks
from conformance.target import Target, Wish
from conformance.wire import Place
from tests.oip_rpc import serving_rpc
from tests.oip_server import serving

FAULTS = [
    ("wrong id", "infer.id"),
    ("wrong id", "http.pipelining"),
    ("wrong version", "infer.each_version"),
    ("all outputs always", "infer.one_output"),
    ("a row is lost", "infer.many_rows"),
    ("rows depend on each other", "infer.many_rows"),
    ("another content type", "infer.answer_content_type"),
    ("any model will do", "model.unknown_model"),
    ("announces what it has not", "server.extensions_served"),
    ("bare NaN", "numbers.nan_in_bytes"),
    ("bare NaN", "numbers.infinity_out"),
    ("digits are lost", "numbers.round_trip"),
    ("integers go through floats", "numbers.integer_digits"),
    ("bytes in another order", "binary.output_order"),
    ("bytes in another order", "binary.response"),
    ("any header length will do", "binary.header_longer_than_body"),
    ("what is left over is dropped", "binary.one_byte_more"),
    ("failures on bad requests", "malformed.not_json"),
    ("failures on bad requests", "malformed.type_of_shape"),
    ("failures on bad requests", "malformed.fuzz_json"),
    ("failures on bad requests", "malformed.fuzz_bytes"),
    ("failures on bad requests", "malformed.fuzz_binary"),
    ("errors of another form", "refused.renamed_input"),
    ("errors of another form", "model.unknown_version"),
    ("an input may come twice", "refused.input_twice"),
    ("shapes are not read", "refused.larger_shape"),
    ("no rows are a failure", "empty.json"),
    ("no rows are a failure", "empty.binary"),
    ("waits for any length", "huge.announced"),
    ("no keep-alive", "http.keep_alive"),
    ("chunks are not read", "http.chunked"),
    ("both lengths are taken", "http.length_and_chunks"),
    ("answers are swapped", "concurrency.json"),
    ("answers are swapped", "concurrency.binary"),
    ("answers are swapped", "concurrency.row_counts"),
    ("statistics count requests", "statistics.counts_rows"),
    ("lowest class first", "classification.order"),
    ("unload does nothing", "repository.unload_and_load"),
]
RPC_FAULTS = [
    ("wrong id", "grpc.id"),
    ("failures on bad requests", "grpc.unknown_model_modelinfer"),
    ("failures on bad requests", "grpc.fuzz"),
    ("raw contents in another order", "grpc.infer_raw"),
    ("any raw contents", "grpc.refused_raw_too_many"),
    ("answers are swapped", "grpc.concurrency"),
    ("statistics count requests", "grpc.statistics"),
    ("lowest class first", "grpc.classification"),
    ("unload does nothing", "grpc.repository_unload_and_load"),
    ("any model will do", "grpc.repository_load_unknown"),
]


def results_of(url: str, *names: str, grpc: str = "", timeout_s: float = 10) -> list[Result]:
    """What becomes of those checks; of all, where none is named."""
    target = Target(Place.parse(url, timeout_s=timeout_s), Wish(grpc=grpc, fuzz=40, huge_bytes=1 << 20, unload=True))
    try:
        return list(run_checks(target, [one for one in all_checks() if not names or one.full_name in names]))
    finally:
        target.close()


def test_a_server_without_a_fault_passes_every_check() -> None:
    pytest.importorskip("grpc")
    with serving() as url, serving_rpc() as address:
        results = results_of(url, grpc=address)
    assert [one for one in results if one.status == "fail"] == []
    skipped = {f"{one.group}.{one.name}" for one in results if one.status == "skipped"}
    assert skipped == {"binary.wrong_length_of_text"}, "its first input is no text; nothing else may go untested"


@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_a_planted_fault_is_found(fault: str, name: str) -> None:
    with serving(fault) as url:
        (result,) = results_of(url, name, timeout_s=1 if name == "huge.announced" else 10)
    assert result.status == "fail", result
    assert result.asked
    assert result.found


@pytest.mark.parametrize(("fault", "name"), RPC_FAULTS)
def test_a_fault_of_the_grpc_side_is_found(fault: str, name: str) -> None:
    pytest.importorskip("grpc")
    with serving() as url, serving_rpc(fault) as address:
        (result,) = results_of(url, name, grpc=address)
    assert result.status == "fail", result
