"""Kinds of branches that ROOT writes: each has the values that were computed when the file was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.data.root.baskets import Cuts
from mlaas4hep.data.root.layout import Embedded
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged, values_of, with_values
from mlaas4hep.testing import SourceContract, same_column

FILE = str(Path(__file__).parents[3] / "golden" / "ttree_kinds.root")


def opened(tree: str) -> TTreeSource:
    source = open_source(FILE, tree)
    assert isinstance(source, TTreeSource)
    return source


@pytest.fixture
def kinds() -> Iterator[TTreeSource]:
    with opened("kinds") as source:
        yield source


# What the macro computes for entry i, whose lists have n = i % 4 and m = i % 3 values.
EXPECTED: dict[str, Any] = {
    "rec.a": lambda i, n, m: i,
    "rec.b": lambda i, n, m: i / 2,
    "rec.c": lambda i, n, m: i / 4,
    "rec.d": lambda i, n, m: [i, i + 1, i + 2],
    "rec.e": lambda i, n, m: -i,
    "flags": lambda i, n, m: [[bool(i >> 3 * row + place & 1) for place in range(3)] for row in range(2)],
    "n": lambda i, n, m: n,
    "x": lambda i, n, m: [i + j / 8 for j in range(n)],
    "y": lambda i, n, m: [[i + j, i - j] for j in range(n)],
    "un": lambda i, n, m: m,
    "z": lambda i, n, m: [i * j for j in range(m)],
    "v": lambda i, n, m: [i + j / 8 for j in range(n)],
    "vb": lambda i, n, m: [bool(i % 2)] * n,
    "vv": lambda i, n, m: [[i] * m] * n,
    "p4.fP.fX": lambda i, n, m: i,
    "p4.fE": lambda i, n, m: i + 3,
    "q4.fP.fZ": lambda i, n, m: -i - 2,
    "q4.fE": lambda i, n, m: -i - 3,
    "ca": lambda i, n, m: n,
    "ca.fP.fX": lambda i, n, m: [i] * n,
    "ca.fP.fZ": lambda i, n, m: [i + j for j in range(n)],
    "ca.fE": lambda i, n, m: [i - j for j in range(n)],
    "double32": lambda i, n, m: i,
    "float16": lambda i, n, m: i,
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(("start", "stop"), [(0, 100), (35, 85), (40, 41), (99, 100)])
def test_each_kind_has_the_values_it_was_given(kinds: TTreeSource, name: str, start: int, stop: int) -> None:
    read = kinds.read([name], start, stop)[name].tolist()
    assert read == [EXPECTED[name](i, i % 4, i % 3) for i in range(start, stop)]


@pytest.mark.parametrize("tree", ["kinds", "bare", "unaligned", "gaps"])
def test_each_kind_has_the_bits_that_uproot_reads(tree: str) -> None:
    with opened(tree) as source:
        names = [name for name in source.table.plans if source._layout(name) is not None]
        for start, stop in ((0, source.num_entries), (7, 13)):
            own, others = source._read_own(names, start, stop), source._read_by_uproot(names, start, stop)
            assert [name for name in names if not same_column(own[name], others[name])] == []
            stored = source.read_stored(names, start, stop, stored=names)
            native = {name: with_values(one, _native(values_of(one))) for name, one in stored.items()}
            assert [name for name in names if not same_column(native[name], others[name])] == []


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="))


@pytest.mark.parametrize(
    ("tree", "column", "says"),
    [
        ("kinds", "text", "text, not numbers"),
        ("kinds", "ca.fBits", "bookkeeping of TObject"),
        ("gaps", "away", "its baskets lie in another file, elsewhere.root"),
        ("gaps", "less", "damaged: it has 15 entries, its tree 20"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_the_rest_is_read(tree: str, column: str, says: str) -> None:
    with opened(tree) as source:
        with pytest.raises(DataError, match=rf"column '{column}'.*{says}"):
            source.read([column], 0, 1)
        readable = list(source.table.plans)
        assert readable
        assert list(source.read(readable, 3, 9)) == readable


def lists_and_numbers() -> dict[str, Column]:
    lists = [[i + j / 8 for j in range(i % 4)] for i in range(100)]
    numbers = np.arange(100)
    return {"x": Jagged.from_lists(lists), "w": numbers / 4, "n": (numbers % 4).astype(np.int32)}


class TestListsWithoutOffsets(SourceContract):
    @pytest.fixture
    def expected(self) -> dict[str, Column]:
        return lists_and_numbers()

    @pytest.fixture
    def source(self) -> Iterator[TTreeSource]:
        with opened("bare") as source:
            yield source


@given(start=st.integers(0, 100), length=st.integers(0, 100))
def test_baskets_that_end_apart_are_put_together(start: int, length: int) -> None:
    stop = min(start + length, 100)
    with opened("unaligned") as source:
        read = source.read(["x", "w", "n"], start, stop)
    assert all(same_column(read[name], column[start:stop]) for name, column in lists_and_numbers().items())


def test_lists_may_have_no_offsets_in_the_file() -> None:
    with opened("bare") as source:
        branch = source.table.branches["x"]
        [basket] = next(iter(source._baskets.read([Cuts().wanted(branch, 0, 1)], 40)))
    assert basket.offsets() is None


@pytest.mark.parametrize(("path", "name"), [("x", "x"), ("n", "x"), ("n", "n"), ("rec", "rec.c"), ("v", "v")])
def test_baskets_that_were_never_flushed_are_read_from_the_tree(kinds: TTreeSource, path: str, name: str) -> None:
    table = kinds.table
    branch = table.branches[path]
    *_, last = next(iter(kinds._baskets.read([Cuts().wanted(branch, 80, 100)], 100)))
    moved = replace(
        branch,
        seeks=branch.seeks[:-1],
        stored=branch.stored[:-1],
        embedded=(Embedded(bytes(last.data), last.border, last.keylen),),
    )
    expected = kinds.read([name], 70, 95)[name]
    other = TTreeSource(kinds._place, replace(table, branches={**table.branches, path: moved}))
    assert same_column(other.read([name], 70, 95)[name], expected)
