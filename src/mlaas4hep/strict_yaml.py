"""YAML text to plain values, for configs, policies and whatever else people write by hand.

Invariant: nothing in the text is lost in silence; a key given twice is refused, for the second might open what the
first closed. Brings nothing but YAML: a server loads it without all that a training needs.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mlaas4hep.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
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


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
# YAML 1.1 reads 1e-3 as text, for want of a dot; physicists mean the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"),
    list("-+0123456789"),
)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    ConfigError
        It is not there, may not be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], where=str(path)) from error


def load_mapping(text: str, where: str, *, such_as: str) -> dict[Any, Any]:
    """The mapping that a text holds.

    Parameters
    ----------
    text
        YAML.
    where
        Names it in messages.
    such_as
        Keys that it may have, for whoever gave no mapping.

    Raises
    ------
    ConfigError
        It is not YAML, gives a key twice, or is no mapping.
    """
    try:
        document = load_value(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError([f"{place}{error.problem}"], where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"is not YAML: {error}"], where=where) from error
    if not isinstance(document, dict):
        raise ConfigError([f"is not a mapping of keys such as {such_as}"], where=where)
    return document


def load_value(text: str) -> Any:
    """One value; `yaml.YAMLError` where it is none."""
    return yaml.load(text, Loader=_Loader)
