"""The server that one writes in an afternoon: FastAPI, pydantic, onnxruntime; uvicorn with uvloop and httptools."""

from __future__ import annotations

from functools import cache

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from serve_onnx import Graph, order


class Tensor(BaseModel):
    """One tensor of the protocol."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Question(BaseModel):
    """Body of a question."""

    inputs: list[Tensor]


class Answer(BaseModel):
    """Body of an answer."""

    model_name: str
    outputs: list[Tensor]


app = FastAPI()


@cache
def _graph() -> Graph:
    return Graph(order())


# On the loop and not in a thread: for a run of tens of microseconds the thread would cost more than it gives.
async def infer(name: str, question: Question) -> Answer:
    """Answer one question."""
    one = question.inputs[0]
    found = _graph().run(np.array(one.data, np.float32).reshape(one.shape))
    tensor = Tensor(name=order()["output"], datatype="FP32", shape=list(found.shape), data=found.ravel().tolist())
    return Answer(model_name=name, outputs=[tensor])


app.post("/v2/models/{name}/infer")(infer)


if __name__ == "__main__":
    wanted = order()
    uvicorn.run(
        "serve_fastapi:app", host="127.0.0.1", port=wanted["http"], workers=wanted["workers"], access_log=False,
        log_level="warning",
    )  # fmt: skip
