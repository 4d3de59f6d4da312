from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.client.splitting import Limits, even_spans, halves, packed


@given(st.integers(0, 500), st.floats(0, 100), st.integers(1, 600), st.integers(1, 2000))
def test_parts_cover_all_rows_once_in_order_and_within_the_limits(
    rows: int, row_bytes: float, most: int, size: int
) -> None:
    spans = even_spans(rows, row_bytes, Limits(rows=most, bytes=size))
    assert list(itertools.chain.from_iterable(range(*span) for span in spans)) == list(range(rows))
    for start, stop in spans:
        assert stop - start <= most
        assert stop - start <= 1 or (stop - start) * row_bytes <= size


@given(st.lists(st.binary(max_size=20)), st.integers(1, 10), st.integers(1, 60))
def test_texts_are_packed_in_order_into_as_few_parts_as_fit(texts: list[bytes], most: int, size: int) -> None:
    parts = list(packed(iter(texts), Limits(rows=most, bytes=size)))
    assert list(itertools.chain.from_iterable(parts)) == texts
    assert all(parts)
    for part, following in itertools.pairwise(parts):
        filled = sum(map(len, part)) + len(part)
        assert len(part) == 1 or (filled <= size and len(part) <= most)
        assert len(part) == most or filled + len(following[0]) + 1 > size


@given(st.integers(0, 100), st.integers(0, 100))
def test_halves_are_the_whole_and_each_is_smaller(start: int, count: int) -> None:
    found = halves((start, start + count))
    if count < 2:
        assert found is None
    else:
        assert found is not None
        (a, b), (c, d) = found
        assert (a, d) == (start, start + count)
        assert a < b == c < d
