"""One function in a fresh process, within a time limit: nothing else counts in its memory, and a hang is noticed.

Invariant: the process is gone when `apart` returns, whatever happened.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from benchmarks.turns import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


def apart(limit_s: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a module gives, called in a process that was started for it.

    Raises
    ------
    TimeoutError
        It took longer than ``limit_s``; the process was killed.
    Unavailable
        It says so there.
    RuntimeError
        It failed there.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, function, args, kwargs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit_s):
            raise TimeoutError(f"{function.__name__} took longer than {limit_s:.0f} s")
        kind, value = ours.recv()
    except EOFError:
        process.join(1)
        raise RuntimeError(f"{function.__name__} ended without an answer: exit code {process.exitcode}") from None
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    if kind == "unavailable":
        raise Unavailable(value)
    if kind == "failed":
        raise RuntimeError(f"{function.__name__}: {value}")
    result: T = value
    return result


def _call(answers: Connection, function: Callable[..., object], args: Any, kwargs: Any) -> None:
    try:
        answers.send(("done", function(*args, **kwargs)))
    except Unavailable as error:
        answers.send(("unavailable", str(error)))
    except Exception as error:  # whatever it is, the caller is told
        answers.send(("failed", f"{type(error).__name__}: {error}"))
        raise
