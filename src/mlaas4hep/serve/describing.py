"""What is told about a model: its tensors, and the columns that it is asked with by name.

Invariant: all of it follows from the `ServedModel`, so that it is true of the version that answers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlaas4hep.bundle.layout import MODEL_FILE
from mlaas4hep.errors import RequestError
from mlaas4hep.serve.events import example_event
from mlaas4hep.serve.model import Contract, ServedModel, TensorSpec
from mlaas4hep.serve.protocol import ModelMetadata, TensorMetadata
from mlaas4hep.serve.tensors import DTYPES
from mlaas4hep.spec.contract import ModelSpec

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
# Triton's words for datatypes; their numbers count from 1 in this order.
DATA_TYPES = (*(f"TYPE_{word}" for word in DTYPES if word != "BYTES"), "TYPE_STRING")


class ModelContract(msgspec.Struct, frozen=True, omit_defaults=True):
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
    members, note
        Of several models as one: ``NAME/VERSION`` of each, and how they are one.
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
    members: tuple[str, ...] = ()
    note: str = ""


def describe_tensors(model: ServedModel, versions: tuple[str, ...]) -> ModelMetadata:
    """Tensors of a model in and out."""
    return ModelMetadata(
        name=model.name,
        versions=versions,
        platform=_platform(model),
        inputs=_metadata(model, model.inputs),
        outputs=_metadata(model, model.outputs),
        members=model.members,
    )


def describe_columns(model: ServedModel) -> ModelContract:
    """Columns of a model; `RequestError` where it has no contract."""
    contract = contract_of(model)
    return ModelContract(
        name=model.name,
        ready=True,
        version=model.version,
        task=contract.spec.task,
        columns={column: str(declared) for column, declared in contract.reader.types.items()},
        score_names=contract.spec.score_names,
        preselection=contract.spec.features.preselection,
        example=example_event(contract.reader.types, _typical(contract.spec)),
        spec_sha256=contract.spec_sha256,
        model_sha256=contract.model_sha256,
        members=model.members,
        note=model.note,
    )


def describe_config(model: ServedModel) -> dict[str, Any]:
    """Triton's model configuration, as far as it has a meaning here."""
    return {
        "name": model.name,
        "platform": _platform(model),
        "backend": "" if model.members else BACKEND,
        "max_batch_size": model.max_rows if model.batches else 0,
        "input": [_end(one) for one in model.inputs],
        "output": [_end(one) for one in model.outputs],
        "default_model_filename": MODEL_FILE,
    }


def contract_of(model: ServedModel) -> Contract:
    """The contract of a model; `RequestError` where it has none."""
    if model.contract is None:
        raise RequestError(
            f"model '{model.name}' is a graph without a contract, so it knows no columns; send tensors to "
            f"/v2/models/{model.name}/infer"
        )
    return model.contract


def require_graph(model: ServedModel, wanted: str) -> None:
    """Refuse a question that is meant for another graph of that name; raises RequestError."""
    found = "" if model.contract is None else model.contract.model_sha256
    if found != wanted:
        shown = f"model_sha256 is {found[:12]}... here" if found else "it has no model_sha256 here"
        raise RequestError(
            f"model '{model.name}', version {model.version}, is another than the one that is asked for: {shown}, "
            f"{wanted[:12]}... is asked for"
        )


def _platform(model: ServedModel) -> str:
    return "ensemble" if model.members else PLATFORM


def _metadata(model: ServedModel, specs: tuple[TensorSpec, ...]) -> tuple[TensorMetadata, ...]:
    rows = (-1,) if model.batches else ()
    return tuple(TensorMetadata(one.name, one.datatype, (*rows, *one.shape)) for one in specs)


def _end(one: TensorSpec) -> dict[str, Any]:
    word = "STRING" if one.datatype == "BYTES" else one.datatype
    return {"name": one.name, "data_type": f"TYPE_{word}", "dims": list(one.shape)}


def _typical(spec: ModelSpec) -> dict[str, float | None]:
    """Median of each variable in the training part."""
    return {
        variable.name: found.quantile(0.5)
        for group in spec.features.inputs
        for variable, found in zip(group.variables, spec.statistics.groups[group.name], strict=True)
    }
