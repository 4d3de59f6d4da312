"""What `benchmarks.training` compares is the same training: as many events, and as many epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.events import NARROW, events_file
from benchmarks.training import in_memory, measure, prepare, ratios, streamed


def test_all_rows_are_learned_in_memory_and_from_the_stream(tmp_path: Path) -> None:
    layout = replace(NARROW, cluster=600, clusters=3)
    prepared = prepare(events_file(tmp_path, layout), layout, threads=1, readers=1)
    assert prepared.x.shape == (1800, 100)
    assert np.isfinite(prepared.x.numpy()).all()
    assert 0.4 < float(prepared.labels.mean()) < 0.6
    assert [len(one) for one in in_memory(prepared, epochs=3).values()] == [3, 3, 3]
    found = {name: len(one) for name, one in streamed(prepared, later=2).items()}
    assert found == {
        "first_epoch_s": 1,
        "first_cpu_s": 1,
        "first_thread_s": 1,
        "epoch_streamed_s": 2,
        "streamed_cpu_s": 2,
        "streamed_thread_s": 2,
    }
    turns = measure(prepared, lambda: {"weaver_epoch_s": [1.0]}, repeats=2)
    assert turns["weaver_epoch_s"] == [1.0, 1.0]
    assert len(turns["epoch_streamed_s"]) == 6
    named = set(ratios({name: one[0] for name, one in turns.items()}))
    assert named == {"streamed", "first", "streamed_thread", "first_thread"}
