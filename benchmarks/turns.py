"""Rates measured in turns: each repetition runs every reading once, so that a busy machine slows all alike.

What cannot run on this machine raises `Unavailable`; its figures are null then, and the reason is printed. Invariant: a
figure is the median over repetitions that all read the same number of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


class Unavailable(Exception):
    """This machine cannot measure it; the text says why."""


@dataclass(frozen=True)
class Rate:
    """Events a second of wall time, and nanoseconds of processor time an event (all threads of the process)."""

    eps: float
    cpu_ns: float


Reading = Callable[[], Mapping[str, Rate]]
"""One measurement of some seconds; gives one figure or several by name."""


def timed(name: str, read: Callable[[int], int], *, passes: int) -> Reading:
    """A reading of ``passes`` passes; ``read`` is given the number of the pass and says how many events there were."""

    def measure() -> dict[str, Rate]:
        begin, cpu = time.perf_counter(), time.process_time()
        events = sum(read(number) for number in range(passes))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        return {name: Rate(events / took, cpu * 1e9 / events)}

    return measure


class Turns:
    """Readings side by side.

    Attributes
    ----------
    rates
        By figure, one for each repetition.
    reasons
        By figure, why there is none.
    """

    def __init__(self) -> None:
        self.rates: dict[str, list[Rate]] = {}
        self.reasons: dict[str, str] = {}
        self._readings: list[tuple[tuple[str, ...], Reading]] = []

    def add(self, figures: tuple[str, ...], make: Callable[[], Reading]) -> None:
        """Set up a reading of these figures; where it is unavailable, the reason is kept."""
        try:
            self._readings.append((figures, make()))
        except Unavailable as error:
            self._without(figures, str(error))

    def run(self, repeats: int) -> None:
        """Measure all in turns."""
        for _ in range(repeats):
            for figures, measure in list(self._readings):
                try:
                    found = measure()
                except Unavailable as error:
                    self._without(figures, str(error))
                    self._readings.remove((figures, measure))
                    continue
                for name, rate in found.items():
                    self.rates.setdefault(name, []).append(rate)

    def medians(self) -> dict[str, float | None]:
        """Events a second by figure."""
        found: dict[str, float | None] = {name: round(median(r.eps for r in all_)) for name, all_ in self.rates.items()}
        return found | dict.fromkeys(self.reasons, None)

    def cpu_ns(self) -> dict[str, float]:
        """Processor time an event by figure, in nanoseconds."""
        return {name: round(median(one.cpu_ns for one in all_), 1) for name, all_ in self.rates.items()}

    def _without(self, figures: tuple[str, ...], reason: str) -> None:
        for name in figures:
            self.rates.pop(name, None)
            self.reasons[name] = reason
