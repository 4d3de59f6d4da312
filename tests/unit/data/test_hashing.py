"""The keyed hash: golden values, and what identity means for floats and lists."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.data import hashing
from mlaas4hep.data.hashing import fold, fold_array, hash_columns, uniform
from mlaas4hep.spec.columns import Jagged

GOLDEN = ["0x0", "0x48218226ff3cd4bf", "0xfb5dfd0ed34747d9", "0xd087b98daa3a9721"]
GOLDEN_ARRAY = ["0xd368f088646c106d", "0xeffd886c6554360c", "0x6cebfc4bce7125fa"]


def test_the_hash_is_that_of_every_version_before() -> None:
    assert [hex(fold(*words)) for words in [(), (0,), (1, 2), (-1, 2**64 + 5)]] == GOLDEN
    assert [hex(one) for one in fold_array(fold(3), np.array([0, 1, -1]))] == GOLDEN_ARRAY


def test_an_array_hashes_like_its_elements_alone() -> None:
    words = np.array([0, 1, 2**62, -7])
    assert fold_array(fold(4, 5), words).tolist() == [fold(4, 5, word) for word in words.tolist()]


def test_shares_of_hashes_are_what_was_asked() -> None:
    place = uniform(fold_array(fold(9), np.arange(100_000)))
    assert place.min() >= 0
    assert place.max() < 1
    assert np.histogram(place, bins=10, range=(0, 1))[0] == pytest.approx(10_000, rel=0.05)


def test_floats_count_by_their_bits_with_one_zero_and_one_nan() -> None:
    values = np.array([0.0, -0.0, np.nan, -np.nan, 1.0, np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32)
    hashed = hash_columns(0, [values], 6).tolist()
    assert hashed[0] == hashed[1]
    assert hashed[2] == hashed[3]
    assert len(set(hashed)) == 4


def test_lists_count_with_length_and_order() -> None:
    lists = Jagged.from_lists([[1, 2], [2, 1], [1], [], [1, 2], [0], [0, 0]])
    hashed = hash_columns(0, [lists], 7).tolist()
    assert hashed[0] == hashed[4]
    assert len(set(hashed)) == 6


def test_an_event_hashes_alike_alone_and_among_others() -> None:
    lists, numbers = Jagged.from_lists([[1, 2], [], [5]]), np.array([1, 2, 3])
    together = hash_columns(1, [numbers, lists], 3)
    alone = [hash_columns(1, [numbers[i : i + 1], lists[i : i + 1]], 1)[0] for i in range(3)]
    assert together.tolist() == alone


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_how_many_values_are_hashed_at_once_plays_no_role(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    random = np.random.default_rng(0)
    lists = Jagged.from_lists([random.integers(0, 5, size).tolist() for size in [0, 0, 3, 9, 1, 0, 2, 2, 5, 0]])
    together = hash_columns(1, [lists], 10)
    monkeypatch.setattr(hashing, "_VALUES_AT_ONCE", at_once)
    assert hash_columns(1, [lists], 10).tolist() == together.tolist()
    nothing = Jagged.from_lists([[1.5]])[0:0]
    assert hash_columns(1, [nothing], 0).tolist() == []
