"""The tables of the config reference say what the types say."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

pytest.importorskip("sphinx", reason="the extra 'docs' is not installed")

from docs._ext import command_line, typed_values

from mlaas4hep.config import Training


class Thing(msgspec.Struct, frozen=True):
    """A thing.

    Parameters
    ----------
    low, high
        Ends of
        its range.
    kind
        What it is.

    Notes
    -----
    other
        Not a parameter.
    """

    kind: Literal["a", "b"]
    low: float = 1e-3
    high: float | None = None
    sizes: tuple[int, ...] = (2, 3)
    names: dict[str, str] = {}


def test_a_row_has_type_default_and_the_docstring() -> None:
    rows = list(typed_values.rows_of(Thing, typed_values.field_docs(Thing)))
    assert rows == [
        ("`kind`", "one of `a`, `b`", "required", "What it is."),
        ("`low`", "number", "`0.001`", "Ends of its range."),
        ("`high`", "number", "none", "Ends of its range."),
        ("`sizes`", "list of whole numbers", "`[2, 3]`", ""),
        ("`names`", "mapping of names to text", "none", ""),
    ]


def test_every_key_of_a_documented_type_is_described() -> None:
    assert set(typed_values.field_docs(Training)) == set(Training.__struct_fields__)


def test_every_built_in_model_has_its_dials() -> None:
    pytest.importorskip("torch")
    text = "\n".join(typed_values.dials_pages())
    for words in ("### mlp (backend sklearn; the default)", "### bdt", "`dropout`", "it cannot:"):
        assert words in text
    headings = [line for line in text.splitlines() if line.startswith("###")]
    assert len(set(headings)) == len(headings)


def test_the_command_line_page_has_every_command() -> None:
    texts = dict(command_line.help_texts())
    assert "-o, --output PATH" in texts["mlaas4hep train"]
    assert next(iter(texts)) == "mlaas4hep"
