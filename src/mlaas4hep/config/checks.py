"""What a typed document can still say wrong: ranges, references, names, expressions.

Each check yields one line a problem, beginning with its path. Invariant: none stops at the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlaas4hep.config.document import Document
from mlaas4hep.config.values import SIZE, Training
from mlaas4hep.errors import ExpressionError, nearest
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import EVENT, MAX_WIDTH, Split

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check(document: Document) -> Iterator[str]:
    yield from _check_samples(document)
    yield from _check_inputs(document)
    yield from _check_expressions(document)
    yield from _check_split(document.split)
    yield from _check_classes(document)
    yield from _check_model(document.model)
    yield from _check_training(document.training)
    if document.name is not None and not MODEL_NAME.match(document.name):
        yield f"name: '{document.name}' cannot name a model; use letters, digits, _ . and -"


def _check_samples(document: Document) -> Iterator[str]:
    for name, sample in document.samples.items():
        path = f"samples.{name}"
        if not sample.files:
            yield f"{path}.files: lists no file"
        if sample.era is not None and sample.era not in document.eras:
            yield f"{path}.era: '{sample.era}' is not under eras{nearest(sample.era, document.eras)}"
        if sample.xsec_pb is not None and not sample.xsec_pb > 0:
            yield f"{path}.xsec_pb: {sample.xsec_pb} is not a cross-section in pb; wants a number above 0"
        if isinstance(sample.sum_of_weights, str) and "/" not in sample.sum_of_weights:
            yield f"{path}.sum_of_weights: '{sample.sum_of_weights}' is neither a number nor Tree/branch"
        if sample.xsec_pb is not None and sample.sum_of_weights is None and sample.kind == "mc":
            yield f"{path}.xsec_pb: needs sum_of_weights as well (a number, or a branch such as Runs/genEventSumw)"
    for name, era in document.eras.items():
        if not era.lumi_fb > 0:
            yield f"eras.{name}.lumi_fb: {era.lumi_fb} is not a luminosity in fb^-1; wants a number above 0"


def _check_inputs(document: Document) -> Iterator[str]:
    groups = document.groups()
    for group in groups:
        yield from (f"inputs.{group.name}: {problem}" for problem in group.problems())
        if group.name != EVENT and group.length is None:
            yield f"inputs.{group.name}.length: is required: how many objects of the collection the model sees"
        if group.name == EVENT and (group.length is not None or group.sort is not None):
            yield "inputs.event: is flat, one value an event: it takes neither length nor sort"
        for index, variable in enumerate(group.variables):
            if variable.clip is not None and not variable.clip[0] < variable.clip[1]:
                yield f"inputs.{group.name}.vars[{index}].clip: {list(variable.clip)} is empty; wants [low, high]"
    width = sum(group.width for group in groups)
    if width > MAX_WIDTH:
        yield f"inputs: {width} numbers an event; at most {MAX_WIDTH} fit one model"


def _check_expressions(document: Document) -> Iterator[str]:
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
    for name, replacements in document.variations.items():
        yield from ((f"variations.{name}.{target}", text) for target, text in replacements.items())


def _check_cycles(new_variables: Mapping[str, str]) -> Iterator[str]:
    uses: dict[str, set[str]] = {}
    for name, text in new_variables.items():
        try:
            uses[name] = set(Expression.parse(text).names) & set(new_variables)
        except ExpressionError:
            return  # reported where expressions are checked
    resolved: set[str] = set()
    while ready := {name for name, needs in uses.items() if name not in resolved and needs <= resolved}:
        resolved |= ready
    circle = sorted(set(uses) - resolved)
    if circle:
        yield f"new_variables: {', '.join(circle)} need each other in a circle"


def _check_split(split: Split) -> Iterator[str]:
    for name, share in (("test", split.test), ("validation", split.validation)):
        if not 0 <= share < 1:
            yield f"split.{name}: {share} is not a share of the events; wants 0 to below 1"
    if split.test + split.validation >= 1:
        yield f"split: test {split.test} and validation {split.validation} leave nothing to train on"


def _check_classes(document: Document) -> Iterator[str]:
    labels = document.labels_of_samples()
    named = document.labels
    if named.classes and document.samples:
        yield from (
            f"labels.classes: no sample has the label '{name}'{nearest(name, labels)}"
            for name in named.classes
            if name not in labels
        )
        yield from (
            f"labels.classes: the label '{label}' of the samples is not listed"
            for label in sorted(set(labels) - set(named.classes))
        )
    if named.signal is not None and named.signal not in labels:
        yield f"labels.signal: no sample has the label '{named.signal}'{nearest(named.signal, labels)}"
    if len(set(labels)) == 1:
        yield f"samples: all have the label '{labels[0]}'; a classifier needs at least two classes"
    if len(set(labels)) == 2 and "signal" not in labels and not (named.classes or named.signal):
        first, second = sorted(set(labels))
        yield f"labels.signal: is required to say which of '{first}' and '{second}' the score is for"


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
    if not SIZE.match(training.max_memory):
        yield f"training.max_memory: '{training.max_memory}' is not a size; write it as '2 GB'"
