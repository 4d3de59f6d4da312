"""A row of TFaaS, as JSON or as its protocol buffer, becomes a question to a model; the scores go back in its form.

``{"keys": [...], "values": [...], "model": "tth"}`` asks one row. A bundle knows the names of its values, the flat view
of its contract: keys then say which value is which, in any order. A plain graph has no names, its values come in the
order of its input. Invariant: a value becomes the bits that it would have in a question of the Open Inference Protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.asking import Asleep, Headers, Refusal, Reply, Route, check_encoding
from mlaas4hep.serve.model import ServedModel, Tensors
from mlaas4hep.serve.oip import message
from mlaas4hep.serve.protocol import check_pieces, decode_json
from mlaas4hep.serve.quick import numbers_of
from mlaas4hep.serve.service import InferenceService, Outputs, Question
from mlaas4hep.serve.tensors import DTYPES, Number, from_json, json_values
from mlaas4hep.serve.tfaas_params import labels_of
from mlaas4hep.spec.scaling import GroupScaling, unflatten

PROTO = "application/x-protobuf"
# The prefix under which all of TFaaS is found, too.
BASE = "tfaas"
# Values and keys of a row. Read as JSON each may take sixteen times its bytes.
MAX_VALUES = 1 << 22
_SHOWN = 5
_encode = msgspec.json.Encoder().encode


class Row(msgspec.Struct, gc=False):
    """One row: ``values``, their names, and who is asked; ``key`` and ``name`` are words of TFaaS's pages."""

    values: list[Number] | None = None
    keys: list[str] | None = None
    model: str = ""
    key: list[str] | None = None
    name: str = ""


_decoder = msgspec.json.Decoder(Row)
_any = msgspec.json.Decoder(dict[str, msgspec.Raw])


def row_routes(base: str) -> tuple[Route, ...]:
    """Rows as JSON and as protocol buffer, at the addresses of TFaaS and under a prefix."""
    return (_route("json", base, read_json), _route("proto", base, read_proto))


def addresses(word: str, base: str) -> tuple[str, ...]:
    """Where TFaaS takes questions of a kind: ``/json`` and ``/predict/json``, and both under the prefix."""
    heads = ("", f"/{base}") if base else ("",)
    return tuple(f"{head}{place}{word}" for head in heads for place in ("/", "/predict/"))


def _route(word: str, base: str, read: Callable[..., Question[Reply]]) -> Route:
    known = frozenset(addresses(word, base))
    return Route(word, lambda path: () if path in known else None, read)


def read_json(
    service: InferenceService, target: tuple[str | None, ...], headers: Headers, body: bytes
) -> Question[Reply]:
    """A row as JSON, of any content type, since TFaaS's recipes send what curl says by default."""
    check_encoding(headers)
    check_pieces(body)
    if len(body) > MAX_VALUES:
        _check_count(body.count(b","))
    row: Row = decode_json(_decoder, body)
    if row.values is None:
        raise RequestError(f"the row has no 'values'{_likely(body)}")
    model = _model(service, row.model or row.name)
    layout = _layout(model, service)
    inputs = layout.tensors(row.values, row.keys or row.key or ())

    def finish(outputs: Outputs) -> Reply:
        scores = layout.scores(outputs)
        values = scores.tolist()
        if scores.dtype.kind == "f" and not math.isfinite(sum(values)):
            values = json_values(scores)
        return Reply(_encode(values))

    return Question(model, inputs, 1, finish)


def read_proto(
    service: InferenceService, target: tuple[str | None, ...], headers: Headers, body: bytes
) -> Question[Reply]:
    """A row as ``tfaaspb.Row``; the answer is ``tfaaspb.Predictions``."""
    check_encoding(headers)
    try:
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        text = "rows of protobuf are not read here without its package (pip install 'mlaas4hep[grpc]')"
        raise Refusal(501, text) from error
    try:
        row = message("Row").FromString(body)
    except DecodeError as error:
        raise RequestError(f"the body is no message Row of TFaaS (key, value, model): {error}") from error
    _check_count(len(row.value) + len(row.key))
    model = _model(service, row.model)
    layout = _layout(model, service)
    inputs = layout.tensors(list(row.value), list(row.key))

    def finish(outputs: Outputs) -> Reply:
        scores = layout.scores(outputs)
        labels = layout.labels if len(layout.labels) == len(scores) else ("",) * len(scores)
        classes = [{"label": label, "probability": one} for label, one in zip(labels, scores.tolist(), strict=True)]
        answer: bytes = message("Predictions")(prediction=classes).SerializeToString()
        return Reply(answer, PROTO)

    return Question(model, inputs, 1, finish)


def _check_count(count: int) -> None:
    if count > MAX_VALUES:
        raise RequestError(f"a row of {count} values and keys; at most {MAX_VALUES} are read: send tensors as bytes")


def _likely(body: bytes) -> str:
    """What may have been meant, for who wrote a word otherwise."""
    found = decode_json(_any, body)
    near = next((key for key in found if key.lower().rstrip("s") == "value"), None)
    return f"; found '{near}'" if near else '; a row is {"keys": [...], "values": [...], "model": "..."}'


def _model(service: InferenceService, name: str) -> ServedModel:
    """Who is asked; raises `Asleep` where it is to be loaded first."""
    name = name or default_of(service)
    load = service.repository.waking(name)
    if load is not None:
        raise Asleep(load)
    return service.repository.get(name)


def default_of(service: InferenceService) -> str:
    """Who is asked where nobody is named: the model that was set or uploaded last, or the only one.

    Raises
    ------
    RequestError
        There are several, or none.
    """
    names, default = service.repository.names, service.repository.default
    if default in names:
        return default
    if len(names) != 1:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise RequestError(f"the question names no model; served here: {shown or 'none'}")
    return names[0]


class _Layout:
    """How a row of one model is laid into its tensors, and which output answers. It keeps no model alive."""

    def __init__(self, model: ServedModel, labels: tuple[str, ...]) -> None:
        self._model, self._batches = model.name, model.batches
        self._groups: tuple[GroupScaling, ...] = ()
        self._places: dict[str, int] = {}
        self.labels = labels
        if model.contract is not None:
            spec = model.contract.spec
            self._groups, self.labels = spec.scaling, model.outputs[0].labels
            self._places = {name: place for place, name in enumerate(spec.flat_names)}
            if {one.name for one in self._groups} != {one.name for one in model.inputs}:
                asked = f"ask /v1/models/{model.name}:predict by name"
                raise RequestError(
                    f"model '{model.name}' takes no rows, since its members make tensors of their own; {asked}"
                )
        elif len(model.inputs) != 1:
            named = ", ".join(one.name for one in model.inputs)
            raise RequestError(
                f"model '{model.name}' has {len(model.inputs)} inputs ({named}), a row fills one; {self._elsewhere}"
            )
        self._input, self._output = model.inputs[0], answering_output(model)

    @property
    def _elsewhere(self) -> str:
        return f"ask /v2/models/{self._model}/infer"

    def tensors(self, values: Sequence[Any], keys: Sequence[str]) -> Tensors:
        """The inputs of one row; raises `RequestError` where values and keys do not fit."""
        if keys and len(keys) != len(values):
            raise RequestError(f"the row has {len(keys)} keys and {len(values)} values; each value has its key")
        if not self._groups:
            return {self._input.name: self._plain(values)}
        if keys:
            values = self._ordered(values, keys)
        if len(values) != len(self._places):
            raise RequestError(
                f"model '{self._model}' takes {len(self._places)} values a row, found {len(values)}; their order is "
                f"{_listed(list(self._places))} (GET /params/{self._model} lists them), or send keys"
            )
        return unflatten(self._groups, numbers_of(values).reshape(1, -1))

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        """Of the only row."""
        array = outputs[self._output]
        return (array[0] if self._batches or array.ndim > 1 else array).ravel()

    def _ordered(self, values: Sequence[Any], keys: Sequence[str]) -> Sequence[Any]:
        given = dict(zip(keys, values, strict=True))
        for key in given:
            if key not in self._places:
                raise RequestError(f"model '{self._model}' has no value '{key}'{nearest(key, self._places)}")
        if len(given) < len(keys):
            twice = next(key for at, key in enumerate(keys) if key in keys[:at])
            raise RequestError(f"the key '{twice}' is given twice")
        missing = [name for name in self._places if name not in given]
        if missing:
            raise RequestError(f"the row lacks {_listed(missing)}; a value that is not known is null")
        return [given[name] for name in self._places]

    def _plain(self, values: Sequence[Any]) -> NDArray[Any]:
        datatype, shape = self._input.datatype, self._shape(len(values))
        kind = DTYPES[datatype].kind
        if datatype == "FP32":
            return numbers_of(values).reshape(shape)
        if kind not in "iuf":
            raise RequestError(f"model '{self._model}' takes {datatype}, a row holds numbers; {self._elsewhere}")
        if kind != "f":
            values = [int(one) if isinstance(one, float) and one.is_integer() else one for one in values]
        return from_json(_encode(values), datatype, shape, f"model '{self._model}'")

    def _shape(self, count: int) -> tuple[int, ...]:
        """Of one row with so many values."""
        sizes = [*([1] if self._batches else []), *self._input.shape]
        if not self._batches and len(sizes) > 1 and sizes[0] < 0:
            sizes[0] = 1
        fixed = math.prod(size for size in sizes if size >= 0)
        if sizes.count(-1) == 1 and fixed and count % fixed == 0:
            return tuple(count // fixed if size < 0 else size for size in sizes)
        if fixed == count and -1 not in sizes:
            return tuple(sizes)
        asked = f"{fixed} values" if -1 not in sizes else f"a row of shape {sizes}"
        raise RequestError(f"model '{self._model}' takes {asked}, found {count}")


def answering_output(model: ServedModel) -> str:
    """The output that answers: of several models as one that of the whole, else the only one, or of real numbers."""
    if model.members:
        return model.outputs[0].name
    real = [one for one in model.outputs if one.datatype in ("FP16", "FP32", "FP64")]
    for found in (model.outputs, real):
        if len(found) == 1 and found[0].datatype != "BYTES":
            return found[0].name
    named = ", ".join(f"{one.name} ({one.datatype})" for one in model.outputs)
    raise RequestError(
        f"model '{model.name}' has the outputs {named}, of which a row cannot choose; ask /v2/models/{model.name}/infer"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _layout(model: ServedModel, service: InferenceService) -> _Layout:
    """Kept as long as the model is."""
    found = _layouts.get(model)
    if found is None:
        found = _layouts[model] = _Layout(model, labels_of(service.repository, model))
    return found


_layouts: WeakKeyDictionary[ServedModel, _Layout] = WeakKeyDictionary()
