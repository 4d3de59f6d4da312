"""The ends of a model as questions name them: its tensors in words, outputs that are chosen, its contract.

Invariant: what a question names and the model does not have is refused here, before anything is run.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.classification import classify
from mlaas4hep.serve.model import Contract, ServedModel, TensorSpec
from mlaas4hep.serve.protocol import InferRequest, TensorMetadata
from mlaas4hep.spec.contract import ModelSpec


def told(model: ServedModel, specs: tuple[TensorSpec, ...]) -> tuple[TensorMetadata, ...]:
    """Tensors in the words of the Open Inference Protocol."""
    rows = (-1,) if model.batches else ()
    return tuple(TensorMetadata(one.name, one.datatype, (*rows, *one.shape)) for one in specs)


def chosen_outputs(model: ServedModel, request: InferRequest) -> list[tuple[TensorSpec, int]]:
    """Outputs in the order in which they are asked, and how many classes of each; 0 asks for its values."""
    if not request.outputs:
        return [(one, 0) for one in model.outputs]
    known = {one.name: one for one in model.outputs}
    for choice in request.outputs:
        if choice.name not in known:
            raise RequestError(f"model '{model.name}' has no output '{choice.name}'{nearest(choice.name, known)}")
        if choice.classes and known[choice.name].datatype in ("BOOL", "BYTES"):
            found = f"found {known[choice.name].datatype}"
            raise RequestError(f"output '{choice.name}': 'classification' is asked of numbers, {found}")
    return [(known[choice.name], choice.classes) for choice in request.outputs]


def answered(model: ServedModel, spec: TensorSpec, values: NDArray[Any], classes: int) -> NDArray[Any]:
    """An output, or its highest values."""
    return classify(values, classes, spec.labels, rows=model.batches) if classes else values


def contract_of(model: ServedModel) -> Contract:
    """`RequestError` where the model has none."""
    if model.contract is None:
        raise RequestError(
            f"model '{model.name}' is a graph without a contract, so it knows no columns; send tensors to "
            f"/v2/models/{model.name}/infer"
        )
    return model.contract


def typical(spec: ModelSpec) -> dict[str, float | None]:
    """Median of each variable in the training part."""
    return {
        variable.name: found.quantile(0.5)
        for group in spec.features.inputs
        for variable, found in zip(group.variables, spec.statistics.groups[group.name], strict=True)
    }
