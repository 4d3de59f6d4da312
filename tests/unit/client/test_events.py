from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlaas4hep.client.events import columns_of, encode_columns, encode_events
from mlaas4hep.errors import RequestError


def test_events_of_numpy_values_are_written_with_every_digit_and_infinities_as_words() -> None:
    event = {
        "MET_pt": np.float32(0.1),
        "nJet": np.int64(2),
        "HLT": np.bool_(True),
        "Jet_pt": np.array([0.1, np.nan, np.inf], np.float32),
        "Jet_eta": (float("-inf"), np.float64(2.5)),
    }
    (found,) = encode_events([event])
    assert json.loads(found) == {
        "MET_pt": float(np.float32(0.1)),
        "nJet": 2,
        "HLT": True,
        "Jet_pt": [float(np.float32(0.1)), None, "Infinity"],
        "Jet_eta": ["-Infinity", 2.5],
    }


def test_a_missing_value_of_a_nullable_column_is_null() -> None:
    class NAType:
        """As pandas calls it."""

    class Series(list[Any]):
        def __getitem__(self, part: Any) -> Any:
            return Series(super().__getitem__(part))

        def tolist(self) -> list[Any]:
            return list(self)

    table = {"x": Series([1.5, NAType()]), "n": Series([NAType(), 2])}
    assert list(encode_columns(columns_of(table))) == [b'{"x":1.5,"n":null}', b'{"x":null,"n":2}']


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ({"MET_pt": 1.0}, "events: asked for a list of mappings, found dict"),
        ("MET_pt", "asked for a list of mappings, found str"),
        (3, "asked for a list of mappings, found int"),
        ([{"MET_pt": 1.0}, 3], r"asked for a list of mappings, found int at \[1\]"),
        ([{"x": object()}], "an event holds what JSON cannot"),
    ],
)
def test_what_is_no_list_of_events_is_refused_before_it_is_sent(events: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        encode_events(events)
