"""The model behind MLServer; its settings are files in a folder of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from conformance.peers import toy


class ToyModel(MLModel):
    """What MLServer calls a custom runtime."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = {one.name: self.decode(one, default_codec=NumpyCodec) for one in payload.inputs}
        found = toy.run(arrays["x"], arrays["n"])
        names = [one.name for one in payload.outputs] if payload.outputs else list(found)
        outputs = [NumpyCodec.encode_output(name, found[name]) for name in names]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def main() -> None:
    """Serve until told to stop."""
    http, grpc = (int(one) for one in sys.argv[1:])
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": http + 1000}
    model = {
        "name": toy.NAME,
        "implementation": "conformance.peers.mlserver.ToyModel",
        "inputs": toy.declared(toy.INPUTS),
        "outputs": toy.declared(toy.OUTPUTS),
        "parameters": {"version": "1"},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
        (Path(folder) / "model-settings.json").write_text(json.dumps(model))
        program = Path(sys.executable).with_name("mlserver")
        subprocess.run([str(program), "start", folder], check=True)


if __name__ == "__main__":
    main()
