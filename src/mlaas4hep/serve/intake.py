"""Bytes of bodies that a server holds at a time, of all its connections together.

One body may be large and many connections may be open, but not all of them with large bodies. Invariant: what was
taken in is given back once, when the question was read or nobody waits for it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlaas4hep.errors import BusyError

_RETRY_S = 1.0


class Intake:
    """Counts on the event loop; not for several threads.

    Parameters
    ----------
    most
        Bytes that may be held.
    """

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def takes(self, count: int) -> bool:
        """Take in so many more bytes, if there is room."""
        if self.held + count > self.most:
            return False
        self.held += count
        return True

    def give_back(self, count: int) -> None:
        """So many bytes are not held any more."""
        self.held -= count

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Gives who is told of the bytes of one body, which are held as long as the context lasts.

        It raises `BusyError` where no room is left.
        """
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if not self.takes(count):
                raise self.busy()
            held += count

        try:
            yield hold
        finally:
            self.give_back(held)

    def busy(self) -> BusyError:
        """What is told to who finds no room."""
        return BusyError(
            f"the server holds {self.held} bytes of questions already, and {self.most} may be; ask again later",
            retry_after_s=_RETRY_S,
        )
