"""Events by name: JSON in KServe's v1 form to columns, and scores back.

``{"instances": [{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}]}`` becomes columns of the types that the contract
declares; from there on the path is the one that training took. Invariant (law 6): an event sent with all digits of its
numbers has the bits of the same event in a file.

``null`` or ``"NaN"`` is a missing value of a floating column, alone or in a list; ``"Infinity"`` and ``"-Infinity"``
are infinite. Integers are fine where floats are declared, and 6.0 where an integer is (pandas and awkward write whole
numbers so); nothing else is converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from types import GenericAlias
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.protocol import check_pieces, decode_json
from mlaas4hep.serve.tensors import Number, json_values
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Kind, Nested

MAX_PROBLEMS = 8
# Explaining needs the request as plain Python values, up to 25 times the size of its text.
MAX_EXPLAINED_BYTES = 8 << 20

MAX_NAME = 100
# Columns of lists have one an event.
MAX_LISTS = 1 << 22

_WHOLE = int | float
_DEPTH: dict[Kind, int] = {"flat": 0, "jagged": 1, "nested": 2}
_JSON_TYPES: dict[str, Any] = {"bool": bool, "int64": _WHOLE, "uint64": _WHOLE, "float32": Number, "float64": Number}
_ANY_EVENTS = msgspec.json.Decoder(dict[str, Any])
_WORDS = frozenset({"NaN", "Infinity", "-Infinity"})
_encoder = msgspec.json.Encoder()


class Prediction(msgspec.Struct, frozen=True):
    """Scores of events.

    Parameters
    ----------
    model_name, model_version
        Who answered.
    score_names
        Names of the columns of ``scores``.
    selected
        bool [N], whether an event passes the preselection of the model's contract.
    scores
        float32 [n, C], of the selected events, in order.
    """

    model_name: str
    model_version: str
    score_names: tuple[str, ...]
    selected: NDArray[np.bool_]
    scores: NDArray[np.float32]


class _FractionError(Exception):
    """A number that is not whole stands where an integer is declared."""


class EventReader:
    """Reads the events of one model's contract.

    Parameters
    ----------
    types
        Columns that the model needs, with their declared types.

    Notes
    -----
    Safe to use from several threads.
    """

    def __init__(self, types: Mapping[str, ColumnType]) -> None:
        self.types = dict(types)
        # Columns may have any name, fields may not: events are read into c0, c1, ... in the order of `types`.
        self._fields = {f"c{index}": name for index, name in enumerate(self.types)}
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_request_type(self.types, self._fields))

    def read(self, body: bytes, *, max_instances: int) -> tuple[dict[str, Column], int]:
        """Columns in their declared types, and the number of events.

        Raises
        ------
        RequestError
            Names every column that is missing, unknown or of another type, with the first event where it is so.
        """
        check_pieces(body, lists=MAX_LISTS, keys=len(body))  # keys of events are not kept
        try:
            instances: list[Any] = self._decoder.decode(body).instances
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if len(body) <= MAX_EXPLAINED_BYTES:
                self._explain(body)
            raise RequestError(f"the request does not fit the protocol: {error}") from error
        if len(instances) > max_instances:
            raise RequestError(f"{len(instances)} instances are asked; this server takes {max_instances} a request")
        try:
            with np.errstate(over="ignore"):  # once for all columns, since it costs as much as casting one
                columns = {
                    name: _column(name, self.types[name], [getattr(event, field) for event in instances])
                    for field, name in self._fields.items()
                }
        except _FractionError as error:
            if len(body) <= MAX_EXPLAINED_BYTES:
                self._explain(body)
            raise RequestError(str(error)) from error
        return columns, len(instances)

    def _explain(self, body: bytes) -> None:
        """Say in the words of the contract what is wrong with a request that could not be decoded."""
        raw = decode_json(_ANY_EVENTS, body)
        asked = '{"instances": [{column: value, ...}, ...]}'
        if "instances" in raw and not isinstance(raw["instances"], list):
            raise RequestError(
                f"asked for a list of events, {asked}, found {_found(raw['instances'])} under 'instances'"
            )
        if "instances" not in raw:
            found = ", ".join(_short(key) for key in list(raw)[:MAX_PROBLEMS]) or "nothing"
            raise RequestError(f"asked for {asked}, found {found}")
        if problems := self._problems(raw["instances"]):
            raise RequestError("\n".join(problems))

    def _problems(self, instances: Sequence[Any]) -> list[str]:
        """The first place of each problem; at most `MAX_PROBLEMS`."""
        seen: dict[tuple[str, str], str] = {}
        for index, event in enumerate(instances):
            if not isinstance(event, dict):
                return [f"instances[{index}]: asked for an object {{column: value}}, found {_found(event)}"]
            for name, kind, found in self._problems_of(event):
                if (name, kind) not in seen:
                    seen[name, kind] = f"instances[{index}]: {self._in_words(name, kind, found)}"
                if len(seen) == MAX_PROBLEMS:
                    return list(seen.values())
        return list(seen.values())

    def _problems_of(self, event: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
        """Column, kind of problem and what was found; words are made only of those that are shown."""
        for name, declared in self.types.items():
            if name not in event:
                yield name, "missing", ""
            elif found := _misfit(event[name], declared):
                yield name, "type", found
        for name in event:
            if name not in self.types:
                yield name, "unknown", ""

    def _in_words(self, name: str, kind: str, found: str) -> str:
        if kind == "unknown":
            # Any length comes over the wire, and looking for what is near costs its square.
            return f"column '{name[:MAX_NAME]}' is not one of the model's{nearest(name[:MAX_NAME], self.types)}"
        declared = self.types[name]
        asked = f"column '{name}' ({declared.kind}, {declared.dtype})"
        return f"{asked} is missing" if kind == "missing" else f"{asked}: asked for {_asked(declared)}, found {found}"


def encode_prediction(prediction: Prediction) -> bytes:
    """The answer as JSON: ``{"predictions": [{"signal": 0.93}, null], ...}``, one an instance, null where not selected.

    Numbers carry all digits of their float32; a score that is not a number is null.
    """
    names = prediction.score_names
    scored = iter(zip(*(json_values(column) for column in prediction.scores.T), strict=True))
    answers = [dict(zip(names, next(scored), strict=True)) if ok else None for ok in prediction.selected.tolist()]
    return _encoder.encode(
        {
            "predictions": answers,
            "model_name": prediction.model_name,
            "model_version": prediction.model_version,
        }
    )


def _request_type(types: Mapping[str, ColumnType], fields: Mapping[str, str]) -> type[msgspec.Struct]:
    """A typed request of exactly these columns: JSON is checked while it is read, at the speed of the parser."""
    event = msgspec.defstruct(
        "Event",
        [(field, _json_type(types[name])) for field, name in fields.items()],
        rename=dict(fields),
        forbid_unknown_fields=True,
        frozen=True,
        gc=False,
    )
    return msgspec.defstruct("Request", [("instances", GenericAlias(list, (event,)))], frozen=True)


def _json_type(declared: ColumnType) -> Any:
    one = _JSON_TYPES[declared.dtype]
    for _ in range(_DEPTH[declared.kind]):
        one = GenericAlias(list, (one,))
    return one


def _column(name: str, declared: ColumnType, values: Sequence[Any]) -> Column:
    if declared.kind == "flat":
        return _array(name, declared, values)
    inside = list(chain.from_iterable(values))
    counts = [len(one) for one in values]
    if declared.kind == "jagged":
        return Jagged.from_counts(counts, _array(name, declared, inside))
    array = _array(name, declared, list(chain.from_iterable(inside)))
    return Nested.from_counts(counts, Jagged.from_counts([len(one) for one in inside], array))


def _array(name: str, declared: ColumnType, values: Sequence[Any]) -> NDArray[Any]:
    """Values in their declared type; a float32 is rounded from the double that JSON gave."""
    dtype = "float64" if declared.dtype == "float32" else declared.dtype
    if dtype in ("int64", "uint64") and float in set(map(type, values)):
        values = [_whole(name, declared, value) for value in values]
    try:
        array = np.array(values, dtype=dtype)
    except OverflowError as error:
        problem = f"column '{name}' ({declared.kind}, {declared.dtype}): {_out_of_range(values, dtype)}"
        raise RequestError(problem) from error
    return array.astype(declared.dtype, copy=False)


def _whole(name: str, declared: ColumnType, value: int | float) -> int:
    if value != int(value):
        raise _FractionError(
            f"column '{name}' ({declared.kind}, {declared.dtype}): asked for an integer, found {value}"
        )
    return int(value)


def _out_of_range(values: Sequence[int], dtype: str) -> str:
    limits = np.iinfo(dtype)
    wrong = next(value for value in values if not limits.min <= value <= limits.max)
    return f"{wrong} is outside {limits.min} to {limits.max}"


def _misfit(value: Any, declared: ColumnType) -> str:
    """What was found instead of the declared type; empty where the value fits."""
    found = _deep_misfit(value, declared.dtype, _DEPTH[declared.kind])
    if found is None:
        return ""
    wrong, place = found
    return f"{_found(wrong)} at {place}" if place else _found(wrong)


def _deep_misfit(value: Any, dtype: str, depth: int) -> tuple[Any, str] | None:
    """The first part that does not fit, and where in the lists it stands."""
    if depth == 0:
        return None if _fits(value, dtype) else (value, "")
    if not isinstance(value, list):
        return value, ""
    for index, one in enumerate(value):
        found = _deep_misfit(one, dtype, depth - 1)
        if found is not None:
            return found[0], f"[{index}]{found[1]}"
    return None


def _fits(value: Any, dtype: str) -> bool:
    if dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype in ("int64", "uint64"):
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and value in _WORDS)


def _asked(declared: ColumnType) -> str:
    word = {"bool": "true or false", "int64": "an integer", "uint64": "an integer"}.get(declared.dtype, "a number")
    return {"flat": word, "jagged": f"a list, each {word}", "nested": f"a list of lists, each {word}"}[declared.kind]


def _found(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{'the text ' if isinstance(value, str) else ''}{_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def example_event(types: Mapping[str, ColumnType], typical: Mapping[str, float | None]) -> dict[str, Any]:
    """An event that fits, for help texts: typical values where they are known, lists of two."""
    return {name: _example(declared, typical.get(name)) for name, declared in types.items()}


def _example(declared: ColumnType, typical: float | None) -> Any:
    value = 1.0 if typical is None else float(f"{typical:.4g}")
    one: Any = {"bool": True, "int64": round(value), "uint64": abs(round(value))}.get(declared.dtype, value)
    return {"flat": one, "jagged": [one, one], "nested": [[one, one], [one]]}[declared.kind]
