"""What a config says of files that cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_POLICY = re.compile(r"skip(?:\s+up\s+to\s+(?P<amount>-?\d+(?:\.\d+)?|-?inf|nan)\s*(?P<percent>%)?)?\Z")


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
            It is none of these, or allows nothing or more than there is; says what is known.
        """
        words = " ".join(text.split())
        if words == "stop":
            return cls()
        told = _POLICY.match(words)
        amount = told["amount"] if told else None
        if told is None or (told["percent"] is None and amount is not None and not re.fullmatch(r"-?\d+", amount)):
            raise ValueError(
                f"'{text}' is not known; write stop, skip, skip up to 5 (files or clusters), skip up to 2 % (entries)"
            )
        if amount is None:
            return cls(True)
        if told["percent"]:
            if not 0 < float(amount) <= 100:
                raise ValueError(f"'{text}': a share of the entries is above 0 % and at most 100 %; 'stop' allows none")
            return cls(True, None, float(amount))
        if int(amount) < 1:
            raise ValueError(f"'{text}': a number of files or clusters is 1 or more; 'stop' allows none")
        return cls(True, int(amount), None)

    def __str__(self) -> str:
        if not self.skips:
            return "stop"
        if self.most is None and self.most_percent is None:
            return "skip"
        return f"skip up to {self.most}" if self.most is not None else f"skip up to {self.most_percent:g} %"
