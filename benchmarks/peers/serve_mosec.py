"""mosec: its Rust front collects up to 32 requests, for 1 ms at most, and a Python worker runs them at once."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mosec import Server, Worker
from serve_onnx import Graph, order

BATCH, WAIT_MS = 32, 1


class OnnxWorker(Worker):
    """Requests of any number of rows each, joined for one run."""

    def __init__(self) -> None:
        super().__init__()
        self._graph, self._order = Graph(order()), order()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch of requests."""
        inputs = [one["inputs"][0] for one in data]
        rows = [np.array(one["data"], np.float32).reshape(one["shape"]) for one in inputs]
        found = self._graph.run(np.concatenate(rows))
        ends = np.cumsum([len(one) for one in rows])[:-1]
        return [self._answer(one) for one in np.split(found, ends)]

    def _answer(self, found: Any) -> dict[str, Any]:
        tensor = {"name": self._order["output"], "datatype": "FP32", "shape": found.shape}
        return {"model_name": self._order["name"], "outputs": [tensor | {"data": found.ravel().tolist()}]}


if __name__ == "__main__":
    wanted = order()
    # mosec reads the command line by itself.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(wanted["http"]), "--log-level", "warning"]
    server = Server()
    route = f"/v2/models/{wanted['name']}/infer"
    server.append_worker(OnnxWorker, num=wanted["workers"], max_batch_size=BATCH, max_wait_time=WAIT_MS, route=route)
    server.run()
