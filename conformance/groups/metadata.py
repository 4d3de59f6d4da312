"""Groups ``health``, ``server`` and ``model``: what is there, and what is said of it."""

from __future__ import annotations

from urllib.parse import quote

from conformance import sections
from conformance.checks import FailedCheckError, check, only_if, require
from conformance.replies import read_object, read_specs, require_error, shown
from conformance.target import Target
from conformance.wire import JSON

NOBODY = "no-such-model-7f3a"
# What each extension must answer where it is announced: method, path (of the model, where it begins with a dot), body.
PROBES: dict[str, tuple[tuple[str, str, bytes | None], ...]] = {
    "statistics": (("GET", "./stats", None), ("GET", "/v2/models/stats", None)),
    "model_repository": (("POST", "/v2/repository/index", b"{}"),),
    "model_configuration": (("GET", "./config", None),),
    "trace": (("GET", "/v2/trace/setting", None),),
    "logging": (("GET", "/v2/logging", None),),
    "system_shared_memory": (("GET", "/v2/systemsharedmemory/status", None),),
    "cuda_shared_memory": (("GET", "/v2/cudasharedmemory/status", None),),
}


def _health(path: str, word: str) -> None:
    @check("health", word, expected="status 200 on a healthy server", section=sections.HEALTH)
    def status(target: Target) -> str:
        answer = target.ask("GET", path)
        require(answer.status == 200, shown(answer))
        return str(answer.status)

    @check("health", f"{word}_body", expected="a JSON object with a boolean that is true", section=sections.HEALTH)
    def body(target: Target) -> str:
        answer = target.ask("GET", path)
        found = read_object(answer)
        said = [found[one] for one in ("live", "ready") if one in found]
        require(said and all(one is True for one in said), shown(answer))
        return str(found)


_health("/v2/health/live", "live")
_health("/v2/health/ready", "ready")


@check("health", "model_ready", expected='200 with {"name": model, "ready": true}', section=sections.HEALTH)
def model_ready(target: Target) -> str:
    answer = target.ask("GET", f"{target.path}/ready")
    found = read_object(answer)
    require((found.get("name"), found.get("ready")) == (target.model, True), shown(answer))
    return str(found)


@check("health", "model_ready_status", expected="status 200 for a model that answers", section=sections.HEALTH)
def model_ready_status(target: Target) -> str:
    answer = target.ask("GET", f"{target.path}/ready")
    require(answer.status == 200, shown(answer))
    return str(answer.status)


@check("health", "version_ready", expected="status 200 for each version of the metadata", section=sections.HEALTH)
def version_ready(target: Target) -> str:
    only_if(target.versions, "the metadata lists no versions")
    for version in target.versions:
        answer = target.ask("GET", f"{target.path}/versions/{quote(version, safe='')}/ready")
        require(answer.status == 200, f"version {version}: {shown(answer)}")
    return f"versions {', '.join(target.versions)}"


@check("health", "unknown_model", expected="4xx for a model that is not there", section=sections.HEALTH)
def unknown_model_ready(target: Target) -> str:
    answer = target.ask("GET", f"/v2/models/{NOBODY}/ready")
    require(400 <= answer.status < 500, shown(answer))
    return str(answer.status)


@check("server", "fields", expected="name and version as text, extensions as array of text", section=sections.SERVER)
def server_fields(target: Target) -> str:
    answer = target.ask("GET", "/v2")
    found = read_object(answer)
    for name in ("name", "version"):
        require(isinstance(found.get(name), str) and found[name], f"'{name}' is {found.get(name)!r}")
    extensions = found.get("extensions")
    fine = isinstance(extensions, list) and all(isinstance(one, str) for one in extensions)
    require(fine, f"'extensions' is {extensions!r}")
    require(answer.content_type == JSON, f"content type '{answer.content_type}'")
    return f"{found['name']} {found['version']}: {', '.join(extensions or []) or 'no extensions'}"


@check("server", "trailing_slash", expected="/v2/ answers, or refers to /v2", section=f"{sections.REST}, openapi /v2/")
def trailing_slash(target: Target) -> str:
    answer = target.ask("GET", "/v2/")
    require(answer.status == 200 or 300 <= answer.status < 400, shown(answer))
    return str(answer.status)


@check("server", "extensions_served", expected="each announced extension has its routes", section="Triton, extensions")
def extensions_served(target: Target) -> str:
    asked = [(name, *probe) for name in sorted(target.extensions) for probe in PROBES.get(name, ())]
    only_if(asked, "no announced extension has routes of its own")
    for name, method, path, body in asked:
        path = path.replace(".", target.path, 1) if path.startswith(".") else path
        answer = target.ask(method, path, body)
        require(answer.status == 200, f"'{name}' is announced, {method} {path}: {shown(answer)}")
    return ", ".join(dict.fromkeys(name for name, *_ in asked))


@check("model", "fields", expected="name, platform, inputs and outputs", section=sections.MODEL)
def model_fields(target: Target) -> str:
    found = read_object(target.ask("GET", target.path))
    require(found.get("name") == target.model, f"'name' is {found.get('name')!r}, asked for '{target.model}'")
    require(isinstance(found.get("platform"), str), f"'platform' is {found.get('platform')!r}")
    inputs, outputs = read_specs(found.get("inputs"), "inputs"), read_specs(found.get("outputs"), "outputs")
    require(inputs and outputs, f"{len(inputs)} inputs and {len(outputs)} outputs are declared")
    for kind, specs in (("inputs", inputs), ("outputs", outputs)):
        require(len({one.name for one in specs}) == len(specs), f"two {kind} have the same name")
    return f"{len(inputs)} inputs, {len(outputs)} outputs"


@check("model", "versions", expected="versions is an array of text, if it is there", section=sections.MODEL)
def model_versions(target: Target) -> str:
    found = read_object(target.ask("GET", target.path)).get("versions")
    only_if(found is not None, "the metadata lists no versions")
    fine = isinstance(found, list) and all(isinstance(one, str) and one for one in found)
    require(fine, f"'versions' is {found!r}")
    return str(found)


@check("model", "each_version", expected="metadata of each version that is listed", section=sections.MODEL)
def each_version(target: Target) -> str:
    only_if(target.versions, "the metadata lists no versions")
    for version in target.versions:
        found = read_object(target.ask("GET", f"{target.path}/versions/{quote(version, safe='')}"))
        require(found.get("name") == target.model, f"version {version}: name {found.get('name')!r}")
        read_specs(found.get("inputs"), f"inputs of version {version}")
    return f"versions {', '.join(target.versions)}"


def _unknown(name: str, path: str) -> None:
    @check("model", name, expected='404 or 400 with {"error": text}', section=f"{sections.MODEL}; {sections.STATUS}")
    def unknown(target: Target) -> str:
        return require_error(target.ask("GET", path.format(model=target.path)), (400, 404))


_unknown("unknown_model", f"/v2/models/{NOBODY}")
_unknown("unknown_version", "{model}/versions/987654321")
_unknown("version_not_a_number", "{model}/versions/no-such-version")


@check(
    "model", "odd_names", expected="4xx for names with dots, slashes, controls, 4000 letters", section=sections.ROBUST
)
def odd_names(target: Target) -> str:
    for name in ("..%2f..%2f..%2fetc%2fpasswd", "%00", "%0d%0aX:%20y", "a%20b", "%ff%fe", "%c3%a9", "n" * 4000):
        answer = target.ask("GET", f"/v2/models/{name}")
        if not 400 <= answer.status < 500:
            raise FailedCheckError(f"name {name[:40]}: {shown(answer)}")
    return "all refused"


@check("model", "infer_unknown_model", expected='404 or 400 with {"error": text}', section=sections.ERROR)
def infer_unknown_model(target: Target) -> str:
    question = target.question(target.tensors())
    return require_error(target.post(question, path=f"/v2/models/{NOBODY}/infer"), (400, 404))


@check("model", "infer_unknown_version", expected='404 or 400 with {"error": text}', section=sections.ERROR)
def infer_unknown_version(target: Target) -> str:
    question = target.question(target.tensors())
    return require_error(target.post(question, path=f"{target.path}/versions/987654321/infer"), (400, 404))
