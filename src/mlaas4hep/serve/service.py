"""What a server can be asked, without a word about how the question arrives.

A transport such as HTTP sits in front of it, the models behind it. Invariant: tensors and events end in the same call
of the same graph, so that both ways of asking give the same bits.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.events import Prediction, example_event
from mlaas4hep.serve.protocol import (
    DATATYPE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
)
from mlaas4hep.serve.repository import ModelRepository, ServedModel
from mlaas4hep.spec.columns import Columns
from mlaas4hep.spec.contract import ModelSpec

OUTPUT = "scores"
PLATFORM = "onnxruntime_onnx"


class Limits(msgspec.Struct, frozen=True):
    """How much one request may ask.

    Parameters
    ----------
    max_body_bytes
        Size of a request's body.
    max_instances
        Events of a request by name.
    """

    max_body_bytes: int = 64 << 20
    max_instances: int = 100_000


class ModelContract(msgspec.Struct, frozen=True):
    """What a client needs to ask a model by name; answer of ``GET /v1/models/{name}``.

    Parameters
    ----------
    columns
        Columns that an event must hold, with their types: ``float32`` is one number, ``float32[]`` a list.
    score_names
        Names of the scores in a prediction.
    preselection
        Events for which it is false get null; None where all events are scored.
    example
        An event that fits, with made-up values.
    """

    name: str
    ready: bool
    version: str
    task: str
    columns: dict[str, str]
    score_names: tuple[str, ...]
    preselection: str | None
    example: dict[str, Any]
    spec_sha256: str
    model_sha256: str


class InferenceService:
    """Answers about the models of a repository. Safe from several threads.

    Parameters
    ----------
    repository
        The models.
    version
        Version of this program, given in the server's metadata.
    """

    def __init__(self, repository: ModelRepository, *, limits: Limits | None = None, version: str = "0") -> None:
        self.repository = repository
        self.limits = limits or Limits()
        self._version = version

    def live(self) -> bool:
        """Whether the server answers at all."""
        return True

    def ready(self) -> bool:
        """Whether all models can be asked; they are loaded before the service exists."""
        return bool(self.repository.names)

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether a model can be asked; raises `NotFoundError` where it is not served."""
        return bool(self.repository.get(name, version).name)

    def call_s(self, name: str, version: str | None = None) -> float:
        """Seconds that a model takes for one row, as measured when it was loaded."""
        return self.repository.get(name, version).runner.call_s

    def model_names(self) -> tuple[str, ...]:
        """Names of all models, sorted."""
        return self.repository.names

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        return ServerMetadata("mlaas4hep", self._version, ("binary_tensor_data",))

    def model_metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """Tensors of a model in and out."""
        model = self.repository.get(name, version)
        return ModelMetadata(
            name=model.name,
            versions=self.repository.versions(name) if version is None else (model.version,),
            platform=PLATFORM,
            inputs=tuple(TensorMetadata(one.name, DATATYPE, (-1, *one.shape)) for one in model.spec.signature),
            outputs=(TensorMetadata(OUTPUT, DATATYPE, (-1, len(model.spec.score_names))),),
        )

    def model_contract(self, name: str, version: str | None = None) -> ModelContract:
        """Columns that a model is asked with, by name."""
        model = self.repository.get(name, version)
        return ModelContract(
            name=model.name,
            ready=True,
            version=model.version,
            task=model.spec.task,
            columns={column: str(declared) for column, declared in model.reader.types.items()},
            score_names=model.spec.score_names,
            preselection=model.spec.features.preselection,
            example=example_event(model.reader.types, _typical(model.spec)),
            spec_sha256=model.spec_sha256,
            model_sha256=model.model_sha256,
        )

    def infer(self, name: str, request: InferRequest, *, version: str | None = None) -> InferResponse:
        """Scores of padded tensors.

        Raises
        ------
        NotFoundError
            No such model or version.
        RequestError
            An input that is missing, unknown or of another shape, or an output that the model does not have.
        """
        model = self.repository.get(name, version)
        for choice in request.outputs:
            if choice.name != OUTPUT:
                raise RequestError(f"model '{name}' has no output '{choice.name}'{nearest(choice.name, [OUTPUT])}")
        scores = model.runner.run(request.inputs)
        return InferResponse(model.name, model.version, {OUTPUT: scores}, id=request.id)

    def predict_events(self, name: str, body: bytes, *, version: str | None = None) -> Prediction:
        """Scores of events by name, from JSON in the form of `mlaas4hep.serve.events`.

        Raises
        ------
        NotFoundError
            No such model or version.
        RequestError, DataError
            Events that do not fit the model's columns.
        """
        model = self.repository.get(name, version)
        columns, count = model.reader.read(body, max_instances=self.limits.max_instances)
        return _predict(model, columns, count)

    def predict_columns(
        self, name: str, columns: Columns, *, num_entries: int, version: str | None = None
    ) -> Prediction:
        """Scores of events that are columns already; what `predict_events` does after reading."""
        return _predict(self.repository.get(name, version), columns, num_entries)


def _typical(spec: ModelSpec) -> dict[str, float | None]:
    """Median of each variable in the training part."""
    return {
        variable.name: found.quantile(0.5)
        for group in spec.features.inputs
        for variable, found in zip(group.variables, spec.statistics.groups[group.name], strict=True)
    }


def _predict(model: ServedModel, columns: Columns, num_entries: int) -> Prediction:
    prepared = model.preprocessor.run(columns, num_entries)
    scores = model.runner.run(prepared.inputs)
    return Prediction(model.name, model.version, model.spec.score_names, prepared.selected, scores)
