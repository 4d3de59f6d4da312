"""What lies in the folder of a model's version beside its graph: figures of the training, its report, its conversion.

Invariant: of a bundle only files that its manifest seals are read, and what changed since it was loaded is not shown.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from mlaas4hep.bundle.layout import NATIVE_FOLDER, REPORT_FOLDER
from mlaas4hep.errors import NotFoundError, nearest
from mlaas4hep.serve.model import ServedModel

T = TypeVar("T")
REPORT_PAGE = "report.html"
# Larger files are no figures; larger reports are not sent from here.
_MAX_JSON_BYTES, _MAX_REPORT_BYTES = 16 << 20, 64 << 20
_CONVERSION = "conversion.json"
_log = logging.getLogger(__name__)


class Target(msgspec.Struct, frozen=True):
    """Figures of one target of a regression."""

    resolution: float | None = None
    resolution_err: float | None = None
    bias: float | None = None
    bias_err: float | None = None
    r2: float | None = None
    r2_err: float | None = None


class Part(msgspec.Struct, frozen=True):
    """Figures of one part of the events; a regression has targets instead of an area."""

    events: int = 0
    auc: float | None = None
    auc_err: float | None = None
    loss: float | None = None
    targets: dict[str, Target] = {}


class Metrics(msgspec.Struct, frozen=True):
    """Of ``report/metrics.json`` what a page shows.

    Parameters
    ----------
    model
        What learned: ``bdt (backend sklearn)``.
    auc, auc_err, auc_part
        The figure of a classification, and on which part.
    targets, targets_part
        Those of a regression.
    parts
        All of them, by part.
    missing_inputs
        ``native`` where the model itself knows what is missing, ``impute`` where a value takes its place.
    best_epoch, epochs, epoch_unit
        What was kept.
    """

    model: str = ""
    auc: float | None = None
    auc_err: float | None = None
    auc_part: str | None = None
    targets: dict[str, Target] = {}
    targets_part: str | None = None
    parts: dict[str, Part] = {}
    missing_inputs: str = ""
    best_epoch: int | None = None
    epochs: int | None = None
    epoch_unit: str = "epoch"


class Settings(msgspec.Struct, frozen=True):
    """Of ``native/settings.json``: who learned."""

    backend: str = ""
    model: str = ""


class Conversion(msgspec.Struct, frozen=True):
    """Of ``conversion.json``, which `mlaas4hep convert` writes: what an upload was, and what it was held against."""

    found: str = ""
    converter: str = ""
    compared_with: str = ""
    rows: dict[str, int] = {}
    bar: float | None = None
    worst: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of where a model comes from.

    Parameters
    ----------
    made_by
        Model and framework in words; empty where nobody says.
    metrics, conversion
        None where there are none.
    report
        Whether the bundle holds the page of its training.
    """

    made_by: str
    metrics: Metrics | None
    conversion: Conversion | None
    report: bool


_known: WeakKeyDictionary[ServedModel, Facts] = WeakKeyDictionary()


def facts_of(model: ServedModel) -> Facts:
    """Read once for each model; a `ServedModel` never changes."""
    found = _known.get(model)
    if found is None:
        found = _known[model] = _read_facts(model)
    return found


def report_file(model: ServedModel, path: str) -> bytes:
    """A file of the report of a bundle.

    Raises
    ------
    NotFoundError
        It is not sealed with the bundle, or changed since.
    """
    found = _sealed(model, f"{REPORT_FOLDER}/{path}", limit=_MAX_REPORT_BYTES)
    if found is None:
        names = [one.removeprefix(f"{REPORT_FOLDER}/") for one in _files(model) if one.startswith(f"{REPORT_FOLDER}/")]
        raise NotFoundError(f"the report of model '{model.name}' has no file '{path}'{nearest(path, names)}")
    return found


def _read_facts(model: ServedModel) -> Facts:
    metrics = _json(_sealed(model, f"{REPORT_FOLDER}/metrics.json"), Metrics, model)
    settings = _json(_sealed(model, f"{NATIVE_FOLDER}/settings.json"), Settings, model)
    conversion = _json(_conversion(model), Conversion, model)
    return Facts(
        made_by=_made_by(model, metrics, settings, conversion),
        metrics=metrics,
        conversion=conversion,
        report=f"{REPORT_FOLDER}/{REPORT_PAGE}" in _files(model),
    )


def _made_by(
    model: ServedModel, metrics: Metrics | None, settings: Settings | None, conversion: Conversion | None
) -> str:
    if model.members:
        return f"{len(model.members)} models as one"
    if metrics is not None and metrics.model:
        return metrics.model
    if settings is not None and settings.backend:
        return f"{settings.model} (backend {settings.backend})" if settings.model else settings.backend
    if conversion is not None and conversion.found:
        return conversion.found
    told: Any = model.contract.spec.provenance.get("model", "") if model.contract else "ONNX"
    return told if isinstance(told, str) else ""


def _files(model: ServedModel) -> Mapping[str, Any]:
    return model.contract.files if model.contract is not None else {}


def _sealed(model: ServedModel, name: str, *, limit: int = _MAX_JSON_BYTES) -> bytes | None:
    """A file of a bundle as the manifest has it; None where there is none, or another one by now."""
    record = _files(model).get(name)
    if record is None or model.folder is None or record.size > limit:
        return None
    content = _content(model.folder / name, limit)
    if content is None or hashlib.sha256(content).hexdigest() != record.sha256:
        _log.warning("%s was changed since the model was loaded; it is not shown", model.folder / name)
        return None
    return content


def _conversion(model: ServedModel) -> bytes | None:
    """Beside a plain graph nothing is sealed: what stands there is believed as far as it is shown."""
    if model.contract is not None:
        return _sealed(model, _CONVERSION)
    return _content(model.folder / _CONVERSION, _MAX_JSON_BYTES) if model.folder is not None else None


def _content(path: Path, limit: int) -> bytes | None:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > limit:
        return None
    return path.read_bytes()


def _json(content: bytes | None, form: type[T], model: ServedModel) -> T | None:
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("model '%s' tells of itself in a form that is not known: %s", model.name, error)
        return None
