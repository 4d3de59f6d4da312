"""A lack is a reason to skip, but not where everything is promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.required import VARIABLE

MODULE = "import pytest\npytest.importorskip('no_such_package')\ndef test_never(): pass\n"
TESTS = """
import pytest

def test_package(): pytest.importorskip('no_such_package')

@pytest.mark.skipif(True, reason='curl is not installed')
def test_program(): pass

@pytest.mark.skipif(True, reason="the extra 'docs' is not installed")
def test_docs(): pass

def test_files(): pytest.skip('real files: set MLAAS4HEP_TEST_DATA to their folder')

@pytest.mark.xfail(reason='could not import anything')
def test_expected(): assert False

def test_passes(): pass
"""


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        ("", {"passed": 1, "skipped": 5, "xfailed": 1}),
        ("1", {"passed": 1, "failed": 1, "skipped": 1, "xfailed": 1, "errors": 3}),
    ],
)
def test_a_lack_fails_where_everything_is_promised(tmp_path: Path, value: str, counts: dict[str, int]) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.required", "--continue-on-collection-errors", str(tmp_path)],
        env=os.environ | {VARIABLE: value, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"(\d+) ([a-z]+)[, ]", done.stdout.splitlines()[-1])
    assert {word: int(count) for count, word in found} == counts, done.stdout
