"""What a typed document can still say wrong: ranges, references, names, expressions.

Each check yields one line a problem, beginning with its path. Invariant: none stops at the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import UNSET

from mlaas4hep.config.addresses import secrets_in, shown
from mlaas4hep.config.classes import check_targets, conditions_of
from mlaas4hep.config.document import Document
from mlaas4hep.config.on_error import OnError
from mlaas4hep.config.samples import check_samples
from mlaas4hep.config.values import MOST_SEED, SIZE, Training
from mlaas4hep.errors import ExpressionError
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import EVENT, MAX_FOLDS, MAX_WIDTH, Split
from mlaas4hep.spec.new_variables import MAX_NEW_VARIABLES, circle_line, in_order, too_many

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check(document: Document, written: Mapping[Any, Any]) -> Iterator[str]:
    """Problems of a document.

    Parameters
    ----------
    document
        What could be read.
    written
        The same as it was written, with the parts that could not be read: what builds on one of those is not a second
        mistake.
    """
    eras, samples = _keys(written, "eras"), _keys(written, "samples")
    yield from check_samples(document, eras, whole=samples == set(document.samples))
    if not _keys(written, "inputs"):
        yield "inputs: lists no group; wants at least one variable, such as event: [MET_pt]"
    yield from _check_inputs(document)
    yield from _check_expressions(document)
    yield from check_targets(document)
    yield from _check_split(document.split)
    yield from _check_model(document.model)
    yield from _check_training(document.training)
    yield from _check_missing(document.missing)
    yield from _check_reading(document)
    if document.name is not None and not MODEL_NAME.match(document.name):
        yield f"name: '{document.name}' cannot name a model; use letters, digits, _ . and -"


def _keys(written: Mapping[Any, Any], name: str) -> set[str]:
    part = written.get(name)
    return {str(key) for key in part} if isinstance(part, Mapping) else set()


def _check_inputs(document: Document) -> Iterator[str]:
    groups = document.groups()
    for group in groups:
        yield from (f"inputs.{group.name}: {problem}" for problem in group.problems())
        if group.name != EVENT and group.length is None:
            yield f"inputs.{group.name}.length: is required: how many objects of the collection the model sees"
        if group.name == EVENT and (group.length is not None or group.sort is not None):
            yield "inputs.event: is flat, one value an event: it takes neither length nor sort"
        for index, variable in enumerate(group.variables):
            if variable.clip is not None:
                path = f"inputs.{group.name}.vars[{index}].clip"
                yield from (f"{path}: {problem}" for problem in _check_clip(*variable.clip))
    width = sum(group.width for group in groups)
    if width > MAX_WIDTH:
        yield f"inputs: {width} numbers an event; at most {MAX_WIDTH} fit one model"


def _check_clip(low: float, high: float) -> Iterator[str]:
    if not (math.isfinite(low) and math.isfinite(high)):
        yield f"{[low, high]} is not finite; wants two numbers, [low, high]"
    elif not low < high:
        yield f"{[low, high]} is empty; wants [low, high]"


def _check_expressions(document: Document) -> Iterator[str]:
    if len(document.new_variables) > MAX_NEW_VARIABLES:
        yield too_many(document.new_variables)
    for where, text in _expressions(document):
        try:
            Expression.parse(text, where=where)
        except ExpressionError as error:
            yield str(error).replace("\n", "\n    ")
    for name in document.new_variables:
        if not _IDENTIFIER.match(name):
            yield f"new_variables.{name}: is not a name; use letters, digits and _"
    yield from _check_cycles(document.new_variables)


def _expressions(document: Document) -> Iterator[tuple[str, str]]:
    if document.preselection is not None:
        yield "preselection", document.preselection
    yield from ((f"new_variables.{name}", text) for name, text in document.new_variables.items())
    yield from ((f"inputs.{name}.sort", group.sort) for name, group in document.inputs.items() if group.sort)
    if document.weights.event is not None:
        yield "weights.event", document.weights.event
    for name, sample in document.samples.items():
        if sample.selection is not None:
            yield f"samples.{name}.selection", sample.selection
        yield from conditions_of(f"samples.{name}.labels", sample.labels)
    yield from conditions_of("labels", document.labels)
    yield from ((f"targets.{name}", text) for name, text in document.targets.items())
    yield from ((f"observers[{index}]", text) for index, text in enumerate(document.observers))
    for name, replacements in document.variations.items():
        yield from ((f"variations.{name}.{target}", text) for target, text in replacements.items())


def _check_cycles(new_variables: Mapping[str, str]) -> Iterator[str]:
    uses: dict[str, frozenset[str]] = {}
    for name, text in new_variables.items():
        try:
            uses[name] = Expression.parse(text).names
        except ExpressionError:
            return  # reported where expressions are checked
    _, circle = in_order(uses)
    if circle:
        yield circle_line(circle)


def _check_split(split: Split) -> Iterator[str]:
    for name, share in (("test", split.test), ("validation", split.validation)):
        if not 0 <= share < 1:
            yield f"split.{name}: {share} is not a share of the events; wants 0 to below 1"
    if split.folds is not UNSET or split.fold is not UNSET:
        yield from _check_folds(split)
        return
    if split.test + split.validation >= 1:
        yield f"split: test {split.test} and validation {split.validation} leave nothing to train on"


def _check_folds(split: Split) -> Iterator[str]:
    folds, fold = split.num_folds, split.held_out
    if split.folds is UNSET:
        yield f"split.fold: {fold} of how many? wants split.folds beside it, such as {{folds: 5, fold: {fold}}}"
        return
    if not 2 <= folds <= MAX_FOLDS:
        yield f"split.folds: {folds} is no number of folds; wants 2 to {MAX_FOLDS}, such as 5"
        return
    if fold is not None and not 0 <= fold < folds:
        yield f"split.fold: {fold} is none of the {folds} folds; wants 0 to {folds - 1}"
    if split.test:
        yield (
            f"split.test: {split.test} beside folds: each of the {folds} folds is held out once and scored by the "
            "model that has not seen it, so there is no other test part; leave test out (or 0)"
        )
    if split.validation >= 1 - 1 / folds:
        yield (
            f"split: validation {split.validation} beside a held-out fold of {1 / folds:.3g} leaves nothing to train on"
        )


def _check_model(model: Any) -> Iterator[str]:
    if isinstance(model, str):
        return
    if not isinstance(model, Mapping):
        yield f"model: wants a name such as mlp, or a mapping with name or file; found {model!r}"
        return
    for key in ("name", "backend", "file"):
        if key in model and not isinstance(model[key], str):
            yield f"model.{key}: wants text, found {model[key]!r}"


def _check_training(training: Training) -> Iterator[str]:
    for name in ("epochs", "batch_size", "shuffle_window", "patience"):
        if getattr(training, name) < 1:
            yield f"training.{name}: {getattr(training, name)} is below 1"
    if not 0 <= training.seed <= MOST_SEED:
        yield f"training.seed: {training.seed} is out of range; wants a whole number from 0 to {MOST_SEED}"
    if not training.checkpoint_s >= 0:
        yield f"training.checkpoint_s: {training.checkpoint_s} is not a time in seconds; wants 0 or more"
    if not SIZE.match(training.max_memory) or training.max_memory_bytes < 1:
        yield f"training.max_memory: '{training.max_memory}' is not a size; write it as '2 GB'"


def _check_missing(missing: tuple[float, ...]) -> Iterator[str]:
    for index, value in enumerate(missing):
        if not math.isfinite(value):
            yield f"missing[{index}]: {value} is no value; NaN is missing anyway, infinities are clipped by the model"


def _check_reading(document: Document) -> Iterator[str]:
    if document.training.shuffle == "exact" and document.cache is None:
        yield "training.shuffle: exact needs all events on a local disk; say where, as in cache: /scratch/rows"
    try:
        OnError.parse(document.on_error)
    except ValueError as problem:
        yield f"on_error: {problem}"
    yield from _tracking(document)
    if document.cache is not None and (not SIZE.match(document.cache.limit) or document.cache.limit_bytes < 1):
        yield f"cache.limit: '{document.cache.limit}' is not a size; write it as '50 GB'"


def _tracking(document: Document) -> Iterator[str]:
    address = document.tracking.mlflow if document.tracking is not None else None
    if address in (None, "env"):
        return
    if not re.match(r"https?://[^/\s]+", address):
        yield f"tracking.mlflow: '{shown(address)}' is no address of a server; wants http://host:port, or env"
    for name, _ in secrets_in(address):
        yield (
            f"tracking.mlflow: {shown(address)} is written with a credential ({name}), and configs are copied into "
            "runs; set MLFLOW_TRACKING_TOKEN in the environment instead"
        )
