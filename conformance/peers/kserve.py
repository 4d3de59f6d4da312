"""The model behind KServe's own model server."""

from __future__ import annotations

import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from conformance.peers import toy


class ToyModel(Model):
    """What KServe calls a custom predictor."""

    def load(self) -> bool:
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        return toy.declared(toy.INPUTS)

    def get_output_types(self) -> list[dict[str, Any]]:
        return toy.declared(toy.OUTPUTS)

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        arrays = {one.name: one.as_numpy() for one in payload.inputs}
        outputs = []
        for name, array in toy.run(arrays["x"], arrays["n"]).items():
            outputs.append(InferOutput(name, list(array.shape), "FP32"))
            outputs[-1].set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
        return InferResponse(
            model_name=self.name,
            infer_outputs=outputs,
            response_id=payload.id or generate_uuid(),
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    http, grpc = (int(one) for one in sys.argv[1:])
    model = ToyModel(toy.NAME)
    model.load()
    ModelServer(http_port=http, grpc_port=grpc, workers=1).start([model])
