"""What is served: the network of TFaaS's benchmark as a bundle of this project, and a ResNet-50 as a plain ONNX graph.

Weights are drawn with a fixed seed, since speed does not depend on what was learned. Invariant: all servers are given
the same file, and what a right answer is, onnxruntime says in this process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mlaas4hep.bundle import write_bundle
from mlaas4hep.graph.builder import GraphBuilder, value_info
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, Scaler
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics

SIZES = (42, 128, 128, 128, 64, 64, 1)
SIDE = 64
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Of ResNet-50: channels inside a block, and blocks."""
SCORES = 1000
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """A graph that all servers serve.

    Attributes
    ----------
    home
        What our server is given: a folder ``NAME`` with its version 1.
    shape
        Of one row.
    """

    home: Path
    input: str
    output: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.home.name

    @property
    def path(self) -> Path:
        """Of the graph."""
        return self.home / "1" / "model.onnx"

    def rows(self, count: int) -> Rows:
        """Rows of six decimals, as one writes them into JSON; always the same."""
        drawn = np.random.default_rng(count).normal(size=(count, *self.shape))
        return np.round(drawn, 6).astype(np.float32)

    def answer(self, rows: Rows) -> Rows:
        """The right one."""
        found: Rows = self._session().run([self.output], {self.input: rows})[0]
        return found

    def inprocess_ms(self, seconds: float) -> float:
        """Median time of a run of one row, without any server."""
        session, rows, times = self._session(), self.rows(1), [0.0]
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            session.run([self.output], {self.input: rows})
            times.append(time.perf_counter() - begin)
        return median(times[2:]) * 1e3

    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])


def mlp(folder: Path) -> Network:
    """The network of `SIZES`, 42 numbers of an event in and one score out; made where it is missing."""
    found = Network(folder / "mlp", "event", "scores", SIZES[:1])
    if found.path.is_file():
        return found
    random = np.random.default_rng(42)
    weights = [(random.normal(size=size) / np.sqrt(size[0])).astype(np.float32) for size in pairwise(SIZES)]
    biases = [random.normal(size=size).astype(np.float32) * 0.1 for size in SIZES[1:]]

    spec = _spec(found.name)
    scaler = Scaler(spec.scaling)

    def reference(inputs: dict[str, Rows]) -> NDArray[np.float64]:
        values = scaler.flat(inputs).astype(np.float64)
        for matrix, bias in zip(weights[:-1], biases[:-1], strict=True):
            values = np.maximum(values @ matrix + bias, 0)
        scores: NDArray[np.float64] = 1 / (1 + np.exp(-(values @ weights[-1] + biases[-1])))
        return scores

    write_bundle(
        folder,
        spec=spec,
        core=lower_dense(weights, biases, activation="relu", link="sigmoid"),
        reference=reference,
        rows={"event": found.rows(1000)},
    )
    return found


def _spec(name: str) -> ModelSpec:
    names = [f"x{number}" for number in range(SIZES[0])]
    group = InputGroup("event", tuple(Variable(one, "none") for one in names), None)
    return ModelSpec(
        name=name,
        task="binary",
        classes=("background", "signal"),
        score_names=("signal",),
        features=FeatureSpec(inputs=(group,), classes=("background", "signal")),
        columns={one: ColumnType("flat", "float32") for one in names},
        scaling=(GroupScaling("event", tuple(names), tuple(FeatureScaling("none") for _ in names), None),),
        statistics=Statistics(groups={"event": (FeatureStatistics(),) * len(names)}),
    )


def resnet(folder: Path) -> Network:
    """ResNet-50 on pictures of 64 x 64, normalisations folded into the convolutions; made where it is missing."""
    found = Network(folder / "resnet64", "image", "scores", (3, SIDE, SIDE))
    if found.path.is_file():
        return found
    found.path.parent.mkdir(parents=True, exist_ok=True)
    graph, random = GraphBuilder("r"), np.random.default_rng(50)
    value, width = _stem(graph, random), STAGES[0][0]
    for channels, stride in _blocks():
        value = _block(graph, random, value, (width, channels, stride))
        width = 4 * channels
    pooled = graph.node("Flatten", [graph.node("GlobalAveragePool", [value])])
    matrix = (random.normal(size=(width, SCORES)) / np.sqrt(width)).astype(np.float32)
    graph.node("MatMul", [pooled, graph.constant(matrix)], output=found.output)
    ends = ([value_info(found.input, np.float32, found.shape)], [value_info(found.output, np.float32, [SCORES])])
    draft = found.path.with_suffix(".draft")
    onnx.save(graph.model(*ends), draft)
    draft.rename(found.path)
    return found


def _blocks() -> Iterator[tuple[int, int]]:
    """Channels and stride."""
    for stage, (channels, count) in enumerate(STAGES):
        for number in range(count):
            yield channels, 2 if stage and not number else 1


def _stem(graph: GraphBuilder, random: np.random.Generator) -> str:
    value = graph.node("Relu", [_convolution(graph, random, "image", (3, 64, 7, 2))])
    return graph.node("MaxPool", [value], attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})


def _block(graph: GraphBuilder, random: np.random.Generator, value: str, sizes: tuple[int, int, int]) -> str:
    """The bottleneck: 1 x 1, 3 x 3, 1 x 1, and what goes past them."""
    width, channels, stride = sizes
    inner = graph.node("Relu", [_convolution(graph, random, value, (width, channels, 1, 1))])
    inner = graph.node("Relu", [_convolution(graph, random, inner, (channels, channels, 3, stride))])
    inner = _convolution(graph, random, inner, (channels, 4 * channels, 1, 1))
    if width != 4 * channels:
        value = _convolution(graph, random, value, (width, 4 * channels, 1, stride))
    return graph.node("Relu", [graph.node("Add", [inner, value])])


def _convolution(graph: GraphBuilder, random: np.random.Generator, value: str, of: tuple[int, int, int, int]) -> str:
    """``of``: channels in and out, side of the kernel, stride. Weights keep the size of values about the same."""
    before, after, side, stride = of
    kernel = random.normal(size=(after, before, side, side)) / np.sqrt(before * side * side)
    constants = [graph.constant(kernel.astype(np.float32)), graph.constant(np.zeros(after, np.float32))]
    attributes = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [side // 2] * 4}
    return graph.node("Conv", [value, *constants], attributes=attributes)
