"""Which rules of which backend wait for `make check`."""

from __future__ import annotations

import pytest

# Three classes and two targets go the same way through each model of one framework; where a model takes seconds to
# learn or to export, another one of the framework is asked for them.
_ASKED_ELSEWHERE = (
    *("::TestTorchAttention::", "::TestTorchCnn::", "::TestTorchMlp::", "::TestOwnModuleOnCollections::"),
    *("::TestOwnXgboost::", "::TestOwnLightgbm::", "::TestOwnTreesWithEarlyStopping::"),
)
# Nor do targets go another way through these than through the two networks beside them; and how events are weighed, how
# a training goes on and how a model is read back is the learner's affair, which they share with those.
_COSTLY = ("::TestTorchAttention::", "::TestTorchCnn::")
_LEARNERS_OWN = ("read_back", "weight", "resumed", "one_seed", "brings_the_scores_back")
_MORE = ("[three-classes]", "[two-targets]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_asked_elsewhere(item):
            item.add_marker(pytest.mark.slow)


def _is_asked_elsewhere(item: pytest.Item) -> bool:
    if item.name.endswith(_MORE) and any(one in item.nodeid for one in _ASKED_ELSEWHERE):
        return True
    of_the_learner = "of_targets" in getattr(item, "fixturenames", ()) or any(one in item.name for one in _LEARNERS_OWN)
    return of_the_learner and any(one in item.nodeid for one in _COSTLY)
