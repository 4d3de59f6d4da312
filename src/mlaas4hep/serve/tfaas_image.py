"""A picture shown to a model, and what TFaaS says of it: the scores, or the likeliest labels of a frozen graph.

Pictures are decoded by `mlaas4hep.serve.images`. Invariant: what a picture becomes is said by the model alone, never by
who sends it.
"""

from __future__ import annotations

import json
from typing import Any

from numpy.typing import NDArray

from mlaas4hep.serve.service import InferenceService, Outputs, Question
from mlaas4hep.serve.tensors import json_values
from mlaas4hep.serve.tfaas_params import is_frozen, labels_of
from mlaas4hep.serve.tfaas_row import answering_output

# Labels that TFaaS tells of.
MAX_LABELS = 5


def ask_image(service: InferenceService, name: str, picture: bytes, filename: str) -> Question[bytes]:
    """A question of one picture, PNG or JPEG. It looks at the disk, so this is for a thread.

    Raises
    ------
    NotFoundError
        No such model.
    RequestError
        It takes no pictures. What is wrong with this one is said by `Question.ready`.
    """
    asked = service.ask_image(name, picture)
    model, output = asked.model, answering_output(asked.model)
    labels = labels_of(service.repository, model) if is_frozen(service.repository, model) else ()

    def finish(outputs: Outputs) -> bytes:
        array = outputs[output]
        return _told((array[0] if model.batches or array.ndim > 1 else array).ravel(), labels, filename)

    return Question(model, asked.inputs, asked.rows, finish, prepare=asked.prepare)


def _told(scores: NDArray[Any], labels: tuple[str, ...], filename: str) -> bytes:
    if not labels:
        return json.dumps(json_values(scores)).encode()
    order = sorted(range(min(len(labels), len(scores))), key=lambda at: -float(scores[at]))[:MAX_LABELS]
    values = json_values(scores)
    found = [{"label": labels[at], "probability": values[at]} for at in order]
    return json.dumps({"filename": filename.replace("\\", "/").rpartition("/")[2] or "input", "labels": found}).encode()
