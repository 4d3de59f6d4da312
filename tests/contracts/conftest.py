"""Which rules of which backend wait for `make check`."""

from __future__ import annotations

import pytest

# Three classes and two targets go the same way through each model of one framework; where a model takes seconds to
# learn or to export, another one of the framework is asked for them.
_ASKED_ELSEWHERE = (
    *("::TestTorchAttention::", "::TestTorchCnn::", "::TestTorchMlp::", "::TestOwnModuleOnCollections::"),
    *("::TestOwnXgboost::", "::TestOwnLightgbm::", "::TestOwnTreesWithEarlyStopping::"),
)
# Nor do targets go another way through these than through the two networks beside them.
_TARGETS_ASKED_ELSEWHERE = ("::TestTorchAttention::", "::TestTorchCnn::")
_MORE = ("[three-classes]", "[two-targets]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.name.endswith(_MORE) and any(one in item.nodeid for one in _ASKED_ELSEWHERE):
            item.add_marker(pytest.mark.slow)
        needs = getattr(item, "fixturenames", ())
        if "of_targets" in needs and any(one in item.nodeid for one in _TARGETS_ASKED_ELSEWHERE):
            item.add_marker(pytest.mark.slow)
