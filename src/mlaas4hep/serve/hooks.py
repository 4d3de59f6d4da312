"""Places where operating a server can look in and say no: one for all ways that a request can take.

Invariant: hooks see every request once, and change no answer that they do not refuse. Nothing here counts or writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from mlaas4hep.serve.asking import Headers, Refusal
from mlaas4hep.serve.model import ServedModel

Verdict = Refusal | Callable[[], Awaitable[Refusal | None]] | None


class Seen(NamedTuple):
    """A request that was answered.

    Parameters
    ----------
    method, path, status, client
        As in an access log; ``client`` is the address, empty where there is none.
    route
        Name of the `Route` that read it; empty for all other requests.
    model, rows
        Who was asked and with how much; None and 0 where it did not come to that.
    bytes_in, bytes_out
        Sizes of the bodies.
    seconds
        From the end of the head to the answer.
    queue_s, run_s
        The parts of it that the question waited for others, and that the run took of which it was a part.
    headers
        Of the request.
    read_s
        The part of ``seconds`` that the body was received and read; 0 where that is not known.
    """

    method: str
    path: str
    status: int
    client: str
    route: str
    model: ServedModel | None
    rows: int
    bytes_in: int
    bytes_out: int
    seconds: float
    queue_s: float
    run_s: float
    headers: Headers
    read_s: float = 0.0


class SeenTogether(NamedTuple):
    """Requests that one run answered, each a POST with status 200.

    Parameters
    ----------
    model
        Who was asked.
    began_s
        By `time.monotonic`, of each: when its head was read.
    read_s, run_s, ran_s, ended_s
        When all of them began to be read, when their run began and ended, and when all were answered.
    """

    model: ServedModel
    began_s: list[float]
    read_s: float
    run_s: float
    ran_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Hooks:
    """What is called for requests, on the event loop: quick functions that do not raise.

    Parameters
    ----------
    on_request
        Told of every request when its answer is known.
    authorise
        Method, path and headers to a `Refusal`, or None to let it pass; asked before the body is taken. Where that has
        to be waited for, it gives who tells so instead, to be called once and awaited.
    on_together
        Told of requests that one run answered, in place of ``on_request``; None where that is to be told of each.
    """

    on_request: Callable[[Seen], None] | None = None
    authorise: Callable[[str, str, Headers], Verdict] | None = None
    on_together: Callable[[SeenTogether], None] | None = None
