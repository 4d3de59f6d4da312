"""The numpy twin of the graph's first part keeps to the order of its steps."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.spec.features import InputGroup, Variable
from mlaas4hep.spec.scaling import FLOAT32_MAX, FeatureSummary, Scaler, flat_names, flatten, group_scaling, unflatten

SUMMARY = FeatureSummary(mean=10.0, std=2.0, minimum=0.0, maximum=40.0, quantile_16=1.0, median=3.0, quantile_84=7.0)
EMPTY = FeatureSummary(None, None, None, None, None, None, None)


def scaler(*variables: Variable, summary: FeatureSummary = SUMMARY) -> Scaler:
    group = InputGroup("event", variables)
    return Scaler([group_scaling(group, [summary] * len(variables))])


def test_each_kind_brings_its_column_to_order_one() -> None:
    kinds = scaler(*(Variable(kind, scale=kind) for kind in ("standard", "minmax", "log", "none")))  # type: ignore[arg-type]
    scaled = kinds.flat({"event": np.float32([[12.0, 10.0, 3.0, 5.0]])})
    np.testing.assert_allclose(scaled, [[1.0, 0.25, 0.0, 5.0]], atol=1e-7)


@pytest.mark.parametrize("kind", ["standard", "minmax", "log", "none"])
def test_missing_becomes_zero_and_infinities_stay_finite(kind: str) -> None:
    raw = np.float32([[np.nan], [np.inf], [-np.inf], [FLOAT32_MAX], [1e-45]])
    scaled = scaler(Variable("x", scale=kind)).flat({"event": raw})  # type: ignore[arg-type]
    assert scaled[0, 0] == 0
    assert np.isfinite(scaled).all()


@given(st.data())
def test_without_bounds_the_short_way_gives_the_bits_of_all_steps(data: st.DataObject) -> None:
    numbers = st.floats(width=32, allow_nan=True, allow_infinity=data.draw(st.booleans()))
    event = np.array(data.draw(st.lists(numbers, min_size=4, max_size=4)), np.float32).reshape(4, 1)
    jets = np.array(data.draw(st.lists(numbers, min_size=8, max_size=8)), np.float32).reshape(4, 2, 1)
    mean, std = data.draw(st.floats(-1e6, 1e6)), data.draw(st.floats(1e-6, 1e6))
    summary = FeatureSummary(mean, std, None, None, None, None, None)
    groups = [group_scaling(InputGroup("event", (Variable("x"),)), [summary])]
    inputs = {"event": event}
    if data.draw(st.booleans()):
        groups.append(group_scaling(InputGroup("jets", (Variable("pt"),), 2), [summary]))
        inputs["jets"] = jets
        if data.draw(st.booleans()):  # as in a batch: columns of one table, with or without others between them
            gap = data.draw(st.integers(0, 1))
            table = np.concatenate([event, np.full((4, gap), 7, np.float32), jets.reshape(4, 2)], axis=1)
            inputs = {"event": table[:, :1], "jets": table[:, 1 + gap :].reshape(4, 2, 1)}
    before = {name: values.copy() for name, values in inputs.items()}
    quick, all_steps = Scaler(groups), Scaler(groups)
    all_steps._unbounded = False
    assert quick._unbounded
    np.testing.assert_array_equal(quick.flat(inputs).view(np.uint32), all_steps.flat(inputs).view(np.uint32))
    assert all(inputs[name].tobytes() == values.tobytes() for name, values in before.items())


def test_columns_of_one_table_are_not_copied_and_others_are() -> None:
    event = group_scaling(InputGroup("event", (Variable("met"),)), [SUMMARY])
    jets = group_scaling(InputGroup("jets", (Variable("pt"), Variable("eta")), 2), [SUMMARY] * 2)
    table = np.arange(15, dtype=np.float32).reshape(3, 5)
    inputs = {"event": table[:, :1], "jets": table[:, 1:].reshape(3, 2, 2)}
    flat = flatten((event, jets), inputs)
    assert flat.tolist() == table.tolist()
    assert np.shares_memory(flat, table)
    assert not flat.flags.writeable
    assert flatten((jets, event), inputs).tolist() == np.concatenate([table[:, 1:], table[:, :1]], axis=1).tolist()
    assert flatten((event, jets), inputs | {"event": inputs["event"].copy()}).tolist() == table.tolist()
    rows = {"event": table[::2, :1], "jets": table[::2, 1:].reshape(2, 2, 2)}
    assert flatten((event, jets), rows).tolist() == table[::2].tolist()


def test_clip_comes_before_scaling() -> None:
    scaled = scaler(Variable("x", clip=(8.0, 12.0))).flat({"event": np.float32([[1000.0], [-1000.0]])})
    assert scaled.tolist() == [[1.0], [-1.0]]


def test_a_constant_or_empty_column_is_scaled_by_one() -> None:
    constant = FeatureSummary(5.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert scaler(Variable("x"), summary=constant).flat({"event": np.float32([[5.0]])}).tolist() == [[0.0]]
    assert scaler(Variable("x"), summary=EMPTY).flat({"event": np.float32([[5.0]])}).tolist() == [[5.0]]


def test_the_flat_view_is_event_first_then_slot_by_slot() -> None:
    event = group_scaling(InputGroup("event", (Variable("met", scale="none"),)), [SUMMARY])
    jets = group_scaling(
        InputGroup("jets", (Variable("pt", scale="none"), Variable("eta", scale="none")), 2), [SUMMARY] * 2
    )
    groups = (event, jets)
    assert flat_names(groups) == ("met", "jets_0_pt", "jets_0_eta", "jets_1_pt", "jets_1_eta")
    inputs = {"event": np.float32([[1]]), "jets": np.float32([[[2, 3], [4, np.nan]]])}
    flat = Scaler(groups).flat(inputs)
    assert flat.tolist() == [[1, 2, 3, 4, 0]]
    assert unflatten(groups, flat)["jets"].tolist() == [[[2, 3], [4, 0]]]


def test_a_slot_with_one_missing_feature_stays_an_object() -> None:
    jets = group_scaling(InputGroup("jets", (Variable("pt"), Variable("btag")), 3), [SUMMARY] * 2)
    nan = np.nan
    masks = Scaler([jets]).masks({"jets": np.float32([[[50, nan], [40, 0.5], [nan, nan]]])})
    assert masks["jets"].tolist() == [[True, True, False]]


def test_trees_see_raw_values_with_nan() -> None:
    native = scaler(Variable("x")).native({"event": np.float32([[np.nan], [np.inf], [3.0]])})
    np.testing.assert_array_equal(native, np.float32([[np.nan], [FLOAT32_MAX], [3.0]]))


def test_infinities_of_the_training_part_become_its_extremes_unless_a_clip_is_declared() -> None:
    seen = msgspec.structs.replace(SUMMARY, infinite=2)
    raw = {"event": np.float32([[np.inf], [-np.inf], [1e9]])}
    assert scaler(Variable("x", scale="none"), summary=seen).flat(raw).tolist() == [[40.0], [0.0], [40.0]]
    assert scaler(Variable("x", scale="none", clip=(-5.0, 5.0)), summary=seen).flat(raw).tolist() == [[5], [-5], [5]]
    none = msgspec.structs.replace(EMPTY, infinite=2)
    assert scaler(Variable("x"), summary=none).flat(raw).tolist() == [[0.0], [0.0], [0.0]]
