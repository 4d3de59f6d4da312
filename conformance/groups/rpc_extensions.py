"""Group ``grpc``, Triton's extensions over gRPC, where they are announced: what they tell is what HTTP tells."""

from __future__ import annotations

from typing import Any

from conformance import sections
from conformance.calls import Calls, StatusError, make_request
from conformance.checks import check, only_if, require
from conformance.groups.extensions import CLASSIFICATION, STATISTICS
from conformance.groups.metadata import NOBODY
from conformance.groups.repository import EXTENSION as REPOSITORY
from conformance.groups.rpc_errors import CLIENT, CODES, refused
from conformance.messages import message_class
from conformance.replies import read_object
from conformance.target import Target

# A model that is not there at the moment may also be said to be unavailable.
GONE = (*CLIENT, "UNAVAILABLE")


@check(
    "grpc",
    "statistics",
    expected="the counts of HTTP",
    section=f"{sections.STATISTICS}, ModelStatistics",
    needs=STATISTICS,
)
def statistics(target: Target) -> str:
    with Calls.of(target) as calls:
        calls.infer(target, make_request(target, target.tensors(), raw=True))
        found = calls.call("ModelStatistics", name=target.model).model_stats
    there = read_object(target.ask("GET", f"{target.path}/stats")).get("model_stats")
    require(len(found) == len(list(there or [])), f"{len(found)} versions, HTTP: {there}")
    require(all(one.name == target.model for one in found), f"names {[one.name for one in found]}")
    require(any(one.inference_count and one.inference_stats.success.count for one in found), "nothing was counted")
    return f"{len(found)} versions"


@check(
    "grpc",
    "statistics_unknown_model",
    expected="NOT_FOUND or INVALID_ARGUMENT",
    section=CODES,
    needs=STATISTICS,
)
def statistics_unknown_model(target: Target) -> str:
    with Calls.of(target) as calls:
        request = message_class("ModelStatisticsRequest")(name=NOBODY)
        return refused(calls, request, codes=("NOT_FOUND", "INVALID_ARGUMENT"), method="ModelStatistics")


@check(
    "grpc",
    "classification",
    expected="the classes of HTTP",
    section=sections.CLASSIFICATION,
    needs=CLASSIFICATION,
)
def classification(target: Target) -> str:
    names = [one.name for one in target.outputs if one.datatype not in ("BYTES", "BOOL") and len(one.shape) == 2]
    only_if(names, "no output has two dimensions of numbers")
    request = make_request(target, target.tensors(), raw=True)
    request.outputs.add(name=names[0]).parameters["classification"].int64_param = 1
    with Calls.of(target) as calls:
        here = calls.infer(target, request)[names[0]]
    asked = [{"name": names[0], "parameters": {"classification": 1}}]
    there = target.infer(target.question(target.tensors(), outputs=asked), some=True).outputs[names[0]]
    require(here.tolist() == there.tolist(), f"{here.tolist()}, HTTP: {there.tolist()}")
    return str(here.ravel()[0].decode("utf-8", "replace"))


@check(
    "grpc",
    "repository_index",
    expected="the models of HTTP; ready ones alone where they are asked for",
    section=f"{sections.REPOSITORY}, RepositoryIndex",
    needs=REPOSITORY,
)
def repository_index(target: Target) -> str:
    there = target.ask("POST", "/v2/repository/index", b"{}").json()
    with Calls.of(target) as calls:
        found = calls.call("RepositoryIndex").models
        ready = calls.call("RepositoryIndex", ready=True).models
    here = sorted((one.name, one.version, one.state) for one in found)
    wanted = sorted((one["name"], one.get("version", ""), one.get("state", "")) for one in there)
    require(here == wanted, f"{here}, HTTP: {wanted}")
    require(all(one.state == "READY" for one in ready), f"{[one.state for one in ready]}")
    require(target.model in [one.name for one in ready], f"model '{target.model}' is missing")
    return f"{len(found)} entries"


@check(
    "grpc",
    "repository_load",
    expected="a loaded model is loaded again, and answers",
    section=f"{sections.REPOSITORY}, RepositoryModelLoad",
    needs=REPOSITORY,
)
def repository_load(target: Target) -> str:
    with Calls.of(target) as calls:
        calls.call("RepositoryModelLoad", model_name=target.model)
        calls.infer(target, make_request(target, target.tensors(), raw=True))
    return "answers"


@check("grpc", "repository_load_unknown", expected="a code of the client", section=CODES, needs=REPOSITORY)
def repository_load_unknown(target: Target) -> str:
    with Calls.of(target) as calls:
        found = []
        for name in (NOBODY, "..", "../../etc", ""):
            request = message_class("RepositoryModelLoadRequest")(model_name=name)
            found.append(refused(calls, request, method="RepositoryModelLoad"))
    return found[0]


@check(
    "grpc",
    "repository_unload_and_load",
    expected="unloaded: refused, not ready; loaded: as before",
    section=f"{sections.REPOSITORY}, RepositoryModelUnload",
    needs=REPOSITORY,
)
def repository_unload_and_load(target: Target) -> str:
    only_if(target.wish.unload, "the model would be gone for a moment; allow it with --unload")
    request = make_request(target, target.tensors(), raw=True)
    with Calls.of(target) as calls:
        before = calls.infer(target, request)
        try:
            calls.call("RepositoryModelUnload", model_name=target.model)
            refused(calls, request, codes=GONE)
            require(not _is_ready(calls, target), "unloaded, and ready")
        finally:
            calls.call("RepositoryModelLoad", model_name=target.model)
        after = calls.infer(target, request)
    require(list(after) == list(before), "other outputs than before")
    return "gone and back"


def _is_ready(calls: Calls, target: Target) -> Any:
    try:
        return calls.call("ModelReady", name=target.model).ready
    except StatusError as error:
        require(error.code in GONE, str(error))
        return False
