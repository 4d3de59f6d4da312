"""The sealed contract: what was declared, what the data added, and nothing that is not needed to repeat it.

A `ModelSpec` is written into every bundle as ``spec.json`` and read by whoever wants the model's scores. Invariant: its
hash covers everything that can change a score or its meaning, and nothing else (where the files lay, when it was
trained and by which versions stands in ``provenance``, outside the hash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mlaas4hep.errors import BundleError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import FeatureSummary, GroupScaling, flat_names, group_scaling
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics

VERSION = 1
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
        ``binary`` models give one score, that of the last class (the signal); ``multiclass`` one a class.
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
        features = preprocessor.features
        classes = features.classes
        scaling = tuple(
            group_scaling(group, [summary_of(one) for one in statistics.groups[group.name]])
            for group in features.inputs
        )
        binary = len(classes) == 2
        return cls(
            name=name,
            task="binary" if binary else "multiclass",
            classes=classes,
            score_names=classes[-1:] if binary else classes,
            features=features,
            columns=preprocessor.types,
            scaling=scaling,
            statistics=statistics,
        )

    @classmethod
    def from_json(cls, data: bytes, *, where: str = "spec.json") -> ModelSpec:
        """Read what `to_json` wrote; `BundleError` where it is of another version or not a contract."""
        try:
            version = msgspec.json.decode(data, type=_Versioned).version
            if version != VERSION:
                raise BundleError(f"{where}: contract version {version}; this program reads version {VERSION}")
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{where}: is not a contract of this project: {error}") from error

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
    def flat_names(self) -> tuple[str, ...]:
        """Names of the flat view, [W]."""
        return flat_names(self.scaling)

    def preprocessor(self) -> Preprocessor:
        """Columns to tensors, as declared."""
        return Preprocessor(self.features, self.columns)

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
    )
