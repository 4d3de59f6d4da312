"""Questions that wait to be made into tensors: how many may, and that none is counted for ever."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import BusyError, RequestError
from mlaas4hep.serve.limits import QueueLimits
from mlaas4hep.serve.preparing import Preparing


def made() -> dict[str, Any]:
    return {"x": np.zeros(1, np.float32)}


def failing() -> dict[str, Any]:
    raise RequestError("no picture")


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (QueueLimits(rows=3), "4 rows would wait to be read, and 3 may"),
        (QueueLimits(bytes=300), "400 bytes would wait to be read, and 300 may"),
    ],
)
def test_too_much_is_refused_until_something_is_made_or_forgotten(limits: QueueLimits, told: str) -> None:
    preparing = Preparing(lambda model: limits, 4)
    first = preparing.admit("m", made, rows=2, size=200)
    with pytest.raises(BusyError, match=f"model 'm' is busy: with this question {told}"):
        preparing.admit("m", made, rows=2, size=200)
    preparing.admit("other", made, rows=2, size=200)
    assert set(first()) == {"x"}
    second = preparing.admit("m", failing, rows=2, size=200)
    with pytest.raises(RequestError):
        second()
    third = preparing.admit("m", made, rows=2, size=200)
    assert preparing.waiting("m") == (2, 200)
    del third  # who asked hung up before a thread was free
    gc.collect()
    assert preparing.waiting("m") == (0, 0)
    assert preparing.admit("m", made, rows=5, size=500) is not None, "alone anything is taken"


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    preparing = Preparing(lambda model: QueueLimits(wait_s=10), 2)
    preparing.admit("m", made, rows=1, size=1)()
    waiting = preparing._waiting["m"]
    waiting.row_s = 4.0
    first = preparing.admit("m", made, rows=3, size=1)
    with pytest.raises(BusyError, match="reading what waits would take 8 s, and 10 s may be waited") as busy:
        preparing.admit("m", made, rows=1, size=1)
    assert busy.value.retry_after_s == 8.0
    first()
    assert waiting.row_s < 4.0, "it is as slow as the last ones were"


def test_what_waited_too_long_is_refused_and_not_made() -> None:
    preparing = Preparing(lambda model: QueueLimits(wait_s=-1), 2)
    asked = preparing.admit("m", failing, rows=1, size=1)
    with pytest.raises(BusyError, match="passed before this question was read"):
        asked()
    assert preparing.waiting("m") == (0, 0)
