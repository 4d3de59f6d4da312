"""Reads ``config.pbtxt``: protobuf's text form, or its JSON, as far as model repositories use them.

Invariant: what is read is plain values in the order of the file; nothing is known of their meaning here. Each field is
a list, since a field may stand any number of times.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from mlaas4hep.errors import BundleError

Message = dict[str, list[Any]]

_TOKEN: Final = re.compile(
    r"""\s*(?:\#[^\n]*)?(?:([A-Za-z_][\w.]*)|([-+]?[\d.][\w.+-]*)|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|([\[\]{}<>:,;]))?"""
)
_CLOSING: Final = {"{": "}", "<": ">"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}
MAX_DEPTH: Final = 32
# Of the JSON form: what is a map of names, and what a whole number, which may stand there as a text.
_MAPS: Final = ("inputs", "parameters")
_NUMBERS: Final = ("max_batch_size", "dims", "batch_size", "count", "num_versions", "versions")


def parse_pbtxt(text: str, *, where: str) -> Message:
    """Fields by name: numbers, texts, words (``TYPE_FP32``) and messages, each in a list.

    Raises
    ------
    BundleError
        With the line that cannot be read.

    Examples
    --------
    >>> parse_pbtxt('max_batch_size: 8 input [ { name: "x" dims: [ 3, 4 ] } ]', where="config.pbtxt")
    {'max_batch_size': [8], 'input': [{'name': ['x'], 'dims': [3, 4]}]}
    """
    return _Reader(text, where).message("", 0)


def parse_json(text: str, *, where: str) -> Message:
    """As `parse_pbtxt`, of protobuf's JSON form.

    Raises
    ------
    BundleError
        It is no JSON, or no object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BundleError(f"{where}: asked for an object, found {text[:80]}")
    return _from_json(found, where, 0)


def _from_json(found: dict[str, Any], where: str, depth: int, *, is_map: bool = False) -> Message:
    if depth > MAX_DEPTH:
        raise BundleError(f"{where}: messages in messages, too deep")
    message: Message = {}
    for name, value in found.items():
        key = name if is_map else re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
        message[key] = [
            _from_json(one, where, depth + 1, is_map=key in _MAPS) if isinstance(one, dict) else _whole(key, one)
            for one in (value if isinstance(value, list) else [value])
        ]
    return message


def _whole(key: str, value: Any) -> Any:
    """JSON has whole numbers of 64 bits as texts, and may have others so too."""
    is_text = key in _NUMBERS and isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value)
    return int(value) if is_text else value


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.tokens = list(self._tokens(text))
        self.at = 0

    def message(self, closing: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise self.problem("messages in messages, too deep")
        found: Message = {}
        while self.peek() != closing:
            name, _ = self.take("a field's name")
            if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
                raise self.problem(f"asked for a field's name, found '{name}'")
            if self.peek() == ":":
                self.take("':'")
            found.setdefault(name, []).extend(self.values(depth))
            while self.peek() in (",", ";") and self.peek():
                self.take("a separator")
        if closing:
            self.take(closing)
        return found

    def values(self, depth: int) -> list[Any]:
        if self.peek() != "[":
            return [self.value(depth)]
        self.take("'['")
        found: list[Any] = []
        while self.peek() != "]":
            found.append(self.value(depth))
            if self.peek() == ",":
                self.take("','")
        self.take("']'")
        return found

    def value(self, depth: int) -> Any:
        token, kind = self.take("a value")
        if token in _CLOSING:
            return self.message(_CLOSING[token], depth + 1)
        if kind == "text":
            parts = [_unquoted(token)]
            while self.at < len(self.tokens) and self.tokens[self.at][1] == "text":
                parts.append(_unquoted(self.take("text")[0]))
            return "".join(parts)
        if kind == "number":
            return self.number(token)
        if kind == "word":
            return {"true": True, "false": False}.get(token, token)
        raise self.problem(f"asked for a value, found '{token}'")

    def number(self, token: str) -> int | float:
        try:
            return int(token, 0)
        except ValueError:
            pass
        try:
            return float(token.rstrip("fF"))
        except ValueError as error:
            raise self.problem(f"'{token}' is not a number") from error

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, asked: str) -> tuple[str, str]:
        if self.at == len(self.tokens):
            raise self.problem(f"asked for {asked}, found the end of the file")
        token, kind, _ = self.tokens[self.at]
        self.at += 1
        return token, kind

    def problem(self, text: str) -> BundleError:
        line = self.tokens[min(self.at, len(self.tokens)) - 1][2] if self.tokens else 1
        return BundleError(f"{self.where}, line {line}: {text}")

    def _tokens(self, text: str) -> list[tuple[str, str, int]]:
        found, at, line = [], 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.end() == at:
                raise BundleError(f"{self.where}, line {line}: cannot be read at {text[at : at + 20]!r}")
            line += text.count("\n", at, match.end())
            at = match.end()
            if match.lastindex:
                kind = ("word", "number", "text", "mark")[match.lastindex - 1]
                found.append((match.group(match.lastindex), kind, line))
        return found


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match.group(1), match.group(1)), token[1:-1])
