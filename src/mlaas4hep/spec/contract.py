"""The sealed contract: what was declared, what the data added, and nothing that is not needed to repeat it.

A `ModelSpec` is written into every bundle as ``spec.json`` and read by whoever wants the model's scores. Invariant: its
hash covers everything that can change a score or its meaning, and nothing else (where the files lay, when it was
trained and by which versions stands in ``provenance``, outside the hash).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from mlaas4hep.arguments import require
from mlaas4hep.errors import BundleError, ConfigError, ExpressionError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.features import MAX_VARIABLES, MAX_WIDTH, FeatureSpec, InputGroup
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import (
    FLOAT32_MAX,
    FeatureScaling,
    FeatureSummary,
    GroupScaling,
    flat_names,
    group_scaling,
)
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics
from mlaas4hep.spec.targets import TargetScaling, target_scaling

VERSION = 1
MAX_BYTES = 64 << 20
MAX_SHOWN = 8
Task = Literal["binary", "multiclass", "regression"]


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of the served model: its name and its shape without the number of events."""

    name: str
    shape: tuple[int, ...]


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contract of one model.

    Parameters
    ----------
    name
        Of the model, as it is served.
    task
        ``binary`` models give one score, that of the last class (the signal); ``multiclass`` one a class;
        ``regression`` one a target.
    classes
        Names; the position is the label.
    score_names
        Names of the columns of ``scores``.
    features
        The declaration.
    columns
        Declared type of every raw column that a score needs.
    scaling
        Constants of the graph's first part, by group.
    statistics
        What the training part holds.
    provenance
        Files, versions, times: outside the hash.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    score_names: tuple[str, ...]
    features: FeatureSpec
    columns: dict[str, ColumnType]
    scaling: tuple[GroupScaling, ...]
    statistics: Statistics
    provenance: dict[str, Any] = {}
    version: int = VERSION

    @classmethod
    def seal(cls, name: str, *, preprocessor: Preprocessor, statistics: Statistics) -> ModelSpec:
        """Join a declaration with what one pass over the training part found.

        Parameters
        ----------
        name
            Of the model.
        preprocessor
            Carries the declaration and the types of its columns.
        statistics
            Of the training part.
        """
        require(name, str, "name")
        require(preprocessor, Preprocessor, "preprocessor")
        require(statistics, Statistics, "statistics", hint="scan(catalogue, preprocessor) finds them")
        features = preprocessor.features
        classes = features.classes
        scaling = tuple(
            group_scaling(group, [summary_of(one) for one in statistics.groups[group.name]])
            for group in features.inputs
        )
        binary = len(classes) == 2
        task: Task = "regression" if features.target_texts else "binary" if binary else "multiclass"
        return cls(
            name=name,
            task=task,
            classes=classes,
            score_names=tuple(features.target_texts) or (classes[-1:] if binary else classes),
            features=features,
            columns=preprocessor.types,
            scaling=scaling,
            statistics=statistics,
        )

    @classmethod
    def from_json(cls, data: bytes, *, where: str = "spec.json") -> ModelSpec:
        """Read what `to_json` wrote.

        A hash says that a file was not changed since it was written, not that this program wrote it: what is read here
        is believed by all that follows, so it is checked for sense as well.

        Raises
        ------
        BundleError
            It is of another version, not a contract, or contradicts itself (see `problems`).
        """
        if len(data) > MAX_BYTES:
            raise BundleError(f"{where}: has {len(data)} bytes; a contract has at most {MAX_BYTES}")
        try:
            version = msgspec.json.decode(data, type=_Versioned).version
            if version != VERSION:
                raise BundleError(f"{where}: contract version {version}; this program reads version {VERSION}")
            spec = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{where}: is not a contract of this project: {error}") from error
        except RecursionError as error:
            raise BundleError(f"{where}: is not a contract of this project: nested too deeply") from error
        if found := spec.problems():
            shown = [problem[:500] for problem in found[:MAX_SHOWN]]
            raise BundleError("\n  - ".join([f"{where}: the contract contradicts itself", *shown]))
        return spec

    def problems(self) -> list[str]:
        """What contradicts itself or passes a limit, in words; empty where nothing does.

        Sizes come first and end the search: what they bound is then gone through safely.
        """
        return list(_sizes(self)) or [*_scores(self), *_parts(self)] or list(_columns(self))

    def to_json(self) -> bytes:
        """Canonical JSON: keys sorted, so that equal contracts give equal bytes."""
        return canonical_json(self)

    @property
    def sha256(self) -> str:
        """``spec_sha256``: over the canonical JSON without provenance."""
        return hashlib.sha256(canonical_json(msgspec.structs.replace(self, provenance={}))).hexdigest()

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """The tensors that the served model takes, in order."""
        return tuple(TensorSpec(group.name, group.shape) for group in self.scaling)

    @property
    def width(self) -> int:
        """Length W of the flat view."""
        return sum(group.width for group in self.scaling)

    @property
    def targets(self) -> tuple[TargetScaling, ...]:
        """What brings each target of a regression to standard units, in the order of ``score_names``; else nothing."""
        return target_scaling(self.statistics.targets.features) if self.statistics.targets else ()

    @property
    def flat_names(self) -> tuple[str, ...]:
        """Names of the flat view, [W]."""
        return flat_names(self.scaling)

    def preprocessor(self) -> Preprocessor:
        """Columns to tensors, as declared."""
        return Preprocessor(self.features, self.columns, sealed=True)

    def with_provenance(self, provenance: Mapping[str, Any]) -> ModelSpec:
        """The same contract with a record of where it comes from; the hash stays."""
        return msgspec.structs.replace(self, provenance=dict(provenance))


class _Versioned(msgspec.Struct):
    version: int


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, indented by a blank so that people can read and compare it."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def summary_of(feature: FeatureStatistics) -> FeatureSummary:
    """The figures of one feature that its scaling is made from."""
    return FeatureSummary(
        mean=feature.mean,
        std=feature.std,
        minimum=feature.minimum,
        maximum=feature.maximum,
        quantile_16=feature.quantile(0.16),
        median=feature.quantile(0.5),
        quantile_84=feature.quantile(0.84),
        infinite=feature.infinite,
    )


def _sizes(spec: ModelSpec) -> Iterator[str]:
    """Groups that are too long or too wide, by name."""
    groups = spec.features.inputs
    if not groups:
        yield "features.inputs: lists no group"
    for group in groups:
        where = f"features.inputs '{group.name}'"
        if len(group.variables) > MAX_VARIABLES:
            yield f"{where}: has {len(group.variables)} variables; at most {MAX_VARIABLES} fit one group"
        else:
            yield from (f"{where}: {problem}" for problem in group.problems())
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        yield "features.inputs: two groups have the same name"
    if spec.features.width > MAX_WIDTH:
        yield f"features.inputs: {spec.features.width} numbers an event; at most {MAX_WIDTH} fit one model"


def _scores(spec: ModelSpec) -> Iterator[str]:
    """Scores that are not those of the task."""
    if spec.classes != spec.features.classes:
        yield f"classes: are {spec.classes}, features.classes are {spec.features.classes}"
    if len(set(spec.score_names)) != len(spec.score_names) or not spec.score_names:
        yield f"score_names: {spec.score_names} are none, or one stands twice"
    if spec.task == "binary" and (len(spec.classes) != 2 or spec.score_names != spec.classes[-1:]):
        yield f"score_names: a binary model of {spec.classes} scores the last of two, found {spec.score_names}"
    targets = tuple(spec.features.target_texts)
    if (spec.task == "regression") != bool(targets) or (targets and (spec.classes or spec.score_names != targets)):
        yield f"score_names: a {spec.task} model of the targets {targets} scores those, found {spec.score_names}"
    if spec.task == "multiclass" and spec.score_names != spec.classes:
        yield f"score_names: a multiclass model scores {spec.classes}, found {spec.score_names}"


def _parts(spec: ModelSpec) -> Iterator[str]:
    """Constants and figures that are not those of the inputs."""
    names = [group.name for group in spec.features.inputs]
    if [one.name for one in spec.scaling] != names:
        yield f"scaling: has groups {_listed(one.name for one in spec.scaling)}, features.inputs {_listed(names)}"
        return
    for group, scaling in zip(spec.features.inputs, spec.scaling, strict=True):
        yield from (f"scaling '{group.name}': {problem}" for problem in _scaling_problems(group, scaling))
    measured = tuple(spec.statistics.targets.features) if spec.statistics.targets else ()
    if measured != tuple(spec.features.target_texts):
        yield f"statistics.targets: are of {_listed(measured)}, declared are {_listed(spec.features.target_texts)}"
    for one in spec.targets:
        if not (math.isfinite(one.offset) and math.isfinite(one.scale) and one.scale > 0):
            yield f"statistics.targets '{one.name}': a mean of {one.offset} or a width of {one.scale} cannot scale it"
    sizes = {group.name: len(group.variables) for group in spec.features.inputs}
    found = {name: len(features) for name, features in spec.statistics.groups.items()}
    if found != sizes:
        wrong = next(name for name in [*sizes, *found] if sizes.get(name) != found.get(name))
        yield f"statistics.groups '{wrong}': {sizes.get(wrong, 0)} features asked, {found.get(wrong, 0)} found"


def _scaling_problems(group: InputGroup, scaling: GroupScaling) -> Iterator[str]:
    if scaling.length != group.length:
        yield f"length is {scaling.length}, that of the input {group.length}"
    if scaling.variables != tuple(variable.name for variable in group.variables):
        yield "variables are not those of the input"
    elif len(scaling.features) != len(group.variables):
        yield f"{len(scaling.features)} features for {len(group.variables)} variables"
    else:
        for variable, one in zip(group.variables, scaling.features, strict=True):
            if one.kind != variable.scale:
                yield f"'{variable.name}' is scaled as {one.kind}, declared as {variable.scale}"
            yield from (f"'{variable.name}': {problem}" for problem in _constant_problems(one))


def _constant_problems(one: FeatureScaling) -> Iterator[str]:
    constants = (one.offset, one.scale, one.low, one.high, one.out_low, one.out_high)
    if not all(-FLOAT32_MAX <= value <= FLOAT32_MAX for value in constants):
        yield f"constants {list(constants)} are not finite float32 values"
    elif one.scale <= 0 or one.low > one.high or one.out_low > one.out_high:
        yield f"scale {one.scale} is not above 0, or a range is empty: {list(constants[2:])}"


def _columns(spec: ModelSpec) -> Iterator[str]:
    """Expressions and columns from which no preprocessor can be made."""
    try:
        spec.preprocessor()
    except (ConfigError, ExpressionError) as error:
        yield str(error).replace("\n", "\n    ")
    except RecursionError:
        yield "features: expressions that use each other too deeply"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(map(repr, found[:MAX_SHOWN])) + (", ..." if len(found) > MAX_SHOWN else "")
