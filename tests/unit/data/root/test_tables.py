"""Reading tables kept for the process."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlaas4hep.data.root.tables import Tables


@dataclass
class Sized:
    nbytes: int


def never() -> Sized:
    raise AssertionError("was built again")


def test_a_table_is_built_once() -> None:
    tables = Tables()
    first = tables.get("a", lambda: Sized(10))
    assert tables.get("a", never) is first
    assert (len(tables), tables.nbytes) == (1, 10)


def test_the_ones_not_used_for_longest_make_room() -> None:
    tables = Tables(max_bytes=100)
    for name in "ab":
        tables.get(name, lambda: Sized(40))
    tables.get("a", never)
    tables.get("c", lambda: Sized(40))
    assert tables.nbytes == 80
    tables.get("a", never)
    tables.get("c", never)
    with pytest.raises(AssertionError, match="built again"):
        tables.get("b", never)


def test_what_is_larger_than_the_bound_is_used_and_not_kept() -> None:
    tables = Tables(max_bytes=100)
    tables.get("a", lambda: Sized(40))
    assert tables.get("b", lambda: Sized(101)).nbytes == 101
    assert (len(tables), tables.nbytes) == (1, 40)


def test_a_table_that_could_not_be_built_leaves_nothing() -> None:
    tables = Tables()
    with pytest.raises(AssertionError, match="built again"):
        tables.get("a", never)
    assert tables.get("a", lambda: Sized(1)).nbytes == 1
    tables.clear()
    assert (len(tables), tables.nbytes) == (0, 0)


def test_of_two_who_build_the_same_both_get_the_one_that_is_kept() -> None:
    tables = Tables()
    inner = Sized(1)
    assert tables.get("a", lambda: tables.get("a", lambda: inner) and Sized(1)) is inner
