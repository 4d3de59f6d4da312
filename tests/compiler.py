"""Whether the C++ example can be built here; Debian packages ``g++``, ``make`` and ``libcurl4-openssl-dev``.

Invariant: a lack is told as a lack, see ``tests/required.py``.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.servers import program


def require_compiler() -> None:
    """Skip where compiler or headers are missing."""
    program("make")
    asked = [program("g++"), "-E", "-x", "c++", "-include", "curl/curl.h", "/dev/null"]
    if subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("the headers of libcurl: libcurl4-openssl-dev is not installed")
