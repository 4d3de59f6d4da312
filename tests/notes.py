"""What a run tells while it goes, kept for tests. Invariant: lines are kept in the order in which they were told."""

from __future__ import annotations

from mlaas4hep.progress import Silent


class Notes(Silent):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
