"""Other projects in environments of their own, for tests that ask them.

An environment lies in ``.bench`` of the working copy, or in the folder that ``MLAAS4HEP_PEERS`` names. Invariant: a
test whose environment is not there is skipped with the command that makes it, and nothing is installed by a test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.peers.environments import made

FOLDER = Path(__file__).parents[1] / ".bench"


def python_of(name: str) -> Path:
    """Its interpreter."""
    found = made(name, Path(os.environ.get("MLAAS4HEP_PEERS", FOLDER)))
    if found is None:
        pytest.skip(f"the environment of {name} was not made: python -m benchmarks.peers.environments {name}")
    return found
