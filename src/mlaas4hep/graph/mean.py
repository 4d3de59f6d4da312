"""Joins the served graphs of several models into one that gives the mean of their scores.

Each keeps its own first part with its own constants; the mean is taken in float64, in the order given, and rounded
once. Invariant: the joined graph equals `mean_scores` of the single ones to the bit, and knows no more than they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.builder import GraphBuilder, value_info
from mlaas4hep.graph.merge import finished
from mlaas4hep.graph.pre import input_infos
from mlaas4hep.graph.session import SCORES
from mlaas4hep.spec.contract import ModelSpec

_DOUBLE, _FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT


def mean_graph(spec: ModelSpec, models: Sequence[bytes]) -> bytes:
    """The joined graph in its canonical form.

    Parameters
    ----------
    spec
        Names and shapes of inputs and scores, the same for all.
    models
        Merged graphs, at least one.

    Raises
    ------
    ModelError
        They were exported at different opsets, or are too large together.
    """
    loaded = [onnx.ModelProto.FromString(one) for one in models]
    opsets = {tuple(sorted((one.domain, one.version) for one in model.opset_import)) for model in loaded}
    versions = {version for one in opsets for domain, version in one if not domain}
    if len(versions) != 1:
        raise ModelError(f"the graphs to be joined have opsets {sorted(versions)}; export all with one version")
    graph = GraphBuilder("__mean")
    scores = []
    for number, model in enumerate(loaded):
        own = compose.add_prefix(model, f"__f{number}/", rename_inputs=False)
        graph.nodes.extend(own.graph.node)
        graph.constants.extend(own.graph.initializer)
        scores.append(graph.node("Cast", [own.graph.output[0].name], attributes={"to": _DOUBLE}))
    total = scores[0]
    for one in scores[1:]:
        total = graph.node("Add", [total, one])
    mean = graph.node("Div", [total, graph.constant(np.float64(len(models)))])
    graph.node("Cast", [mean], attributes={"to": _FLOAT}, output=SCORES)
    ends = [value_info(SCORES, np.float32, [len(spec.score_names)])]
    widest = max(loaded, key=lambda one: len(one.opset_import))
    return finished(graph.model(input_infos(spec.scaling), ends), widest, versions.pop())


def mean_scores(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """What the joined graph computes: the mean of scores [N, C] of several models, in float64, rounded once."""
    total = scores[0].astype(np.float64)
    for one in scores[1:]:
        total += one
    return (total / len(scores)).astype(np.float32)
