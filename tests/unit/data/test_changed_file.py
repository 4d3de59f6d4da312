"""A file that becomes another one while it is read is refused, even where it has as many entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events


def opened(folder: Path, on_error: str) -> EventDataset:
    for number, name in enumerate(("a", "b")):
        write_events(folder / f"{name}.root", make_events(100, seed=number, run=number + 1))
    config = parse_config(
        f"samples:\n  signal: {{files: '{folder}/a.root'}}\n  background: {{files: '{folder}/b.root'}}\n"
        f"inputs: {{event: [MET_pt]}}\non_error: {on_error}\n"
    )
    catalogue = Catalogue.open(config)
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), threads=0)


def test_other_events_are_not_mixed_into_the_stream(tmp_path: Path) -> None:
    with opened(tmp_path, "stop") as stream:
        write_events(tmp_path / "b.root", make_events(100, seed=7, run=9))
        with pytest.raises(DataError, match=r"b\.root.* is not the file any more.*changed meanwhile"):
            list(stream)


def test_they_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    with opened(tmp_path, "skip") as stream:
        write_events(tmp_path / "b.root", make_events(100, seed=7, run=9))
        assert sum(len(batch) for batch in stream) == 100
        [record] = stream.catalogue.quarantine.records
    assert "changed meanwhile" in record.reason
    assert record.entries == 100
