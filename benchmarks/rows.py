"""Whoever a row comes with, its score is its own: ``python -m benchmarks.rows --json``, one JSON line.

Small models are learned (once, into the folder), served by a process of its own, and asked about distinct rows: each
row alone first, over one connection, then all of them in any company: as JSON, with binary tensors and over gRPC,
several at a time on a connection, over a number of connections that changes all the time. ``wrong`` counts answers that
are missing or further than 1e-6 from the offline score, ``differing_bits`` those with other bits than the row alone
had, or offline. Both are to be 0. ``rows_a_run`` tells how much company there was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.overload import served
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.config import read_config
from mlaas4hep.examples import example_folder
from mlaas4hep.graph.invariance import probe_rows
from mlaas4hep.train.run import train

MODELS = {
    "mlp": ("model=mlp", "training.epochs=1"),
    "deepsets": ("model=deepsets", "training.epochs=1"),
    "attention": ("model=attention", "training.epochs=1"),
    "xgboost": ("model=xgboost", "model.trees=100"),
}
LINES, DEPTH, LEVEL_S, GRPC_SHARE, GRPC_AT_ONCE = 64, 8, 0.02, 0.1, 32
HEADER_LENGTH = "inference-header-content-length"
Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Asked:
    """Distinct rows of a model.

    Attributes
    ----------
    rows
        By input, [N, ...].
    offline
        Their scores, float32 [N, C].
    """

    bundle: Bundle
    rows: Tensors
    offline: NDArray[np.float32]

    def row(self, number: int) -> Tensors:
        """One of them."""
        return {name: array[number : number + 1] for name, array in self.rows.items()}


def learned(name: str, folder: Path) -> Bundle:
    """The model, learned where it is missing."""
    home = folder / name
    if not home.is_dir():
        config = read_config(example_folder("tth") / "config.yaml", overrides=MODELS[name])
        train(config, output=home)
    found = sorted((home / "model").iterdir())
    return load_bundle(found[0])


def distinct(bundle: Bundle, count: int) -> Asked:
    """As many rows that differ, in the range of what was learned from."""
    many = probe_rows(bundle.spec.scaling, 2 * count)
    flat = np.concatenate([array.reshape(2 * count, -1) for array in many.values()], axis=1)
    _, first = np.unique(flat.view(np.uint32), axis=0, return_index=True)
    chosen = np.sort(first)[:count]
    if len(chosen) < count:
        raise click.ClickException(f"only {len(chosen)} of {count} rows of '{bundle.name}' differ")
    rows = {name: np.ascontiguousarray(array[chosen]) for name, array in many.items()}
    return Asked(bundle, rows, bundle.predict(rows))


def http_request(asked: Asked, number: int, *, binary: bool) -> bytes:
    """A question as the wire has it."""
    tensors, row = [], asked.row(number)
    for name, array in row.items():
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": array.shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = [None if value != value else value for value in array.ravel().tolist()]
        tensors.append(tensor)
    question: dict[str, Any] = {"inputs": tensors}
    tail, more = b"", "content-type: application/json\r\n"
    if binary:
        question["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}}]
        tail = b"".join(array.tobytes() for array in row.values())
    head = json.dumps(question).encode()
    if binary:
        more = f"content-type: application/octet-stream\r\n{HEADER_LENGTH}: {len(head)}\r\n"
    path = f"/v2/models/{asked.bundle.name}/infer"
    lines = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {len(head) + len(tail)}\r\n\r\n"
    return lines.encode() + head + tail


async def read_scores(reader: asyncio.StreamReader) -> bytes | None:
    """Bits of the next answer; None where it is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = await reader.readexactly(int(fields["content-length"]))
    if not head.startswith("http/1.1 200 "):
        return None
    if HEADER_LENGTH in fields:
        return body[int(fields[HEADER_LENGTH]) :]
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).tobytes()


async def alone(asked: Asked, address: str) -> list[bytes | None]:
    """Each row, when nothing else is asked."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found = []
    for number in range(len(asked.offline)):
        writer.write(http_request(asked, number, binary=True))
        found.append(await read_scores(reader))
    writer.close()
    return found


class Company:
    """All rows in any order and company; `found` has the bits of each."""

    def __init__(self, asked: Asked, numbers: Sequence[int], *, seed: int) -> None:
        self.found: dict[int, bytes | None] = {}
        self._asked, self._left, self._random = asked, list(numbers), random.Random(seed)
        self._random.shuffle(self._left)
        self._level = 1

    async def ask(self, address: str) -> None:
        """Over HTTP."""
        host, _, port = address.partition(":")
        changing = asyncio.create_task(self._change())
        await asyncio.gather(*(self._line(number, host, int(port)) for number in range(LINES)))
        changing.cancel()

    async def _change(self) -> None:
        while True:
            self._level = self._random.choice((1, 2, 4, 16, LINES))
            await asyncio.sleep(self._random.random() * 2 * LEVEL_S)

    async def _line(self, number: int, host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while self._left:
            if number >= self._level:
                await asyncio.sleep(LEVEL_S / 2)
                continue
            some = [self._left.pop() for _ in range(min(self._random.randint(1, DEPTH), len(self._left)))]
            requests = [http_request(self._asked, one, binary=self._random.random() < 0.5) for one in some]
            writer.write(b"".join(requests))
            for one in some:
                self.found[one] = await read_scores(reader)
        writer.close()


def over_grpc(asked: Asked, numbers: Sequence[int], address: str) -> dict[int, bytes | None]:
    """The bits of rows that are asked over gRPC, some at a time."""
    import grpc

    from benchmarks.serving.questions import GRPC_PATH
    from conformance.messages import message_class

    make, read = message_class("ModelInferRequest"), message_class("ModelInferResponse").FromString
    found: dict[int, bytes | None] = {}

    def ask(number: int) -> None:
        request = make(model_name=asked.bundle.name)
        for name, array in asked.row(number).items():
            request.inputs.add(name=name, datatype="FP32", shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        try:
            answer = read(call(request.SerializeToString(), timeout=60))
        except grpc.RpcError:
            found[number] = None
        else:
            found[number] = bytes(answer.raw_output_contents[0])

    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(GRPC_AT_ONCE) as pool:
        call = channel.unary_unary(GRPC_PATH)
        list(pool.map(ask, numbers))
    return found


def measure(name: str, count: int, folder: Path) -> dict[str, Any]:
    """One model."""
    asked = distinct(learned(name, folder), count)
    begin = time.monotonic()
    with served(asked.bundle.path.parent, "--queue-s", "600", grpc=True) as (_, found):
        first = asyncio.run(alone(asked, found.http))
        alone_s, before = time.monotonic() - begin, runs_of(found.http)
        split = int(count * (1 - GRPC_SHARE))
        company = Company(asked, range(split), seed=0)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(over_grpc, asked, range(split, count), found.grpc)
            asyncio.run(company.ask(found.http))
            answers = company.found | other.result()
        rows, runs = (now - then for now, then in zip(runs_of(found.http), before, strict=True))
    took_s = time.monotonic() - begin
    return judged(asked, first, answers) | {
        "rows_a_run": round(rows / runs, 2),
        "alone_s": round(alone_s),
        "took_s": round(took_s),
    }


def judged(asked: Asked, first: Sequence[bytes | None], answers: dict[int, bytes | None]) -> dict[str, int]:
    """How many answers are not what they should be."""
    wrong = differing = 0
    for number, offline in enumerate(asked.offline):
        for bits in (first[number], answers.get(number)):
            good = bits is not None and len(bits) == offline.nbytes
            if not good or not np.allclose(np.frombuffer(bits or b"", np.float32), offline, rtol=0, atol=1e-6):
                wrong += 1
        differing += len({first[number], answers.get(number), offline.tobytes()}) != 1
    scores = len(np.unique(asked.offline, axis=0))
    return {"requests": len(asked.offline), "distinct_scores": scores, "wrong": wrong, "differing_bits": differing}


def runs_of(address: str) -> tuple[float, float]:
    """Rows and runs so far."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()

    def total(name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    return total("nv_inference_count"), total("nv_inference_exec_count")


def _all(found: dict[str, dict[str, Any]], key: str) -> Iterator[int]:
    return (one[key] for one in found.values())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--models", default=",".join(MODELS), show_default=True, help="Which, with commas between.")
@click.option("--requests", default=100_000, show_default=True, type=click.IntRange(100), help="Of each model.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(*, as_json: bool, models: str, requests: int, folder: Path) -> None:
    """Ask about distinct rows, alone and in company, and compare every bit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too
    found: dict[str, dict[str, Any]] = {}
    for name in models.split(","):
        if name not in MODELS:
            raise click.BadParameter(f"no model '{name}'; there are {', '.join(MODELS)}")
        click.echo(name, err=True)
        found[name] = measure(name, requests, folder.absolute() / "rows")
    figures: dict[str, Any] = {f"{name}_{key}": value for name, one in found.items() for key, value in one.items()}
    figures |= {"wrong": sum(_all(found, "wrong")), "differing_bits": sum(_all(found, "differing_bits"))}
    figures |= {"cpus": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()}
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        click.echo(f"{key:28} {value}")


if __name__ == "__main__":
    main()
