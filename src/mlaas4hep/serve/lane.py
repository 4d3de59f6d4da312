"""Small questions whose heads are known, collected over a turn of the event loop and answered in one run.

What a question costs on its own way (a tensor, a ticket, an array of its scores) is more than its share of the run.
Here the numbers of all lie side by side from the start, and the answers are cut from one list. Invariant: an answer has
the bytes that the question would get alone, since whatever is unusual goes its own way; nothing waits longer than a
turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, Protocol

from mlaas4hep.serve.asking import JSON, Headers, Route, quick_answer
from mlaas4hep.serve.batcher import Batcher
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.quick import FAST_BYTES, QuickCodec, numbers_of, quick_of
from mlaas4hep.serve.service import InferenceService

# Questions that are collected at most: then they are answered, and the turn goes on.
MOST = 1024

_Target = tuple[str | None, ...]
_log = logging.getLogger(__name__)


class Waiting(Protocol):
    """A question, as much of it as is looked at here."""

    target: _Target
    gone: bool

    def ask_alone(self, body: bytes) -> None:
        """Go the way of its own."""

    def land(self, body: bytes, model: ServedModel, rows: int, *, times_s: tuple[float, float, float]) -> None:
        """Be answered; ``times_s`` are when it began to be read, and when its run began and ended."""


def is_small(route: Route, headers: Headers, length: int) -> bool:
    """Whether questions with such a head are for this way: tensors in short JSON."""
    return (
        route.name == "infer"
        and length <= FAST_BYTES
        and headers.get(b"content-type", JSON.encode()) == JSON.encode()
        and b"inference-header-content-length" not in headers
    )


class Lane:
    """Of one event loop.

    Parameters
    ----------
    service
        Who answers.
    loop
        Which runs what is called soon when all that can be read has been.
    """

    def __init__(self, service: InferenceService, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._taken: dict[_Target, list[tuple[Waiting, bytes]]] = {}
        self._size = 0

    def add(self, asked: Waiting, body: bytes) -> None:
        """Take a question; it is answered in this turn."""
        found = self._taken.get(asked.target)
        if found is None:
            found = self._taken[asked.target] = []
        found.append((asked, body))
        self._size += 1
        if self._size == 1:
            self._loop.call_soon(self._run)
        elif self._size >= MOST:
            self._run()

    def _run(self) -> None:
        taken, self._taken, self._size = self._taken, {}, 0
        for target, waiting in taken.items():
            self._answer(target, waiting)

    def _answer(self, target: _Target, waiting: list[tuple[Waiting, bytes]]) -> None:
        """Answer questions to one model."""
        found = self._find(target)
        if found is None:
            for asked, body in waiting:
                asked.ask_alone(body)
            return
        batcher, codec = found
        start = 0
        while start < len(waiting):
            start = self._answer_some(batcher, codec, waiting, start)

    def _find(self, target: _Target) -> tuple[Batcher, QuickCodec] | None:
        """Who runs the model now, and who reads and writes for it; None where each question is to be asked alone."""
        name, version = target[0] or "", target[1]
        repository = self._service.repository
        if repository.entry(name) is None:  # asleep, broken or unknown
            return None
        try:
            model = repository.get(name, version)
        except Exception as error:
            _log.debug("%s is asked question by question: %s", name, error)
            return None
        codec, batcher = quick_of(model), self._service.batcher(model)
        return (batcher, codec) if codec.joins and batcher.rows_at_once else None

    def _answer_some(
        self, batcher: Batcher, codec: QuickCodec, waiting: list[tuple[Waiting, bytes]], start: int
    ) -> int:
        """Answer the questions from ``start`` that fit into one run; gives where the next one begins."""
        most, began_s = batcher.rows_at_once, time.monotonic()
        values: dict[str, list[float | None]] = codec.nothing()
        joined: list[tuple[Waiting, int, str, bytes]] = []
        alone: list[tuple[Waiting, bytes]] = []
        total = 0
        while start < len(waiting) and (total < most or not total):
            asked, body = waiting[start]
            start += 1
            if asked.gone:
                continue
            read = codec.join(body, values)
            if read is None:
                alone.append((asked, body))
                continue
            total += read[0]
            joined.append((asked, *read, body))
        if joined:
            self._run_joined(batcher, codec, values, joined, total, began_s)
        for asked, body in alone:
            asked.ask_alone(body)
        return start

    def _run_joined(
        self,
        batcher: Batcher,
        codec: QuickCodec,
        values: dict[str, list[float | None]],
        joined: list[tuple[Waiting, int, str, bytes]],
        total: int,
        began_s: float,
    ) -> None:
        model = batcher.model
        inputs = {one.name: numbers_of(values[one.name]).reshape(total, *one.shape) for one in model.inputs}
        run = batcher.run_at_once(inputs, total, len(joined))
        if run is None:  # one question may be the reason: alone, it alone is told
            for asked, _, _, body in joined:
                asked.ask_alone(body)
            return
        outputs, started_s, ended_s = run
        scores = outputs[codec.output]
        numbers: list[Any] = scores.ravel().tolist()
        width, finite = codec.width, math.isfinite(sum(numbers))
        times_s, at = (began_s, started_s, ended_s), 0
        for asked, rows, id, _ in joined:
            if finite:
                body = codec.text(numbers[at * width : (at + rows) * width], rows, id)
            else:
                body = quick_answer(codec, model, {codec.output: scores[at : at + rows]}, id)
            at += rows
            try:
                asked.land(body, model, rows, times_s=times_s)
            except Exception as error:  # of one connection; the others are told all the same
                self._loop.call_exception_handler({"message": "telling an answer failed", "exception": error})
