"""What a config says of files that cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_POLICY = re.compile(r"skip(?:\s+up\s+to\s+(?P<amount>\d+(?:\.\d+)?)\s*(?P<percent>%)?)?\Z")


@dataclass(frozen=True)
class OnError:
    """What happens where something cannot be read.

    Parameters
    ----------
    skips
        False stops at the first.
    most
        At most so many places (files that cannot be opened, and units of others); None sets no bound.
    most_percent
        At most so many percent of all entries that are known of; None sets no bound.
    """

    skips: bool = False
    most: int | None = None
    most_percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> OnError:
        """Read ``stop``, ``skip``, ``skip up to 5`` or ``skip up to 2 %``.

        Raises
        ------
        ValueError
            It is none of these; says what is known.
        """
        words = " ".join(text.split())
        if words == "stop":
            return cls()
        found = _POLICY.match(words)
        amount = found["amount"] if found else None
        if found is None or (found["percent"] is None and amount is not None and "." in amount):
            raise ValueError(
                f"'{text}' is not known; write stop, skip, skip up to 5 (files or clusters), skip up to 2 % (entries)"
            )
        if amount is None:
            return cls(True)
        return cls(True, None, float(amount)) if found["percent"] else cls(True, int(amount), None)

    def __str__(self) -> str:
        if not self.skips:
            return "stop"
        if self.most is None and self.most_percent is None:
            return "skip"
        return f"skip up to {self.most}" if self.most is not None else f"skip up to {self.most_percent:g} %"
