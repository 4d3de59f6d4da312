"""YAML of a policy to plain values. Invariant: a key given twice is refused: the second might open what one closed.

Not `mlaas4hep.config.text`, which brings all that configs of trainings need: a server loads nothing of it.
"""

from __future__ import annotations

from typing import Any

import yaml

from mlaas4hep.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, or one that is no text."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in found:
            why = f"key '{key}' is given twice" if isinstance(key, str) else f"key {key!r} is no text"
            raise yaml.constructor.ConstructorError(None, None, why, key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_mapping(text: str, where: str, *, like: str = "issuers, audience, allow") -> dict[str, Any]:
    """The mapping that a text holds; `like` names keys that it may have.

    Raises
    ------
    ConfigError
        It is not YAML, or no mapping.
    """
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError([f"{place}{error.problem}"], where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"is not YAML: {error}"], where=where) from error
    if not isinstance(document, dict):
        raise ConfigError([f"is not a mapping of keys such as {like}"], where=where)
    return document
