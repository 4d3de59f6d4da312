"""How far a command is: bars with rate and time left on a terminal, plain lines elsewhere.

Everything goes to standard error, so that standard output holds results alone. Invariant: a bar is closed before a line
that stays is written.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm


class Bars:
    """One bar at a time; lines that stay above it.

    Parameters
    ----------
    show
        Draw bars; else only the lines are written. None draws them on a terminal.
    """

    def __init__(self, *, show: bool | None = None) -> None:
        self._show = sys.stderr.isatty() if show is None else show
        self._bar: tqdm[Any] | None = None

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        """A step begins."""
        from tqdm import tqdm

        self.close()
        if self._show:
            self._bar = tqdm(
                desc=description,
                total=total,
                unit=f" {unit}",
                unit_scale=True,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def update(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)

    def close(self) -> None:
        """The step is over."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Quiet(Bars):
    """Neither bars nor lines."""

    def __init__(self) -> None:
        super().__init__(show=False)

    def note(self, text: str) -> None:
        """Nothing."""
