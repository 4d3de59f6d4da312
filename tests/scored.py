"""Inputs and models for the tests of scoring: small files whose offline scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.source import open_source
from mlaas4hep.spec.columns import Column
from mlaas4hep.testing import Format, write_events
from tests.small_bundle import make_events


def identified(count: int, *, seed: int = 0, run: int = 1) -> dict[str, Column]:
    """Events of the small bundle with run, luminosityBlock and event."""
    return make_events(count, seed=seed) | {
        "run": np.full(count, run, np.uint32),
        "luminosityBlock": np.arange(count, dtype=np.uint32) // 100,
        "event": np.arange(count, dtype=np.uint64) + np.uint64(10_000 * seed),
    }


def write_input(
    path: Path, count: int = 300, *, seed: int = 0, format: Format = "ttree", cluster: int = 77
) -> dict[str, Column]:
    """Write one, and give its events."""
    columns = identified(count, seed=seed)
    write_events(path, columns, format=format, cluster=cluster)
    return columns


def offline(bundle: Bundle, columns: dict[str, Column], *, fill: float = np.nan) -> NDArray[np.float32]:
    """The score of every event, float32 [N, C], as analysis code would get it."""
    count = len(next(iter(columns.values())))
    scores, selected = bundle.score(columns, count)
    found = np.full((count, len(bundle.spec.score_names)), fill, np.float32)
    found[selected] = scores
    return found


def read_output(path: Path | str, table: str | None = None) -> dict[str, NDArray[Any]]:
    """All columns of an output that are one value an event."""
    with open_source(str(path), table) as source:
        found = source.read(list(source.columns), 0, source.num_entries)
        return {name: one for name, one in found.items() if isinstance(one, np.ndarray)}
