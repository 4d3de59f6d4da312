"""Scopes with paths: a grant reaches what lies below it and nothing else, however names look alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.auth.scopes import Scope, covers, parse_scope

PIECES = st.lists(
    st.text(alphabet="ab.-", min_size=1, max_size=3).filter(lambda one: one not in (".", "..")), max_size=4
)


@given(held=PIECES, wanted=PIECES)
def test_a_path_covers_itself_and_what_is_below_piece_by_piece(held: list[str], wanted: list[str]) -> None:
    grant = parse_scope("storage.read:/" + "/".join(held))
    asked = parse_scope("storage.read:/" + "/".join(wanted))
    assert covers([grant], asked) == (wanted[: len(held)] == held)


@given(text=st.text(max_size=40))
def test_no_text_is_misread(text: str) -> None:
    try:
        found = parse_scope(text)
    except ValueError:
        return
    assert found.path is None or (found.path.startswith("/") and "/../" not in found.path + "/")
    assert not any(one.isspace() for one in found.name)


@pytest.mark.parametrize("text", ["", " ", "a b", 'a"b', "a\\b", "storage.read", "storage.read:/a/%2e%2e/b",
                                  "storage.read://a", "storage.read:/a/./b", "storage.read:/a%00b"])  # fmt: skip
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"scope|path"):
        parse_scope(text)


def test_wider_scopes_hold_the_narrower_ones_and_not_the_other_way() -> None:
    path = "/models/tth"
    assert covers([Scope("storage.modify", "/models")], Scope("storage.create", path))
    assert covers([Scope("storage.stage", "/")], Scope("storage.read", path))
    assert not covers([Scope("storage.create", "/models")], Scope("storage.modify", path))
    assert not covers([Scope("compute.read", "/only/here")], Scope("compute.read"))
