"""Group ``repository``: Triton's model repository extension, where it is announced.

Loading a model that is loaded harms nobody; unloading does, for a moment, so that it is asked only with ``--unload``.
"""

from __future__ import annotations

import json
from typing import Any

from conformance import sections
from conformance.checks import check, only_if, require
from conformance.groups.metadata import NOBODY
from conformance.replies import require_error, shown
from conformance.target import Target

EXTENSION = "model_repository"
_STATES = ("READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN", "")


def _index(target: Target, body: bytes = b"{}") -> list[dict[str, Any]]:
    answer = target.ask("POST", "/v2/repository/index", body)
    require(answer.status == 200, shown(answer))
    found = answer.json()
    require(isinstance(found, list) and all(isinstance(one, dict) for one in found), f"no array: {shown(answer)}")
    return list(found)


def _route(target: Target, what: str) -> str:
    return target.path.replace("/v2/models/", "/v2/repository/models/", 1) + f"/{what}"


@check(
    "repository",
    "index",
    expected="all models with name, version, state and reason",
    section=sections.REPOSITORY,
    needs=EXTENSION,
)
def index(target: Target) -> str:
    found = _index(target)
    for one in found:
        for name in ("name", "state", "reason"):
            require(isinstance(one.get(name, "" if name != "name" else None), str), f"'{name}' is {one.get(name)!r}")
        require(one.get("state", "") in _STATES, f"'state' is {one.get('state')!r}")
        require(isinstance(one.get("version", ""), str), f"'version' is {one.get('version')!r}")
    mine = [one for one in found if one["name"] == target.model]
    require(any(one.get("state") == "READY" for one in mine), f"model '{target.model}' answers, the index has {mine}")
    return f"{len(found)} entries"


@check(
    "repository",
    "ready",
    expected='{"ready": true}: only those that are ready',
    section=sections.REPOSITORY,
    needs=EXTENSION,
)
def ready(target: Target) -> str:
    found = _index(target, b'{"ready": true}')
    others = [one for one in found if one.get("state") != "READY"]
    require(not others, f"{others}")
    require(target.model in [one.get("name") for one in found], f"model '{target.model}' is missing")
    return f"{len(found)} entries"


@check("repository", "index_without_body", expected="a list, or 4xx", section=sections.ROBUST, needs=EXTENSION)
def index_without_body(target: Target) -> str:
    answer = target.ask("POST", "/v2/repository/index", b"")
    if answer.status == 200:
        require(isinstance(answer.json(), list), shown(answer))
        return "a list"
    return require_error(answer)


@check(
    "repository", "index_malformed", expected='4xx with {"error": text}', section=sections.REPOSITORY, needs=EXTENSION
)
def index_malformed(target: Target) -> str:
    return require_error(target.ask("POST", "/v2/repository/index", b"{no JSON"))


@check(
    "repository",
    "load",
    expected="a loaded model is loaded again, and answers",
    section=sections.REPOSITORY,
    needs=EXTENSION,
)
def load(target: Target) -> str:
    answer = target.ask("POST", _route(target, "load"), b"{}")
    require(answer.status == 200, shown(answer))
    target.check_alive()
    return "answers"


@check(
    "repository", "load_without_body", expected="an empty body will do", section=sections.REPOSITORY, needs=EXTENSION
)
def load_without_body(target: Target) -> str:
    answer = target.ask("POST", _route(target, "load"), b"")
    require(answer.status == 200, shown(answer))
    target.check_alive()
    return "answers"


@check("repository", "load_unknown", expected='4xx with {"error": text}', section=sections.REPOSITORY, needs=EXTENSION)
def load_unknown(target: Target) -> str:
    return require_error(target.ask("POST", f"/v2/repository/models/{NOBODY}/load", b"{}"))


@check(
    "repository",
    "load_outside",
    expected="names with ways out of the folder: 4xx",
    section=sections.ROBUST,
    needs=EXTENSION,
)
def load_outside(target: Target) -> str:
    for name in ("..", "%2e%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "%00"):
        answer = target.ask("POST", f"/v2/repository/models/{name}/load", b"{}")
        require(400 <= answer.status < 500, f"{name}: {shown(answer)}")
    return "refused"


@check(
    "repository",
    "unload_and_load",
    expected="unloaded: 4xx, not ready; loaded: as before",
    section=sections.REPOSITORY,
    needs=EXTENSION,
)
def unload_and_load(target: Target) -> str:
    only_if(target.wish.unload, "the model would be gone for a moment; allow it with --unload")
    question = target.question(target.tensors())
    before = target.infer(question)
    answer = target.ask("POST", _route(target, "unload"), b"{}")
    try:
        require(answer.status == 200, shown(answer))
        require_error(target.post(question), (400, 404, 503))
        gone = target.ask("GET", f"{target.path}/ready").status
        require(gone != 200, f"unloaded, and ready with {gone}")
        names = [one.get("name") for one in _index(target, json.dumps({"ready": True}).encode())]
        require(target.model not in names, "unloaded, and still in the index of ready models")
    finally:
        again = target.ask("POST", _route(target, "load"), b"{}")
    require(again.status == 200, shown(again))
    after = target.infer(question)
    require(list(after.outputs) == list(before.outputs), "other outputs than before")
    return "gone and back"
