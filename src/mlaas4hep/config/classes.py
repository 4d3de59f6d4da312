"""What labels, classes and targets can still say wrong.

Each check yields one line a problem, beginning with its path. Invariant: of a config without problems every simulated
event has one class, no class, or targets, and at least two classes can occur where there are classes at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mlaas4hep.config.document import Document
from mlaas4hep.config.labels import Labels, Value, has_rule, rule_of
from mlaas4hep.config.values import Sample
from mlaas4hep.errors import nearest
from mlaas4hep.spec.features import MAX_TARGETS

_TARGET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def conditions_of(path: str, labels: Labels | None) -> Iterator[tuple[str, str]]:
    """Place and text of every condition."""
    if labels is not None:
        yield from ((f"{path}.expressions.{name}", text) for name, text in labels.expressions.items())


def check_labels_of(path: str, sample: Sample) -> Iterator[str]:
    """Problems of what one sample says about its own labels."""
    labels = sample.labels
    if sample.kind == "data":
        for key in ("label", "labels"):
            if getattr(sample, key) is not None:
                yield f"{path}.{key}: events of kind data have no class; leave it out"
        return
    if labels is None:
        return
    if sample.label is not None:
        yield f"{path}: has both label and labels; wants one class for all events, or what tells them apart"
    if labels.signal is not None:
        yield f"{path}.labels.signal: stands at the top, for all samples: labels.signal"
    if not has_rule(labels):
        yield f"{path}.labels: tells no events apart; wants column or expressions, or label for one class"
    yield from _check_rule(f"{path}.labels", labels)


def check_classes(document: Document) -> Iterator[str]:
    """Problems of all labels together; asked where every sample could be read."""
    simulated = [sample for sample in document.samples.values() if sample.kind == "mc"]
    if not document.samples:
        yield "samples: lists none; wants at least one, such as ttH: {files: ttH.root}"
        return
    if not simulated:
        yield "samples: all are of kind data; wants simulated ones (kind mc) of at least two classes to learn from"
        return
    if document.targets:
        yield from _check_no_classes(document)
        return
    yield from _check_rule("labels", document.labels)
    yield from _check_values(document)
    yield from _check_occurring(document)


def check_targets(document: Document) -> Iterator[str]:
    """Problems of the targets of a regression."""
    if len(document.targets) > MAX_TARGETS:
        yield f"targets: lists {len(document.targets)}; at most {MAX_TARGETS} fit one model"
    for name in document.targets:
        if not _TARGET_NAME.match(name):
            yield f"targets.{name}: is not a name; use letters, digits and _"


def _check_no_classes(document: Document) -> Iterator[str]:
    told = "a regression has targets, no classes; leave out this or targets"
    if document.labels != Labels():
        yield f"labels: {told}"
    for name, sample in document.samples.items():
        if sample.kind == "mc":
            given = [key for key in ("label", "labels") if getattr(sample, key) is not None]
            yield from (f"samples.{name}.{key}: {told}" for key in given)


def _check_rule(path: str, labels: Labels) -> Iterator[str]:
    if labels.column is not None and labels.expressions:
        yield f"{path}: has both column and expressions; wants one of them"
    if not isinstance(labels.classes, Mapping):
        return
    if labels.expressions:
        yield f"{path}.classes: gives values, which belong to a column; wants a list of names beside expressions"
    of: dict[Value, str] = {}
    for name, values in labels.classes.items():
        if not values:
            yield f"{path}.classes.{name}: lists no value"
        for value in values:
            if of.setdefault(value, name) != name:
                yield f"{path}.classes: the value {value!r} stands for both '{of[value]}' and '{name}'"
    if len({isinstance(value, str) for value in of}) > 1:
        yield f"{path}.classes: mixes text and numbers; a column holds one or the other"


def _check_values(document: Document) -> Iterator[str]:
    """Columns need values, values need a column."""
    common = document.labels
    own = {f"samples.{name}.labels": one.labels for name, one in document.samples.items() if one.labels is not None}
    for path, labels in {"labels": common, **own}.items():
        if labels.column is not None and not (labels.classes or common.classes):
            yield (
                f"{path}.classes: is required beside column: which value is which class, such as "
                "{background: 0, signal: 1}, or a list for 0, 1, ..."
            )
    columns = [labels for labels in (common, *own.values()) if labels.column is not None]
    if isinstance(common.classes, Mapping) and not columns:
        yield "labels.classes: gives values, but no labels.column to find them in"


def _check_occurring(document: Document) -> Iterator[str]:
    """Classes that are named occur, those that occur are named, and there are two of them."""
    named, found = document.labels, document.labels_of_samples()
    ruled = any(rule_of(sample, named) is not None for sample in document.samples.values())
    if named.classes:
        yield from _check_named(tuple(named.classes), found, ruled=ruled)
    if named.signal is not None and named.signal not in found:
        yield f"labels.signal: no {_whose(ruled)} the label '{named.signal}'{nearest(named.signal, found)}"
    if len(set(found)) == 1:
        all_of = "labels: all events" if ruled else "samples: all"
        yield f"{all_of} have the label '{found[0]}'; a classifier needs at least two classes"
    listed = named.signal or (named.classes and not isinstance(named.classes, Mapping))
    if len(set(found)) == 2 and "signal" not in found and not listed:
        first, second = sorted(set(found))
        yield f"labels.signal: is required to say which of '{first}' and '{second}' the score is for"


def _check_named(classes: Sequence[str], found: Sequence[str], *, ruled: bool) -> Iterator[str]:
    for name in dict.fromkeys(classes):
        if classes.count(name) > 1:
            yield f"labels.classes: lists '{name}' {'twice' if classes.count(name) == 2 else 'several times'}"
        if name not in found:
            yield f"labels.classes: no {_whose(ruled)} the label '{name}'{nearest(name, found)}"
    for label in sorted(set(found) - set(classes)):
        whose = "samples" if not ruled else "samples and their events"
        yield f"labels.classes: the label '{label}' of the {whose} is not listed"


def _whose(ruled: bool) -> str:
    return "event can have" if ruled else "sample has"
