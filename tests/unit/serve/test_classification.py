"""The highest classes of each row, in Triton's form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from mlaas4hep.serve.classification import classify

TABLES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=2, max_dims=3, max_side=4))
)


@settings(max_examples=80, deadline=None)
@given(values=TABLES, count=st.integers(1, 5))
def test_classes_are_the_highest_first_with_their_exact_values(values: NDArray[Any], count: int) -> None:
    found = classify(values, count)
    assert found.shape == (*values.shape[:-1], min(count, values.shape[-1]))
    for row, texts in zip(values.reshape(-1, values.shape[-1]), found.reshape(-1, found.shape[-1]), strict=True):
        indices = [int(text.rpartition(":")[2]) for text in texts]
        assert indices == sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), -row[i].item(), i))[:count]
        for text, index in zip(texts, indices, strict=True):
            read = np.array(text.partition(":")[0]).astype(values.dtype)
            np.testing.assert_array_equal(read, row[index])


@pytest.mark.parametrize(
    ("values", "rows", "expected"),
    [
        (np.array([[0.1, 0.9]], np.float32), True, [["0.9:1:top", "0.1:0:qcd"]]),
        (np.array([[0.1, 0.9, 0.5]], np.float32), True, [["0.9:1:top", "0.5:2"]]),
        (np.array([3, 4]), True, [["3:0:qcd"], ["4:0:qcd"]]),
        (np.array([3, 4]), False, ["4:1:top", "3:0:qcd"]),
        (np.array([math.nan, -math.inf]), False, ["-Infinity:1:top", "NaN:0:qcd"]),
        (np.zeros((0, 2)), True, []),
    ],
)
def test_labels_follow_the_index_and_rows_stay_rows(values: NDArray[Any], rows: bool, expected: list[Any]) -> None:
    assert classify(values, 2, ("qcd", "top"), rows=rows).tolist() == expected
