"""A large question as several that a server takes, and their answers as one.

Invariant: the parts cover all rows once and in order, and one version of the model answers them, so that the joined
answer is the one that the whole would have got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import whole
from mlaas4hep.client.questions import Question
from mlaas4hep.client.tensors import Tensors
from mlaas4hep.errors import ServerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes in one question; larger ones are split.

    Parameters
    ----------
    rows
        Events, or rows of tensors.
    bytes
        Of the body. A server that refuses less with 413 is asked for half as much.
    """

    rows: int = 100_000
    bytes: int = 60 << 20

    def __post_init__(self) -> None:
        for name in ("rows", "bytes"):
            object.__setattr__(self, name, whole(getattr(self, name), name, least=1))


class Cut(msgspec.Struct, Generic[T], frozen=True):
    """A question that can be asked in parts.

    Parameters
    ----------
    spans
        First row and the one behind the last, of each part that is asked at first.
    ask
        The question of some rows.
    join
        Answers in order to one.
    """

    spans: tuple[tuple[int, int], ...]
    ask: Callable[[int, int], Question[T]]
    join: Callable[[Sequence[T]], T]


class Pin:
    """Who answers all parts of a question: the version that answered the first, whatever was asked for.

    A model may be switched, or a label moved, between two parts; answers of two models are no answer.

    Parameters
    ----------
    version
        That is asked for; None for the newest.
    """

    __slots__ = ("version",)

    def __init__(self, version: str | None) -> None:
        self.version = version

    def note(self, version: object) -> None:
        """A part was answered by that version, as far as the server says."""
        if isinstance(version, str | int) and version != "":
            self.version = str(version)


def halves(span: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """A part as two; None where it is one row."""
    start, stop = span
    middle = (start + stop) // 2
    return ((start, middle), (middle, stop)) if start < middle < stop else None


def even_spans(rows: int, row_bytes: float, limits: Limits) -> tuple[tuple[int, int], ...]:
    """Parts of rows that are equally large; one at least, even of no rows."""
    step = max(1, min(limits.rows, int(limits.bytes // max(row_bytes, 1.0))))
    if rows <= step:
        return ((0, rows),)
    return tuple((start, min(start + step, rows)) for start in range(0, rows, step))


def packed(texts: Iterator[bytes], limits: Limits) -> Iterator[list[bytes]]:
    """Texts in as few parts as fit, each with a comma behind it."""
    part: list[bytes] = []
    size = 0
    for text in texts:
        if part and (size + len(text) + 1 > limits.bytes or len(part) == limits.rows):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    if part:
        yield part


def rows_of(inputs: Mapping[str, Any]) -> int | None:
    """Rows that all inputs have; None where they have no first dimension in common, and cannot be cut."""
    found = {array.shape[0] if getattr(array, "shape", ()) else None for array in inputs.values()}
    return found.pop() if len(found) == 1 else None


def joined_tensors(parts: Sequence[Tensors]) -> Tensors:
    """Outputs of parts, behind each other."""
    if len(parts) == 1:
        return parts[0]
    names = list(parts[0])
    if any(list(one) != names for one in parts):
        raise ServerError("the parts of a split question were answered with different outputs")
    return {name: np.concatenate([one[name] for one in parts]) for name in names}


def cut_rows(inputs: Mapping[str, NDArray[Any]], start: int, stop: int, rows: int) -> Mapping[str, NDArray[Any]]:
    """Some rows of all inputs; all of them as they are."""
    if (start, stop) == (0, rows):
        return inputs
    return {name: array[start:stop] for name, array in inputs.items()}
