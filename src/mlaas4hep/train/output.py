"""The run directory: written under a hidden name, and given its own when everything is in it.

Invariant: a run never writes over another, and one that fails leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlaas4hep.config import Config
from mlaas4hep.errors import UserError
from mlaas4hep.report.page import METRICS_FILE, PICTURE_FOLDER, write_page
from mlaas4hep.report.plots import LossCurve, RocCurve, draw_loss, draw_roc
from mlaas4hep.train.callbacks import History
from mlaas4hep.train.document import to_yaml
from mlaas4hep.train.draw_judgement import draw_part
from mlaas4hep.train.figures import Curve, PartFigures

REPORT_FOLDER = "report"


def free_path(output: str | Path | None, name: str) -> Path:
    """A directory that is not there yet; asked before hours of training, and again by the rename."""
    if output is not None:
        target = Path(output)
        if target.exists():
            raise UserError(
                f"{target}: is there already; a run never writes over another. Give another -o, or remove it"
            )
        return target
    number = 1
    while (target := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return target


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its name when the block ends well, and goes when it does not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield draft
        draft.chmod(0o755)
        os.rename(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write_report(
    draft: Path,
    metrics: dict[str, Any],
    history: History,
    curves: Sequence[Curve],
    *,
    held: PartFigures | None = None,
) -> None:
    """What goes into the run and, as a copy, into the bundle; ``held`` are the figures of the validation part."""
    folder = draft / REPORT_FOLDER
    pictures = folder / PICTURE_FOLDER
    pictures.mkdir(parents=True)
    (folder / METRICS_FILE).write_text(to_json(metrics), encoding="utf-8")
    (folder / "history.csv").write_text(history.to_csv(), encoding="utf-8")
    losses = [LossCurve("training", [record.train_loss for record in history.records])]
    after = [record.validation_loss for record in history.records if record.validation_loss is not None]
    if after:
        losses.append(LossCurve("validation", after))
    draw_loss(losses, pictures / "loss.png", best_epoch=history.best_epoch, unit=history.unit)
    shown = roc_curves(curves, metrics["classes"], part="validation")
    if shown:
        draw_roc(shown, pictures / "roc.png", several=len(metrics["classes"]) > 2)
    draw_part(held, pictures, training_weights=metrics.get("training_weights", "balanced"))
    write_page(folder)


def write_fold_report(draft: Path, metrics: dict[str, Any], histories: Sequence[History]) -> None:
    """`write_report` of a run of folds: the validation loss of each, or the training loss where there is none."""
    folder = draft / REPORT_FOLDER
    pictures = folder / PICTURE_FOLDER
    pictures.mkdir(parents=True)
    (folder / METRICS_FILE).write_text(to_json(metrics), encoding="utf-8")
    losses = [
        LossCurve(f"fold {number}", [record.watched for record in history.records])
        for number, history in enumerate(histories, start=1)
    ]
    draw_loss(losses, pictures / "loss.png", unit=histories[0].unit)
    write_page(folder)


def roc_curves(
    curves: Iterable[Curve], classes: Sequence[str], *, part: str, errors: Mapping[str, float] | None = None
) -> list[RocCurve]:
    """Of two classes a held-out part beside the training part, of several each class of the held-out part.

    ``errors`` are uncertainties of the held-out areas by class, instead of those of the curves.
    """
    shown = []
    for curve in curves:
        name = curve.name if len(classes) > 2 else curve.part
        if curve.part == part or (curve.part == "train" and len(classes) == 2):
            error = (errors or {}).get(curve.name, curve.auc.error) if curve.part == part else curve.auc.error
            shown.append(RocCurve(name, curve.roc.signal, curve.roc.background, curve.auc.value, error))
    return shown


def write_run(draft: Path, config: Config, metrics: dict[str, Any]) -> None:
    """Move the report up into the run, and write what only the run has."""
    for file in (draft / REPORT_FOLDER).iterdir():
        file.rename(draft / file.name)
    (draft / REPORT_FOLDER).rmdir()
    (draft / METRICS_FILE).write_text(to_json(metrics), encoding="utf-8")
    write_page(draft)
    (draft / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def to_json(value: dict[str, Any]) -> str:
    """Figures as text for people and programs; a figure that is not a number is a mistake of ours."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
