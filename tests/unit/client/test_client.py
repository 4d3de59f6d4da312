from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlaas4hep.client import Client
from mlaas4hep.client.client import _encode_events
from mlaas4hep.client.tensors import decode_outputs, encode_inputs
from mlaas4hep.errors import RequestError, ServerError, UserError


def test_events_of_numpy_values_are_written_with_every_digit_and_infinities_as_words() -> None:
    event = {
        "MET_pt": np.float32(0.1),
        "nJet": np.int64(2),
        "HLT": np.bool_(True),
        "Jet_pt": np.array([0.1, np.nan, np.inf], np.float32),
        "Jet_eta": (float("-inf"), np.float64(2.5)),
    }
    assert json.loads(_encode_events([event]))["instances"] == [
        {
            "MET_pt": float(np.float32(0.1)),
            "nJet": 2,
            "HLT": True,
            "Jet_pt": [float(np.float32(0.1)), None, "Infinity"],
            "Jet_eta": ["-Infinity", 2.5],
        }
    ]


def test_an_event_of_something_else_is_refused() -> None:
    with pytest.raises(RequestError, match="an event holds what JSON cannot"):
        _encode_events([{"x": object()}])


def test_tensors_are_not_rounded_behind_the_back() -> None:
    with pytest.raises(RequestError, match=r"'event': asked for float32, found float64; use \.astype"):
        encode_inputs({"event": np.zeros((1, 2))})


def test_an_answer_that_is_not_binary_is_the_fault_of_the_server() -> None:
    for body in (b"not json", b'{"outputs": [{"name": "scores", "datatype": "FP32", "shape": [1]}]}'):
        with pytest.raises(ServerError, match="not in the binary tensor extension"):
            decode_outputs(body, len(body))


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ({"MET_pt": 1.0}, "events: asked for a list of mappings, found dict"),
        ("MET_pt", "asked for a list of mappings, found str"),
        (3, "asked for a list of mappings, found int"),
        ([{"MET_pt": 1.0}, 3], r"asked for a list of mappings, found int at \[1\]"),
    ],
)
def test_what_is_no_list_of_events_is_refused_before_it_is_sent(events: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        _encode_events(events)


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 0.0, -1.0, 1e300])
def test_a_time_that_nobody_can_wait_is_refused(timeout_s: float) -> None:
    with pytest.raises(UserError, match="timeout_s must be above 0"):
        Client("http://localhost:8000", timeout_s=timeout_s)
