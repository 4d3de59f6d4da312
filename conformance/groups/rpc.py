"""Group ``grpc``: health, metadata and inferences over gRPC."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conformance import sections
from conformance.calls import Calls, make_request, read_outputs
from conformance.checks import check, only_if, require
from conformance.groups.infer import ROWS
from conformance.groups.rpc_errors import refused
from conformance.groups.sizes import bytes_a_row, many
from conformance.replies import Reply, read_object
from conformance.target import Target
from conformance.tensors import Array, close, same

THREADS, EACH = 8, 10


def rows_of(target: Target) -> int:
    return ROWS if target.batched else 1


def require_equal(left: dict[str, Array], right: dict[str, Array], what: str) -> None:
    """Demand equal bits in all outputs."""
    require(set(left) == set(right), f"outputs {sorted(left)} and {sorted(right)}")
    for name, one in left.items():
        require(same(one, right[name]), f"output '{name}' differs {what}")


def _over_http(target: Target, rows: int) -> Reply:
    return target.infer(target.question(target.tensors(rows)))


@check("grpc", "live", expected="live is true", section=f"{sections.GRPC}, ServerLive")
def live(target: Target) -> str:
    with Calls.of(target) as calls:
        require(calls.call("ServerLive").live, "live is false")
    return "true"


@check("grpc", "ready", expected="ready is true", section=f"{sections.GRPC}, ServerReady")
def ready(target: Target) -> str:
    with Calls.of(target) as calls:
        require(calls.call("ServerReady").ready, "ready is false")
    return "true"


@check("grpc", "model_ready", expected="ready is true, of each version too", section=f"{sections.GRPC}, ModelReady")
def model_ready(target: Target) -> str:
    with Calls.of(target) as calls:
        for version in ("", *target.versions):
            found = calls.call("ModelReady", name=target.model, version=version)
            require(found.ready, f"version '{version}': ready is false")
    return "true"


@check("grpc", "server_metadata", expected="what HTTP says", section=f"{sections.GRPC}, ServerMetadata")
def server_metadata(target: Target) -> str:
    with Calls.of(target) as calls:
        found = calls.call("ServerMetadata")
    http = read_object(target.ask("GET", "/v2"))
    both = [(found.name, http.get("name")), (found.version, http.get("version"))]
    require(all(one == other for one, other in both), f"gRPC and HTTP: {both}")
    require(found.name and found.version, "name or version is empty")
    return f"{found.name} {found.version}"


@check("grpc", "model_metadata", expected="what HTTP says", section=f"{sections.GRPC}, ModelMetadata")
def model_metadata(target: Target) -> str:
    with Calls.of(target) as calls:
        found = calls.call("ModelMetadata", name=target.model)
    require(found.name == target.model, f"name is '{found.name}'")
    require(tuple(found.versions) == target.versions, f"versions {list(found.versions)}, HTTP: {list(target.versions)}")
    for kind, specs in (("inputs", target.inputs), ("outputs", target.outputs)):
        here = [(one.name, one.datatype, tuple(one.shape)) for one in getattr(found, kind)]
        there = [(one.name, one.datatype, one.shape) for one in specs]
        require(here == there, f"{kind} {here}, HTTP: {there}")
    return f"{len(found.inputs)} inputs, {len(found.outputs)} outputs"


@check(
    "grpc", "infer_typed", expected="the values of HTTP", section=f"{sections.GRPC}, ModelInfer, InferTensorContents"
)
def infer_typed(target: Target) -> str:
    return _like_http(target, raw=False)


@check("grpc", "infer_raw", expected="the values of HTTP", section=f"{sections.GRPC}, ModelInfer, raw_input_contents")
def infer_raw(target: Target) -> str:
    return _like_http(target, raw=True)


def _like_http(target: Target, *, raw: bool) -> str:
    rows = rows_of(target)
    with Calls.of(target) as calls:
        found = calls.infer(target, make_request(target, target.tensors(rows), raw=raw))
    require_equal(dict(_over_http(target, rows).outputs), found, "between HTTP and gRPC")
    return "equal"


@check("grpc", "id", expected="the id comes back", section=f"{sections.GRPC}, ModelInfer")
def id_comes_back(target: Target) -> str:
    with Calls.of(target) as calls:
        for one in ("42", "é 事", "x" * 1000):
            found = calls.send("ModelInfer", make_request(target, target.tensors(), raw=True, id=one))
            require(found.id == one, f"asked with id {one[:40]!r}, found {found.id[:40]!r}")
    return "3 ids"


@check("grpc", "versions", expected="each listed version answers", section=f"{sections.GRPC}, ModelInfer")
def versions(target: Target) -> str:
    only_if(target.versions, "the metadata lists no versions")
    with Calls.of(target) as calls:
        for version in target.versions:
            request = make_request(target, target.tensors(), raw=True, model_version=version)
            found = calls.send("ModelInfer", request).model_version
            require(found == version, f"asked version {version}, model_version is '{found}'")
    return f"versions {', '.join(target.versions)}"


@check("grpc", "one_output", expected="only the output that is asked", section=f"{sections.GRPC}, ModelInfer")
def one_output(target: Target) -> str:
    only_if(target.outputs, "the model declares no outputs")
    with Calls.of(target) as calls:
        for one in target.outputs:
            request = make_request(target, target.tensors(), raw=True)
            request.outputs.add(name=one.name)
            found = calls.infer(target, request)
            require(set(found) == {one.name}, f"asked output '{one.name}', found {sorted(found)}")
    return f"{len(target.outputs)} outputs"


@check(
    "grpc",
    "parameters",
    expected="unknown parameters of all kinds do not disturb",
    section=f"{sections.GRPC}, InferParameter",
)
def parameters(target: Target) -> str:
    with Calls.of(target) as calls:
        plain = calls.infer(target, make_request(target, target.tensors(), raw=True))
        request = make_request(target, target.tensors(), raw=True)
        for holder in (request, *request.inputs):
            _fill(holder.parameters)
        require_equal(plain, calls.infer(target, request), "with parameters")
    return "equal"


def _fill(parameters: Any) -> None:
    parameters["kit_flag"].bool_param = True
    parameters["kit_count"].int64_param = -3
    parameters["kit_text"].string_param = "x"
    parameters["kit_number"].double_param = 1.5
    parameters["kit_large"].uint64_param = 2**63


@check("grpc", "empty", expected="no rows out, or INVALID_ARGUMENT", section=sections.ROBUST)
def empty(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    with Calls.of(target) as calls:
        request = make_request(target, target.tensors(0), raw=True)
        status = refused(calls, request, or_answered=True)
        if status:
            return status
        found = calls.infer(target, request)
    for one in target.outputs:
        require(not one.batched or found[one.name].shape[0] == 0, f"'{one.name}' has {found[one.name].shape[0]} rows")
    return "no rows"


@check(
    "grpc",
    "large",
    expected="tensors of half of --huge MiB: answered, or RESOURCE_EXHAUSTED, INVALID_ARGUMENT or UNAVAILABLE",
    section=sections.ROBUST,
)
def large(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    with Calls.of(target) as calls:
        request = make_request(
            target, many(target, bytes_a_row(target, text=False), target.wish.huge_bytes >> 1), raw=True
        )
        # UNAVAILABLE: the server says at once that it cannot be done in the time that the call gives it.
        codes = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNAVAILABLE")
        return refused(calls, request, or_answered=True, codes=codes) or "answered"


@check("grpc", "concurrency", expected="every answer belongs to its request", section=f"{sections.GRPC}, ModelInfer")
def concurrency(target: Target) -> str:
    with Calls.of(target) as calls:

        def ask(number: int) -> tuple[str, dict[str, Array]]:
            request = make_request(target, target.tensors(number=number), raw=True, id=str(number))
            response = calls.send("ModelInfer", request)
            return response.id, read_outputs(target, response)

        numbers = range(THREADS * EACH)
        wanted = [ask(number) for number in numbers]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(ask, numbers))
    for number, (alone, together) in enumerate(zip(wanted, found, strict=True)):
        require(together[0] == str(number), f"asked with id {number}, found '{together[0]}'")
        for name, values in alone[1].items():
            require(
                close(values, together[1][name]), f"request {number}: output '{name}' differs from when asked alone"
            )
    return f"{len(numbers)} requests on {THREADS} threads"
