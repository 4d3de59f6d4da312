"""What the peers that serve share: their order as it came on the command line, and one thread of onnxruntime.

Each peer is run by the interpreter of its own environment, with an order in JSON as the only argument: ``name`` and
``path`` of the graph, its ``input`` and ``output``, the ``shape`` of a row, ``http``, ``grpc`` and ``metrics`` ports,
and ``workers``, the number of processes that run the graph.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ORDER = "MLAAS4HEP_SERVING_ORDER"
"""For processes that the peer starts by itself: the order again."""


def order() -> dict[str, Any]:
    """What was asked for."""
    if ORDER not in os.environ:
        os.environ[ORDER] = sys.argv[1]
    found: dict[str, Any] = json.loads(os.environ[ORDER])
    return found


class Graph:
    """The graph in onnxruntime, one thread."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(wanted["path"], options, providers=["CPUExecutionProvider"])
        self._input, self._outputs = wanted["input"], [wanted["output"]]

    def run(self, rows: Any) -> Any:
        """Outputs of rows."""
        return self._session.run(self._outputs, {self._input: rows})[0]
