"""The server that is asked: its address, its model's tensors, and requests that fit them.

Invariant: tensors depend on the seed and their number alone, so that a run can be repeated and answers compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from conformance.checks import FailedCheckError
from conformance.replies import Reply, read_object, read_reply, read_specs
from conformance.tensors import Array, Spec, from_json, make, to_bytes, to_json
from conformance.wire import BINARY, HEADER_LENGTH, JSON, Answer, BrokenWireError, Connection, Place

_FREE_SIZE = 2


class TargetError(Exception):
    """The server cannot be asked at all, or not about any model."""


@dataclass(frozen=True)
class Wish:
    """How a run asks.

    Parameters
    ----------
    model
        Name of the model; empty takes the first that the server names.
    grpc
        ``host:port`` of the gRPC side, ``grpcs://host:port`` with TLS; empty leaves its checks out.
    seed
        Of all that is random.
    fuzz
        Number of mutated requests.
    huge_bytes
        Size of the largest tensors that are sent.
    assume
        Extensions that are asked for though the server does not announce them.
    unload
        Whether the model may be unloaded for a moment.
    authority
        File with the certificates that are trusted over gRPC; without it those of gRPC itself.
    sample
        A valid request as JSON, where random values do not fit the model.
    """

    model: str = ""
    grpc: str = ""
    seed: int = 0
    fuzz: int = 200
    huge_bytes: int = 16 << 20
    assume: frozenset[str] = frozenset()
    unload: bool = False
    authority: Path | None = None
    sample: Mapping[str, Any] | None = None


class Target:
    """A server, one of its models, and a connection that is kept. For one thread.

    Raises
    ------
    TargetError
        Nobody answers, or there is no such model.
    """

    def __init__(self, place: Place, wish: Wish | None = None) -> None:
        self.place, self.wish = place, wish or Wish()
        self._connection: Connection | None = None
        self.asked = ""
        self.versions: tuple[str, ...] = ()
        try:
            self.extensions = frozenset(self._announced()) | self.wish.assume
            self.model = self.wish.model or self._first_model()
            self.inputs, self.outputs = self._tensors()
        except TargetError:
            self.close()
            raise

    @property
    def batched(self) -> bool:
        """Whether the number of rows is free."""
        return all(one.batched for one in self.inputs)

    @property
    def path(self) -> str:
        """Route of the model."""
        return f"/v2/models/{quote(self.model, safe='')}"

    @property
    def binary(self) -> bool:
        return "binary_tensor_data" in self.extensions

    def sibling(self) -> Target:
        """The same target for another thread, with a connection of its own."""
        other: Target = object.__new__(Target)
        other.__dict__.update(self.__dict__, _connection=None)
        return other

    def forget(self) -> None:
        """Begin anew: no connection, nothing asked."""
        self.asked = ""
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connect(self) -> Connection:
        """A connection that is used for nothing else; the caller closes it."""
        return self.place.open()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask on the kept connection; on a new one where the server had closed it in the meantime."""
        self.note(f"{method} {path}", body)
        data = self.place.request(method, path, body, headers)
        if self._connection is not None:
            try:
                return self._exchange(self._connection, data, method)
            except BrokenWireError:
                self.close()
        self._connection = self.connect()
        try:
            return self._exchange(self._connection, data, method)
        except BrokenWireError:
            self.close()
            raise

    def note(self, line: str, body: bytes | None = None) -> None:
        """Remember what is asked, for the report."""
        text = (body or b"")[:160].decode("utf-8", "replace")
        self.asked = f"{line} {text}".strip() + (" ..." if len(body or b"") > 160 else "")

    def random(self, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.wish.seed, number])

    def tensors(self, rows: int = 1, *, number: int = 0) -> dict[str, Array]:
        """Fitting values for all inputs; another `number` gives others."""
        random = self.random(number)
        if self.wish.sample is not None:
            return {one.name: self._varied(one, rows, random) for one in self.inputs}
        return {one.name: make(one, one.sized(rows, _FREE_SIZE), random) for one in self.inputs}

    def spec(self, name: str) -> Spec:
        return next(one for one in self.inputs if one.name == name)

    def question(self, tensors: Mapping[str, Array], **more: Any) -> dict[str, Any]:
        """The JSON of a request, values in it."""
        return {"inputs": [self.input(name, one) for name, one in tensors.items()], **more}

    def input(self, name: str, array: Array) -> dict[str, Any]:
        datatype = self.spec(name).datatype
        return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": to_json(array)}

    def binary_question(
        self, tensors: Mapping[str, Array], *, json_inputs: Sequence[str] = (), **more: Any
    ) -> tuple[dict[str, Any], bytes]:
        """The JSON of a request and the bytes that follow it."""
        inputs, tail = [], b""
        for name, array in tensors.items():
            one = self.input(name, array)
            if name not in json_inputs:
                data = to_bytes(array)
                del one["data"]
                one["parameters"] = {"binary_data_size": len(data)}
                tail += data
            inputs.append(one)
        return {"inputs": inputs, **more}, tail

    def post(
        self,
        question: Any,
        tail: bytes | None = None,
        *,
        path: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for an inference; with a `tail`, in binary."""
        head = question if isinstance(question, bytes) else json.dumps(question).encode()
        fields = binary_headers(head, tail) | dict(headers or {})
        return self.ask("POST", path or f"{self.path}/infer", head + (tail or b""), fields)

    def infer(self, question: Any, tail: bytes | None = None, *, path: str = "", some: bool = False) -> Reply:
        """The same, with an answer that must be good and hold all outputs (or only `some`)."""
        return read_reply(self.post(question, tail, path=path), () if some else self.outputs)

    def check_alive(self) -> None:
        """Demand that an ordinary request is answered, on a new connection."""
        before = self.asked
        self.close()
        try:
            self.infer(self.question(self.tensors()))
        except (FailedCheckError, BrokenWireError) as error:
            raise FailedCheckError(f"afterwards an ordinary request failed: {error}") from error
        self.asked = before

    def _exchange(self, connection: Connection, data: bytes, method: str) -> Answer:
        answer = connection.exchange(data, method=method)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def _announced(self) -> list[str]:
        try:
            answer = self.ask("GET", "/v2")
        except BrokenWireError as error:
            raise TargetError(str(error)) from error
        try:
            found = read_object(answer).get("extensions", [])
        except FailedCheckError:
            return []  # group `server` reports it
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def _first_model(self) -> str:
        """The index of the repository extension, or the lists that KServe and this project have."""
        for method, path, body in (("POST", "/v2/repository/index", b"{}"), ("GET", "/v2/models", None)):
            try:
                answer = self.ask(method, path, body)
                found = answer.json() if answer.status == 200 else []
            except (BrokenWireError, ValueError):
                continue
            names = found.get("models", []) if isinstance(found, dict) else found
            names = [one.get("name") if isinstance(one, dict) else one for one in names if one]
            if names:
                return str(names[0])
        raise TargetError("the server does not say which models it has; name one with --model")

    def _tensors(self) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
        try:
            found = read_object(self.ask("GET", self.path))
            inputs = read_specs(found.get("inputs", []), "inputs")
            outputs = read_specs(found.get("outputs", []), "outputs")
        except (FailedCheckError, BrokenWireError) as error:
            raise TargetError(f"metadata of model '{self.model}' cannot be read: {error}") from error
        versions = found.get("versions") or []
        self.versions = tuple(one for one in versions if isinstance(one, str)) if isinstance(versions, list) else ()
        if not inputs:
            inputs = read_specs((self.wish.sample or {}).get("inputs", []), "inputs")
        if not inputs:
            raise TargetError(f"model '{self.model}' declares no inputs; give a valid request with --sample")
        return inputs, outputs

    def _varied(self, spec: Spec, rows: int, random: np.random.Generator) -> Array:
        """The sample's value for all rows, floats a little different in each."""
        given = next(one for one in (self.wish.sample or {})["inputs"] if one["name"] == spec.name)
        array = from_json(given["data"], spec.datatype, given["shape"])
        if spec.batched:
            array = np.repeat(array[:1], rows, axis=0)
        if spec.floating:
            array = (array * random.uniform(0.9, 1.1, array.shape)).astype(array.dtype)
        return array


def binary_headers(head: bytes, tail: bytes | None) -> dict[str, str]:
    """Headers of a request with a tail of bytes; of JSON where it is None."""
    if tail is None:
        return {"Content-Type": JSON}
    return {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}
