"""A stream that is killed goes on where it was: no event is missing, none comes twice, and every bit is the same.

Twenty kills at random moments; ``python -m benchmarks.kills --points 200`` does more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import CHUNKS, THREADS, compare, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_files(tmp_path_factory.mktemp("kills") / "files")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "points"), [("windows", 8), ("exact", 6), ("quarantine", 6)])
def test_a_killed_stream_goes_on_with_other_threads_and_loses_nothing(
    files: list[str], tmp_path: Path, mode: str, points: int
) -> None:
    found = compare(tmp_path, files, mode, points=points, seed=0)
    assert found["kills"] == points
    assert found["undisturbed_equal"] == found["undisturbed"] == len(THREADS) * len(CHUNKS)
    assert (found["missing"], found["twice"]) == (0, 0)
    assert found["equal"] == found["runs"]
