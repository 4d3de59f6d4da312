"""How many examples a law is tried with where each of them costs: all under `make check`, a third under `make test`.

Invariant: which of the two it is hangs on ``MLAAS4HEP_ALL_EXAMPLES`` alone, never on the machine or its speed.
"""

from __future__ import annotations

import os

FEWEST = 4
ALL = bool(os.environ.get("MLAAS4HEP_ALL_EXAMPLES"))


def examples(count: int) -> int:
    """Of `count` examples those that are tried in this run."""
    return count if ALL else max(min(count, FEWEST), count // 3)
