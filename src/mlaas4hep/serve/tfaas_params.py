"""What TFaaS tells of a model, its ``params.json``: as it came with an upload, else made from what is served.

Invariant: only files of the repository are read, each below the folder of the model that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlaas4hep.bundle.layout import MODEL_FILE
from mlaas4hep.serve.images import FROZEN_GRAPH
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.service import InferenceService

PARAMS_FILE, CONVERSION_FILE = "params.json", "conversion.json"
_MOST_BYTES = 1 << 20
# The words of TFaaS's server, and those of its pages and of its older answers.
_CAMEL = {"input_node": "inputNode", "output_node": "outputNode"}


def params_of(service: InferenceService, name: str) -> bytes:
    """``params.json`` of a model, as it was uploaded where it was; `NotFoundError` where there is no such model."""
    folder = _folder(service, name)
    raw = _read(folder, PARAMS_FILE)
    return raw if isinstance(_parsed(raw), dict) else json.dumps(described(service, name)).encode()


def described(service: InferenceService, name: str) -> dict[str, Any]:
    """All that TFaaS's list of models says of one; `NotFoundError` where there is no such model."""
    folder = _folder(service, name)
    came: Mapping[str, Any] = _parsed(_read(folder, PARAMS_FILE)) or {}
    told: dict[str, Any] = {"model": MODEL_FILE, "labels": "", "options": None, "description": ""}
    told |= _ends(service, name)
    told |= {_SNAKE.get(key, key): value for key, value in came.items()}
    told |= {camel: told[snake] for snake, camel in _CAMEL.items()}
    told["timestamp"] = told.get("timestamp") or _written(folder)
    return {"name": name} | told | {"name": name}


def labels_of(repository: ModelRepository, model: ServedModel) -> tuple[str, ...]:
    """Names of the classes of a plain model, where they came with it."""
    if model.outputs and model.outputs[0].labels:
        return model.outputs[0].labels
    found = (_conversion(repository, model) or {}).get("labels", [])
    return tuple(map(str, found)) if isinstance(found, list) else ()


def is_frozen(repository: ModelRepository, model: ServedModel) -> bool:
    """Whether it was uploaded as a frozen graph, for which TFaaS answers pictures with labels."""
    return (_conversion(repository, model) or {}).get("found") == FROZEN_GRAPH


_SNAKE = {camel: snake for snake, camel in _CAMEL.items()}


def _folder(service: InferenceService, name: str) -> Path | None:
    """Where the newest version of a model lies; None for one that lies nowhere."""
    service.model_ready(name)  # tells of a model that is not served
    return service.repository.folder(name)


def _ends(service: InferenceService, name: str) -> dict[str, Any]:
    """Names of input and output; of a bundle those of its values in their order, too. A model that sleeps is let be."""
    if name in service.repository.asleep:
        return dict.fromkeys(("input_name", "output_name", "input_node", "output_node"), "")
    model = service.repository.get(name)
    first, last = model.inputs[0].name if model.inputs else "", model.outputs[0].name
    found: dict[str, Any] = {"input_name": first, "output_name": last, "input_node": first, "output_node": last}
    if model.contract is not None:
        found["keys"] = list(model.contract.spec.flat_names)
    return found


def _conversion(repository: ModelRepository, model: ServedModel) -> dict[str, Any] | None:
    return _parsed(_read(repository.folder(model.name, model.version), CONVERSION_FILE))


def _read(folder: Path | None, name: str) -> bytes:
    """A small file of a version; empty where it is not there."""
    path = folder / name if folder is not None else None
    if path is None or path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return b""
    return path.read_bytes()


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data or b"null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _written(folder: Path | None) -> str:
    """When the model was put there."""
    path = folder / MODEL_FILE if folder is not None else None
    if path is None or not path.is_file():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
