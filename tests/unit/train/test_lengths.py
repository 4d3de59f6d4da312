"""What a length costs is said in objects, with the length that would keep most of them."""

from __future__ import annotations

import pytest

from mlaas4hep.spec.features import InputGroup, Variable
from mlaas4hep.spec.statistics import Statistics
from mlaas4hep.train.lengths import CollectionFigures, collection_figures, notes


def figures(histogram: tuple[int, ...], length: int) -> CollectionFigures:
    dropped = sum(events * max(number - length, 0) for number, events in enumerate(histogram))
    statistics = Statistics(lengths={"jets": histogram}, truncated={"jets": dropped})
    groups = [InputGroup("event", (Variable("x"),)), InputGroup("jets", (Variable("Jet_pt"),), length)]
    return collection_figures(statistics, groups)["jets"]


def test_objects_are_counted_and_the_length_that_keeps_most_is_found() -> None:
    # 10 empty events, 100 of one object, 300 of two, one of nine.
    found = figures((10, 100, 300, 0, 0, 0, 0, 0, 0, 1), 1)
    assert found == CollectionFigures(length=1, objects=709, dropped=308, suggested=2)
    kept = 100 + 300 * 2 + min(9, found.suggested)
    assert kept >= 0.99 * found.objects > 100 + 300 + 1
    (line,) = notes({"jets": found})
    assert line == (
        "inputs.jets: 308 of 709 objects (43.44%) are beyond length 1 and dropped; length: 2 would keep 99%"
    )


@pytest.mark.parametrize("length", [2, 4, 256])
def test_a_length_that_keeps_everything_is_worth_no_line(length: int) -> None:
    found = figures((5, 5, 5), length)
    assert (found.objects, found.dropped, found.suggested) == (15, 0, 2)
    assert list(notes({"jets": found})) == []


def test_a_length_that_keeps_enough_is_not_corrected() -> None:
    (line,) = notes({"jets": figures((0, 1000, 1), 1)})
    assert "1 of 1,002 objects (0.10%)" in line
    assert "would keep" not in line


@pytest.mark.parametrize("histogram", [(), (7,)])
def test_a_collection_without_objects_is_told(histogram: tuple[int, ...]) -> None:
    (line,) = notes({"jets": figures(histogram, 3)})
    assert line == "inputs.jets: no event of the training part holds an object"


def test_lists_that_are_too_long_to_be_counted_singly_do_not_spoil_the_sum() -> None:
    statistics = Statistics(lengths={"jets": (*[0] * 1024, 1)}, truncated={"jets": 5000 - 10})
    (found,) = collection_figures(statistics, [InputGroup("jets", (Variable("Jet_pt"),), 10)]).values()
    assert found.objects == 5000
    assert found.suggested == 256
