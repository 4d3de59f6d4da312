"""The rows of several questions side by side, and the answers cut from the scores of all: in JSON, and in binary.

Invariant: what is taken here is answered with the bytes of `mlaas4hep.serve.asking.read_infer`; what is unusual in any
way is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.asking import BINARY, JSON, Headers, Route, quick_answer
from mlaas4hep.serve.bounded import answer_bytes, usual_answer
from mlaas4hep.serve.fronts import Fronts
from mlaas4hep.serve.model import ServedModel, Tensors
from mlaas4hep.serve.protocol import HEADER_LENGTH, InferResponse, decode_request, encode_response
from mlaas4hep.serve.quick import FAST_BYTES, QuickCodec, numbers_of, quick_of
from mlaas4hep.serve.service import Outputs

# Bodies of binary tensors that are taken, the JSON in front of them, and how many such parts are kept for a model.
BINARY_BYTES, HEAD_BYTES, MAX_HEADS = 64 << 10, 1024, 256

Form = int
"""Of questions with one head: the length of the JSON in front of binary tensors, or `IN_JSON`."""
IN_JSON: Form = 0


class Together(Protocol):
    """Questions to one model."""

    rows: int

    def take(self, body: bytes, most: int) -> int:
        """Add a question of at most so many rows; gives how many it has, or 0 where it was not added."""

    def tensors(self) -> Tensors | None:
        """Those of all; None where one of them cannot be read so, whence all are to be joined ``carefully``."""

    def answers(self, outputs: Outputs) -> Iterator[tuple[bytes, int]]:
        """For each, in order, all that is written on a connection that stays, and the size of its body."""


def form_of(route: Route, headers: Headers, length: int) -> Form | None:
    """How questions with such a head are read together; None where they are not."""
    kind, header = headers.get(b"content-type"), headers.get(b"inference-header-content-length")
    if route.name != "infer" or b"content-encoding" in headers:
        return None
    if header is None:
        return IN_JSON if length <= FAST_BYTES and kind in (None, JSON.encode()) else None
    if kind not in (None, JSON.encode(), BINARY.encode()) or not (header.isdigit() and len(header) < 5):
        return None
    return int(header) if 0 < int(header) <= min(length, HEAD_BYTES) and length <= BINARY_BYTES else None


def together(model: ServedModel, form: Form, *, carefully: bool = False) -> Together | None:
    """Nothing yet, of questions to a model; None where its questions are answered one by one.

    ``carefully``: each is read whole before it is taken.
    """
    codec = quick_of(model)
    if not codec.joins:
        return None
    return InJson(codec, model, None if carefully else codec.fronts) if form == IN_JSON else InBinary(model, form)


class InJson:
    """See `Together`."""

    def __init__(self, codec: QuickCodec, model: ServedModel, fronts: Fronts | None) -> None:
        self.rows = 0
        self._codec, self._model, self._fronts = codec, model, fronts
        # Numbers that are not read yet, until there is a question that has to be.
        self._texts: list[bytes] = []
        self._values: dict[str, list[float | None]] = {}
        self._taken: list[tuple[int, str]] = []
        self._fits = True

    def take(self, body: bytes, most: int) -> int:
        """See `Together`."""
        if self._fronts is not None and not self._values:
            known = self._fronts.split(body, most)
            if known is not None:
                text, rows = known
                self._texts.append(text)
                self._taken.append((rows, ""))
                self.rows += rows
                return rows
        if not self._values:
            self._read_texts()
        read = self._codec.join(body, self._values, most)
        if read is None:
            return 0
        self._taken.append(read)
        self.rows += read[0]
        if self._fronts is not None and not read[1]:
            self._fronts.learn(body, read[0])
        return read[0]

    def tensors(self) -> Tensors | None:
        """See `Together`."""
        if not self._fits:
            return None
        if not self._values and self._fronts is not None:
            (one,) = self._model.inputs
            numbers = self._fronts.read(self._texts)
            return None if numbers is None else {one.name: numbers.reshape(-1, *one.shape)}
        return {one.name: numbers_of(self._values[one.name]).reshape(-1, *one.shape) for one in self._model.inputs}

    def _read_texts(self) -> None:
        """Go on with numbers that are read."""
        self._values = self._codec.nothing()
        if self._texts and self._fronts is not None:
            numbers = self._fronts.read(self._texts)
            self._fits = numbers is not None
            (name,) = self._values
            self._values[name] += [] if numbers is None else numbers.tolist()

    def answers(self, outputs: Outputs) -> Iterator[tuple[bytes, int]]:
        """See `Together`."""
        codec, start = self._codec, 0
        scores = outputs[codec.output]
        numbers = scores.ravel().tolist()
        if not math.isfinite(sum(numbers)):
            for rows, id in self._taken:
                body = quick_answer(codec, self._model, {codec.output: scores[start : start + rows]}, id)
                yield usual_answer(body)
                start += rows
            return
        texts, before, front = codec.texts(numbers), 0, b""
        for rows, id in self._taken:
            if rows != before:
                before, front = rows, codec.front(rows)
            stop = start + rows * codec.width
            values = texts[start] if stop == start + 1 else b",".join(texts[start:stop])
            yield usual_answer(front, values, codec.tail(id))
            start = stop


@dataclass(frozen=True, slots=True)
class _Known:
    """What the JSON in front of binary tensors says, and what stands in front of the scores of its answer.

    ``places`` are where the bytes of the inputs begin and end, in the order of the model's; ``told`` is the size of the
    answer's body.
    """

    size: int
    rows: int
    places: tuple[tuple[int, int], ...]
    answer: bytes
    told: int


class InBinary:
    """See `Together`; all with JSON of one length in front."""

    def __init__(self, model: ServedModel, header: int) -> None:
        self.rows = 0
        self._model, self._header = model, header
        self._known = _known_by_model.setdefault(model, {})
        self._parts: tuple[list[bytes], ...] = tuple([] for _ in model.inputs)
        self._taken: list[_Known] = []

    def take(self, body: bytes, most: int) -> int:
        """See `Together`."""
        head = body[: self._header]
        found = self._known.get(head)
        if found is None:
            found = self._learn(head, body)
        if found is None or found.size != len(body) or found.rows > most:
            return 0
        for parts, (begin, end) in zip(self._parts, found.places, strict=True):
            parts.append(body[begin:end])
        self._taken.append(found)
        self.rows += found.rows
        return found.rows

    def tensors(self) -> Tensors:
        """See `Together`."""
        return {
            one.name: np.frombuffer(b"".join(parts), "<f4").reshape(-1, *one.shape)
            for one, parts in zip(self._model.inputs, self._parts, strict=True)
        }

    def answers(self, outputs: Outputs) -> Iterator[tuple[bytes, int]]:
        """See `Together`."""
        start = 0
        scores = outputs[self._model.outputs[0].name].astype("<f4", copy=False)
        for known in self._taken:
            stop = start + known.rows
            yield known.answer + scores[start:stop].tobytes(), known.told
            start = stop

    def _learn(self, head: bytes, body: bytes) -> _Known | None:
        found = _read(self._model, body, len(head))
        if found is not None:
            if len(self._known) >= MAX_HEADS:
                self._known.clear()
            self._known[head] = found
        return found


_known_by_model: WeakKeyDictionary[ServedModel, dict[bytes, _Known]] = WeakKeyDictionary()


def _read(model: ServedModel, body: bytes, header: int) -> _Known | None:
    """The usual: all inputs in binary, all of the one output wanted in binary, no time limit."""
    try:
        request = decode_request(body, header)
    except RequestError:  # told by who reads it alone
        return None
    places, at, rows = {}, header, -1
    for name, array in request.inputs.items():
        places[name] = (at, at + array.nbytes)
        at += array.nbytes
        fits = [one for one in model.inputs if one.name == name and array.shape[1:] == one.shape]
        if not fits or array.dtype != np.float32 or not array.ndim or rows not in (-1, len(array)):
            return None
        rows = len(array)
    output = model.outputs[0]
    usual = not request.outputs or [(one.name, one.classes) for one in request.outputs] == [(output.name, 0)]
    usual = usual and request.timeout_s is None and not request.model_sha256
    if rows < 1 or at != len(body) or len(places) != len(model.inputs) or not usual:
        return None
    scores = {output.name: np.zeros((rows, *output.shape), np.float32)}
    answer, length = encode_response(InferResponse(model.name, model.version, scores, id=request.id), request)
    if length is None:
        return None
    # Scores of any value have as many bytes, so that the answer's head stands too.
    whole = answer_bytes(200, answer, BINARY, ((HEADER_LENGTH, str(length)),))
    front = whole[: len(whole) - (len(answer) - length)]
    return _Known(len(body), rows, tuple(places[one.name] for one in model.inputs), front, len(answer))
