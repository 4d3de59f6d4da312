"""The yardstick of default boosting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mlaas4hep.backends import reference


@pytest.mark.parametrize("kind", ["HistGradientBoostingClassifier", "HistGradientBoostingRegressor"])
def test_it_learns_on_one_thread_however_many_there_are(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other work, threads that wait for each other in a circle make minutes of seconds."""
    found: list[int] = []

    class Watched(getattr(reference, kind)):  # type: ignore[misc]
        def fit(self, x: Any, y: Any) -> Any:
            found.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")
            return super().fit(x, y)

    monkeypatch.setattr(reference, kind, Watched)
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    with threadpool_limits(3):
        if kind.endswith("Classifier"):
            assert reference.default_boosting_scores(x, (x[:, 0] > 0).astype(np.int64), x).shape == (200, 2)
        else:
            assert reference.default_boosting_targets(x, x[:, :1], x).shape == (200, 1)
    assert found
    assert set(found) == {1}
