"""Whether the event loop has more before it than it can answer in time, told before a question is looked at.

A queue is bounded by `mlaas4hep.serve.batcher`; but where a model is quick, what is asked waits in sockets for the loop
to come round, and the queue stays empty. A turn of the loop reads all that came while the one before lasted, and writes
its answers in the end. So an answer is there within the time of two turns, and what a turn takes in is bounded by what
the one before left of half of the time that may be waited; the rest of what is there is refused.

Invariant: what is refused here costs its head and nothing else.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from mlaas4hep.serve.bounded import answer_bytes

# Of the time that is left, how much is spent on reading: runs, writing and refusals make a turn about four times as
# long where twice as much is asked as can be answered, and a refusal costs a third of an answer.
READING = 1 / 4
# A loop that waited for longer than this had nothing to read: what it finds then has just come.
IDLE_S = 2e-3
RETRY_AFTER_S = 1


class Pressure:
    """Of one event loop.

    Parameters
    ----------
    loop
        Which runs what is called soon when all that can be read has been.
    wait_s
        The longest that an answer may take.

    Attributes
    ----------
    began_s, ends
        When the turn began, 0 between turns, and whether its end is waited for: then `begin` and `end` do nothing.
    """

    __slots__ = (
        "_ended_s",
        "_loop",
        "_most_s",
        "_took_s",
        "_wait_s",
        "began_s",
        "closing",
        "ends",
        "keeping",
        "size",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, wait_s: float) -> None:
        self._loop = loop
        self._wait_s = wait_s
        self.began_s = self._ended_s = self._took_s = 0.0
        self.ends = False
        self._most_s = 0.0
        body = msgspec.json.encode({"error": self.text})
        self.size = len(body)
        headers = (("Retry-After", str(RETRY_AFTER_S)),)
        self.keeping = answer_bytes(503, body, headers=headers)
        self.closing = answer_bytes(503, body, headers=headers, close=True)

    @property
    def text(self) -> str:
        """What is told."""
        return f"more is asked here than can be answered within {self._wait_s:g} s; ask again later"

    def begin(self) -> None:
        """Something came, and is read now; the first in a turn begins it."""
        if self.began_s:
            return
        self.began_s = now_s = time.monotonic()
        idle_s = now_s - self._ended_s
        before_s = self._took_s + idle_s if idle_s < IDLE_S else 0.0
        self._most_s = max(self._wait_s / 2 - before_s, 0.0) * READING

    def end(self) -> None:
        """It was read; the turn ends when all is, and what came of it was run."""
        if not self.ends:
            self.ends = True
            self._loop.call_soon(self._end)

    def too_much(self, now_s: float) -> bool:
        """Whether this turn, at a time by `time.monotonic`, has taken in what it can answer."""
        return now_s - self.began_s > self._most_s

    def _end(self) -> None:
        self._ended_s = time.monotonic()
        self._took_s, self.began_s = self._ended_s - self.began_s, 0.0
        self.ends = False
