"""A question that waits for a run of its model.

Invariant: who asked is told one outcome, or nothing once it was cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from mlaas4hep.serve.model import Tensors

Outcome = dict[str, NDArray[Any]] | Exception
Done = Callable[[Outcome], None]


class Ticket:
    """A question that waits; `cancel` it when nobody wants the answer any more.

    Parameters
    ----------
    inputs, rows
        The tensors.
    done
        Told the outcome once, on the event loop.
    deadline
        By `time.monotonic`; None for none. That of a question which had to queue up is never later than may be waited.
    began_s, started_s, ended_s
        When it came, and when the run that it was part of started and ended; 0 before.
    """

    __slots__ = ("began_s", "deadline", "done", "ended_s", "inputs", "rows", "size", "started_s")

    def __init__(self, inputs: Tensors, rows: int, done: Done, deadline: float | None, began_s: float) -> None:
        self.inputs = inputs
        self.rows = rows
        self.size = 0
        self.done: Done | None = done
        self.deadline = deadline
        self.began_s = began_s
        self.started_s = self.ended_s = 0.0

    def cancel(self) -> None:
        """Nobody is told; the rows are not run, if that has not begun."""
        self.done = None

    def finish(self, outcome: Outcome) -> None:
        """Tell the outcome, once."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)
