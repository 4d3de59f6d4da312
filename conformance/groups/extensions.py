"""Groups ``statistics`` and ``classification``: Triton's extensions, where they are announced."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import numpy as np

from conformance import sections
from conformance.checks import SkippedCheckError, check, only_if, require
from conformance.groups.infer import ROWS
from conformance.groups.metadata import NOBODY
from conformance.replies import Reply, read_object, require_error, require_sound
from conformance.target import Target
from conformance.tensors import Spec

STATISTICS, CLASSIFICATION = "statistics", "classification"
_COUNTS = ("last_inference", "inference_count", "execution_count")
_TIMES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_CLASS = re.compile(r"(?P<value>[^:]+):(?P<index>\d+)(?::(?P<label>.*))?", re.DOTALL)


def _stats(target: Target, path: str) -> list[dict[str, Any]]:
    found = read_object(target.ask("GET", path)).get("model_stats")
    require(isinstance(found, list) and all(isinstance(one, dict) for one in found), f"'model_stats' is {found!r}")
    return list(found or [])


def _count(target: Target, name: str) -> int:
    mine = [one for one in _stats(target, f"{target.path}/stats") if one.get("name") == target.model]
    require(mine, f"no statistics of model '{target.model}'")
    return sum(int(one[name]) for one in mine)


@check(
    "statistics", "form", expected="counts and durations of every kind", section=sections.STATISTICS, needs=STATISTICS
)
def form(target: Target) -> str:
    target.infer(target.question(target.tensors()))
    found = _stats(target, f"{target.path}/stats")
    require(found, "'model_stats' is empty")
    for one in found:
        require(one.get("name") == target.model, f"'name' is {one.get('name')!r}")
        for name in _COUNTS:
            require(type(one.get(name)) is int, f"'{name}' is {one.get(name)!r}")
        times = one.get("inference_stats")
        require(isinstance(times, dict), f"'inference_stats' is {times!r}")
        for name in _TIMES:
            _require_duration(name, dict(times or {}).get(name))
        _require_batches(one.get("batch_stats"))
    return f"{len(found)} versions"


def _require_duration(name: str, value: Any) -> None:
    fine = isinstance(value, dict) and all(type(value.get(one)) is int and value[one] >= 0 for one in ("count", "ns"))
    require(fine, f"'{name}' is {value!r}")


def _require_batches(found: Any) -> None:
    require(isinstance(found, list), f"'batch_stats' is {found!r}")
    for one in found:
        require(type(one.get("batch_size")) is int, f"'batch_size' is {one.get('batch_size')!r}")
        for name in ("compute_input", "compute_infer", "compute_output"):
            _require_duration(name, one.get(name))


@check(
    "statistics",
    "counts_rows",
    expected="inference_count grows by the number of rows",
    section=sections.STATISTICS,
    needs=STATISTICS,
)
def counts_rows(target: Target) -> str:
    rows = ROWS if target.batched else 1
    before = _count(target, "inference_count")
    for _ in range(3):
        target.infer(target.question(target.tensors(rows)))
    grown = _count(target, "inference_count") - before
    require(grown == 3 * rows, f"{3 * rows} rows asked, the count grew by {grown}")
    return f"by {grown}"


@check("statistics", "counts_runs", expected="execution_count grows", section=sections.STATISTICS, needs=STATISTICS)
def counts_runs(target: Target) -> str:
    before = _count(target, "execution_count")
    target.infer(target.question(target.tensors()))
    grown = _count(target, "execution_count") - before
    require(grown == 1, f"one request alone, the count grew by {grown}")
    return "by 1"


@check("statistics", "all_models", expected="without a name: all models", section=sections.STATISTICS, needs=STATISTICS)
def all_models(target: Target) -> str:
    names = {one.get("name") for one in _stats(target, "/v2/models/stats")}
    require(target.model in names, f"models {sorted(map(str, names))}")
    return f"{len(names)} models"


@check(
    "statistics",
    "each_version",
    expected="statistics of each listed version",
    section=sections.STATISTICS,
    needs=STATISTICS,
)
def each_version(target: Target) -> str:
    only_if(target.versions, "the metadata lists no versions")
    for version in target.versions:
        found = _stats(target, f"{target.path}/versions/{quote(version, safe='')}/stats")
        versions = [one.get("version") for one in found]
        require(versions == [version], f"asked version {version}, found {versions}")
    return f"versions {', '.join(target.versions)}"


@check(
    "statistics", "unknown_model", expected='4xx with {"error": text}', section=sections.STATISTICS, needs=STATISTICS
)
def unknown_model(target: Target) -> str:
    return require_error(target.ask("GET", f"/v2/models/{NOBODY}/stats"))


def _classified(target: Target, count: int, rows: int) -> tuple[Spec, Reply, Reply]:
    """An output of numbers, as it is and as classes."""
    for one in target.outputs:
        if one.datatype not in ("BYTES", "BOOL") and len(one.shape) == 2:
            plain = target.infer(target.question(target.tensors(rows)))
            if plain.outputs[one.name].shape[-1] >= count:
                asked = [{"name": one.name, "parameters": {"classification": count}}]
                found = target.infer(target.question(target.tensors(rows), outputs=asked), some=True)
                return one, plain, found
    raise SkippedCheckError(f"no output has two dimensions and {count} classes")


def _require_classes(target: Target, count: int, rows: int) -> str:
    spec, plain, found = _classified(target, count, rows)
    classes, values = found.outputs[spec.name], plain.outputs[spec.name]
    require(classes.dtype == object, f"the datatype is {classes.dtype}, not BYTES")
    require(classes.shape == (rows, count), f"shape {classes.shape}, asked {rows} rows of {count} classes")
    for row in range(rows):
        _require_order(classes[row].tolist(), values[row])
    return f"{rows} rows of {count}: {classes[0, 0].decode('utf-8', 'replace')}"


def _require_order(texts: list[bytes], values: Any) -> None:
    order = np.sort(values)[::-1]
    seen = set()
    for place, text in enumerate(texts):
        match = _CLASS.fullmatch(text.decode("utf-8", "replace"))
        if match is None:
            require(False, f"{text!r} is not value:index or value:index:label")
            return
        index, value = int(match["index"]), float(match["value"])
        require(index < len(values) and index not in seen, f"{text!r}: index {index} of {len(values)}, or twice")
        seen.add(index)
        require(values[index] == order[place], f"place {place} has class {index}, which is not the next highest")
        require(np.isclose(value, float(values[index]), rtol=1e-4), f"{text!r}: the output has {values[index]}")


@check(
    "classification",
    "highest",
    expected="the highest class of one row",
    section=sections.CLASSIFICATION,
    needs=CLASSIFICATION,
)
def highest(target: Target) -> str:
    return _require_classes(target, 1, 1)


@check(
    "classification",
    "rows",
    expected="the highest classes of each row",
    section=sections.CLASSIFICATION,
    needs=CLASSIFICATION,
)
def rows(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    return _require_classes(target, 1, ROWS)


@check(
    "classification",
    "order",
    expected="two classes, the higher first",
    section=sections.CLASSIFICATION,
    needs=CLASSIFICATION,
)
def order(target: Target) -> str:
    return _require_classes(target, 2, ROWS if target.batched else 1)


@check(
    "classification",
    "too_many",
    expected="more classes than there are: answered or 4xx",
    section=sections.ROBUST,
    needs=CLASSIFICATION,
)
def too_many(target: Target) -> str:
    return _with_count(target, 1_000_000)


@check(
    "classification",
    "odd_counts",
    expected="0, -1, text: answered or 4xx",
    section=sections.ROBUST,
    needs=CLASSIFICATION,
)
def odd_counts(target: Target) -> str:
    for count in (0, -1, 1.5, "many", 2**70):
        _with_count(target, count)
    return "no failure"


def _with_count(target: Target, count: Any) -> str:
    outputs = [{"name": one.name, "parameters": {"classification": count}} for one in target.outputs]
    return require_sound(target.post(target.question(target.tensors(), outputs=outputs)))
