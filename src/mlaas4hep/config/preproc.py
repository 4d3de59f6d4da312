"""The original's ``preproc.json`` in our words: new variables, a preselection, and columns that must not be inputs.

The original built Python text out of the file and evaluated it; here every piece is an expression that is parsed.
Invariant: every key is honoured, or refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.errors import ConfigError, ExpressionError, nearest
from mlaas4hep.spec.expressions import Expression

_CUT = re.compile(r"cut(_\w+)?\Z")
_KINDS = ("flat", "jagged")
_QUANTIFIERS = ("all", "any")
_MAX_BYTES = 1 << 20


class Preproc(NamedTuple):
    """What a ``preproc.json`` says.

    Parameters
    ----------
    new_variables
        Expressions by name.
    preselection
        All cuts together; None where there are none.
    dropped
        Columns and new variables that it removes once they have been used: they are no inputs.
    """

    new_variables: dict[str, str]
    preselection: str | None
    dropped: tuple[str, ...]


def read_preproc(path: Path) -> Preproc:
    """Read and translate a file.

    Raises
    ------
    ConfigError
        It cannot be read, is not JSON, or says what is not known; every problem at once.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data[: _MAX_BYTES + 1], object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise ConfigError([f"does not exist{nearest_file(path)}"], where=str(path)) from error
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"is not JSON: {error}"], where=str(path)) from error
    return translate_preproc(document, where=str(path))


def translate_preproc(document: Any, *, where: str = "preproc.json") -> Preproc:
    """Say in our words what a ``preproc.json`` says.

    Parameters
    ----------
    document
        ``{"new_branch": {name: {def, type, cut..., remove, keys_to_remove}}, "flat_cut": {name: {cut..., remove}},
        "jagged_cut": {name: {cut: [expression, "all" | "any"], remove}}}``; any of the three may be left out, and
        several cuts are ``cut_1``, ``cut_2`` and so on.

    Raises
    ------
    ConfigError
        With all problems at once.

    Examples
    --------
    >>> translate_preproc({"jagged_cut": {"Muon_Pt": {"cut": ["Muon_Pt>200", "all"], "remove": "True"}}})
    Preproc(new_variables={}, preselection='all(Muon_Pt > 200)', dropped=('Muon_Pt',))
    """
    work = _Translation()
    work.document(document)
    if work.problems:
        raise ConfigError(work.problems, where=where)
    preselection = " and ".join(work.cuts) if len(work.cuts) < 2 else " and ".join(f"({cut})" for cut in work.cuts)
    return Preproc(work.new_variables, preselection or None, tuple(dict.fromkeys(work.dropped)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is given twice")
    return found


class _Translation:
    def __init__(self) -> None:
        self.new_variables: dict[str, str] = {}
        self.cuts: list[str] = []
        self.dropped: list[str] = []
        self.problems: list[str] = []

    def document(self, document: Any) -> None:
        sections = {"new_branch": self._new_branch, "flat_cut": self._flat_cut, "jagged_cut": self._jagged_cut}
        if not isinstance(document, Mapping):
            self.problems.append(f"wants a mapping of {', '.join(sections)}; found {_short(document)}")
            return
        for section, entries in document.items():
            if section not in sections:
                self.problems.append(f"{section}: unknown key{nearest(str(section), sections)}")
            elif not isinstance(entries, Mapping):
                self.problems.append(f"{section}: wants a mapping by branch; found {_short(entries)}")
            else:
                for name, entry in entries.items():
                    if isinstance(entry, Mapping):
                        sections[section](name, entry, f"{section}.{name}")
                    else:
                        self.problems.append(f"{section}.{name}: wants a mapping; found {_short(entry)}")

    def _new_branch(self, name: str, entry: Mapping[str, Any], where: str) -> None:
        self._check_keys(entry, ("def", "type", "remove", "keys_to_remove"), where)
        kind = entry.get("type")
        if kind not in _KINDS:
            self.problems.append(f"{where}.type: wants flat or jagged; found {_short(kind)}")
            return
        if "def" not in entry:
            self.problems.append(f"{where}.def: is required")
        elif (text := self._expression(entry["def"], f"{where}.def")) is not None:
            self.new_variables[name] = text
        for key, cut in _cuts(entry):
            (self._value_cut if kind == "flat" else self._list_cut)(cut, f"{where}.{key}")
        self._remove(name, entry, where)
        removed = entry.get("keys_to_remove", [])
        if isinstance(removed, list) and all(isinstance(one, str) for one in removed):
            self.dropped.extend(removed)
        else:
            self.problems.append(f"{where}.keys_to_remove: wants a list of branches; found {_short(removed)}")

    def _flat_cut(self, name: str, entry: Mapping[str, Any], where: str) -> None:
        self._existing_cut(name, entry, where)
        for key, cut in _cuts(entry):
            self._value_cut(cut, f"{where}.{key}")

    def _jagged_cut(self, name: str, entry: Mapping[str, Any], where: str) -> None:
        self._existing_cut(name, entry, where)
        for key, cut in _cuts(entry):
            self._list_cut(cut, f"{where}.{key}")

    def _existing_cut(self, name: str, entry: Mapping[str, Any], where: str) -> None:
        self._check_keys(entry, ("remove",), where)
        if not any(True for _ in _cuts(entry)):
            self.problems.append(f"{where}.cut: is required")
        self._remove(name, entry, where)

    def _check_keys(self, entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in entry:
            if key not in known and not _CUT.match(key):
                self.problems.append(f"{where}.{key}: unknown key{nearest(key, ('cut', *known))}")

    def _value_cut(self, cut: Any, where: str) -> None:
        if isinstance(cut, list):
            self.problems.append(f"{where}: wants one condition an event, such as 'nJet >= 4'; found {_short(cut)}")
        elif (text := self._expression(cut, where)) is not None:
            self.cuts.append(text)

    def _list_cut(self, cut: Any, where: str) -> None:
        if not (isinstance(cut, list) and len(cut) == 2 and cut[1] in _QUANTIFIERS):
            self.problems.append(f'{where}: wants [condition, "all"] or [condition, "any"]; found {_short(cut)}')
        elif (text := self._expression(cut[0], where)) is not None:
            self.cuts.append(f"{cut[1]}({text})")

    def _expression(self, text: Any, where: str) -> str | None:
        """Its canonical text."""
        if not isinstance(text, str):
            self.problems.append(f"{where}: wants an expression; found {_short(text)}")
            return None
        try:
            return Expression.parse(text, where=where).canonical
        except ExpressionError as error:
            self.problems.append(str(error).replace("\n", "\n    "))
            return None

    def _remove(self, name: str, entry: Mapping[str, Any], where: str) -> None:
        """The original writes "True" and "False" as text; JSON's own true and false mean the same."""
        asked = entry.get("remove", "False")
        if asked not in ("True", "False", True, False):
            self.problems.append(f'{where}.remove: wants "True" or "False"; found {_short(asked)}')
        elif asked in ("True", True):
            self.dropped.append(name)


def merge_preproc(written: Mapping[Any, Any], found: Preproc, where: str) -> tuple[dict[Any, Any], list[str]]:
    """Put a translated file into a config.

    Parameters
    ----------
    written
        The config's plain values, short forms spelled out.
    where
        Name of the file, for messages.

    Returns
    -------
    The config with its new variables and cuts, and what contradicts it, one line a problem.
    """
    problems = []
    merged = dict(written)
    own = merged.get("new_variables", {})
    if isinstance(own, Mapping):
        problems += [
            f"new_variables.{name}: is defined in {where} as well; give one of the two another name"
            for name in found.new_variables
            if name in own
        ]
        if found.new_variables:
            merged["new_variables"] = {**found.new_variables, **own}
    cut = merged.get("preselection")
    if found.preselection is not None and (cut is None or isinstance(cut, str)):
        merged["preselection"] = found.preselection if cut is None else f"({found.preselection}) and ({cut})"
    problems += [
        f"{place}: {where} removes '{name}' once it has been used; take it out of the inputs, or out of the file"
        for place, name in _inputs(merged)
        if name in found.dropped
    ]
    return merged, problems


def _inputs(written: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Place and name of every variable of the inputs, as far as they can be read."""
    groups = written.get("inputs")
    for group, entry in groups.items() if isinstance(groups, Mapping) else ():
        variables = entry.get("vars") if isinstance(entry, Mapping) else None
        for index, one in enumerate(variables if isinstance(variables, list) else ()):
            if isinstance(one, Mapping) and isinstance(one.get("name"), str):
                yield f"inputs.{group}.vars[{index}]", one["name"]


def _cuts(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, cut) for key, cut in entry.items() if _CUT.match(key))


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
