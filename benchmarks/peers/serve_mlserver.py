"""MLServer with a runtime of a few lines, as its documentation shows one; logs of requests and metrics are off."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serve_onnx import Graph, order


class OnnxModel(MLModel):
    """What MLServer calls a custom runtime."""

    async def load(self) -> bool:
        self._graph, self._output = Graph(order()), order()["output"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output(self._output, self._graph.run(rows))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def main() -> None:
    """Serve until told to stop."""
    wanted = order()
    settings = {"host": "127.0.0.1", "debug": False, "metrics_endpoint": None}
    settings |= {"http_port": wanted["http"], "grpc_port": wanted["grpc"], "metrics_port": wanted["metrics"]}
    # 0 runs the model in the process of the server, which is the fastest of one.
    settings |= {"parallel_workers": 0 if wanted["workers"] == 1 else wanted["workers"]}
    model = {"name": wanted["name"], "implementation": "serve_mlserver.OnnxModel"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        (Path(folder) / "model-settings.json").write_text(json.dumps(model))
        program = Path(sys.executable).with_name("mlserver")
        subprocess.run([str(program), "start", folder], check=True)


if __name__ == "__main__":
    main()
