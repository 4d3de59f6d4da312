"""Makes a lack of packages and programs a failure where all of them are promised.

On a machine with less, tests that need more are skipped. `make check` installs everything and sets
``MLAAS4HEP_REQUIRE_SERVICES=1``: there such a skip would hide that nothing was tested. Skips for another reason (real
files that are not given, a rule that does not apply) stay skips.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest

VARIABLE = "MLAAS4HEP_REQUIRE_SERVICES"
# What `pytest.importorskip` says, and what our own marks say of programs.
_LACK = re.compile(r"could not import|is not installed")


def _demand(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail a skip for a lack."""
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get(VARIABLE) == "1" and _LACK.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}\n{VARIABLE}=1 asks for all packages and programs, so this is no reason to skip"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _demand(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _demand(report)
    return report
