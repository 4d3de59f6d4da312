"""The usual question and its answer in JSON at the speed of the parser: a typed decoder and a prebuilt text.

What is unusual in any way (parameters, chosen outputs, words for infinities, other types) is left to
`mlaas4hep.serve.protocol`, which also says what is wrong with a request. Invariant: what is read or written here has
the bits and bytes that it would have there.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from types import GenericAlias
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.serve.fronts import NO_NUMBERS, Fronts
from mlaas4hep.serve.model import ServedModel, TensorSpec

# Longer bodies are read with simdjson where that is installed: it brings numbers straight into a buffer.
FAST_BYTES = 4 << 10
# Longer ones get a parser of their own: it keeps three bytes and more for each that it ever read, in each thread.
_KEPT_BYTES = 4 << 20

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_END = b"]}]}"
_KEYS, _INPUT_KEYS = ["inputs"], {"name", "shape", "datatype", "data"}

Asked = tuple[dict[str, NDArray[np.float32]], int, str]


class QuickCodec:
    """Reads questions to one model and writes its answers, or says that it does not.

    Parameters
    ----------
    model
        Any; where not all its inputs are FP32 of fixed sizes nothing is read here, and likewise for its outputs.
    """

    def __init__(self, model: ServedModel) -> None:
        plain = model.batches and all(_is_plain(one) for one in model.inputs)
        self._specs = {one.name: (one.shape, math.prod(one.shape)) for one in model.inputs} if plain else {}
        ranks = {len(one.shape) for one in model.inputs}
        self._flat = _decoder(1)
        self._nested = _decoder(1 + min(ranks)) if len(ranks) == 1 and ranks <= {1, 2} else None
        self._parse = _fast_parser() if plain else None
        sizes = [size for _, size in self._specs.values()]
        self.fronts = Fronts(sizes[0], self._parse) if self._parse is not None and len(sizes) == 1 else None
        self.width = 0
        self.output = model.outputs[0].name if plain and len(model.outputs) == 1 else ""
        if not self.output or not _is_plain(model.outputs[0]):
            self.output = ""
            return
        widths = b"".join(b",%d" % size for size in model.outputs[0].shape)
        head = {"model_name": model.name, "model_version": model.version}
        name = _encode(self.output)
        self.width = math.prod(model.outputs[0].shape)
        self._head = _encode(head)[:-1] + b',"outputs":[{"name":' + name + b',"datatype":"FP32","shape":['
        self._middle = widths + b'],"data":['

    def read(self, body: bytes) -> Asked | None:
        """Inputs of at least one row, their number and the id; None where `decode_request` is to read the body."""
        if not self._specs:
            return None
        if self._parse is not None and len(body) > FAST_BYTES:
            found = self._read_fast(body)
            if found is not None:
                return found
        wire = self._decode(body)
        return None if wire is None else self._tensors(wire)

    def _decode(self, body: bytes) -> Any:
        place = body.find(b'"data"')
        decoder = self._nested if b"[[" in body[place + 6 : place + 12] else self._flat
        if decoder is None:
            return None
        try:
            return decoder.decode(body)
        except _UNREADABLE:  # unusual or wrong: who reads it next says which
            return None

    @property
    def joins(self) -> bool:
        """Whether `join` reads and `text` writes for this model."""
        return bool(self._specs and self.output)

    def nothing(self) -> dict[str, list[float | None]]:
        """What `join` adds to."""
        return {name: [] for name in self._specs}

    def join(self, body: bytes, values: dict[str, list[float | None]], most: int) -> tuple[int, str] | None:
        """As `read`, of a short body of at most so many rows, with the numbers put behind those that are there."""
        wire = self._decode(body)
        if wire is None or len(wire.inputs) != len(self._specs):
            return None
        rows, found = 0, []
        for one in wire.inputs:
            data, rows = self._checked(one, rows, nested=wire.nested)
            if data is None or rows > most:
                return None
            found.append((one.name, data))
        if len(found) > 1 and len({name for name, _ in found}) != len(found):
            return None
        for name, data in found:
            values[name] += data
        return rows, wire.id

    def write(self, scores: NDArray[Any], id: str) -> bytes | None:
        """The answer; None where `encode_response` is to write it, since JSON has no words for its values."""
        if scores.size != len(scores) * self.width:  # of a graph that gives other than it declares
            return None
        values = scores.ravel().tolist()
        return self.text(values, len(scores), id) if math.isfinite(sum(values)) else None

    def text(self, values: list[Any], rows: int, id: str) -> bytes:
        """The answer, of finite values."""
        return b"%b%b%b" % (self.front(rows), _encode(values)[1:-1], self.tail(id))

    def front(self, rows: int) -> bytes:
        """What stands before the numbers of an answer."""
        return b"%b%d%b" % (self._head, rows, self._middle)

    @staticmethod
    def texts(values: list[float]) -> list[bytes]:
        """Each of the finite numbers of an answer."""
        return _encode(values)[1:-1].split(b",")

    @staticmethod
    def tail(id: str) -> bytes:
        """What stands behind the numbers."""
        return b']}],"id":%b}' % _encode(id) if id else _END

    def _tensors(self, wire: Any) -> Asked | None:
        inputs: dict[str, NDArray[np.float32]] = {}
        rows = 0
        for one in wire.inputs:
            data, rows = self._checked(one, rows, nested=wire.nested)
            if data is None or one.name in inputs:
                return None
            inputs[one.name] = numbers_of(data).reshape(one.shape)
        return (inputs, rows, wire.id) if len(inputs) == len(self._specs) else None

    def _checked(self, one: Any, rows: int, *, nested: bool) -> tuple[Sequence[float | None] | None, int]:
        """Numbers of a tensor that has so many rows, or any where ``rows`` is 0, and how many it has."""
        known, shape = self._specs.get(one.name), one.shape
        if known is None or one.datatype != "FP32" or shape[1:] != known[0]:
            return None, rows
        rows = rows or shape[0]
        data = _flattened(one.data, shape) if nested else one.data
        if data is None or rows < 1 or shape[0] != rows or len(data) != rows * known[1]:
            return None, rows
        return data, rows

    def _read_fast(self, body: bytes) -> Asked | None:
        """As `read`, of flat lists of numbers, checked as strictly."""
        inputs: dict[str, NDArray[np.float32]] = {}
        rows = 0
        try:
            request = self._parse(body) if self._parse is not None else {}
            # Brackets are counted, since lists in lists would be flattened whatever their lengths.
            if list(request) != _KEYS or body.count(b"[") != 1 + 2 * len(self._specs):
                return None
            for one in request["inputs"]:
                if len(one) != 4 or set(one) != _INPUT_KEYS or one["datatype"] != "FP32":
                    return None
                known, shape, data = self._specs.get(one["name"]), one["shape"].as_list(), one["data"]
                if known is None or one["name"] in inputs or tuple(shape[1:]) != known[0] or type(shape[0]) is not int:
                    return None
                rows = rows or shape[0]
                if rows < 1 or shape[0] != rows or len(data) != rows * known[1]:
                    return None
                numbers = np.frombuffer(data.as_buffer(of_type="d"), _FLOAT64)
                if len(numbers) != len(data):
                    return None
                with np.errstate(over="ignore"):
                    inputs[one["name"]] = numbers.astype(_FLOAT32).reshape(shape)
        except NO_NUMBERS:  # unusual or wrong, as above
            return None
        return (inputs, rows, "") if len(inputs) == len(self._specs) else None


def quick_of(model: ServedModel) -> QuickCodec:
    """The codec of a model, kept as long as the model is."""
    found = _codecs.get(model)
    if found is None:
        found = _codecs[model] = QuickCodec(model)
    return found


_codecs: WeakKeyDictionary[ServedModel, QuickCodec] = WeakKeyDictionary()


def _is_plain(spec: TensorSpec) -> bool:
    return spec.datatype == "FP32" and len(spec.shape) > 0 and all(size > 0 for size in spec.shape)


def _decoder(depth: int) -> msgspec.json.Decoder[Any]:
    data: Any = float | None
    for _ in range(depth):
        data = GenericAlias(list, (data,))
    one = msgspec.defstruct(
        "QuickInput",
        [("name", str), ("shape", tuple[int, ...]), ("datatype", str), ("data", data)],
        forbid_unknown_fields=True,
        gc=False,
    )
    inputs = GenericAlias(list, (one,))
    request = msgspec.defstruct(
        "QuickRequest",
        [("inputs", inputs), ("id", str, "")],
        namespace={"nested": depth > 1},
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.json.Decoder(request)


def _flattened(data: list[Any], shape: tuple[int, ...]) -> Sequence[float | None] | None:
    """The numbers of nested lists; None where those are not of the shape."""
    size, *more = shape
    for inside in more:
        if len(data) != size or set(map(len, data)) != {inside}:
            return None
        data = list(chain.from_iterable(data))
        size *= inside
    return data


def numbers_of(data: Sequence[float | None]) -> NDArray[np.float32]:
    """Doubles rounded to float32; what is missing is NaN, what is too large is infinite."""
    try:
        return np.frombuffer(array("f", data), _FLOAT32)  # type: ignore[type-var]
    except TypeError:  # something is missing, which only numpy turns into NaN
        with np.errstate(over="ignore"):
            return np.array(data, _FLOAT64).astype(_FLOAT32)


def _fast_parser() -> Callable[[bytes], Any] | None:
    if importlib.util.find_spec("simdjson") is None:
        return None
    import simdjson

    class Parsers(threading.local):
        """One a thread: its buffers are kept, and what it gave is let go before it reads again."""

        def __init__(self) -> None:
            self.parser = simdjson.Parser()

    parsers = Parsers()
    return lambda body: (parsers.parser if len(body) <= _KEPT_BYTES else simdjson.Parser()).parse(body)
