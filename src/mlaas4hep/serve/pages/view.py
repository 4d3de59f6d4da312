"""What the page of one model shows, gathered from its contract, its figures and its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from mlaas4hep.errors import NotFoundError
from mlaas4hep.serve.model import Contract, ServedModel
from mlaas4hep.serve.pages.described import ClassRow, GroupView, class_rows, derived, group_views, picture_words
from mlaas4hep.serve.pages.fields import Field, event_fields, row_shape, tensor_fields, typical_event
from mlaas4hep.serve.pages.listing import MemberRow, ModelRow, VersionRow, member_rows
from mlaas4hep.serve.pages.recipes import Recipe, recipes_for_events, recipes_for_pictures, recipes_for_tensors
from mlaas4hep.serve.pages.sealed import Facts, facts_of
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.statistics import FeatureStatistics


@dataclass(frozen=True, slots=True)
class ContractView:
    """What a contract tells; see `mlaas4hep.serve.pages.described`."""

    spec: ModelSpec
    groups: Sequence[GroupView]
    derived: Mapping[str, str]
    columns: Mapping[str, str]
    classes: Sequence[ClassRow]
    targets: Mapping[str, FeatureStatistics]
    spec_sha256: str
    model_sha256: str


@dataclass(frozen=True, slots=True)
class ModelView:
    """A version of a model that is loaded.

    Parameters
    ----------
    model
        It.
    version
        Its line in the list.
    facts
        Where it comes from.
    members
        Models that it is made of; empty where it is one.
    contract
        None of a plain graph.
    picture
        What becomes of a picture, step by step; empty where none is taken.
    fields
        Of the form; empty where it is too large for one.
    form
        What the script of the form has to know.
    recipes
        How to ask from elsewhere.
    """

    model: ServedModel
    version: VersionRow
    facts: Facts
    members: Sequence[MemberRow]
    contract: ContractView | None
    picture: Sequence[str]
    fields: Sequence[Field]
    form: Mapping[str, Any]
    recipes: Sequence[Recipe]


def model_view(
    service: InferenceService, row: ModelRow, version: str | None, *, url: str, guarded: bool
) -> ModelView | None:
    """What the page shows of a version, of the newest where none is asked for; None where nothing is loaded.

    Raises
    ------
    NotFoundError
        Other versions are.
    """
    served = service.repository.entry(row.name)
    if served is None:
        return None
    model = served.known.get(version)
    if model is None:
        there = ", ".join(served.versions)
        raise NotFoundError(f"model '{row.name}' has no version {version}; versions: {there}")
    line = next((one for one in row.versions if one.version == model.version), row.newest)
    facts = facts_of(model)
    shown = model.image is not None and len(model.inputs) == 1
    pictures = recipes_for_pictures(url, model.name, guarded=guarded) if shown else []
    whole = partial(
        ModelView,
        model=model,
        version=line,
        facts=facts,
        members=member_rows(service, model),
        picture=picture_words(model.image) if model.image is not None else (),
    )
    if model.contract is None:
        recipes = [*pictures, *recipes_for_tensors(url, model, guarded=guarded)]
        form = _asks_pictures(model) if pictures else _asks_tensors(model)
        return whole(contract=None, fields=tensor_fields(model), form=form, recipes=recipes)
    event = typical_event(model.contract)
    return whole(
        contract=_contract_view(model.contract, facts),
        fields=event_fields(model.contract, event),
        form=_asks_events(model, model.contract.spec),
        recipes=[*recipes_for_events(url, model.name, event, guarded=guarded), *pictures],
    )


def _contract_view(contract: Contract, facts: Facts) -> ContractView:
    return ContractView(
        spec=contract.spec,
        groups=group_views(contract, facts.metrics.missing_inputs if facts.metrics else ""),
        derived=derived(contract),
        columns={name: str(declared) for name, declared in contract.reader.types.items()},
        classes=list(class_rows(contract.spec)),
        targets=_targets(contract.spec),
        spec_sha256=contract.spec_sha256,
        model_sha256=contract.model_sha256,
    )


def _targets(spec: ModelSpec) -> dict[str, FeatureStatistics]:
    return dict(spec.statistics.targets.features) if spec.statistics.targets else {}


def _asks_events(model: ServedModel, spec: ModelSpec) -> dict[str, Any]:
    scores = model.outputs[0].labels
    return {
        "kind": "events",
        "path": f"v1/models/{quote(model.name, safe='')}/versions/{model.version}:predict",
        "task": spec.task,
        "classes": spec.classes,
        "scores": scores,
        # Scores of members, and the score of the whole that each is of.
        "members": [(name, name.partition(".")[2]) for name in spec.score_names if name not in scores],
        "ranges": {name: (one.minimum, one.maximum) for name, one in _targets(spec).items()},
        "preselection": spec.features.preselection,
    }


def _asks_pictures(model: ServedModel) -> dict[str, Any]:
    return {
        "kind": "picture",
        "path": f"v1/models/{quote(model.name, safe='')}/versions/{model.version}:predict",
        "labels": {one.name: one.labels for one in model.outputs if one.labels},
    }


def _asks_tensors(model: ServedModel) -> dict[str, Any]:
    return {
        "kind": "tensors",
        "path": f"v2/models/{quote(model.name, safe='')}/versions/{model.version}/infer",
        "shapes": {one.name: row_shape(one, batches=model.batches) for one in model.inputs},
        "datatypes": {one.name: one.datatype for one in model.inputs},
        "labels": {one.name: one.labels for one in model.outputs if one.labels},
    }
