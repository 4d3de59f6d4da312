"""Small questions whose heads are known, collected over a turn of the event loop and answered in one run.

What a question costs on its own way (a tensor, a ticket, an array of its scores) is more than its share of the run.
Here the rows of all lie side by side from the start, and the answers are cut from the scores of all. Invariant: an
answer has the bytes that the question would get alone, since whatever is unusual goes its own way; nothing waits longer
than a turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from mlaas4hep.errors import NotFoundError
from mlaas4hep.serve.batcher import Batcher
from mlaas4hep.serve.heads import Way
from mlaas4hep.serve.hooks import Hooks, Seen, SeenTogether
from mlaas4hep.serve.model import ServedModel, Tensors
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.together import Form, Together, together

# Questions and bytes that are collected at most: then they are answered, and the turn goes on.
MOST, MOST_BYTES = 1024, 4 << 20
# Fewer are read one by one, which costs less than to prepare for more.
FEW = 4

_log = logging.getLogger(__name__)


class Waiting(Protocol):
    """A question, as much of it as is looked at here."""

    gone: bool
    told: bool
    began_s: float

    def ask_alone(self, body: bytes) -> None:
        """Go the way of its own."""

    def land(self, whole: bytes) -> None:
        """Be answered, by all that is written on a connection that stays."""

    def seen_landed(self, size: int, model: ServedModel, rows: int, read_s: float, run_s: float, ran_s: float) -> Seen:
        """What hooks are told now of an answer of so many bytes: see `mlaas4hep.serve.hooks.SeenTogether`."""
        ...


_Asked = tuple[Waiting, bytes]
_Taken = tuple[Waiting, bytes, int]


class Lane:
    """Of one event loop.

    Parameters
    ----------
    service
        Who answers.
    loop
        Which runs what is called soon when all that can be read has been.
    hooks
        Who is told.
    """

    def __init__(self, service: InferenceService, loop: asyncio.AbstractEventLoop, hooks: Hooks) -> None:
        self._service = service
        self._hooks = hooks
        self._loop = loop
        self._taken: dict[Way, list[_Asked]] = {}
        self._size = self._bytes = 0
        self._untold: list[tuple[Batcher, int, int, SeenTogether]] = []

    def add(self, asked: Waiting, body: bytes, way: Way) -> None:
        """Take a question; it is answered in this turn."""
        found = self._taken.get(way)
        if found is None:
            found = self._taken[way] = []
        found.append((asked, body))
        self._size += 1
        self._bytes += len(body)
        if self._size == 1:
            self._loop.call_soon(self._run)
        elif self._size >= MOST or self._bytes >= MOST_BYTES:
            self._run()

    def _run(self) -> None:
        taken, self._taken, self._size, self._bytes = self._taken, {}, 0, 0
        alone: list[_Asked] = []  # behind all others, whose runs would have to wait for theirs
        for (target, form), waiting in taken.items():
            start = 0
            while start < len(waiting):
                try:
                    stop, apart = self._answer(self._find(target), form, waiting, start)
                except Exception:  # a mistake of ours; nobody is to wait for ever for it
                    _log.exception("answering together failed; each is asked alone")
                    stop = len(waiting)
                    apart = [one for one in waiting[start:] if not one[0].told]
                alone += apart
                start = stop
        for asked, body in alone:
            try:
                asked.ask_alone(body)
            except Exception as error:  # of one question, such as a hook's; the others are asked all the same
                self._loop.call_exception_handler({"message": "asking alone failed", "exception": error})

    def _find(self, target: tuple[str | None, ...]) -> Batcher | None:
        """Who runs the model now; None where each question is to be asked alone."""
        name, version = target[0] or "", target[1]
        repository = self._service.repository
        if repository.entry(name) is None:  # asleep, broken or unknown
            return None
        try:
            return self._service.batcher(repository.get(name, version))
        except NotFoundError as error:
            _log.debug("%s is asked question by question: %s", name, error)
            return None

    def _answer(
        self, batcher: Batcher | None, form: Form, waiting: list[_Asked], start: int
    ) -> tuple[int, list[_Asked]]:
        """Answer the questions from ``start`` that fit into one run.

        Gives where the next one begins, and those that are to be asked alone.
        """
        most, few = batcher.rows_at_once if batcher is not None else 0, len(waiting) - start < FEW
        joined = together(batcher.model, form, carefully=few) if batcher is not None and most else None
        if batcher is None or joined is None:
            return len(waiting), waiting[start:]
        read_s = time.monotonic()
        taken, others, stop = _join(joined, waiting, start, most)
        tensors = joined.tensors() if taken else None
        if taken and tensors is None and (joined := together(batcher.model, form, carefully=True)) is not None:
            taken, others, stop = _join(joined, waiting, start, most)
            tensors = joined.tensors() if taken else None
        if taken and (joined is None or tensors is None or not self._landed(batcher, joined, tensors, taken, read_s)):
            others += [(asked, body) for asked, body, _ in taken]
        return stop, others

    def _landed(
        self,
        batcher: Batcher,
        joined: Together,
        tensors: Tensors,
        taken: list[_Taken],
        read_s: float,
    ) -> bool:
        """Run and tell all; False where the run failed, for which one question may be the reason."""
        run = batcher.run_at_once(tensors, joined.rows)
        if run is None:
            return False
        outputs, run_s, ran_s = run
        model, began_s = batcher.model, list[float]()
        on_request = self._hooks.on_request if self._hooks.on_together is None else None
        try:
            for (asked, _, rows), (whole, size) in zip(taken, joined.answers(outputs), strict=True):
                if asked.gone:
                    continue
                began_s.append(asked.began_s)
                try:
                    asked.land(whole)
                except Exception as error:  # of one connection; the others are told all the same
                    self._loop.call_exception_handler({"message": "telling an answer failed", "exception": error})
                if on_request is not None:
                    on_request(asked.seen_landed(size, model, rows, read_s, run_s, ran_s))
        finally:  # those that were answered before something broke count too
            if not self._untold:
                self._loop.call_soon(self._tell)  # when the answers are on the wire
            seen = SeenTogether(model, began_s, read_s, run_s, ran_s, time.monotonic())
            self._untold.append((batcher, len(taken), joined.rows, seen))
        return True

    def _tell(self) -> None:
        """Those who count."""
        untold, self._untold = self._untold, []
        on_together = self._hooks.on_together
        for batcher, questions, rows, seen in untold:
            batcher.tell_run(questions, rows, seen.ran_s - seen.run_s)
            if on_together is not None and seen.began_s:
                on_together(seen)


def _join(joined: Together, waiting: list[_Asked], start: int, most: int) -> tuple[list[_Taken], list[_Asked], int]:
    """Questions from ``start`` that were added, those that cannot be, and where the next run begins."""
    taken: list[_Taken] = []
    others: list[_Asked] = []
    while start < len(waiting) and joined.rows < most:
        asked, body = waiting[start]
        start += 1
        if asked.gone:
            continue
        if rows := joined.take(body, most):
            taken.append((asked, body, rows))
        else:
            others.append((asked, body))
    return taken, others, start
