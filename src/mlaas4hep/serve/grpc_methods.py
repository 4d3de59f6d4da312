"""The methods that can be called over gRPC: whom the same question over HTTP would ask, and what is answered.

Health is answered in gRPC's own protocol too (``grpc.health.v1``), which Kubernetes' probes speak. Invariant: what is
answered is what the service says, in the words of the messages; who may ask is decided by the address on HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mlaas4hep.errors import NotFoundError
from mlaas4hep.serve.asking import Refusal
from mlaas4hep.serve.control import change_model
from mlaas4hep.serve.describing import DATA_TYPES
from mlaas4hep.serve.oip import HEALTH, SERVICE
from mlaas4hep.serve.service import InferenceService

Statistics = Callable[[str | None, str | None], dict[str, Any]]
Fields = dict[str, Any]
SERVING, NOT_SERVING = 1, 2
# Under these names is asked about the whole server.
_WHOLE = ("", SERVICE, HEALTH)


class Answers:
    """Answers all that is no inference: the fields of the answer's message, or who finds them out.

    Parameters
    ----------
    service
        Who knows.
    statistics
        Model and version to the fields of a ModelStatisticsResponse; None where nothing is counted.
    """

    def __init__(self, service: InferenceService, statistics: Statistics | None = None) -> None:
        self.service = service
        self._statistics = statistics

    def live(self, request: Any) -> Fields:
        return {"live": self.service.live()}

    def ready(self, request: Any) -> Fields:
        return {"ready": self.service.ready()}

    def model_ready(self, request: Any) -> Fields:
        try:
            return {"ready": self.service.model_ready(request.name, request.version or None)}
        except NotFoundError:  # that it cannot be asked is the answer here, as it is Triton's
            return {"ready": False}

    def health(self, request: Any) -> Fields:
        name, service = request.service, self.service
        if name not in _WHOLE and name not in service.model_names():
            raise NotFoundError(f"no service '{name[:200]}' is known here; asked for '', '{SERVICE}' or a model")
        return {"status": SERVING if service.ready() else NOT_SERVING}

    def server_metadata(self, request: Any) -> Fields:
        found = self.service.server_metadata()
        return {"name": found.name, "version": found.version, "extensions": found.extensions}

    async def model_metadata(self, request: Any) -> Fields:
        await self.service.wake(request.name)
        found = self.service.model_metadata(request.name, request.version or None)
        inputs, outputs = (
            [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in some]
            for some in (found.inputs, found.outputs)
        )
        head = {"name": found.name, "versions": found.versions, "platform": found.platform}
        return head | {"inputs": inputs, "outputs": outputs}

    async def model_config(self, request: Any) -> Fields:
        await self.service.wake(request.name)
        found = self.service.model_config(request.name, request.version or None)
        for one in (*found["input"], *found["output"]):
            one["data_type"] = DATA_TYPES.index(one["data_type"]) + 1
        return {"config": found}

    def model_statistics(self, request: Any) -> Fields:
        if self._statistics is None:
            raise Refusal(501, "nothing is counted here")
        if request.name:
            self.service.model_ready(request.name, request.version or None)  # tells of a model that is not served
        return self._statistics(request.name or None, request.version or None)

    def index(self, request: Any) -> Fields:
        _check_repository(request)
        found = self.service.repository_index(ready=request.ready)
        return {
            "models": [
                {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason} for one in found
            ]
        }

    async def load(self, request: Any) -> Fields:
        return await self._change("load", request)

    async def unload(self, request: Any) -> Fields:
        return await self._change("unload", request)

    async def _change(self, what: str, request: Any) -> Fields:
        _check_repository(request)
        parameters = {name: _value(one) for name, one in request.parameters.items()}
        await change_model(self.service, what, request.model_name, parameters)
        return {}


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Parameters
    ----------
    name
        Of its messages: ``NAMERequest`` and ``NAMEResponse``.
    verb, path
        Of the same question on HTTP; the path of a model's name.
    answer
        None for the inference.
    model
        Field that names the model, if any.
    """

    name: str
    verb: str
    path: Callable[[str], str]
    answer: Callable[[Answers, Any], Fields | Coroutine[Any, Any, Fields]] | None
    model: str = ""

    @property
    def is_health(self) -> bool:
        """Whether it is asked by who watches the server."""
        return self.path("").startswith("/v2/health/")

    def model_of(self, request: Any) -> str:
        """Name of the model that is asked about."""
        return str(getattr(request, self.model)) if self.model else ""


def _at(path: str) -> Callable[[str], str]:
    """A path with the model's name in it, where there is one and it has a place."""
    return lambda name: path.replace("{}", quote(name, safe=""))


def _about(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}" if name else "/v2"


def _health(name: str) -> str:
    return "/v2/health/ready" if name in _WHOLE else _about(name)


_MODEL = "/v2/repository/models/{}"
_OURS = (
    Method("ServerLive", "GET", _at("/v2/health/live"), Answers.live),
    Method("ServerReady", "GET", _at("/v2/health/ready"), Answers.ready),
    Method("ModelReady", "GET", _about, Answers.model_ready, "name"),
    Method("ServerMetadata", "GET", _at("/v2"), Answers.server_metadata),
    Method("ModelMetadata", "GET", _about, Answers.model_metadata, "name"),
    Method("ModelConfig", "GET", _about, Answers.model_config, "name"),
    Method("ModelStatistics", "GET", _about, Answers.model_statistics, "name"),
    Method("ModelInfer", "POST", _at("/v2/models/{}/infer"), None, "model_name"),
    Method("RepositoryIndex", "POST", _at("/v2/repository/index"), Answers.index),
    Method("RepositoryModelLoad", "POST", _at(f"{_MODEL}/load"), Answers.load, "model_name"),
    Method("RepositoryModelUnload", "POST", _at(f"{_MODEL}/unload"), Answers.unload, "model_name"),
)
METHODS: Mapping[bytes, Method] = {f"/{SERVICE}/{one.name}".encode(): one for one in _OURS} | {
    f"/{HEALTH}/Check".encode(): Method("HealthCheck", "GET", _health, Answers.health, "service")
}


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise Refusal(501, f"there is one repository here, without a name; found '{request.repository_name[:200]}'")


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
