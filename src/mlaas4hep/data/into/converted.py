"""Batches of a stream, turned into another framework's one by one.

Invariant: nothing is held but the stream; who stops in the middle leaves no thread behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from mlaas4hep.data.batches import BatchIterator

B = TypeVar("B")
C = TypeVar("C")


class Converted(Generic[B, C]):
    """An iterator over converted batches of one epoch; may be stopped and resumed as the stream itself.

    Parameters
    ----------
    batches
        The stream; closed with this.
    convert
        From its batches.
    """

    def __init__(self, batches: BatchIterator[B], convert: Callable[[B], C]) -> None:
        self._batches = batches
        self._convert = convert

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self._batches.epoch

    def __iter__(self) -> Iterator[C]:
        return self

    def __next__(self) -> C:
        return self._convert(next(self._batches))

    def state_dict(self) -> dict[str, Any]:
        """See `mlaas4hep.data.batches.BatchIterator.state_dict`."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `mlaas4hep.data.batches.BatchIterator.load_state_dict`."""
        self._batches.load_state_dict(state)

    def close(self) -> None:
        """Stop the threads; no batch comes after it."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
