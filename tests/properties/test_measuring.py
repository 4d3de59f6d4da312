"""The scan looks at columns, not at tensors: it must see what the tensors hold, whichever loops run."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.data.measuring import compiled, loops
from mlaas4hep.errors import DataError
from mlaas4hep.spec.accumulate import FeatureAccumulator, StatisticsAccumulator
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.measuring import NUMPY, Measured, measured
from mlaas4hep.spec.padding import Assembled, Collection, pad
from mlaas4hep.spec.sketch import BLOCK
from tests.examples import examples

DTYPES = ["bool", "int64", "uint64", "float32", "float64"]
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 1e-45]


def values(rng: np.random.Generator, dtype: str, size: int) -> NDArray[Any]:
    if dtype.startswith("float"):
        found = rng.normal(size=size) * 10.0 ** rng.integers(-40, 37, size)
        odd = rng.random(size) < 0.4
        found[odd] = rng.choice(ODD, int(odd.sum()))
        with np.errstate(over="ignore"):
            return found.astype(dtype)
    return rng.integers(0, 2 if dtype == "bool" else 2**62, size).astype(dtype)


@st.composite
def events(draw: st.DrawFn) -> tuple[Assembled, NDArray[np.bool_]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(0, 40))
    flats = [values(rng, draw(st.sampled_from(DTYPES)), size) for _ in range(draw(st.integers(0, 3)))]
    collections = []
    for number in range(draw(st.integers(0, 2))):
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 6, size))]).astype(np.int64)
        lists = [
            Jagged(offsets, values(rng, draw(st.sampled_from(DTYPES)), int(offsets[-1])))
            for _ in range(draw(st.integers(1, 3)))
        ]
        order = None
        if draw(st.booleans()):
            order = np.concatenate(
                [np.zeros(0, np.int64), *(rng.permutation(np.arange(*one)) for one in _pairs(offsets))]
            )
        collections.append(Collection(f"c{number}", draw(st.integers(1, 7)), lists, order))
    wanted = rng.random(size) < draw(st.sampled_from([0.0, 0.6, 1.0]))
    return Assembled(None, np.ones(size, dtype=np.bool_), flats, collections), wanted


def _pairs(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def bits(found: dict[str, list[Measured]]) -> dict[str, list[tuple[bytes, int, int]]]:
    return {name: [(one.finite.tobytes(), one.missing, one.infinite) for one in group] for name, group in found.items()}


@given(events())
@settings(max_examples=examples(300), deadline=None)
def test_columns_give_the_figures_of_their_padded_tensors(given_: tuple[Assembled, NDArray[np.bool_]]) -> None:
    rows, wanted = given_
    features = {"event": len(rows.flats)} if rows.flats else {}
    features |= {one.name: len(one.lists) for one in rows.collections}
    by_tensor, by_column = StatisticsAccumulator(features), StatisticsAccumulator(features, loops=compiled())
    tensors = {one.name: pad(one.lists, length=one.length, order=one.order)[wanted] for one in rows.collections}
    if rows.flats:
        with np.errstate(over="ignore"):
            tensors["event"] = np.stack([one.astype(np.float32) for one in rows.flats], axis=1)[wanted]
    by_tensor.add_inputs(tensors)
    by_column.add_measured(measured(rows, wanted, compiled()))
    assert msgspec.json.encode(by_column.seal()) == msgspec.json.encode(by_tensor.seal())


@given(events())
@settings(max_examples=examples(300), deadline=None)
def test_compiled_loops_find_the_bits_that_numpy_finds(given_: tuple[Assembled, NDArray[np.bool_]]) -> None:
    rows, wanted = given_
    assert bits(measured(rows, wanted, compiled())) == bits(measured(rows, wanted, NUMPY))


@pytest.mark.parametrize("seed", range(3))
def test_compiled_sums_and_sketches_have_the_bits_of_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = []
    for chosen in (NUMPY, compiled()):
        rng = np.random.default_rng(seed)
        total = FeatureAccumulator(chosen)
        for _ in range(4):
            part = FeatureAccumulator(chosen)
            part.add(values(rng, "float32", 2 * BLOCK + 77))
            total.merge(part)
        found.append(msgspec.json.encode(total.seal()))
    assert found[0] == found[1]


def test_lists_that_reach_beyond_their_values_are_refused() -> None:
    short = Collection("jets", 3, [Jagged(np.array([0, 2, 4]), np.zeros(3, np.float32))], None)
    rows = Assembled(None, np.ones(2, np.bool_), [], [short])
    with pytest.raises(DataError, match="beyond its 3 values"):
        measured(rows, rows.kept, compiled())
    with pytest.raises(DataError, match="not those of 2 lists"):
        compiled().places(np.array([0, 3, 2]), rows.kept, 3, None)


def test_compiling_waits_for_enough_values() -> None:
    assert loops(1_000_000) is NUMPY
    assert loops(100_000_000) is compiled()
