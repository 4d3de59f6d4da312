"""What far places cost: requests, bytes, and how often something had to be asked again.

Counted for each place and for the process, for reports. Invariant: counting never changes what is read.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_NUMBER = re.compile(r"(?<!HTTP )(?<![\w.])\d+(\.\d+)?(?![\w.])")


@dataclass(frozen=True)
class Effort:
    """What was spent so far.

    Parameters
    ----------
    requests
        Sent, those that failed included.
    bytes
        Received and used.
    retries
        Requests that failed and were sent again, to the same or to another replica.
    failovers
        How often reading went on from another replica.
    reasons
        Of the failures, and how often each was met.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    failovers: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """Counts; may be shared by threads.

    Parameters
    ----------
    above
        Another ledger that everything is noted in as well.
    """

    def __init__(self, above: Ledger | None = None) -> None:
        self._above = above
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def note(self, *, reason: str | None = None, **counts: int) -> None:
        """Add to ``requests``, ``bytes``, ``retries``, ``failovers``; and one failure for a reason."""
        with self._lock:
            self._counts.update(counts)
            if reason is not None:
                # Byte numbers would make each failure a kind of its own.
                self._reasons[_NUMBER.sub("N", reason)] += 1
        if self._above is not None:
            self._above.note(reason=reason, **counts)

    def so_far(self) -> Effort:
        """What was noted until now."""
        with self._lock:
            return Effort(**self._counts, reasons=dict(self._reasons))


PROCESS = Ledger()
