"""Joins questions to one model into batches, without a timer: what this turn of the event loop brought is one run.

Quick runs happen on the loop itself, others in a worker thread; what arrives meanwhile is the next batch. Invariant:
each question gets exactly the outputs of its own rows, with the bits that it would get alone, or one error; what one
question does wrong is told to nobody else.

The queue is bounded in rows, in bytes, and in the time that it is expected to take: what cannot be answered in time is
refused at once with `BusyError`, before anything is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BusyError, MLaaSError, RequestError
from mlaas4hep.serve.limits import QueueLimits as QueueLimits
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec
from mlaas4hep.serve.ticket import Done, Outcome, Ticket

# A run that is expected to take longer leaves the event loop. A thread costs about 0.1 ms.
INLINE_S = 0.5e-3
# How much the newest run counts in the pace of a model.
_NEWEST = 0.1
# Of a run, so that a pace can be told.
_SHORTEST_S = 1e-6
# How much of the time that may be waited is given away when a question comes, and when its run begins: what is expected
# is not sure, and an answer has to be written.
_GIVEN, _KEPT = 0.75, 0.9

_log = logging.getLogger(__name__)


class Batcher:
    """Runs one model for one event loop; all methods are called on that loop.

    Parameters
    ----------
    model
        Who answers.
    executor
        Threads for runs that are not quick.
    limits
        Of the queue.
    on_run
        Told (model, questions, rows, seconds) of every run.
    """

    def __init__(
        self,
        model: ServedModel,
        executor: Executor,
        *,
        limits: QueueLimits | None = None,
        on_run: Callable[[ServedModel, int, int, float], None] | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or QueueLimits()
        self.on_run = on_run
        self.waiting_rows = self.waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._queue: deque[Ticket] = deque()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._landing_s: float | None = None  # when the run in a thread is expected to end
        self._pace = 1.0
        self._idle: list[asyncio.Future[None]] = []
        self._joins = model.batches
        self._batch_rows = min(self.limits.batch_rows, model.max_rows)

    def submit(
        self, inputs: Tensors, rows: int, done: Done, *, deadline: float | None = None, checked: bool = False
    ) -> Ticket:
        """Ask; ``done`` is called once with all outputs by name or with an error, maybe before this returns.

        Parameters
        ----------
        inputs
            By name; see `ServedModel.check`.
        rows
            Of the tensors, 1 where the model's rows are not independent.
        deadline
            By `time.monotonic`: when the answer is of no use any more.
        checked
            The tensors passed `ServedModel.check` already.

        Notes
        -----
        Errors: `RequestError` where the tensors do not fit, `BusyError` where the queue is full or the deadline cannot
        be met.
        """
        ticket = Ticket(inputs, rows, done, deadline, time.monotonic())
        try:
            if not checked:
                self._check(ticket)
            self._admit(ticket)
        except MLaaSError as error:
            ticket.finish(error)
            return ticket
        if rows == 0 and self.model.batches:
            ticket.finish(self.model.run_checked(inputs, 0))
            return ticket
        self._queue.append(ticket)
        self.waiting_rows += rows
        self.waiting_bytes += ticket.size
        if self._landing_s is None:
            self._schedule()
        return ticket

    async def infer(
        self, inputs: Tensors, rows: int, *, deadline: float | None = None, checked: bool = False
    ) -> dict[str, NDArray[Any]]:
        """As `submit`, for who awaits; a cancelled task takes its question back."""
        future: asyncio.Future[dict[str, NDArray[Any]]] = self._loop.create_future()

        def settle(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        ticket = self.submit(inputs, rows, settle, deadline=deadline, checked=checked)
        try:
            return await future
        except asyncio.CancelledError:
            ticket.cancel()
            raise

    @property
    def waiting(self) -> int:
        """Questions that wait for a run."""
        return len(self._queue)

    def expected_s(self, rows: int = 0) -> float:
        """When an answer to so many further rows is expected, from now."""
        run_s = self._run_s(self.waiting_rows + rows, len(self._queue) + 1)
        if self._landing_s is None and not self._queue:
            # Nothing is in the way: a pace that one run spoilt must not keep out the runs that would mend it.
            return run_s * min(self._pace, 1.0)
        running_s = 0.0 if self._landing_s is None else max(self._landing_s - time.monotonic(), 0.0)
        return running_s + self._pace * run_s

    @property
    def rows_at_once(self) -> int:
        """How many rows may be run on the loop now: 0 where others wait or run, or runs are long."""
        if self._queue or self._landing_s is not None or not self._joins or self.limits.max_wait_ms:
            return 0
        model = self.model
        left_s = INLINE_S / max(min(self._pace, 1.0), _SHORTEST_S) - model.call_s
        if left_s <= 0:
            return 0
        return self._batch_rows if left_s > self._batch_rows * model.row_s else 1 + int(left_s / model.row_s)

    def run_at_once(self, inputs: Tensors, rows: int) -> tuple[dict[str, NDArray[Any]], float, float] | None:
        """Run what was joined already: all outputs, and when the run began and ended; None where it failed.

        Of a run that did not fail `tell_run` tells, when whoever called this has answered.

        Parameters
        ----------
        inputs
            Which pass `ServedModel.check`.
        rows
            Of the tensors, about as many as `rows_at_once` at most.
        """
        expected_s, started_s = max(self.model.run_s(rows), _SHORTEST_S), time.monotonic()
        outputs = _whole(self.model, inputs, rows)
        ended_s = time.monotonic()
        self._pace += _NEWEST * ((ended_s - started_s) / expected_s - self._pace)
        return None if outputs is None else (outputs, started_s, ended_s)

    def tell_run(self, questions: int, rows: int, took_s: float) -> None:
        """Of a run: of how many questions and rows, and the seconds that it took."""
        if self.on_run is not None:
            self.on_run(self.model, questions, rows, took_s)

    async def drain(self) -> None:
        """Return when nothing waits and nothing runs."""
        while self._queue or self._landing_s is not None:
            future = self._loop.create_future()
            self._idle.append(future)
            await future

    def _check(self, ticket: Ticket) -> None:
        found = self.model.check(ticket.inputs)
        if found != ticket.rows:
            raise RequestError(f"{ticket.rows} rows are announced, but the tensors have {found}")

    def refusal(self, rows: int, size: int, deadline: float | None) -> BusyError | None:
        """Why a question of so many rows and bytes is not taken now; None where it is.

        May be asked before the question is there, with the rows and bytes that it has at least.
        """
        limits = self.limits
        if self._queue or self._landing_s is not None:
            if self.waiting_rows + rows > limits.rows:
                return self._busy(f"{self.waiting_rows} rows wait already, and {limits.rows} may")
            if self.waiting_bytes + size > limits.bytes:
                return self._busy(f"{self.waiting_bytes} bytes wait already, and {limits.bytes} may")
            expected_s = self.expected_s(min(rows, self._batch_rows))
            if expected_s > limits.wait_s * _GIVEN:
                return self._busy(f"an answer would take {expected_s:.2g} s, and {limits.wait_s:g} s may be waited")
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s < self.expected_s(rows):
                return self._busy(f"the answer cannot be there within the {max(left_s, 0.0):.3g} s that are left")
        return None

    def _admit(self, ticket: Ticket) -> None:
        for array in ticket.inputs.values():
            ticket.size += array.nbytes
        refusal = self.refusal(ticket.rows, ticket.size, ticket.deadline)
        if refusal is not None:
            raise refusal
        if self._queue or self._landing_s is not None:
            last_s = ticket.began_s + self.limits.wait_s * _KEPT
            ticket.deadline = last_s if ticket.deadline is None else min(ticket.deadline, last_s)

    def _busy(self, text: str) -> BusyError:
        return BusyError(f"model '{self.model.name}' is busy: {text}", retry_after_s=self.expected_s())

    def _run_s(self, rows: int, questions: int) -> float:
        """Seconds of all that is needed to run so many rows of so many questions."""
        runs = -(-rows // self._batch_rows) if self._joins else questions
        return max(runs, 1) * self.model.call_s + rows * self.model.row_s

    def _schedule(self, *, at_once: bool = False) -> None:
        limits = self.limits
        if self._soon:
            return
        if limits.max_wait_ms and self._joins and not at_once and self.waiting_rows < self._batch_rows:
            if self._timer is None:
                self._timer = self._loop.call_later(limits.max_wait_ms / 1000, self._turn)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._soon = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run what waits: quick runs one after the other until nothing does, since what this turn read it is to answer.

        Left for a later turn, which reads as much again, questions would pile up where nobody counts the time.
        """
        self._timer, self._soon = None, False
        while batch := self._take():
            rows = sum(ticket.rows for ticket in batch)
            expected_s = max(self.model.run_s(rows), _SHORTEST_S)
            if expected_s * min(self._pace, 1.0) > INLINE_S:
                self._landing_s = time.monotonic() + expected_s * self._pace
                self._executor.submit(self._run_in_thread, batch, rows, expected_s)
                return
            outcomes = _run(self.model, batch)
            self._note(len(batch), rows, expected_s, batch[0].ended_s - batch[0].started_s)
            self._tell(batch, outcomes)
        self._go_on()

    def _go_on(self) -> None:
        if self._queue:
            self._schedule(at_once=True)
        elif self._idle:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _take(self) -> list[Ticket]:
        """The oldest questions, as many as may be joined; those that nobody waits for are dropped."""
        batch: list[Ticket] = []
        queue, now, left = self._queue, 0.0, self._batch_rows
        # When an answer is there at the soonest: not much is made of a pace that one run may have spoilt.
        ahead_s = self.model.call_s * min(self._pace, 2.0)
        while queue and (not batch or (self._joins and queue[0].rows <= left)):
            ticket = queue.popleft()
            self.waiting_rows -= ticket.rows
            self.waiting_bytes -= ticket.size
            if ticket.done is None:
                continue
            if ticket.deadline is not None and ticket.deadline <= (now := now or time.monotonic() + ahead_s):
                ticket.finish(self._busy("its deadline, or the time that may be waited, passed while it waited"))
                continue
            batch.append(ticket)
            left -= ticket.rows
        return batch

    def _run_in_thread(self, batch: list[Ticket], rows: int, expected_s: float) -> None:
        outcomes = _run(self.model, batch)
        self._loop.call_soon_threadsafe(self._landed, batch, rows, expected_s, outcomes)

    def _landed(self, batch: list[Ticket], rows: int, expected_s: float, outcomes: list[Outcome]) -> None:
        self._landing_s = None
        self._note(len(batch), rows, expected_s, batch[0].ended_s - batch[0].started_s)
        if self._queue and self.model.call_s * min(self._pace, 1.0) > INLINE_S:
            self._turn()  # the next run is on while these answers are written
            self._tell(batch, outcomes)
        else:
            self._tell(batch, outcomes)
            self._go_on()

    def _note(self, questions: int, rows: int, expected_s: float, took_s: float) -> None:
        self._pace += _NEWEST * (took_s / expected_s - self._pace)
        self.tell_run(questions, rows, took_s)

    def _tell(self, batch: list[Ticket], outcomes: list[Outcome]) -> None:
        for ticket, outcome in zip(batch, outcomes, strict=True):
            try:
                ticket.finish(outcome)
            except Exception as error:  # of who asked; the others are told all the same
                context = {"message": "telling an answer failed", "exception": error}
                self._loop.call_exception_handler(context)


def _run(model: ServedModel, batch: Sequence[Ticket]) -> list[Outcome]:
    """An outcome a question: of one run, or where that fails each of its own run."""
    started_s = time.monotonic()
    try:
        outcomes = _joined(model, batch) if len(batch) > 1 else None
    except Exception:  # no memory for all at once, or a mistake of ours; nobody is to wait for ever for it
        _log.exception("joining questions to model '%s' failed; each is run apart", model.name)
        outcomes = None
    if outcomes is None:
        outcomes = [_alone(model, ticket) for ticket in batch]
    ended_s = time.monotonic()
    for ticket in batch:
        ticket.started_s, ticket.ended_s = started_s, ended_s
    return outcomes


def _alone(model: ServedModel, ticket: Ticket) -> Outcome:
    try:
        return model.run_checked(ticket.inputs, ticket.rows)
    except Exception as error:  # told to who asked, who decides whose fault it is
        return error


def _whole(model: ServedModel, inputs: Tensors, rows: int) -> dict[str, NDArray[Any]] | None:
    """Outputs of a run for several who ask; None where there are none, so that all are to be run apart."""
    try:
        outputs = model.run_checked(inputs, rows)
    except Exception as error:  # one question may be the reason: apart, it alone is told
        _log.debug("a joined run of model '%s' failed, its questions are run apart: %s", model.name, error)
        return None
    for one in model.outputs:
        if not _gives(one, outputs[one.name].shape, rows):
            _log.warning("model '%s' gives no row a row of '%s'; its questions run apart", model.name, one.name)
            return None
    return outputs


def _gives(declared: TensorSpec, shape: tuple[int, ...], rows: int) -> bool:
    """Whether an output can be cut into rows as it is declared: a graph may give others, and its runtime lets it."""
    if shape == (rows, *declared.shape):
        return True
    return shape[:1] == (rows,) and -1 in declared.shape and len(shape) == 1 + len(declared.shape)


def _joined(model: ServedModel, batch: Sequence[Ticket]) -> list[Outcome] | None:
    """Outcomes of one run of all; None where there is none, so that all are to be run apart."""
    for one in model.inputs:
        if -1 in one.shape and len({ticket.inputs[one.name].shape[1:] for ticket in batch}) > 1:
            return None  # such as sequences of several lengths, which do not fit into one tensor
    rows = sum(ticket.rows for ticket in batch)
    inputs = {one.name: np.concatenate([ticket.inputs[one.name] for ticket in batch]) for one in model.inputs}
    outputs = _whole(model, inputs, rows)
    if outputs is None:
        return None
    outcomes: list[Outcome] = []
    start = 0
    for ticket in batch:
        stop = start + ticket.rows
        outcomes.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return outcomes
