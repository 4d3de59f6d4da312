"""The client that users meet: a handful of questions, plain values in and out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.client.connection import BUSY, Connection, Reply
from mlaas4hep.client.tensors import HEADER_LENGTH, decode_outputs, encode_inputs
from mlaas4hep.errors import NotFoundError, RequestError, ServerError

_JSON = {"Content-Type": "application/json"}
_WHO = "is that 'mlaas4hep serve'?"
_encoder = msgspec.json.Encoder()
# Looked at for every number: a tuple is ten times faster to test than a union made on the spot.
_NUMPY = (np.ndarray, np.generic)
_SEQUENCES = (list, tuple)


class Client:
    """Asks one server, over one connection that is kept between questions.

    Parameters
    ----------
    url
        Such as ``http://localhost:8000``.
    timeout_s
        Longest wait for the connection, and for each part of an answer.
    retries
        How often a question is asked again where the connection failed or the server said 503; the waits in between
        double, with jitter.

    Raises
    ------
    RequestError
        From every question that the server refused (4xx), in the server's words.
    NotFoundError
        The model is not served there.
    ServerError
        The server failed (5xx), or did not answer.

    Notes
    -----
    Not to be shared between threads: a thread needs a client of its own.

    Examples
    --------
    ::

        with Client("http://localhost:8000") as client:
            client.predict("tth", [{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}])
            # [{'signal': 0.93}]
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, retries: int = 2) -> None:
        self._connection = Connection(url, timeout_s=timeout_s, retries=retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def live(self) -> bool:
        """Whether the server answers."""
        return self._ask_raw("GET", "/v2/health/live").status == 200

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or one model of it, can be asked."""
        path = "/v2/health/ready" if model is None else f"/v2/models/{_quoted(model)}/ready"
        return self._ask_raw("GET", path).status == 200

    def models(self) -> list[str]:
        """Names of the models that are served."""
        names: list[str] = self._ask("GET", "/v1/models", part="models")
        return names

    def metadata(self, model: str | None = None) -> dict[str, Any]:
        """Tensors of a model in and out; of the server where no model is named."""
        answer: dict[str, Any] = self._ask("GET", "/v2" if model is None else f"/v2/models/{_quoted(model)}")
        return answer

    def contract(self, model: str) -> dict[str, Any]:
        """Columns that a model is asked with, its scores, and an example event."""
        answer: dict[str, Any] = self._ask("GET", f"/v1/models/{_quoted(model)}")
        return answer

    def predict(self, model: str, events: Sequence[Mapping[str, Any]]) -> list[dict[str, float | None] | None]:
        """Scores of events by name.

        Parameters
        ----------
        model
            Name.
        events
            One mapping an event, column to value: a number, a list for a jagged column, a list of lists for a nested
            one. None and NaN are missing.

        Returns
        -------
        One mapping an event, score name to value, in order; None where the event fails the model's preselection.
        """
        body = _encode_events(events)
        path = f"/v1/models/{_quoted(model)}:predict"
        predictions: list[dict[str, float | None] | None] = self._ask("POST", path, body, part="predictions")
        return predictions

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a model for padded tensors, bit for bit over the wire.

        Parameters
        ----------
        model
            Name.
        inputs
            float32 by input group, [N, F] or [N, K, F], NaN where a value is missing.

        Returns
        -------
        float32 by output name; ``scores`` is [N, C].
        """
        body, length = encode_inputs(inputs)
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
        path = f"/v2/models/{_quoted(model)}/infer"
        reply = self._ask_raw("POST", path, body, headers)
        self._check(reply, path)
        header_length = reply.headers.get(HEADER_LENGTH.lower(), "")
        return decode_outputs(reply.body, int(header_length) if header_length.isdecimal() else len(reply.body))

    def _ask(self, method: str, path: str, body: bytes | None = None, *, part: str | None = None) -> Any:
        """The answer from JSON, or one part of it by name."""
        reply = self._ask_raw(method, path, body, _JSON if body is not None else {})
        self._check(reply, path)
        try:
            answer = msgspec.json.decode(reply.body)
            return answer if part is None else answer[part]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
            raise ServerError(f"{self._connection.url}{path} answered in another form; {_WHO}") from error

    def _check(self, reply: Reply, path: str) -> None:
        """Raise what the status says, with the server's own text."""
        if reply.status < 400:
            return
        text = _error_text(reply)
        if text is None and reply.status != BUSY:
            raise ServerError(f"{self._connection.url}{path} answered {reply.status} without an error of ours; {_WHO}")
        if reply.status == 404:
            raise NotFoundError(text)
        if reply.status < 500:
            raise RequestError(text)
        raise ServerError(f"the server answered {reply.status}: {text or 'it is busy'}")

    def _ask_raw(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        return self._connection.ask(method, path, body, headers=headers or {})


def _quoted(model: str) -> str:
    return quote(model, safe="")


def _error_text(reply: Reply) -> str | None:
    """The server's own words; None where another program answered, such as a proxy or a web site."""
    try:
        answer = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return str(answer["error"]) if isinstance(answer, dict) and "error" in answer else None


def _encode_events(events: Sequence[Mapping[str, Any]]) -> bytes:
    if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
        raise RequestError(f"events: asked for a list of mappings, found {type(events).__name__}")
    events = list(events)
    for index, event in enumerate(events):
        if not isinstance(event, Mapping):
            raise RequestError(f"events: asked for a list of mappings, found {type(event).__name__} at [{index}]")
    try:
        plain = [{name: _plain(value) for name, value in event.items()} for event in events]
        return _encoder.encode({"instances": plain})
    except TypeError as error:
        raise RequestError(f"an event holds what JSON cannot: {error}") from error
    except RecursionError as error:
        raise RequestError("an event is nested too deeply") from error


def _plain(value: Any) -> Any:
    """A value as JSON knows it; infinities become the words that the server reads, since JSON has no such number."""
    if isinstance(value, _NUMPY):
        value = value.tolist()
    if isinstance(value, _SEQUENCES):
        return [_plain(one) for one in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
