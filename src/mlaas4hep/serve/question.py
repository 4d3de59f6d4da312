"""A question to a model, as what was sent becomes one: the tensors before a run, and the answer behind it.

Invariant: a `Question` knows its model, so that it is answered by the version that it was read for, whatever is
switched meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.classification import classify
from mlaas4hep.serve.describing import contract_of, require_graph
from mlaas4hep.serve.events import Prediction
from mlaas4hep.serve.images import ImageInput, decode_images, encoded_pictures, image_of, is_encoded
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec
from mlaas4hep.serve.protocol import InferRequest, InferResponse
from mlaas4hep.spec.columns import Columns

T = TypeVar("T")
Outputs = dict[str, NDArray[Any]]


class Question(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """Tensors for a model, and what is made of its outputs: the part of an answer on both sides of a run.

    Parameters
    ----------
    model
        Who is asked.
    inputs, rows
        Its tensors, which passed `ServedModel.check`.
    finish
        All outputs by name to the answer.
    timeout_s
        How long the one who asks will wait, where the question itself says so.
    prepare
        Makes the inputs of what was sent, which takes too long for an event loop; `ready` calls it in a thread, before
        anything is submitted. `inputs` is empty until then.
    """

    model: ServedModel
    inputs: Tensors
    rows: int
    finish: Callable[[Outputs], T]
    timeout_s: float | None = None
    prepare: Callable[[], Tensors] | None = None

    def ready(self) -> Question[T]:
        """The question with its inputs; `RequestError` where what was sent does not become any."""
        if self.prepare is None:
            return self
        return msgspec.structs.replace(self, inputs=self.prepare(), prepare=None)

    def run(self) -> T:
        """Answer at once, in this thread and alone."""
        return self.finish(self.model.run(self.ready().inputs))


def tensor_question(model: ServedModel, request: InferRequest) -> Question[InferResponse]:
    """Of tensors; raises as `mlaas4hep.serve.service.InferenceService.infer`."""
    if request.model_sha256:
        require_graph(model, request.model_sha256)
    chosen = _chosen(model, request)
    image = model.image

    def finish(outputs: Outputs) -> InferResponse:
        answers = {spec.name: _answer(model, spec, outputs[spec.name], classes) for spec, classes in chosen}
        return InferResponse(model.name, model.version, answers, id=request.id)

    if image is not None and is_encoded(request.inputs.get(image.name)):
        return _ask_pictures(model, image, request.inputs, finish, timeout_s=request.timeout_s)
    return Question(model, request.inputs, model.check(request.inputs), finish, timeout_s=request.timeout_s)


def picture_question(model: ServedModel, data: bytes) -> Question[InferResponse]:
    """Of one picture; `RequestError` where the model takes none."""
    image = image_of(model)

    def finish(outputs: Outputs) -> InferResponse:
        return InferResponse(model.name, model.version, outputs)

    return _ask_pictures(model, image, {image.name: np.array([data], object)}, finish)


def column_question(model: ServedModel, columns: Columns, num_entries: int) -> Question[Prediction]:
    """Of events that are columns; raises as the contract's preprocessor."""
    contract = contract_of(model)
    prepared = contract.preprocessor.run(columns, num_entries)
    names, selected = contract.spec.score_names, prepared.selected

    def finish(outputs: Outputs) -> Prediction:
        first, *others = contract.outputs
        scores = np.concatenate([outputs[one] for one in contract.outputs], axis=1) if others else outputs[first]
        return Prediction(model.name, model.version, names, selected, scores)

    return Question(model, prepared.inputs, model.check(prepared.inputs), finish)


def _chosen(model: ServedModel, request: InferRequest) -> list[tuple[TensorSpec, int]]:
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


def _answer(model: ServedModel, spec: TensorSpec, values: NDArray[Any], classes: int) -> NDArray[Any]:
    return classify(values, classes, spec.labels, rows=model.batches) if classes else values


def _ask_pictures(
    model: ServedModel,
    image: ImageInput,
    inputs: Tensors,
    finish: Callable[[Outputs], InferResponse],
    *,
    timeout_s: float | None = None,
) -> Question[InferResponse]:
    """Of inputs among which one holds encoded pictures."""
    pictures = encoded_pictures(inputs[image.name], image)

    def prepare() -> Tensors:
        tensors = {**inputs, image.name: decode_images(pictures, image)}
        model.check(tensors)
        return tensors

    rows = len(pictures) if model.batches else 1
    return Question(model, {}, rows, finish, timeout_s=timeout_s, prepare=prepare)
