"""Ctrl-C, a closed terminal, the end of a batch job: heard between two steps of a training, at once elsewhere.

A run enters an `Interrupt`; it is held while weights change, listens while a batch is waited for (a server may be
silent for long), and is asked after each batch.
Invariant: while it is held a first signal only leaves a mark, so that no step is cut in two; a second one ends the
process as it stands.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

# SIGTERM is what batch systems send some seconds before they kill, SIGHUP what a lost terminal sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by a signal; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Interrupt:
    """Hears signals from when it is entered until it is left; entered outside the main thread it hears nothing.

    Without it scikit-learn would swallow a Ctrl-C in the middle of a step and go on. A signal that the process was
    started to ignore (``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        self._heard: list[int] = []
        self._held = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came while it was held."""
        return bool(self._heard)

    @property
    def urgent(self) -> bool:
        """Whether a second one came: there may be half a step in the weights."""
        return len(self._heard) > 1

    def require_none(self) -> None:
        """`Interrupted` where a signal came."""
        if self._heard:
            raise Interrupted(self._heard[0])

    @contextmanager
    def held(self) -> Iterator[None]:
        """A first signal inside waits until it is asked for, at the latest at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.require_none()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A signal inside is heard at once, though it be held around: for waits, in which no weights change."""
        before, self._held = self._held, False
        try:
            self.require_none()
            yield
        finally:
            self._held = before

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard.append(number)
        if not self._held or len(self._heard) > 1:
            raise Interrupted(number)
