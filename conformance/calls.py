"""The gRPC side of a server: calls with messages of `conformance.messages`, and tensors in and out of them.

Invariant: grpc is imported only here and only when it is asked for, so that the kit runs without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.checks import FailedCheckError, only_if, require
from conformance.messages import SERVICE, message_class
from conformance.tensors import TYPES, Array, from_bytes, to_bytes

if TYPE_CHECKING:
    from conformance.target import Target

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class StatusError(FailedCheckError):
    """The call ended with a status; ``code`` is its name."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text[:200]}")
        self.code = code


class Calls:
    """A channel. Safe from several threads; a context that closes it."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float,
        headers: Sequence[tuple[str, str]] = (),
        authority: bytes | None = None,
    ) -> None:
        import grpc

        self._failure = grpc.RpcError
        scheme, _, place = address.rpartition("://")
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if scheme in ("https", "grpcs"):
            credentials = grpc.ssl_channel_credentials(authority)
            self._channel = grpc.secure_channel(place, credentials, options=options)
        else:
            self._channel = grpc.insecure_channel(place, options=options)
        self._timeout_s = timeout_s
        self._metadata = [(name.lower(), value) for name, value in headers]

    @classmethod
    def of(cls, target: Target) -> Calls:
        """To the server of a run; skips the check where there is none, or no library."""
        wish, place = target.wish, target.place
        only_if(wish.grpc, "no address was given with --grpc")
        missing = [name for name in ("grpc", "google.protobuf") if not _is_there(name)]
        only_if(not missing, f"the packages grpcio and protobuf are needed; {' and '.join(missing)} is missing")
        authority = wish.authority.read_bytes() if wish.authority else None
        return cls(wish.grpc, timeout_s=place.timeout_s, headers=place.headers, authority=authority)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, **fields: Any) -> Any:
        """Call with the fields of its request."""
        return self.send(method, message_class(f"{method}Request")(**fields))

    def send(self, method: str, request: Any) -> Any:
        """Call with a request, a message or bytes. Raises `StatusError`."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return message_class(f"{method}Response").FromString(self.send_bytes(method, data))

    def send_bytes(self, method: str, data: bytes) -> bytes:
        """Call any method with any bytes. Raises `StatusError`."""
        ask = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            return bytes(ask(data, timeout=self._timeout_s, metadata=self._metadata))
        except self._failure as error:
            raise StatusError(error.code().name, error.details() or "") from error

    def infer(self, target: Target, request: Any) -> dict[str, Array]:
        """Outputs of a request that must be answered."""
        return read_outputs(target, self.send("ModelInfer", request))


def make_request(target: Target, tensors: Mapping[str, Array], *, raw: bool, **more: Any) -> Any:
    """A request for an inference, with typed contents or raw bytes."""
    request = message_class("ModelInferRequest")(model_name=target.model, **more)
    for name, array in tensors.items():
        datatype = target.spec(name).datatype
        one = request.inputs.add(name=name, datatype=datatype, shape=list(array.shape))
        if raw:
            request.raw_input_contents.append(to_bytes(array))
        else:
            only_if(datatype in CONTENTS, f"{datatype} has no typed contents")
            getattr(one.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    return request


def read_outputs(target: Target, response: Any) -> dict[str, Array]:
    """Outputs of an answer, with every rule that holds for any of them."""
    require(response.model_name == target.model, f"model_name is '{response.model_name}'")
    raw = list(response.raw_output_contents)
    require(len(raw) in (0, len(response.outputs)), f"{len(raw)} raw contents for {len(response.outputs)} outputs")
    found: dict[str, Array] = {}
    for place, one in enumerate(response.outputs):
        require(one.name not in found, f"output '{one.name}' comes twice")
        require(one.datatype in TYPES, f"output '{one.name}' has the datatype '{one.datatype}'")
        require(all(size >= 0 for size in one.shape), f"output '{one.name}' has the shape {list(one.shape)}")
        require(not (raw and one.contents.ByteSize()), f"output '{one.name}' has raw and typed contents")
        try:
            found[one.name] = from_bytes(raw[place], one.datatype, one.shape) if raw else _typed(one)
        except ValueError as error:
            raise FailedCheckError(f"output '{one.name}': {error}") from error
    return found


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False  # not even what the package is part of


def _typed(one: Any) -> Array:
    require(one.datatype in CONTENTS, f"{one.datatype} has no typed contents")
    values = list(getattr(one.contents, CONTENTS[one.datatype]))
    if one.datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array.reshape(list(one.shape))
    return np.array(values, dtype=TYPES[one.datatype]).reshape(list(one.shape))
