"""YAML text to plain values, with ``--set key=value`` on top.

Invariant: nothing in the text is lost in silence; a key given twice is refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from mlaas4hep.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: the second would win in silence."""


def _unique_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            problem = "a key is a list or a mapping; wants text"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
# YAML 1.1 reads 1e-3 as text, for want of a dot; physicists mean the number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"),
    list("-+0123456789"),
)


def load_yaml(text: str, where: str) -> dict[Any, Any]:
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError([f"{place}{error.problem}"], where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"is not YAML: {error}"], where=where) from error
    if not isinstance(document, dict):
        raise ConfigError(["is not a mapping of keys such as samples, inputs, model"], where=where)
    return document


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


def load_value(text: str) -> Any:
    """One value; `yaml.YAMLError` where it is none."""
    return yaml.load(text, Loader=_StrictLoader)


def _load_value(value: str, override: str, where: str) -> Any:
    try:
        return load_value(value)
    except yaml.YAMLError as error:
        raise ConfigError([f"--set {override}: the value is not YAML"], where=where) from error
