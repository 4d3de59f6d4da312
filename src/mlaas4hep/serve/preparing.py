"""Questions whose tensors are still to be made, which takes a thread a while, such as pictures that are to be decoded.

What waits for that is bounded, for each model by the limits of its queue: rows, bytes, and the time that it is expected
to take by what the last ones took. Invariant: what was counted is given back once, when it was made or nobody holds the
question any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mlaas4hep.errors import BusyError
from mlaas4hep.serve.limits import QueueLimits

# How much the newest question counts in the pace of a model.
_NEWEST = 0.1
# How much of the time that may be waited is given away, since an answer takes a run, too.
_GIVEN = 0.75

Made = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class _Waiting:
    """Of one model: rows and bytes that are to be made, and the seconds that a row took lately."""

    rows: int = 0
    bytes: int = 0
    row_s: float = 0.0


class Preparing:
    """Counts for all transports and threads of a server.

    Parameters
    ----------
    limits_of
        What may wait for a model, by its name.
    threads
        In which tensors are made at a time.
    """

    def __init__(self, limits_of: Callable[[str], QueueLimits], threads: int) -> None:
        self._limits_of = limits_of
        self._threads = threads
        self._lock = threading.RLock()  # a question may be forgotten while another is counted
        self._waiting: dict[str, _Waiting] = {}

    def waiting(self, model: str) -> tuple[int, int]:
        """Rows and bytes that are to be made for a model."""
        found = self._waiting.get(model, _Waiting())
        return found.rows, found.bytes

    def admit(self, model: str, make: Callable[[], Made], *, rows: int, size: int) -> Prepare:
        """Count a question; calling what is given makes its tensors.

        Parameters
        ----------
        model
            Its name.
        make
            Makes them.
        rows, size
            What they will be, in rows and bytes, together with what was sent.

        Raises
        ------
        BusyError
            Too much waits already. A question that exceeds the limits alone is taken when nothing else waits.
        """
        limits = self._limits_of(model)
        with self._lock:
            found = self._waiting.setdefault(model, _Waiting())
            expected_s = (found.rows + rows) * found.row_s / self._threads
            if found.rows:
                told = _too_much(limits, found.rows + rows, found.bytes + size, expected_s)
                if told:
                    raise BusyError(f"model '{model}' is busy: with this question {told}", retry_after_s=expected_s)
            found.rows += rows
            found.bytes += size
        return Prepare(self, model, make, rows=rows, size=size, ends_s=time.monotonic() + limits.wait_s)

    def give_back(self, model: str, rows: int, size: int, took_s: float | None) -> None:
        """It is made, or nobody waits for it; ``took_s`` is None where it was not tried."""
        with self._lock:
            found = self._waiting[model]
            found.rows -= rows
            found.bytes -= size
            if took_s is not None:
                row_s = took_s / max(rows, 1)
                found.row_s += (_NEWEST if found.row_s else 1.0) * (row_s - found.row_s)


class Prepare:
    """One question's tensors, made when it is called, in whichever thread; once."""

    def __init__(
        self, counts: Preparing, model: str, make: Callable[[], Made], *, rows: int, size: int, ends_s: float
    ) -> None:
        self._counts, self._model, self._make = counts, model, make
        self._rows, self._size = rows, size
        self._ends_s = ends_s
        self._held = True

    def __call__(self) -> Made:
        """The tensors; `BusyError` where it waited longer than may be, and else what making them raises."""
        began_s = time.monotonic()
        if began_s > self._ends_s:
            self._give_back(None)
            text = f"model '{self._model}' is busy: the time that may be waited passed before this question was read"
            raise BusyError(text, retry_after_s=1.0)
        try:
            return self._make()
        finally:
            self._give_back(time.monotonic() - began_s)

    def __del__(self) -> None:
        self._give_back(None)

    def _give_back(self, took_s: float | None) -> None:
        held, self._held = self._held, False
        if held:
            self._counts.give_back(self._model, self._rows, self._size, took_s)


def _too_much(limits: QueueLimits, rows: int, size: int, expected_s: float) -> str:
    """Which limit is passed; empty where none is."""
    if rows > limits.rows:
        return f"{rows} rows would wait to be read, and {limits.rows} may"
    if size > limits.bytes:
        return f"{size} bytes would wait to be read, and {limits.bytes} may"
    if expected_s > limits.wait_s * _GIVEN:
        return f"reading what waits would take {expected_s:.2g} s, and {limits.wait_s:g} s may be waited"
    return ""
