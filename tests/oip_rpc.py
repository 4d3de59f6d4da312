"""The gRPC side of the server in ``tests/oip_server.py``: the same model, and faults of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from conformance.calls import CONTENTS
from conformance.messages import SERVICE, message_class
from conformance.tensors import TYPES, Array, from_bytes, to_bytes
from tests.oip_server import EXTENSIONS, INPUTS, MODEL, OUTPUTS, VERSION, RefusedError, Toy, classes, demand


class Answers:
    """One method a call of the protocol."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def ServerLive(self, request: Any) -> dict[str, Any]:
        return {"live": True}

    def ServerReady(self, request: Any) -> dict[str, Any]:
        return {"ready": True}

    def ModelReady(self, request: Any) -> dict[str, Any]:
        return {"ready": self.toy.loaded and request.name == MODEL and request.version in ("", VERSION)}

    def ServerMetadata(self, request: Any) -> dict[str, Any]:
        return {"name": "toys", "version": "1", "extensions": EXTENSIONS}

    def ModelMetadata(self, request: Any) -> dict[str, Any]:
        self._demand_model(request.name, request.version)
        tensors = [[{"name": one, "datatype": kind, "shape": shape} for one, (kind, shape) in some.items()]
                   for some in (INPUTS, OUTPUTS)]  # fmt: skip
        return {
            "name": MODEL,
            "versions": [VERSION],
            "platform": "toy_toy",
            "inputs": tensors[0],
            "outputs": tensors[1],
        }

    def ModelStatistics(self, request: Any) -> dict[str, Any]:
        demand(request.name in ("", MODEL), "no such model", 404)
        runs = 0 if "statistics count requests" in self.toy.faults else self.toy.runs
        times = {"success": {"count": runs, "ns": 1000}}
        counts = {"inference_count": self.toy.rows, "execution_count": runs, "inference_stats": times}
        return {"model_stats": [{"name": MODEL, "version": VERSION, **counts}]}

    def RepositoryIndex(self, request: Any) -> dict[str, Any]:
        state = "READY" if self.toy.loaded else "UNAVAILABLE"
        models = [{"name": MODEL, "version": VERSION, "state": state}]
        return {"models": models if self.toy.loaded or not request.ready else []}

    def RepositoryModelLoad(self, request: Any) -> dict[str, Any]:
        demand(request.model_name == MODEL or "any model will do" in self.toy.faults, "no such model", 404)
        self.toy.loaded = True
        return {}

    def RepositoryModelUnload(self, request: Any) -> dict[str, Any]:
        demand(request.model_name == MODEL, "no such model", 404)
        self.toy.loaded = "unload does nothing" in self.toy.faults
        return {}

    def ModelInfer(self, request: Any) -> dict[str, Any]:
        self._demand_model(request.model_name, request.model_version)
        demand(self.toy.loaded, "not loaded", 404)
        raw = list(request.raw_input_contents)
        demand(not raw or len(raw) == len(request.inputs) or "any raw contents" in self.toy.faults, "raw contents")
        found: dict[str, Array] = {}
        for place, one in enumerate(request.inputs):
            demand(one.name in INPUTS and one.name not in found, "no such input, or twice")
            found[one.name] = self._tensor(one, raw[place] if raw else None)
        demand(set(found) == set(INPUTS), "an input is missing")
        demand(len({len(one) for one in found.values()}) == 1, "inputs of different lengths")
        return self._reply(request, self.toy.run(found))

    def _demand_model(self, name: str, version: str) -> None:
        demand(name == MODEL and version in ("", VERSION), "no such model", 404)

    def _tensor(self, one: Any, raw: bytes | None) -> Array:
        datatype, declared = INPUTS[one.name]
        demand(one.datatype == datatype, "datatype")
        shape = list(one.shape)
        demand(len(shape) == 2 and 0 <= shape[0] < 2**31 and shape[1] == declared[1], "shape")
        try:
            if raw is not None:
                demand(not one.HasField("contents"), "raw and typed contents")
                return from_bytes(raw, datatype, shape)
            values = list(getattr(one.contents, CONTENTS[datatype]))
            return np.array(values, dtype=TYPES[datatype]).reshape(shape)
        except ValueError as error:
            raise RefusedError(400, str(error)) from error

    def _reply(self, request: Any, found: dict[str, Array]) -> dict[str, Any]:
        names = [one.name for one in request.outputs] or list(OUTPUTS)
        demand(set(names) <= set(OUTPUTS), "no such output")
        kinds = {one: OUTPUTS[one][0] for one in names}
        for one in request.outputs:
            if "classification" in one.parameters:
                count = one.parameters["classification"].int64_param
                upwards = "lowest class first" in self.toy.faults
                found[one.name], kinds[one.name] = classes(found[one.name], count, upwards=upwards), "BYTES"
        tensors = [{"name": one, "datatype": kinds[one], "shape": found[one].shape} for one in names]
        contents = [to_bytes(found[one]) for one in names]
        if "raw contents in another order" in self.toy.faults and len(contents) > 1:
            contents[0], contents[1] = contents[1], contents[0]
        id = "0" if "wrong id" in self.toy.faults else request.id
        head = {"model_name": MODEL, "model_version": VERSION, "id": id}
        return head | {"outputs": tensors, "raw_output_contents": contents}


def _handler(answers: Answers, method: str) -> Any:
    import grpc

    answer: Callable[[Any], dict[str, Any]] = getattr(answers, method)

    def run(request: Any, context: Any) -> Any:
        try:
            return message_class(f"{method}Response")(**answer(request))
        except RefusedError as error:
            code = grpc.StatusCode.NOT_FOUND if error.status == 404 else grpc.StatusCode.INVALID_ARGUMENT
            code = grpc.StatusCode.INTERNAL if "failures on bad requests" in answers.toy.faults else code
            context.abort(code, str(error))

    return grpc.unary_unary_rpc_method_handler(
        run,
        request_deserializer=message_class(f"{method}Request").FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


@contextlib.contextmanager
def serving_rpc(*faults: str, tls: tuple[bytes, bytes] | None = None) -> Iterator[str]:
    """The same with those faults; gives its address. ``tls`` is a key and a certificate."""
    import grpc

    answers = Answers(Toy(frozenset(faults)))
    methods = [one for one in dir(answers) if one[0].isupper()]
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {one: _handler(answers, one) for one in methods}),)
    )
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tls]))
    server.start()
    try:
        yield f"{'grpcs://' if tls else ''}127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
