"""What every format of outputs keeps: what was appended is read back, in order, with what the file says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.score.writers import FORMATS, Format, Layout, format_by_ending, format_of
from tests.scored import read_output, write_input

TYPES = {
    "score": np.dtype("float32"),
    "kept": np.dtype("bool"),
    "mass": np.dtype("float64"),
    "new_event": np.dtype("uint64"),
    "signed": np.dtype("int64"),
}


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> Format:
    return format_of(request.param)


@pytest.fixture
def original(tmp_path: Path) -> FileEntry:
    write_input(tmp_path / "input.root", 60, cluster=25)
    return FileEntry(0, 0, 0, str(tmp_path / "input.root"), "Events", np.array([0, 25, 50, 60]))


def values(count: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {
        "score": np.where(random.random(count) < 0.2, np.nan, random.random(count)).astype(np.float32),
        "kept": random.random(count) < 0.5,
        "mass": random.normal(size=count),
        "new_event": random.integers(0, 2**64, count, dtype=np.uint64),
        "signed": random.integers(-(2**63), 2**63 - 1, count),
    }
    return {name: one.astype(TYPES[name]) for name, one in found.items()}


def write(format: Format, path: Path, parts: list[dict[str, np.ndarray]], original: FileEntry) -> None:
    count = sum(len(one["score"]) for one in parts)
    layout = Layout("scores", TYPES, count, len(parts), original, "ab" * 32)
    with path.open("w+b") as file:
        writer = format.begin(file, layout)
        for one in parts:
            writer.append(one)
        writer.finish(b'{"said": "of itself"}')
        assert not file.closed, "the file belongs to who opened it"


@pytest.mark.parametrize("sizes", [[60], [1, 29, 30], [20, 20, 20]], ids=str)
def test_what_was_appended_is_read_back(format: Format, original: FileEntry, tmp_path: Path, sizes: list[int]) -> None:
    parts = [values(size, number) for number, size in enumerate(sizes)]
    path = tmp_path / f"out{format.suffix}"
    write(format, path, parts, original)
    found = read_output(path, format.table("scores", original) or None)
    for name, dtype in TYPES.items():
        wanted = np.concatenate([one[name] for one in parts])
        assert found[name].astype(dtype).tobytes() == wanted.tobytes(), name


def test_a_file_says_what_it_was_told(format: Format, original: FileEntry, tmp_path: Path) -> None:
    path = tmp_path / f"out{format.suffix}"
    write(format, path, [values(60, 0)], original)
    assert format.stamp(str(path)) == b'{"said": "of itself"}'
    by_ending = format_by_ending(str(path))
    assert by_ending is not None
    assert by_ending.stamp(str(path)) == b'{"said": "of itself"}'


def test_another_file_says_nothing(format: Format, original: FileEntry, tmp_path: Path) -> None:
    other = tmp_path / f"other{format.suffix}"
    write_input(other, format="parquet" if format.suffix == ".parquet" else "ttree")
    assert format.stamp(str(other)) is None
