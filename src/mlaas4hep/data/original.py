"""The original's workflow as a config: its files are looked into, and every branch becomes an input, as there.

Flat branches are variables of the event; jagged ones with lists of equal lengths are one collection, as long as its
longest list. Invariant: what comes out is the plain values of a config, and all that happens afterwards is what happens
to any config.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.config.addresses import is_address
from mlaas4hep.config.original import IDENTIFIER, REDIRECTOR, Params, Specs
from mlaas4hep.config.preproc import Preproc
from mlaas4hep.data.draft import group_name, looks_like_truth
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.inspect import find_tree, prefix_of
from mlaas4hep.data.locate import search
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.original_look import Look
from mlaas4hep.data.places import open_place
from mlaas4hep.data.source import ONLY_TABLE, format_of, formats
from mlaas4hep.errors import ConfigError, DataError, nearest
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.features import EVENT, MAX_LENGTH, RESERVED_GROUPS

_MOST_FILES_LOOKED_AT = 16
# With more files than this, those of one label are one sample: each sample has its place in every window.
_MOST_SAMPLES = 32
# The original keeps 20 % apart, and of the rest 20 %.
_SPLIT = {"test": 0.2, "validation": 0.16}


@dataclass(frozen=True)
class Workflow:
    """What the original's command line says, its files read.

    Parameters
    ----------
    files
        As ``--files`` lists them.
    labels
        One a file; or the name of the column that holds them.
    model
        The user's Python file.
    params
        Of ``params.json``.
    preproc
        Path of a preproc file.
    preprocessing
        What that says: of JSON, or the function of a Python file.
    specs
        Of ``--specs``.
    dtype
        The format that the files must have.
    name
        Of the model.
    """

    files: tuple[str, ...]
    labels: tuple[str, ...] | str
    model: Path
    params: Params
    preproc: Path | None = None
    preprocessing: Preproc | RecordHook | None = None
    specs: Specs | None = None
    dtype: str | None = None
    name: str = "model"


@dataclass(frozen=True)
class Translated:
    """A workflow in our words.

    Parameters
    ----------
    document
        Plain values of a config.
    notes
        What else the user should know, one line each.
    """

    document: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """A file, and the place of the line that names it."""

    path: str
    replicas: tuple[str, ...]
    line: int


def translate(workflow: Workflow) -> Translated:
    """Look into the files and make a config.

    Raises
    ------
    DataError, ConfigError
        Files, tree, branches or labels that are not there, or do not go together.
    """
    work, notes = workflow, list[str]()
    if work.params.redirector is None and _redirectors(work):
        notes.append(f"redirector: not given -> {REDIRECTOR} for /store/..., as in the original")
    files = _locate(work)
    tree = _tree(files, work.params.branch)
    labels = None if isinstance(work.labels, str) else tuple(map(_whole, work.labels))
    look = _look(work, files, tree, labels)
    names = _inputs(work, look, notes)
    document: dict[str, Any] = {
        "name": work.name,
        "tree": tree,
        "samples": _samples(work, files, labels, notes),
        "labels": _labels(work, look, labels),
        "preproc": None if work.preproc is None else str(work.preproc.absolute()),
        "inputs": _groups(work, look, names, notes),
        "weights": {"training": "none"},
        "split": _SPLIT,
        "model": {"file": str(work.model.absolute())},
        "training": _training(work.params),
        "redirector": _redirectors(work),
    }
    if tree == ONLY_TABLE:
        del document["tree"]
    return Translated({key: value for key, value in document.items() if value}, tuple(notes))


def _training(params: Params) -> dict[str, Any]:
    window = {} if params.chunk_size in (None, -1) else {"shuffle_window": params.chunk_size}
    # As many epochs of patience as there are: the original never stops early.
    return {"epochs": params.epochs, "batch_size": params.batch_size, "patience": params.epochs, **window}


def _redirectors(work: Workflow) -> list[str]:
    asked = work.params.redirector
    if asked is None and any(one.startswith("/store/") for one in work.files):
        asked = REDIRECTOR
    return [asked] if asked else []


def _locate(work: Workflow) -> list[_File]:
    found: list[_File] = []
    problems: list[str] = []
    for line, written in enumerate(work.files):
        there, missing = search([_spelled(written, work.params)], redirectors=_redirectors(work))
        problems.extend(missing)
        found += [_File(one.path, one.replicas, line) for one in there]
    if problems:
        raise DataError("\n".join(problems))
    if work.dtype is not None:
        _require_format([one.path for one in found], work.dtype)
    return found


def _spelled(written: str, params: Params) -> str:
    """An absolute path or an address; what is not here lies behind the redirector, where one is given."""
    if is_address(written) or os.path.isabs(written):
        return written
    if params.redirector and not os.path.exists(written):
        return f"{params.redirector.rstrip('/')}/{written}"
    return os.path.abspath(written)


def _require_format(paths: Sequence[str], dtype: str) -> None:
    kinds = {type(one): name for name, one in formats().items()}
    for path in paths:
        place = open_place(path)
        try:
            found = kinds[type(format_of(place))]
        finally:
            place.close()
        if found != dtype:
            raise DataError(
                f"{path}: --dtype says {dtype}, but it is {found}; formats are known by content: leave it out"
            )


def _tree(files: Sequence[_File], branch: str | None) -> str:
    try:
        return find_tree([one.path for one in files[:1]], branch).name
    except DataError as error:
        raise DataError(str(error) if branch is None else f"branch '{branch}' of the params: {error}") from error


def _whole(label: str) -> str:
    """``01`` and ``1.0`` are 1, as the original's cast makes them; words stay words."""
    try:
        return str(int(float(label)))
    except (ValueError, OverflowError):
        return label


def _look(work: Workflow, files: Sequence[_File], tree: str, labels: Sequence[str] | None) -> Look:
    hook = work.preprocessing if isinstance(work.preprocessing, RecordHook) else None
    name = None if tree == ONLY_TABLE else tree
    openings = [Opening(one.path, name, one.replicas, (), hook) for one in files]
    # Of many files the first one of each label, and then the first of all.
    first = {one.line if labels is None else labels[one.line]: place for place, one in reversed([*enumerate(files)])}
    order = list(dict.fromkeys([*([] if labels is None else first.values()), *range(len(files))]))
    some = [openings[place] for place in order[: max(_MOST_FILES_LOOKED_AT, 0 if labels is None else len(first))]]
    most = None if work.params.nevts == -1 else work.params.nevts
    return Look.into(openings, some, new_variables=_translated(work).new_variables, most=most)


def _translated(work: Workflow) -> Preproc:
    return work.preprocessing if isinstance(work.preprocessing, Preproc) else Preproc({}, None, ())


def _samples(
    work: Workflow, files: Sequence[_File], labels: Sequence[str] | None, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """One sample a label; one a line where ``nevts`` is shared between files."""
    shared = work.params.nevts != -1
    alone = shared and len(work.files) <= _MOST_SAMPLES
    if shared and not alone:
        notes.append(f"nevts: of {len(work.files)} files, those of a label are read in turn until it has its share")
    found: dict[str, dict[str, Any]] = {}
    for line in dict.fromkeys(one.line for one in files):
        label = None if labels is None else labels[line]
        name = "events" if label is None else f"label_{label}"
        if alone:
            name = _unlike(Path(work.files[line].partition("?")[0]).stem or "file", found)
        sample = found.setdefault(name, {"files": [], **({} if label is None else {"label": label})})
        sample["files"].append(_spelled(work.files[line], work.params))
    return found


def _unlike(name: str, taken: Collection[str]) -> str:
    names = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(one for one in names if one not in taken)


def _labels(work: Workflow, look: Look, labels: Sequence[str] | None) -> dict[str, Any]:
    if labels is not None:
        if len(set(labels)) < 2:
            raise ConfigError([f"all files have the label {labels[0]}: nothing is to be told apart"], where="--labels")
        return {"classes": _in_order(set(labels))}
    column = str(work.labels)
    if column not in look.columns and column not in look.texts:
        known = [*look.columns, *sorted(look.texts)]
        problem = f"'{column}' is neither a file, nor labels between commas, nor a column{nearest(column, known)}"
        raise ConfigError([problem], where="--labels")
    values = {str(value): value for value in look.values_of_label(column)}
    names = _in_order(values)
    # A list stands for the values 0, 1, 2, ... in this order; others are named with their values.
    if [values[name] for name in names] == list(range(len(names))):
        return {"column": column, "classes": names}
    signal = {"signal": names[-1]} if len(names) == 2 else {}
    return {"column": column, "classes": {name: [values[name]] for name in names}, **signal}


def _in_order(names: Collection[str]) -> list[str]:
    """Whole numbers by value, words by spelling, ``signal`` last: of two classes the score is the last one's."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names, key=lambda name: (name == "signal", name))


def _inputs(work: Workflow, look: Look, notes: list[str]) -> list[str]:
    """Names of all inputs: as the original takes them, less what cannot be one."""
    params, preproc = work.params, _translated(work)
    wanted = _wanted(work, look, notes)
    out = {*params.identifier, *preproc.dropped, work.labels if isinstance(work.labels, str) else ""}
    names = [name for name in dict.fromkeys([*wanted, *preproc.new_variables]) if name not in out]
    notes += [f"'{name}' is left out: {look.reasons[name]}" for name in names if name in look.reasons]
    names = [name for name in names if name not in look.reasons]
    notes.extend(_remarks(params, look, names))
    return names


def _wanted(work: Workflow, look: Look, notes: list[str]) -> list[str]:
    params, specs = work.params, work.specs
    if params.selected_branches:
        if params.exclude_branches:
            notes.append("exclude_branches is not looked at beside selected_branches, as in the original")
        wanted, where = list(params.selected_branches), "selected_branches"
    elif specs is not None:
        wanted, where = (
            [name for name in (*specs.fkeys, *specs.jkeys) if name not in params.exclude_branches],
            "--specs",
        )
    else:
        return [name for name in look.names if name not in params.exclude_branches]
    unknown = [f"no branch '{name}'{nearest(name, look.names)}" for name in wanted if name not in look.names]
    if unknown:
        raise ConfigError(unknown, where=where)
    return wanted


def _remarks(params: Params, look: Look, names: Sequence[str]) -> Iterator[str]:
    asked = {"exclude_branches": params.exclude_branches}
    if params.identifier != IDENTIFIER:
        asked["identifier"] = params.identifier
    for key, branches in asked.items():
        yield from (f"{key}: no branch '{one}'{nearest(one, look.names)}" for one in branches if one not in look.names)
    if numbers := [name for name in names if name in IDENTIFIER]:
        told = ", ".join(numbers)
        yield f"{told}: may tell one file from another, and inputs too; identifier or exclude_branches keeps them out"
    truth = [name for name in names if looks_like_truth(name)]
    if truth:
        told = ", ".join(truth[:8]) + (f" and {len(truth) - 8} more" if len(truth) > 8 else "")
        yield f"by their names generator truth or weights, and inputs too: {told}; exclude_branches keeps them out"


def _groups(work: Workflow, look: Look, names: Sequence[str], notes: list[str]) -> dict[str, Any]:
    flat = [name for name in names if not isinstance(look.columns[name], Jagged)]
    groups: dict[str, Any] = {EVENT: flat} if flat else {}
    families = list(look.families([name for name in names if isinstance(look.columns[name], Jagged)]))
    for members, longest in zip(families, _lengths(work, look, families), strict=True):
        name = group_name(prefix_of(members[0]))
        if longest > MAX_LENGTH:
            notes.append(f"{', '.join(members)}: lists of up to {longest} values are cut to the first {MAX_LENGTH}")
        length = min(max(longest, 1), MAX_LENGTH)
        groups[_unlike(name, {*groups, *RESERVED_GROUPS})] = {"vars": members, "length": length}
    if not groups:
        raise ConfigError(["no branch is left to learn from"], where="params")
    return groups


def _lengths(work: Workflow, look: Look, families: Sequence[Sequence[str]]) -> list[int]:
    """As the specs say; else of the longest list."""
    dims = {} if work.specs is None else work.specs.jdim
    told = [max(dims[name] for name in one) if all(name in dims for name in one) else None for one in families]
    found = iter(look.longest([one for one, length in zip(families, told, strict=True) if length is None]))
    return [next(found) if length is None else length for length in told]
