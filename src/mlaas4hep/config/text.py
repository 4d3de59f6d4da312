"""The text of a config to plain values, with ``--set key=value`` on top."""

from __future__ import annotations

from typing import Any

import yaml

from mlaas4hep.errors import ConfigError
from mlaas4hep.strict_yaml import load_mapping, load_value


def load_yaml(text: str, where: str) -> dict[Any, Any]:
    return load_mapping(text, where, such_as="samples, inputs, model")


def override_key(document: dict[Any, Any], override: str, where: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError([f"--set {override}: wants key=value, such as training.epochs=5"], where=where)
    *parents, last = key.split(".")
    place = document
    for parent in parents:
        inner = place.setdefault(parent, {})
        if isinstance(inner, str) and parent == "model":
            inner = place[parent] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError([f"--set {key}: '{parent}' is not a mapping"], where=where)
        place = inner
    place[last] = _load_value(value, override, where)


def _load_value(value: str, override: str, where: str) -> Any:
    try:
        return load_value(value)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is not YAML"], where=where) from error
