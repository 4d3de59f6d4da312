"""What HTTP makes of questions and answers, whichever way a request came: from the wire directly, or through Starlette.

A `Route` reads a request into a `Question` whose answer is a `Reply`; `refusal_of` turns an error into a status and a
text. Invariant: both ways use these and nothing else, so that their answers are the same bytes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from mlaas4hep.errors import BusyError, DataError, NotFoundError, RequestError
from mlaas4hep.serve.bulk import ARROW, PARQUET, encode_bulk
from mlaas4hep.serve.events import Prediction, encode_prediction
from mlaas4hep.serve.images import JPEG, PNG, encode_picture_answer
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.protocol import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    check_pieces,
    decode_request,
    encode_response,
)
from mlaas4hep.serve.quick import QuickCodec, quick_of
from mlaas4hep.serve.raw import read_raw
from mlaas4hep.serve.service import InferenceService, Outputs, Question

JSON = "application/json"
BINARY = "application/octet-stream"
TIMEOUT = "X-Request-Timeout-Ms"
# JSON of more than this is read in a worker thread: it takes about 1 ms.
INLINE_BODY_BYTES = 256 << 10
# Answers of more numbers than this are written in a worker thread.
INLINE_NUMBERS = 8 << 10

# The most letters of an error's text: names of any length come over the wire.
_MAX_TEXT = 4000

_HEADER_LENGTH, _TIMEOUT = HEADER_LENGTH.lower().encode(), TIMEOUT.lower().encode()
_TABLES = b"application/vnd.apache."

# By lower-case name, as bytes; of several with one name the last.
Headers = Mapping[bytes, bytes]


class Reply(NamedTuple):
    """An answer: body, type, and further headers."""

    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Refusal(Exception):
    """A request that is answered with a status and a text."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
        self.headers = dict(headers or {})
        super().__init__(f"{status}: {text}")

    @property
    def body(self) -> bytes:
        """The body of every error."""
        return msgspec.json.encode({"error": self.text})


class Asleep(Exception):
    """Raised by a route that reads: the model that the body names has to be loaded first; then it is to read again."""

    def __init__(self, load: Future[Any]) -> None:
        self.load = load
        super().__init__("the model is being loaded")


@dataclass(frozen=True, slots=True)
class Route:
    """A kind of question that may be answered without Starlette.

    Parameters
    ----------
    name
        For metrics and logs.
    match
        The path to what it names, such as model and version; None where the path is another's. A pure function.
    read
        Service, what `match` gave, headers and the whole body to a question. Errors it raises become statuses, but for
        `Asleep`.
    """

    name: str
    match: Callable[[str], tuple[str | None, ...] | None]
    read: Callable[[InferenceService, tuple[str | None, ...], Headers, bytes], Question[Reply]]


def routes() -> tuple[Route, ...]:
    """The kinds of questions of this server: tensors, and events by name."""
    return (
        Route("infer", _match_infer, read_infer),
        Route("predict", _match_predict, read_predict),
    )


def read_infer(
    service: InferenceService, target: tuple[str | None, ...], headers: Headers, body: bytes
) -> Question[Reply]:
    """Tensors by the Open Inference Protocol, in JSON, followed by binary ones, or as the bytes of one alone."""
    header_length = _length(headers)
    check_type(headers, (JSON,) if header_length is None else (JSON, BINARY))
    check_pieces(body if header_length is None else body[:header_length])
    if header_length is None:
        quick = _read_quick(service.repository.get(str(target[0]), target[1]), body)
        if quick is not None:
            return quick
    if header_length == 0:
        request = read_raw(service.repository.get(str(target[0]), target[1]), body)
    else:
        request = decode_request(body, header_length)
    asked = service.ask_tensors(str(target[0]), request, version=target[1])

    def finish(outputs: Outputs) -> Reply:
        response: InferResponse = asked.finish(outputs)
        content, length = encode_response(response, request)
        if length is None:
            return Reply(content)
        return Reply(content, BINARY, ((HEADER_LENGTH, str(length)),))

    return Question(asked.model, asked.inputs, asked.rows, finish, timeout_s=asked.timeout_s, prepare=asked.prepare)


def _read_quick(model: ServedModel, body: bytes) -> Question[Reply] | None:
    codec = quick_of(model)
    found = codec.read(body)
    if found is None or not codec.output:
        return None
    inputs, rows, id = found

    def finish(outputs: Outputs) -> Reply:
        return Reply(quick_answer(codec, model, outputs, id))

    return Question(model, inputs, rows, finish)


def quick_answer(codec: QuickCodec, model: ServedModel, outputs: Outputs, id: str) -> bytes:
    """What `encode_response` writes to a question that `codec` read."""
    content = codec.write(outputs[codec.output], id)
    if content is None:
        response = InferResponse(model.name, model.version, outputs, id=id)
        content = encode_response(response, InferRequest({}, id=id))[0]
    return content


def read_predict(
    service: InferenceService, target: tuple[str | None, ...], headers: Headers, body: bytes
) -> Question[Reply]:
    """Events by name, as JSON or as tables of Arrow or Parquet; the answer is of the same kind. Or one picture."""
    check_type(headers, (JSON, ARROW, PARQUET, PNG, JPEG))
    media_type = _type_of(headers)
    if media_type in (PNG, JPEG):
        return _read_picture(service, target, body)
    if media_type == JSON:
        asked = service.ask_events(str(target[0]), body, version=target[1])
    elif importlib.util.find_spec("pyarrow") is None:
        raise Refusal(415, f"'{media_type}' is not read here without pyarrow (pip install 'mlaas4hep[parquet]')")
    else:
        asked = service.ask_bulk(str(target[0]), body, media_type, version=target[1])

    def finish(outputs: Outputs) -> Reply:
        prediction: Prediction = asked.finish(outputs)
        if media_type == JSON:
            return Reply(encode_prediction(prediction))
        return Reply(encode_bulk(prediction, media_type), media_type)

    return Question(asked.model, asked.inputs, asked.rows, finish)


def _read_picture(service: InferenceService, target: tuple[str | None, ...], body: bytes) -> Question[Reply]:
    """A PNG or JPEG, whatever the content type calls it."""
    asked = service.ask_image(str(target[0]), body, version=target[1])

    def finish(outputs: Outputs) -> Reply:
        return Reply(encode_picture_answer(asked.model, outputs))

    return Question(asked.model, asked.inputs, asked.rows, finish, prepare=asked.prepare)


def deadline_of(question: Question[Reply], headers: Headers, began_s: float) -> float | None:
    """By `time.monotonic`: the shorter of what the header and the protocol's parameter say."""
    if question.timeout_s is None and _TIMEOUT not in headers:
        return None
    wanted = [question.timeout_s, timeout_of(headers)]
    found = [one for one in wanted if one is not None]
    return began_s + min(found) if found else None


def timeout_of(headers: Headers) -> float | None:
    """Seconds that a client waits, by ``X-Request-Timeout-Ms``; None where it does not say."""
    text = headers.get(_TIMEOUT)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise RequestError(f"{TIMEOUT}: asked for a number of milliseconds above 0, found '{text.decode('latin-1')}'")
    return found / 1000


async def answer(
    service: InferenceService,
    route: Route,
    target: tuple[str | None, ...],
    headers: Headers,
    body: bytes,
    *,
    began_s: float | None = None,
    on_question: Callable[[Question[Reply]], None] | None = None,
) -> Reply:
    """What a request gets; its large parts are read and written in a thread, so that others need not wait.

    A deadline counts from ``began_s``, by `time.monotonic`; from now where that is not given.
    """
    loop, began_s = asyncio.get_running_loop(), time.monotonic() if began_s is None else began_s
    if target and target[0]:
        await service.wake(target[0])
    if is_long(headers, body):
        question = await service.read_in_thread(lambda: read_awake(route, service, target, headers, body))
    else:
        while True:
            try:
                question = route.read(service, target, headers, body)
                break
            except Asleep as asleep:
                await asyncio.wrap_future(asleep.load)
    if on_question is not None:
        on_question(question)
    if question.prepare is not None:
        question = await service.read_in_thread(question.ready)
    batcher = service.batcher(question.model)
    deadline = deadline_of(question, headers, began_s)
    outputs = await batcher.infer(question.inputs, question.rows, deadline=deadline, checked=True)
    if is_wide(outputs):
        return await loop.run_in_executor(service.executor, question.finish, outputs)
    return question.finish(outputs)


def read_awake(
    route: Route, service: InferenceService, target: tuple[str | None, ...], headers: Headers, body: bytes
) -> Question[Reply]:
    """As ``route.read``, in a thread that may wait for a model to be loaded."""
    while True:
        try:
            return route.read(service, target, headers, body)
        except Asleep as asleep:
            asleep.load.result()


def is_long(headers: Headers, body: bytes) -> bool:
    """Whether reading a body may hold up the event loop; binary tensors are taken as they lie, but for texts.

    Of a table a few bytes may become many, and the first brings pyarrow.
    """
    if len(body) <= INLINE_BODY_BYTES:
        return headers.get(b"content-type", b"").startswith(_TABLES)
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return True
    if not (text.isdigit() and len(text) < 20):
        return False  # refused
    length = int(text)
    # A text of JSON may spell the word for texts otherwise only by an escape.
    return length > INLINE_BODY_BYTES or body.find(b"BYTES", 0, length) >= 0 or body.find(b"\\u", 0, length) >= 0


def is_wide(outputs: Outputs) -> bool:
    """Whether writing an answer may hold up the event loop."""
    return sum(array.size for array in outputs.values()) > INLINE_NUMBERS


def refusal_of(error: BaseException) -> Refusal:
    """Status by whose fault it is. What is not listed is ours: the client learns nothing of it, who calls logs it."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NotFoundError):
        return Refusal(404, str(error))
    if isinstance(error, RequestError | DataError):
        return Refusal(400, str(error))
    if isinstance(error, BusyError):
        return Refusal(503, str(error), {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})
    return Refusal(500, "the server failed on this request; its log says why")


def too_large(limit: int) -> Refusal:
    """Of a body."""
    return Refusal(413, f"the body is larger than the {limit} bytes that this server takes")


def check_type(headers: Headers, known: tuple[str, ...]) -> None:
    """Refuse other content; a request that names no type is taken at its word."""
    found = headers.get(b"content-type")
    if found is not None and found != b"application/json":
        word = found.decode("latin-1").partition(";")[0].strip().lower()
        if word not in known:
            hint = f"; asked for {' or '.join(known)} (curl -H 'Content-Type: {JSON}')"
            raise Refusal(415, f"content type '{word}' is not read here{hint}")
    check_encoding(headers)


def check_encoding(headers: Headers) -> None:
    """Refuse a body that is packed."""
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        word = encoding.decode("latin-1")
        raise Refusal(415, f"content encoding '{word}' is not read here; send the body as it is")


def _type_of(headers: Headers) -> str:
    """Of a body that `check_type` let pass."""
    return headers.get(b"content-type", JSON.encode()).decode("latin-1").partition(";")[0].strip().lower()


def _length(headers: Headers) -> int | None:
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isdigit() and len(text) < 20):
        raise RequestError(f"{HEADER_LENGTH}: asked for a number of bytes, found '{text.decode('latin-1')}'")
    return int(text)


def _match_infer(path: str) -> tuple[str | None, ...] | None:
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or parts[-1] != "infer" or "" in parts[3:]:
        return None
    if len(parts) == 5:
        return parts[3], None
    return (parts[3], parts[5]) if len(parts) == 7 and parts[4] == "versions" else None


def _match_predict(path: str) -> tuple[str | None, ...] | None:
    parts = path.split("/")
    last = parts[-1].removesuffix(":predict")
    if parts[:3] != ["", "v1", "models"] or last == parts[-1] or not last or "" in parts[3:]:
        return None
    if len(parts) == 4:
        return last, None
    return (parts[3], last) if len(parts) == 6 and parts[4] == "versions" else None
