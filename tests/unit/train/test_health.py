"""Oddities of inputs are named; runs that could learn or judge nothing are refused."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.errors import DataError
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.features import InputGroup, Split, Variable
from mlaas4hep.spec.statistics import Statistics
from mlaas4hep.train.health import notes_on_inputs, require_parts, require_spread

NAMES = ("good", "empty", "same", "wild")
GROUP = InputGroup("event", tuple(Variable(name) for name in NAMES))


def statistics(rows: list[list[float]]) -> Statistics:
    accumulator = StatisticsAccumulator({"event": len(rows[0])})
    accumulator.add_inputs({"event": np.float32(rows)})
    return accumulator.seal()


def test_inputs_without_a_value_with_one_value_or_with_infinities_are_named() -> None:
    found = statistics([[1, np.nan, 5, np.inf], [2, np.nan, 5, 3], [3, np.nan, 5, 4]])
    assert list(notes_on_inputs(found, [GROUP])) == [
        "inputs.event: 'empty': has no value in the training part",
        "inputs.event: 'same': is 5 in every event of the training part",
        "inputs.event: 'wild': 1 of 3 values are infinite; they count as its largest or smallest finite value, 3 to 4",
    ]
    require_spread(found, [GROUP])


def test_inputs_that_tell_nothing_are_refused() -> None:
    group = InputGroup("event", (Variable("empty"), Variable("same")))
    with pytest.raises(DataError, match=r"no input tells one event .*\n  - inputs\.event: 'empty': has no value"):
        require_spread(statistics([[np.nan, 5], [np.nan, 5]]), [group])


def test_a_part_that_should_hold_events_and_holds_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of 3,000 selected events fell into the test part, which is to hold 20%"):
        require_parts({"train": 2700, "validation": 300, "test": 0}, Split(), identity="event (as asked)")
    require_parts({"train": 4, "validation": 0, "test": 0}, Split(), identity="event (as asked)")
    require_parts({"train": 3000, "validation": 0, "test": 0}, Split(test=0, validation=0), identity="event")
