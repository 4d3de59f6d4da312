"""What a server can be asked: each question as bytes to send and a function that reads the answer.

The blocking and the asynchronous client send the same ones. Invariant: nothing here waits, and whatever an answer holds
becomes a value or one error that says whose fault it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from mlaas4hep.arguments import require
from mlaas4hep.client.tensors import HEADER_LENGTH, Encoded, Tensors, decode_answer
from mlaas4hep.client.wire import Reply
from mlaas4hep.errors import NotFoundError, RequestError, ServerError

T = TypeVar("T")
Prediction = dict[str, float | None] | None

_JSON = "Content-Type: application/json\r\n"
_WHO = "is that 'mlaas4hep serve'?"


class TooLargeError(RequestError):
    """The server takes less in one question (413)."""


class UnreadError(RequestError):
    """The server does not read what was sent in this form (415)."""


class Question(msgspec.Struct, Generic[T], frozen=True):
    """One request.

    Parameters
    ----------
    method, path
        Of it.
    read
        Makes a value of the answer. `Broken` says that it belongs to another question.
    body
        Its parts; None where there is none.
    headers
        Whole lines.
    safe
        It has no effect, so that it may be asked twice.
    again
        A busy server is asked again.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    body: tuple[bytes, ...] | None = None
    headers: str = ""
    safe: bool = True
    again: bool = True


def live() -> Question[bool]:
    """Whether the server answers."""
    return Question("GET", "/v2/health/live", _is_well, again=False)


def ready(model: str | None = None, version: str | None = None) -> Question[bool]:
    """Whether the server, or one model of it, can be asked."""
    path = "/v2/health/ready" if model is None else f"{_place(model, version)}/ready"
    return Question("GET", path, _is_well, again=False)


def models() -> Question[list[str]]:
    """Names of the models that are served."""
    return _json("/v1/models", part="models", kind=list[str])


def metadata(model: str | None = None, version: str | None = None) -> Question[dict[str, Any]]:
    """Tensors of a model in and out; of the server where no model is named."""
    return _json("/v2" if model is None else _place(model, version), kind=dict[str, Any])


def contract(model: str, version: str | None = None) -> Question[dict[str, Any]]:
    """Columns that a model is asked with, its scores, and an example event."""
    return _json(_event_place(model, version), kind=dict[str, Any])


def index() -> Question[list[dict[str, Any]]]:
    """What the repository holds, loaded or not."""
    return _json("/v2/repository/index", kind=list[dict[str, Any]], body=b"{}")


def control(model: str, what: str, *, config: Mapping[str, Any] | None = None) -> Question[None]:
    """Load or unload a model; not to be repeated, since another may have undone it meanwhile."""
    path = f"/v2/repository/models/{quoted(model)}/{what}"
    parameters = {} if config is None else {"config": msgspec.json.encode(config).decode()}
    body = msgspec.json.encode({"parameters": parameters} if parameters else {})
    return Question("POST", path, _nothing, (body,), _JSON, safe=False)


def labels(model: str) -> Question[dict[str, str]]:
    """Versions by label."""
    return _json(_labels(model), kind=dict[str, str])


def label(model: str, label: str, version: str | None) -> Question[dict[str, str]]:
    """Set a label, or take it away; gives all of them."""
    body = msgspec.json.encode({"label": label, "version": version})
    return _json(_labels(model), kind=dict[str, str], body=body)


def infer(path: str, encoded: Encoded, *, id: str, note: Callable[[object], None] | None = None) -> Question[Tensors]:
    """Outputs for tensors; ``note`` is told the version that gave them."""
    headers = _JSON if encoded.header_length is None else encoded.headers

    def read(reply: Reply) -> Tensors:
        check(reply, path)
        length = reply.headers.get(_HEADER_LENGTH, "")
        return decode_answer(reply.body, int(length) if length.isdecimal() else None, id=id, note=note)

    return Question("POST", path, read, encoded.parts, headers)


_HEADER_LENGTH = HEADER_LENGTH.lower()


def infer_path(model: str, version: str | None = None) -> str:
    """Where tensors are sent."""
    return f"{_place(model, version)}/infer"


def predict_path(model: str, version: str | None = None) -> str:
    """Where events are sent."""
    return f"{_event_place(model, version)}:predict"


def predict(
    path: str, events: Sequence[bytes], *, note: Callable[[object], None] | None = None
) -> Question[list[Prediction]]:
    """Scores of events that are JSON already, one text an event; ``note`` is told the version that gave them."""
    body = (b'{"instances":[', b",".join(events), b"]}")
    count = len(events)

    def read(reply: Reply) -> list[Prediction]:
        check(reply, path)
        found = _decoded(reply, path, _predictions)
        if len(found.predictions) != count:
            raise ServerError(f"{reply.url}{path} answered {len(found.predictions)} of {count} events; {_WHO}")
        if note is not None:
            note(found.model_version)
        return found.predictions

    return Question("POST", path, read, body, _JSON)


def predict_image(model: str, data: bytes, *, version: str | None = None) -> Question[dict[str, Any]]:
    """Outputs for one picture, PNG or JPEG."""
    require(data, bytes, "data", hint="Path('jet.png').read_bytes()", error=RequestError)
    path = predict_path(model, version)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"

    def read(reply: Reply) -> dict[str, Any]:
        check(reply, path)
        predictions = _decoded(reply, path, _image_predictions).predictions
        if len(predictions) != 1:
            raise ServerError(f"{reply.url}{path} gave {len(predictions)} answers for one picture; {_WHO}")
        return predictions[0]

    return Question("POST", path, read, (data,), f"Content-Type: image/{kind}\r\n")


class _Predictions(msgspec.Struct, frozen=True):
    predictions: list[Prediction]
    model_version: Any = None


class _ImagePredictions(msgspec.Struct, frozen=True):
    predictions: list[dict[str, Any]]


class _Problem(msgspec.Struct, frozen=True):
    error: str


_predictions = msgspec.json.Decoder(_Predictions)
_image_predictions = msgspec.json.Decoder(_ImagePredictions)
_problem = msgspec.json.Decoder(_Problem)


def check(reply: Reply, path: str) -> None:
    """Raise what the status says, with the server's own text."""
    if 200 <= reply.status < 300:
        return
    _raise(reply, path)


def _raise(reply: Reply, path: str) -> NoReturn:
    text = error_text(reply)
    if reply.status in (429, 503):
        after = reply.headers.get("retry-after")
        asks = f"; it asks to be left alone for {after} s" if after and after.isdecimal() and after != "0" else ""
        raise ServerError(f"the server answered {reply.status}: {text or 'it is busy'}{asks}")
    if text is None or reply.status < 400:
        raise ServerError(f"{reply.url}{path} answered {reply.status} without an error of ours; {_WHO}")
    if reply.status == 404:
        raise NotFoundError(text)
    if reply.status == 413:
        raise TooLargeError(text)
    if reply.status == 415:
        raise UnreadError(text)
    if reply.status < 500:
        raise RequestError(text)
    raise ServerError(f"the server answered {reply.status}: {text}")


def error_text(reply: Reply) -> str | None:
    """The server's own words; None where another program answered, such as a proxy or a web site."""
    try:
        return _problem.decode(reply.body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _decoded(reply: Reply, path: str, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(f"{reply.url}{path} answered in another form; {_WHO}") from error


def _json(path: str, *, kind: Any, part: str | None = None, body: bytes | None = None) -> Question[Any]:
    """The answer from JSON, or one part of it by name."""
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict[str, kind] if part else kind)

    def read(reply: Reply) -> Any:
        check(reply, path)
        answer = _decoded(reply, path, decoder)
        if part is None:
            return answer
        if part not in answer:
            raise ServerError(f"{reply.url}{path} answered in another form; {_WHO}")
        return answer[part]

    if body is None:
        return Question("GET", path, read)
    return Question("POST", path, read, (body,), _JSON)


def _is_well(reply: Reply) -> bool:
    return reply.status == 200


def _nothing(reply: Reply) -> None:
    check(reply, "/v2/repository")


def _place(model: str, version: str | None, *, protocol: str = "v2") -> str:
    named = f"/{protocol}/models/{quoted(model)}"
    return named if version is None else f"{named}/versions/{quoted(str(version))}"


def _event_place(model: str, version: str | None) -> str:
    return _place(model, version, protocol="v1")


def _labels(model: str) -> str:
    return f"/v2/repository/models/{quoted(model)}/labels"


def quoted(model: str) -> str:
    """A name as one piece of a path."""
    return quote(model, safe="")
