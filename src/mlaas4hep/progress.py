"""Who is told how far a long step has come, wherever in the package it runs; the command line draws bars.

Invariant: whoever is told changes nothing of what is done.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of one step after the other."""

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        """A step begins; ``total`` None where its length is not known."""

    def update(self, count: int) -> None:
        """So many more are done."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """The step is over."""


class Silent:
    """Tells nobody."""

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        """Nothing."""

    def update(self, count: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
