"""A config back to YAML: what a run was trained with, defaults and overrides included.

Invariant: reading it again, from any folder, gives an equal `Config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mlaas4hep.config import Config, Sample
from mlaas4hep.spec.features import EVENT, InputGroup


def to_yaml(config: Config) -> str:
    """The config as text that `mlaas4hep.config.parse_config` reads; paths are absolute."""
    return dump(to_plain(config))


def dump(plain: Mapping[str, Any]) -> str:
    """Plain values as YAML, keys in the order given."""
    text: str = yaml.safe_dump(dict(plain), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def to_plain(config: Config) -> dict[str, Any]:
    """The config as plain values, as a file of it would have them; paths are absolute."""
    features = config.features
    plain: dict[str, Any] = {
        "name": config.name,
        "tree": config.tree,
        "eras": msgspec.to_builtins(config.eras),
        "samples": {name: _sample(sample) for name, sample in config.samples.items()},
        "preselection": features.preselection,
        "new_variables": features.new_variables,
        "inputs": {group.name: _group(group) for group in features.inputs},
        "labels": _given(msgspec.to_builtins(config.labels)),
        "targets": features.target_texts,
        "weights": msgspec.to_builtins(features.weights),
        "split": msgspec.to_builtins(features.split),
        "variations": msgspec.to_builtins(features.variations),
        "observers": list(features.observers),
        "missing": list(features.missing_values),
        "model": _model(config),
        "training": msgspec.to_builtins(config.training),
        "preproc": None if config.preproc is None else _absolute(config.preproc),
        "redirector": list(config.redirector),
        "duplicates": None if config.duplicates == "report" else config.duplicates,
        "on_error": None if str(config.on_error) == "stop" else str(config.on_error),
        "tracking": None if config.tracking is None else msgspec.to_builtins(config.tracking),
        "cache": None
        if config.cache is None
        else {**msgspec.to_builtins(config.cache), "path": _absolute(config.cache.path)},
    }
    return _given(plain)


def _sample(sample: Sample) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(sample)
    for key in ("files", "friends"):
        plain[key] = [
            _absolute(one) if isinstance(one, str) else [_absolute(path) for path in one] for one in plain[key]
        ]
    if sample.labels is not None:
        plain["labels"] = _given(plain["labels"])
    return _given(plain)


def _group(group: InputGroup) -> Any:
    variables = [_given(msgspec.to_builtins(one)) for one in group.variables]
    if group.name == EVENT:
        return variables
    return _given({"vars": variables, "length": group.length, "sort": group.sort})


def _model(config: Config) -> dict[str, Any]:
    model = config.model
    file = _absolute(model.file) if model.file is not None else None
    return _given({"name": model.name, "backend": model.backend, "file": file, **model.dials})


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _given(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: empty lists, empty mappings and None."""
    return {key: value for key, value in plain.items() if value is not None and value not in ([], {}, ())}
