"""Iterators of batches: what they say after an error, where they stand, and what they have counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events


def opened(config: Config, **settings: object) -> EventDataset:
    catalogue = Catalogue.open(config)
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), **settings)  # type: ignore[arg-type]


@pytest.fixture
def failing(tmp_path: Path) -> Config:
    """Of the second file, the first entry has no weight."""
    for number in range(2):
        columns = make_events(100, seed=number)
        columns["genWeight"][0] = 1.0 if number == 0 else np.nan  # type: ignore[index]
        write_events(tmp_path / f"{number}.root", columns, cluster=10)
    return parse_config(
        f"samples:\n  signal: {{files: '{tmp_path}/0.root'}}\n  background: {{files: '{tmp_path}/1.root'}}\n"
        "inputs: {event: [MET_pt]}\nweights: {event: genWeight}\n"
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_that_failed_fails_again_and_does_not_end_quietly(failing: Config, threads: int) -> None:
    with opened(failing, batch_size=1000, threads=threads) as stream:
        batches = stream.epoch(0)
        for _ in range(2):
            with pytest.raises(DataError, match="the event weight is nan"):
                next(batches)
        batches.close()
        with pytest.raises(DataError, match="the event weight is nan"):
            next(batches)


@pytest.mark.parametrize("threads", [0, 2])
def test_the_place_after_an_error_is_that_of_the_last_batch(failing: Config, threads: int) -> None:
    """Events that were taken for a batch that never came are not lost to a stream that goes on from there."""
    with opened(failing, batch_size=16, threads=threads, shuffle=True, shuffle_window=20, chunk_entries=10) as stream:
        batches = stream.epoch(0)
        states = [batches.state_dict()]

        def read() -> None:
            for _ in batches:
                states.append(batches.state_dict())

        with pytest.raises(DataError, match="the event weight is nan"):
            read()
        assert len(states) > 2
        assert batches.state_dict() == states[-1]
