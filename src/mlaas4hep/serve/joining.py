"""Inputs of several models as those of one: tensors that are the same are sent once, events are read once.

Two bundles take the same tensors where their contracts prepare the same variables in the same way, whatever their
scaling, which is inside their graphs. Invariant: each member gets what it would get if it were asked alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BundleError
from mlaas4hep.serve.events import EventReader
from mlaas4hep.serve.images import ImageInput
from mlaas4hep.serve.model import Contract, Prepares, ServedModel, TensorSpec
from mlaas4hep.spec.columns import Columns, ColumnType
from mlaas4hep.spec.contract import canonical_json
from mlaas4hep.spec.preprocess import Prepared

# By member, its own inputs to those of the whole.
Routes = dict[str, dict[str, str]]


def join_inputs(models: Mapping[str, ServedModel]) -> tuple[tuple[TensorSpec, ...], Routes]:
    """Inputs of the whole, and where each member's come from.

    Members that take other tensors than the first keep theirs under names of their own, ``MEMBER.INPUT``.
    """
    groups: dict[str, list[str]] = {}
    for name, model in models.items():
        groups.setdefault(inputs_sha256(model), []).append(name)
    inputs: list[TensorSpec] = []
    routes: Routes = {}
    for names in groups.values():
        prefix = f"{names[0]}." if len(groups) > 1 else ""
        own = models[names[0]].inputs
        inputs += [replace(one, name=prefix + one.name) for one in own]
        routes |= {name: {one.name: prefix + one.name for one in own} for name in names}
    return tuple(inputs), {name: routes[name] for name in models}


def inputs_sha256(model: ServedModel) -> str:
    """Over all that makes the tensors of a model: of a bundle how events become them, else their names and types."""
    if model.contract is None:
        told: Any = [(one.name, one.datatype, one.shape) for one in model.inputs]
    else:
        features = model.contract.spec.features
        told = {
            "groups": [
                (one.name, [variable.name for variable in one.variables], one.length, one.sort)
                for one in features.inputs
            ],
            "preselection": features.preselection,
            "new_variables": features.new_variables,
            "missing": features.missing_values,
            "columns": model.contract.spec.columns,
        }
    return hashlib.sha256(canonical_json(told)).hexdigest()


def join_image(models: Mapping[str, ServedModel], routes: Routes) -> ImageInput | None:
    """The input that pictures become, where it is the same for all members."""
    images = [(one.image, routes[name].get(one.image.name)) for name, one in models.items() if one.image]
    if len(images) < len(models) or len({name for _, name in images}) != 1:
        return None
    first, name = images[0]
    same = all((one.spec, one.shape) == (first.spec, first.shape) for one, _ in images)
    return replace(first, name=name) if same and name else None


def join_contracts(
    models: Mapping[str, ServedModel],
    routes: Routes,
    *,
    name: str,
    score_names: Sequence[str],
    outputs: Sequence[str],
    last: Contract | None,
    where: str,
) -> Contract | None:
    """How events by name are read for all members; None where one of them knows no columns.

    Parameters
    ----------
    score_names, outputs
        Of the whole, in order.
    last
        Of the model whose scores are those of the whole; None for the first member's.

    Raises
    ------
    BundleError
        Two members declare a column with different types.
    """
    contracts = {member: model.contract for member, model in models.items() if model.contract is not None}
    if len(contracts) < len(models):
        return None
    parts: dict[str, tuple[Contract, dict[str, str]]] = {}
    for member, contract in contracts.items():
        parts.setdefault(next(iter(routes[member].values())), (contract, routes[member]))
    types = _types(contracts, where)
    first = next(iter(contracts.values()))
    preprocessor: Prepares = first.preprocessor if len(parts) == 1 else JoinedPreprocessor(list(parts.values()))
    cuts = dict.fromkeys(one.spec.features.preselection for one, _ in parts.values() if one.spec.features.preselection)
    cut = " && ".join(f"({one})" for one in cuts) if len(cuts) > 1 else next(iter(cuts), None)
    scored = (last or first).spec
    spec = msgspec.structs.replace(
        first.spec,
        name=name,
        task=scored.task,
        classes=scored.classes,
        score_names=tuple(score_names),
        features=msgspec.structs.replace(first.spec.features, preselection=cut),
        provenance={},
    )
    hashed = [*contracts.values(), *([last] if last else [])]
    return Contract(
        spec=spec,
        model_sha256=_together([one.model_sha256 for one in hashed]),
        spec_sha256=_together([one.spec_sha256 for one in hashed]),
        preprocessor=preprocessor,
        reader=EventReader(types),
        files={},
        outputs=tuple(outputs),
    )


class JoinedPreprocessor:
    """Columns to the tensors of several models.

    Parameters
    ----------
    parts
        Of each that prepares for itself its contract, and its inputs to those of the whole.
    """

    def __init__(self, parts: Sequence[tuple[Contract, Mapping[str, str]]]) -> None:
        self._parts = [(contract.preprocessor, names) for contract, names in parts]

    @property
    def known(self) -> Mapping[str, ColumnType]:
        """Types of all columns and new variables; of the first where several have one of a name."""
        return {name: one for part, _ in reversed(self._parts) for name, one in part.known.items()}

    def needs(self, name: str) -> frozenset[str]:
        """Raw columns behind a column or new variable."""
        return self._first_with(name).needs(name)

    def type_of(self, name: str) -> ColumnType:
        """Type of a column or new variable."""
        return self._first_with(name).type_of(name)

    def _first_with(self, name: str) -> Prepares:
        return next(part for part, _ in self._parts if name in part.known)

    def run(self, columns: Columns, num_entries: int) -> Prepared:
        """As `mlaas4hep.spec.preprocess.Preprocessor.run`; selected are events that all of them select."""
        found = [(one.run(columns, num_entries), names) for one, names in self._parts]
        selected = np.logical_and.reduce([one.selected for one, _ in found])
        inputs: dict[str, NDArray[np.float32]] = {}
        for one, names in found:
            rows = selected[one.selected]
            inputs |= {names[own]: tensor if rows.all() else tensor[rows] for own, tensor in one.inputs.items()}
        return Prepared(inputs, selected, truncated={}, lengths={})


def _types(contracts: Mapping[str, Contract], where: str) -> dict[str, ColumnType]:
    found: dict[str, tuple[str, ColumnType]] = {}
    for member, contract in contracts.items():
        for column, declared in contract.reader.types.items():
            other, before = found.setdefault(column, (member, declared))
            if before != declared:
                asked = f"column '{column}' is {before} for '{other}' and {declared} for '{member}'"
                raise BundleError(f"{where}: {asked}; members are asked with the same events")
    return {column: declared for column, (_, declared) in found.items()}


def _together(hashes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
