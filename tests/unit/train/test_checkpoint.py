"""What a killed process leaves is the last checkpoint that it completed; one process at a time writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.errors import ModelError, UserError
from mlaas4hep.train.checkpoint import LATEST, PREVIOUS, UNFINISHED, CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[CheckpointFolder]:
    """Claimed, with two checkpoints in it."""
    folder = CheckpointFolder(tmp_path / "run")
    folder.claim()
    for number in (1, 2):
        folder.write({"number": number, "loss": float("nan")}, {"a/b": np.full(3, number, np.float32)})
    yield folder
    folder.release()


def test_the_latest_is_read_back_to_the_bit(folder: CheckpointFolder) -> None:
    saved = folder.read()
    assert saved.document["number"] == 2
    assert saved.arrays["a/b"].dtype == np.float32
    np.testing.assert_array_equal(saved.arrays["a/b"], 2)
    assert saved.damage is None
    assert not (folder.path / UNFINISHED).exists()


def test_a_process_killed_between_the_two_renames_leaves_the_one_before(folder: CheckpointFolder) -> None:
    (folder.path / LATEST).rename(folder.path / PREVIOUS)
    assert folder.found
    assert folder.read().document["number"] == 2


@pytest.mark.parametrize("kept", [0, 100, 400])
def test_a_torn_file_gives_way_to_the_one_before_and_is_named(folder: CheckpointFolder, kept: int) -> None:
    latest = folder.path / LATEST
    latest.write_bytes(latest.read_bytes()[:kept])
    saved = folder.read()
    assert saved.document["number"] == 1
    assert str(latest) in str(saved.damage)


def test_a_changed_byte_is_noticed(folder: CheckpointFolder) -> None:
    latest = folder.path / LATEST
    data = latest.read_bytes()
    place = data.index(np.full(3, 2, np.float32).tobytes())
    latest.write_bytes(data[:place] + b"\1" + data[place + 1 :])
    assert folder.read().document["number"] == 1


def test_where_nothing_can_be_read_it_says_so(folder: CheckpointFolder) -> None:
    for name in (LATEST, PREVIOUS):
        (folder.path / name).write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"no checkpoint in it can be read.*--restart"):
        folder.read()


def test_objects_are_not_kept(folder: CheckpointFolder) -> None:
    with pytest.raises(ModelError, match="'a' holds objects"):
        folder.write({}, {"a": np.array([{}], object)})


def test_one_process_at_a_time(folder: CheckpointFolder) -> None:
    other = CheckpointFolder(folder.target)
    for refused in (other.require_free, other.claim):
        with pytest.raises(UserError, match="another process trains this run now"):
            refused()
    folder.release()
    other.require_free()
    assert other.found


def test_a_folder_with_nothing_to_go_on_from_is_removed(folder: CheckpointFolder) -> None:
    folder.discard()
    folder.release()
    assert not folder.path.exists()
    assert not folder.found
