"""What is not as it was between two trainings of one config: files, packages, code, machine, contract; in lines.

Invariant: what is equal makes no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.whereabouts import Found, Key

_MOST, _WIDEST = 8, 60


def files_differing(found: Mapping[Key, Found]) -> Iterator[str]:
    """Files whose bytes are not those that were learned from, with both identities."""
    for one in found.values():
        if one.then is None:
            yield f"file {one.name}: could not be told apart then; is {one.now} now"
        elif one.then != one.now:
            yield f"file {one.name}: was {one.then} then, {one.path} is {one.now} now"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """By provenance: packages, this project's own code, machine, entries of files, and what was left out."""
    yield from _by_key("", then["versions"], now["versions"], lack="not installed")
    if then.get("code_sha256") != now.get("code_sha256"):
        yield f"mlaas4hep: its code is not the same ({_short(then)} then, {_short(now)} now)"
    for key in ("processor", "architecture", "cores", "gpus"):
        old, new = (one.get("machine", {}).get(key) for one in (then, now))
        if old != new:
            yield f"machine.{key}: {_shown(old)} then, {_shown(new)} now"
    fates = ("entries", "read", "selected", "cut", "unlabelled", "skipped")
    for old, new in zip(then["files"], now["files"], strict=False):
        changed = {key: (old[key], new[key]) for key in fates if old.get(key) != new.get(key)}
        if changed:
            words = ", ".join(f"{key} {before} then, {after} now" for key, (before, after) in changed.items())
            yield f"file {old['path']}: {words}"
    if len(then["files"]) != len(now["files"]):
        yield f"files: {len(then['files'])} then, {len(now['files'])} now"
    if len(then.get("skipped", ())) != len(now.get("skipped", ())):
        yield f"left out as unreadable: {len(then.get('skipped', ()))} things then, {len(now.get('skipped', ()))} now"


def spec_differences(then: ModelSpec, now: ModelSpec) -> list[str]:
    """Keys of the contract that differ, the first few with their values."""
    plain = [msgspec.to_builtins(msgspec.structs.replace(one, provenance={})) for one in (then, now)]
    lines = list(_by_key("spec.", *(dict(_flat(one)) for one in plain), lack="nothing"))
    more = [f"spec: {len(lines) - _MOST} more figures differ"] if len(lines) > _MOST else []
    return [*lines[:_MOST], *more]


def _by_key(prefix: str, then: Mapping[str, Any], now: Mapping[str, Any], *, lack: str) -> Iterator[str]:
    for key in dict.fromkeys([*then, *now]):
        old, new = then.get(key, lack), now.get(key, lack)
        if old != new:
            yield f"{prefix}{key}: {_shown(old)} then, {_shown(new)} now"


def _flat(plain: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their paths."""
    if isinstance(plain, Mapping) and plain:
        for key, value in plain.items():
            yield from _flat(value, f"{above}.{key}" if above else str(key))
    elif isinstance(plain, list | tuple) and any(isinstance(one, Mapping | list | tuple) for one in plain):
        for place, value in enumerate(plain):
            yield from _flat(value, f"{above}[{place}]")
    else:
        yield above, plain


def _shown(value: Any) -> str:
    text = "nothing" if value in (None, []) else str(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."


def _short(record: Mapping[str, Any]) -> str:
    return str(record.get("code_sha256", "not told"))[:12]
