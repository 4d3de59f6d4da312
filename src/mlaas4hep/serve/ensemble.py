"""Several models as one: their mean, votes, a linear combination, or a last model that sees their scores.

``NAME/ensemble.yaml`` in a model repository declares it. Invariant: the whole is a `ServedModel` like any other, made
of the members as they are at one time; when one of them is switched a new whole is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle.read import versions_of
from mlaas4hep.errors import BundleError, nearest
from mlaas4hep.graph.session import SCORES
from mlaas4hep.serve.beside import load_struct
from mlaas4hep.serve.combining import mean_of, sum_of, votes_of
from mlaas4hep.serve.joining import join_contracts, join_image, join_inputs
from mlaas4hep.serve.last import Last
from mlaas4hep.serve.measuring import measured
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec

ENSEMBLE_FILE = "ensemble.yaml"
VERSION = "1"
MAX_MEMBERS = 64

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}\Z")
_FLOATS = ("FP16", "FP32", "FP64")
_OUT_OF_FOLD = (
    "each of which left out one fold of the events that they were trained on; for those events scores out of fold are "
    "those of 'mlaas4hep evaluate'"
)

Find = Callable[[str, str | None], ServedModel]


class EnsembleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``ensemble.yaml`` says.

    Parameters
    ----------
    members
        Models of the same repository, ``NAME``, ``NAME/VERSION`` or ``NAME/LABEL``, or bundles elsewhere, as paths from
        the file that begin with ``./``, ``../`` or ``/``. A list, or a mapping that gives each a name.
    folds
        In place of members: a run that was trained in folds, as a path from the file.
    combine
        ``mean`` of the scores; ``vote``: the share of members that choose a class; ``linear``: the sum of scores times
        weights; ``stack``: the scores of a last model.
    weights
        One a member; ``linear`` needs them.
    intercept
        Added, with ``linear``.
    threshold
        With ``vote``: from which score on a member of one score votes for the signal.
    last
        With ``stack``: the last model, as a member is named.
    columns
        With ``stack`` and a bundle: from which member, or which score of it (``MEMBER.SCORE``), each of its columns
        comes. Left out, they are called ``MEMBER_SCORE``, or ``MEMBER`` where it has one.
    output
        Of members that have several outputs.
    answer
        ``members`` gives the scores of each beside those of the whole, ``whole`` gives these alone.
    """

    members: tuple[str, ...] | dict[str, str] = ()
    folds: str = ""
    combine: Literal["mean", "vote", "linear", "stack"] = "mean"
    weights: tuple[float, ...] | None = None
    intercept: float = 0.0
    threshold: float | None = None
    last: str = ""
    columns: dict[str, str] = {}
    output: str = ""
    answer: Literal["members", "whole"] = "members"


class Reference(NamedTuple):
    """A model that is named in a declaration."""

    name: str
    version: str | None
    path: Path | None

    @classmethod
    def of(cls, text: str, base: Path) -> Reference:
        """Of a text; paths count from ``base``."""
        if text.startswith(("./", "../", "/")):
            path = base / text
            return cls(path.parent.name if path.name.isdecimal() else path.name, None, path)
        name, _, version = text.partition("/")
        return cls(name, version or None, None)


class Declared(NamedTuple):
    """A declaration with all models that it names."""

    spec: EnsembleSpec
    members: dict[str, Reference]
    last: Reference | None
    where: str

    @property
    def names(self) -> frozenset[str]:
        """Of models in the same repository."""
        return frozenset(one.name for one in self._all if one.path is None)

    @property
    def paths(self) -> list[Path]:
        """Version folders elsewhere, as far as they are there."""
        return [folder for one in self._all if one.path and (folder := version_folder(one.path)) is not None]

    @property
    def _all(self) -> list[Reference]:
        return [*self.members.values(), *([self.last] if self.last else [])]


def read_ensemble(file: Path) -> Declared:
    """Read a declaration.

    Raises
    ------
    BundleError
        It cannot be read, or contradicts itself.
    """
    return declare(load_struct(file, EnsembleSpec), file.parent, str(file))


def declare(spec: EnsembleSpec, base: Path, where: str) -> Declared:
    """A declaration with its models; paths count from ``base``."""
    _check(spec, where)
    if spec.folds:
        members = _folds(base / spec.folds, where)
    elif isinstance(spec.members, dict):
        members = {name: Reference.of(text, base) for name, text in spec.members.items()}
    else:
        listed = [Reference.of(text, base) for text in spec.members]
        members = {one.name: one for one in listed}
        if len(members) < len(listed):
            asked = "name them apart: members: {a: tth/1, b: tth/2}"
            raise BundleError(f"{where}: two members are called alike ({', '.join(spec.members)}); {asked}")
    for name in members:
        if not _NAME.match(name) or name == SCORES:
            asked = f"a member's name is letters, digits, '_' and '-', and not '{SCORES}'"
            raise BundleError(f"{where}: {asked}; found '{name}': give it one: members: {{a: {name}, ...}}")
    if spec.weights is not None and (len(spec.weights) != len(members) or not all(map(np.isfinite, spec.weights))):
        asked = f"asked for {len(members)} numbers, one a member"
        raise BundleError(f"{where}: weights: {asked}, found {list(spec.weights)}")
    return Declared(spec, members, Reference.of(spec.last, base) if spec.last else None, where)


def open_ensemble(declared: Declared, name: str, *, find: Find, load: Callable[[Path], ServedModel]) -> ServedModel:
    """The whole of the members as they are now; parameters and errors as `open_parts`, and they may not go together."""
    models, last = open_parts(declared, find=find, load=load)
    return build_ensemble(name, declared.spec, models, last=last, where=declared.where)


def open_parts(
    declared: Declared, *, find: Find, load: Callable[[Path], ServedModel]
) -> tuple[dict[str, ServedModel], ServedModel | None]:
    """The members by name, and the last model where there is one.

    Parameters
    ----------
    find
        A model of the repository by name, and version or label.
    load
        A version folder elsewhere to a model.

    Raises
    ------
    BundleError, NotFoundError
        A member is not there or cannot be served.
    """

    def opened(reference: Reference) -> ServedModel:
        if reference.path is None:
            return find(reference.name, reference.version)
        folder = version_folder(reference.path)
        if folder is None:
            raise BundleError(f"{declared.where}: '{reference.path}' holds no model, NAME/1/model.onnx")
        return load(folder)

    models = {member: opened(reference) for member, reference in declared.members.items()}
    return models, opened(declared.last) if declared.last else None


def build_ensemble(
    name: str,
    spec: EnsembleSpec,
    models: Mapping[str, ServedModel],
    *,
    last: ServedModel | None = None,
    where: str = ENSEMBLE_FILE,
) -> ServedModel:
    """One model of several.

    Parameters
    ----------
    name
        Of the whole.
    spec
        How; its members are not looked at.
    models
        The members by name, in order.
    last
        With ``combine: stack``.
    where
        Named in errors.

    Raises
    ------
    BundleError
        They do not go together.
    """
    outputs = {member: _output(member, model, spec.output, where) for member, model in models.items()}
    _check_models([*models.items(), *([(spec.last, last)] if last else [])], where)
    if last is None:
        _check_alike(outputs, spec, where)
    inputs, routes = join_inputs(models)
    ending = None if last is None else Last.of(last, outputs, spec.columns, where)
    (whole, combine) = _whole(outputs, spec) if ending is None else (ending.output, ending.run)
    shown = outputs if spec.answer == "members" else {}

    def execute(tensors: Tensors) -> dict[str, NDArray[Any]]:
        found = {
            member: model.execute({own: tensors[shared] for own, shared in routes[member].items()})[
                outputs[member].name
            ]
            for member, model in models.items()
        }
        told = {whole.name: combine(list(found.values()))}
        return told | {member: found[member] for member in shown}

    contract = join_contracts(
        models,
        routes,
        name=name,
        score_names=[*whole.labels, *(f"{one}.{label}" for one, output in shown.items() for label in output.labels)],
        outputs=[whole.name, *shown],
        last=last.contract if last else None,
        where=where,
    )
    everyone = [*models.values(), *([last] if last else [])]
    return measured(
        ServedModel,
        name=name,
        version=VERSION,
        inputs=inputs,
        outputs=(whole, *(TensorSpec(one, out.datatype, out.shape, out.labels) for one, out in shown.items())),
        contract=contract if last is None or last.contract else None,
        batches=everyone[0].batches,
        max_rows=min(one.max_rows for one in everyone),
        execute=execute,
        image=join_image(models, routes),
        members=tuple(f"{one.name}/{one.version}" for one in everyone),
        note=_note(spec, list(models), last),
    )


def _check(spec: EnsembleSpec, where: str) -> None:
    count = len(spec.members)
    if bool(spec.folds) == bool(count):
        raise BundleError(f"{where}: asked for members (a list of models) or folds (a run), one of them")
    if count > MAX_MEMBERS:
        raise BundleError(f"{where}: {count} members; at most {MAX_MEMBERS} are served as one")
    belongs = {
        "weights": (spec.weights is not None, ("mean", "vote", "linear")),
        "intercept": (spec.intercept != 0, ("linear",)),
        "threshold": (spec.threshold is not None, ("vote",)),
        "last": (bool(spec.last), ("stack",)),
        "columns": (bool(spec.columns), ("stack",)),
    }
    for key, (given, ways) in belongs.items():
        if given and spec.combine not in ways:
            raise BundleError(f"{where}: {key} goes with combine: {' or '.join(ways)}, not with {spec.combine}")
    needed = {"linear": ("weights", spec.weights is not None), "stack": ("last", bool(spec.last))}
    key, given = needed.get(spec.combine, ("", True))
    if not given:
        raise BundleError(f"{where}: combine: {spec.combine} needs {key}")
    if spec.weights is not None and spec.combine != "linear" and not sum(spec.weights) > 0:
        raise BundleError(f"{where}: weights: the sum is to be above 0, found {list(spec.weights)}")


def _folds(run: Path, where: str) -> dict[str, Reference]:
    """The models of a run that was trained in folds: ``RUN/folds/0/model/NAME``."""
    folders = sorted((one for one in (run / "folds").glob("*") if one.name.isdecimal()), key=lambda one: int(one.name))
    found: dict[str, Reference] = {}
    for folder in folders:
        models = [one for one in sorted((folder / "model").glob("*")) if versions_of(one)]
        if len(models) != 1:
            raise BundleError(f"{where}: {folder / 'model'} holds {len(models)} models; asked for one a fold")
        found[f"fold{folder.name}"] = Reference(models[0].name, None, models[0])
    if not found:
        raise BundleError(f"{where}: '{run}' is no run that was trained in folds: it has no folds/0/model")
    return found


def version_folder(path: Path) -> Path | None:
    """A version folder, or the newest of a model."""
    if path.name.isdecimal() and path.is_dir():
        return path
    versions = versions_of(path) if path.is_dir() else []
    return path / str(max(versions)) if versions else None


def _output(member: str, model: ServedModel, wanted: str, where: str) -> TensorSpec:
    names = [one.name for one in model.outputs]
    if model.contract is None and not wanted and len(names) > 1:
        asked = f"say which one counts: output: {', '.join(names)}"
        raise BundleError(f"{where}: member '{member}' has several outputs; {asked}")
    name = SCORES if model.contract is not None else wanted or names[0]
    if name not in names:
        raise BundleError(f"{where}: member '{member}' has no output '{name}'{nearest(name, names)}")
    found = next(one for one in model.outputs if one.name == name)
    if found.datatype not in _FLOATS:
        raise BundleError(f"{where}: output '{name}' of member '{member}' is {found.datatype}; asked for numbers")
    return found


def _check_models(models: Sequence[tuple[str, ServedModel]], where: str) -> None:
    for member, model in models:
        if model.members:
            raise BundleError(f"{where}: '{member}' is several models itself; name its members instead")
        if model.batches != models[0][1].batches:
            asked = "either all or none say in config.pbtxt that rows may be joined (max_batch_size)"
            raise BundleError(f"{where}: '{models[0][0]}' and '{member}' do not go together: {asked}")


def _check_alike(outputs: Mapping[str, TensorSpec], spec: EnsembleSpec, where: str) -> None:
    (first, asked), *others = outputs.items()
    for member, found in others:
        if found.shape != asked.shape or (found.labels and asked.labels and found.labels != asked.labels):
            ends = [f"{list(one.shape)} {', '.join(one.labels)}".strip() for one in (asked, found)]
            raise BundleError(f"{where}: '{first}' gives {ends[0]}, '{member}' gives {ends[1]}; asked for the same")
    if spec.combine == "vote" and not asked.shape:
        raise BundleError(f"{where}: '{first}' gives one number without a dimension of classes, which is no vote")


def _whole(
    outputs: Mapping[str, TensorSpec], spec: EnsembleSpec
) -> tuple[TensorSpec, Callable[[Sequence[NDArray[Any]]], NDArray[Any]]]:
    """The output of the whole, and how it comes from those of the members."""
    first = next(iter(outputs.values()))
    names = {one.name for one in outputs.values()}
    double = any(one.datatype == "FP64" for one in outputs.values())
    labels = next((one.labels for one in outputs.values() if one.labels), ())
    name = first.name if len(names) == 1 and first.name not in outputs else SCORES
    whole = TensorSpec(name, "FP64" if double else "FP32", first.shape, labels)

    def combine(scores: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if spec.combine == "linear":
            found = sum_of(scores, spec.weights or (), spec.intercept)
        elif spec.combine == "vote":
            found = votes_of(scores, spec.weights, 0.5 if spec.threshold is None else spec.threshold)
        else:
            found = mean_of(scores, spec.weights)
        return found.astype(whole.dtype)

    return whole, combine


def _note(spec: EnsembleSpec, members: Sequence[str], last: ServedModel | None) -> str:
    weighted = "weighted " if spec.weights is not None else ""
    words = {"mean": f"the {weighted}mean", "vote": f"{weighted}votes", "linear": "a linear combination"}
    head = words.get(spec.combine) or f"'{last.name if last else ''}' on the scores"
    if spec.folds:
        return f"{head} of {len(members)} models, {_OUT_OF_FOLD}"
    return f"{head} of {len(members)} models: {', '.join(members)}"
