"""Triton as the nvidia-pytriton wheel brings it: a real tritonserver, whose batches are run in Python processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from serve_onnx import Graph, order

MAX_ROWS = 256


def runner(wanted: dict[str, Any]) -> Any:
    """A function of its own for every process that is to run the graph."""
    graph: list[Graph] = []

    def infer(**inputs: Any) -> list[Any]:
        if not graph:  # the session is made where it is used, in a process that Triton starts
            graph.append(Graph(wanted))
        return [graph[0].run(inputs[wanted["input"]])]

    return batch(infer)


def main() -> None:
    """Serve until told to stop."""
    wanted = order()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=wanted["http"],
        grpc_address="127.0.0.1",
        grpc_port=wanted["grpc"],
        metrics_port=wanted["metrics"],
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=wanted["name"],
            infer_func=[runner(wanted) for _ in range(wanted["workers"])],
            inputs=[Tensor(name=wanted["input"], dtype=np.float32, shape=tuple(wanted["shape"]))],
            outputs=[Tensor(name=wanted["output"], dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
