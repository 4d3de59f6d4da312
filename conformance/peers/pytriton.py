"""The model behind Triton, as nvidia-pytriton starts it."""

from __future__ import annotations

import sys

from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from conformance.peers import toy
from conformance.tensors import TYPES

# pytriton closes repository, statistics and others to who does not send this; --header triton-access-token:kit
SECURITY = TritonSecurityConfig(access_token="kit")


def main() -> None:
    """Serve until told to stop."""
    http, grpc = (int(one) for one in sys.argv[1:])
    places = {"http_address": "127.0.0.1", "http_port": http, "grpc_address": "127.0.0.1", "grpc_port": grpc}
    tensors = [
        [Tensor(name=name, dtype=TYPES[kind].type, shape=tuple(shape[1:])) for name, (kind, shape) in some.items()]
        for some in (toy.INPUTS, toy.OUTPUTS)
    ]
    with Triton(config=TritonConfig(**places, metrics_port=http + 1000), security_config=SECURITY) as triton:
        triton.bind(
            model_name=toy.NAME,
            infer_func=batch(toy.run),
            inputs=tensors[0],
            outputs=tensors[1],
            config=ModelConfig(max_batch_size=1 << 20, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
