"""The arithmetic of the table: out-of-fold areas, paired differences, and what all seeds say together.

A line is one data set, model and seed. Invariant: a difference is one of the same fold, so of the same events, learned
from the same events; the area that is shown is that of all events together, each scored by the model that has not seen
it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.train.metrics import Auc, mean_auc, weighted_auc

Line = dict[str, Any]
Key = tuple[str, str, int]
TOLERANCE = 0.005
SIDES = ("auc", "auc_in_memory", "auc_boosting")
"""The project's, its peer's, default boosting's."""


def area(scores: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> Auc:
    """Of scores [N, 1] of the last of two classes; of [N, C] the mean over the classes of one against the rest."""
    if scores.shape[1] == 1:
        return weighted_auc(scores[:, 0], labels == 1, weights)
    return mean_auc(scores, labels, weights)


class Difference(NamedTuple):
    """Mean of paired differences, and the standard error of that; NaN of a single one."""

    mean: float
    error: float

    @property
    def allowed(self) -> float:
        """How far below zero it may be: 0.005 or two standard errors, whichever is larger."""
        return max(TOLERANCE, 2 * self.error) if math.isfinite(self.error) else TOLERANCE

    @property
    def good(self) -> bool:
        """Whether the project is no further below its peer than that."""
        return self.mean >= -self.allowed


def paired(ours: Sequence[float], peers: Sequence[float]) -> Difference:
    """Of figures of the same folds.

    Examples
    --------
    >>> paired([0.9, 0.8, 0.7], [0.89, 0.8, 0.71])
    Difference(mean=0.0, error=0.0058)
    """
    differences = [a - b for a, b in zip(ours, peers, strict=True)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return Difference(round(fmean(differences), 5) + 0.0, round(error, 4) if math.isfinite(error) else error)


def over_seeds(lines: Iterable[Line]) -> Difference:
    """Of all folds of all seeds of one row."""
    own = list(lines)
    return paired(*([one[side] for line in own for one in line["by_fold"]] for side in SIDES[:2]))


def key_of(line: Line) -> Key:
    """What it is a line of."""
    return line["dataset"], line["model"], line["seed"]


def finished(path: Path, settings: Mapping[str, Any]) -> dict[Key, Line]:
    """Lines that were written before; half a line at the end, of a run that was killed, is cut away.

    Raises
    ------
    SystemExit
        A line was made with other settings.
    """
    if not path.exists():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    lines = [json.loads(one) for one in whole.splitlines()]
    for line in lines:
        other = {name: line.get(name) for name, value in settings.items() if line.get(name) != value}
        if other:
            raise SystemExit(f"{path}: a line of {key_of(line)} was made with {other}, asked is {dict(settings)}")
    return {key_of(line): line for line in lines}


def append(path: Path, line: Line) -> None:
    """One line more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def verdicts(lines: Iterable[Line]) -> list[Line]:
    """A row of the table each: means over the seeds, the pooled difference, and whether it is good."""
    rows: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        rows.setdefault((line["dataset"], line["model"]), []).append(line)
    return [_verdict(dataset, model, own) for (dataset, model), own in rows.items()]


def _verdict(dataset: str, model: str, lines: Sequence[Line]) -> Line:
    found = over_seeds(lines)
    return {
        "dataset": dataset,
        "model": model,
        "seeds": [line["seed"] for line in lines],
        "events": lines[0]["events"],
        **{side: round(fmean(line[side] for line in lines), 5) for side in SIDES},
        # One sample of events: other seeds cut it into other folds, and do not make it larger.
        "auc_err": round(fmean(line["auc_err"] for line in lines), 5),
        "difference": found.mean,
        "difference_err": found.error if math.isfinite(found.error) else None,
        "allowed": round(-found.allowed, 5),
        "good": found.good,
        "cpu_s": round(fmean(line["cpu_seconds"]["streamed"] for line in lines), 1),
        "cpu_s_in_memory": round(fmean(line["cpu_seconds"]["in_memory"] for line in lines), 1),
    }


def markdown(rows: Iterable[Line]) -> str:
    """The table."""
    head = ("data", "model", "AUC", "in memory", "boosting", "difference", "allowed", "", "CPU s", "in memory", "seeds")
    text = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * 5 + ":---:|" + "---:|" * 3]
    for row in rows:
        error = "?" if row["difference_err"] is None else f"{row['difference_err']:.4f}"
        cells = [
            f"{row['dataset']} ({row['events']:,})",
            f"`{row['model']}`",
            f"{row['auc']:.4f} ± {row['auc_err']:.4f}",
            f"{row['auc_in_memory']:.4f}",
            f"{row['auc_boosting']:.4f}",
            f"{row['difference']:+.4f} ± {error}",
            f"{row['allowed']:.4f}",
            "yes" if row["good"] else "**no**",
            f"{row['cpu_s']:.0f}",
            f"{row['cpu_s_in_memory']:.0f}",
            str(len(row["seeds"])),
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)
