"""What both clients make of a call: questions in parts, and answers as users get them.

Invariant: nothing waits here, and the blocking and the asynchronous client send the same bytes for the same call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.client import questions
from mlaas4hep.client.questions import Prediction, Question
from mlaas4hep.client.splitting import Cut, Limits, Pin, cut_rows, even_spans, joined_tensors, packed, rows_of
from mlaas4hep.client.tensors import Tensors, encode_question
from mlaas4hep.errors import RequestError


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of a table of events.

    Parameters
    ----------
    selected
        bool [N], whether an event passes the preselection of the model.
    scores
        float32 [N] by name; NaN where the event is not selected, or where the score is none.
    """

    selected: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float32]]


def tensor_cut(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    *,
    version: str | None,
    outputs: Sequence[str],
    parameters: Mapping[str, Any],
    binary: bool,
    limits: Limits,
    id: str,
) -> Cut[Tensors]:
    """Tensors for a model."""
    if not isinstance(inputs, Mapping):
        raise RequestError(f"inputs: asked for a mapping of arrays by name, found {type(inputs).__name__}")
    if isinstance(outputs, str):
        raise RequestError(f"outputs: asked for a list of names, found a text; write ['{outputs}']")
    pin, rows = Pin(version), rows_of(inputs)

    def ask(start: int, stop: int) -> Question[Tensors]:
        part = inputs if rows is None else cut_rows(inputs, start, stop, rows)
        named = id if (start, stop) == (0, rows) else f"{id}.{start}"
        encoded = encode_question(part, outputs=outputs, binary=binary, id=named, parameters=parameters)
        return questions.infer(questions.infer_path(model, pin.version), encoded, id=named, note=pin.note)

    if rows is None:
        return Cut(((0, 0),), ask, joined_tensors)
    size = sum(array.nbytes for array in inputs.values())
    return Cut(even_spans(rows, size / max(rows, 1), limits), ask, joined_tensors)


def event_cut(model: str, events: Sequence[bytes], limits: Limits, pin: Pin) -> Cut[list[Prediction]]:
    """Events by name, which are JSON already."""

    def ask(start: int, stop: int) -> Question[list[Prediction]]:
        return questions.predict(questions.predict_path(model, pin.version), events[start:stop], note=pin.note)

    spans, start = [], 0
    for part in packed(iter(events), limits):
        spans.append((start, start + len(part)))
        start += len(part)
    return Cut(tuple(spans) or ((0, 0),), ask, _joined)


def _joined(parts: Sequence[list[Prediction]]) -> list[Prediction]:
    return parts[0] if len(parts) == 1 else [one for part in parts for one in part]


def scores_of(predictions: Sequence[Prediction], names: Iterable[str] | None = None) -> Scores:
    """As columns; ``names`` of the scores are needed only where no event is selected."""
    selected = np.array([one is not None for one in predictions], bool)
    first = next((one for one in predictions if one is not None), None)
    scores = {}
    for name in first if first is not None else names or ():
        values = [np.nan if one is None or one[name] is None else one[name] for one in predictions]
        scores[name] = np.array(values, np.float64).astype(np.float32)
    return Scores(selected, scores)
