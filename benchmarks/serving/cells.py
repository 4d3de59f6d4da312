"""What is measured, by name, and what the names of figures are made of.

Invariant: every server has the same figures, ours under their plain names and each peer's with its name in front; what
a server cannot do is null, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from benchmarks.serving.questions import Wire

OURS = "ours"
INPROCESS = "resnet64_inprocess_ms"


@dataclass(frozen=True)
class Cell:
    """One load: ``rows`` a request over so many connections, on so many processes.

    Attributes
    ----------
    figures
        By what is read off the load (``rps``, ``p50_us``, ``p99_ms``, ``p50_ms``, ``cpu_us``, ``pss_mb``), the name of
        the figure.
    fallback
        The form to ask in where a server does not know ``wire``.
    """

    wire: Wire
    rows: int
    connections: int
    figures: Mapping[str, str]
    workers: int = 1
    network: Literal["mlp", "resnet64"] = "mlp"
    fallback: Wire | None = None

    def form(self, wires: frozenset[Wire]) -> Wire | None:
        """The form to ask a server in that knows these; None where none is left."""
        return next((wire for wire in (self.wire, self.fallback) if wire in wires), None)


CELLS: Mapping[str, Cell] = {
    "json1_c1": Cell("json", 1, 1, {"rps": "json1_c1_rps", "p50_us": "json1_c1_p50_us"}),
    "json1_c8": Cell("json", 1, 8, {"rps": "json1_c8_rps"}),
    "json1_c64": Cell(
        "json",
        1,
        64,
        {"rps": "json1_c64_rps", "p99_ms": "json1_c64_p99_ms", "cpu_us": "cpu_us_c64", "pss_mb": "pss_mb"},
    ),
    "json1_c200": Cell("json", 1, 200, {"rps": "json1_c200_rps"}),
    "json100_c8": Cell("json", 100, 8, {"rps": "json100_c8_rps"}),
    "bin100_c8": Cell("bin", 100, 8, {"rps": "bin100_c8_rps"}),
    "grpc1_c64": Cell("grpc", 1, 64, {"rps": "grpc1_c64_rps"}),
    "json100_c8_2w": Cell("json", 100, 8, {"rps": "json100_c8_2w_rps"}, workers=2),
    "grpc1_c64_2w": Cell("grpc", 1, 64, {"rps": "grpc1_c64_2w_rps"}, workers=2),
    "resnet64": Cell("bin", 1, 1, {"p50_ms": "resnet64_served_ms"}, network="resnet64", fallback="json"),
}

RATIOS: Mapping[str, tuple[str, str]] = {
    "json1_c1_fastapi": ("json1_c1_rps", "fastapi_json1_c1_rps"),
    "json1_c64_fastapi": ("json1_c64_rps", "fastapi_json1_c64_rps"),
    "json1_c64_mosec": ("json1_c64_rps", "mosec_json1_c64_rps"),
    "json1_c200_mosec": ("json1_c200_rps", "mosec_json1_c200_rps"),
    "json100_c8_fastapi": ("json100_c8_rps", "fastapi_json100_c8_rps"),
    "bin100_c8_fastapi_json100": ("bin100_c8_rps", "fastapi_json100_c8_rps"),
    "bin100_c8_pytriton": ("bin100_c8_rps", "pytriton_bin100_c8_rps"),
    "json100_c8_2w_1w": ("json100_c8_2w_rps", "json100_c8_rps"),
    "grpc1_c64_pytriton": ("grpc1_c64_rps", "pytriton_grpc1_c64_rps"),
    "grpc1_c64_2w_pytriton": ("grpc1_c64_2w_rps", "pytriton_grpc1_c64_rps"),
    "resnet64_served_inprocess": ("resnet64_served_ms", INPROCESS),
}
"""Of medians, by name: what is divided by what."""


def key(server: str, figure: str) -> str:
    """Name of a server's figure."""
    return figure if server == OURS else f"{server}_{figure}"


@dataclass
class Figures:
    """What was measured, block by block, and why some was not."""

    values: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """One more measurement of a figure."""
        self.values.setdefault(name, []).append(value)

    def without(self, names: Sequence[str], reason: str) -> None:
        """They are not to be had, whatever was measured before."""
        self.reasons |= dict.fromkeys(names, reason)

    def medians(self) -> dict[str, float | None]:
        """By name; null where there is a reason."""
        found: dict[str, float | None] = {name: _rounded(median(values)) for name, values in self.values.items()}
        return found | dict.fromkeys(self.reasons, None)

    def ratios(self) -> dict[str, float | None]:
        """Those of `RATIOS` of which anything was asked for; null where one side is missing."""
        medians = self.medians()
        asked = {name: pair for name, pair in RATIOS.items() if all(one in medians for one in pair)}
        return {name: _ratio(medians[above], medians[below]) for name, (above, below) in asked.items()}


def _ratio(above: float | None, below: float | None) -> float | None:
    return round(above / below, 3) if above and below else None


def _rounded(value: float) -> float:
    return round(value) if value >= 1000 else round(value, 2)
