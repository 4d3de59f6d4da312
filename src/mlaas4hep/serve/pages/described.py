"""What the page of a model tells of its contract, as rows of tables.

Invariant: every figure on the page is one of the contract or of the figures that were sealed with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlaas4hep.serve.images import ImageInput
from mlaas4hep.serve.model import Contract
from mlaas4hep.serve.pages.fields import median_length
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import FLOAT32_MAX, FeatureScaling
from mlaas4hep.spec.statistics import FeatureStatistics

# More variables of one group are told, not shown.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class InputRow:
    """One variable that the model sees.

    Parameters
    ----------
    name, type
        Of it; the type is that of the column, or of what an expression gives.
    expression
        Of a derived one; empty of a column.
    figures
        Of the training part.
    missing_share
        Of values that were missing there; None of no values.
    scaling
        How it is brought to order one, and clipped.
    missing
        What becomes of a missing value.
    """

    name: str
    type: str
    expression: str
    figures: FeatureStatistics
    missing_share: float | None
    scaling: str
    missing: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """One tensor of the model: its rows, and for a collection how its objects are chosen.

    Parameters
    ----------
    name
        Of the group.
    rows
        Its variables, the first `MAX_SHOWN` of them.
    left_out
        How many more there are.
    length, sort, first
        Objects that are kept of a collection, by what they are sorted, and which end comes first.
    typical_length, dropped
        Objects of the median event; objects of the training part beyond the length.
    """

    name: str
    rows: tuple[InputRow, ...]
    left_out: int
    length: int | None
    sort: str
    first: str
    typical_length: int
    dropped: int


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class: its name, whether a score is its own, and its events in the training part."""

    name: str
    scored: bool
    events: int
    sum_weights: float


def group_views(contract: Contract, missing_inputs: str) -> list[GroupView]:
    """The inputs of a model.

    Parameters
    ----------
    contract
        Of it.
    missing_inputs
        As in the figures of the training: ``native``, ``impute``, or empty where nobody says.
    """
    spec, found = contract.spec, []
    for group, scaling in zip(spec.features.inputs, spec.scaling, strict=True):
        figures = spec.statistics.groups[group.name]
        sort, first = _sort_words(group.sort)
        rows = [
            _input_row(contract, one.name, statistics, constants, missing_inputs)
            for one, statistics, constants in zip(group.variables, figures, scaling.features, strict=True)
        ][:MAX_SHOWN]
        found.append(
            GroupView(
                name=group.name,
                rows=tuple(rows),
                left_out=max(len(group.variables) - MAX_SHOWN, 0),
                length=group.length,
                sort=sort,
                first=first,
                typical_length=median_length(spec.statistics.lengths.get(group.name, ())),
                dropped=spec.statistics.truncated.get(group.name, 0),
            )
        )
    return found


def derived(contract: Contract) -> dict[str, str]:
    """Expressions of the derived variables that the inputs, the preselection or each other use, by name."""
    return {name: text for name, text in contract.spec.features.new_variables.items() if _is_used(contract, name)}


def class_rows(spec: ModelSpec) -> Iterator[ClassRow]:
    """The classes in the order of their labels."""
    for name in spec.classes:
        sums = spec.statistics.classes.get(name)
        yield ClassRow(name, name in spec.score_names, sums.events if sums else 0, sums.sum_weights if sums else 0.0)


def picture_words(image: ImageInput) -> list[str]:
    """What becomes of a picture, step by step.

    Examples
    --------
    >>> import numpy as np
    >>> from mlaas4hep.serve.images import ImageSpec
    >>> spec = ImageSpec(layout="CHW", colour="RGB", resize="bilinear", fit="crop", shorter=256, divide_by=255)
    >>> image = ImageInput(spec, "x", np.dtype("f4"), (3, 224, 224), (224, 224), stacked=True)
    >>> "; ".join(picture_words(image))
    'RGB; shorter side to 256 pixels (bilinear), the middle 224 x 224 (height x width); divided by 255; as CHW'
    """
    spec, (height, width) = image.spec, image.size
    size = f"{height} x {width} (height x width)"
    if spec.resize == "none":
        sized = f"{size} and no other size"
    elif spec.shorter is not None:
        sized = f"shorter side to {spec.shorter} pixels ({spec.resize}), the middle {size}"
    else:
        sized = f"stretched to {size}, {spec.resize}"
    steps = [spec.colour, sized]
    if spec.background:
        steps.insert(0, f"{spec.background} behind what is transparent")
    if spec.divide_by != 1:
        steps.append(f"divided by {spec.divide_by:g}")
    if spec.mean != 0:
        steps.append(f"minus {_numbers(spec.mean)}")
    if spec.std != 1:
        steps.append(f"over {_numbers(spec.std)}")
    return [*steps, f"as {spec.layout}"]


def _numbers(value: float | tuple[float, ...]) -> str:
    return ", ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}"


def _input_row(
    contract: Contract, name: str, figures: FeatureStatistics, scaling: FeatureScaling, missing_inputs: str
) -> InputRow:
    values = figures.count + figures.missing + figures.infinite
    return InputRow(
        name=name,
        type=str(contract.preprocessor.type_of(name)),
        expression=contract.spec.features.new_variables.get(name, ""),
        figures=figures,
        missing_share=figures.missing / values if values else None,
        scaling=_scaling_words(scaling, scaled=missing_inputs != "native"),
        missing=_missing_words(scaling, missing_inputs),
    )


def _is_used(contract: Contract, name: str) -> bool:
    """Whether the sealed contract can compute it: others were declared for weights or observers."""
    preprocessor = contract.preprocessor
    return name in preprocessor.known and name not in contract.reader.types


def _scaling_words(scaling: FeatureScaling, *, scaled: bool) -> str:
    """What a value goes through; trees that take missing values take the others as they are, too."""
    moved = f"minus {scaling.offset:.4g}, over {1 / scaling.scale:.4g}"
    words = {"none": "as it is", "log": f"log(1 + x), {moved}"}.get(scaling.kind, moved) if scaled else "as it is"
    low = f"below {scaling.low:.4g}" if scaling.low > -FLOAT32_MAX else ""
    high = f"above {scaling.high:.4g}" if scaling.high < FLOAT32_MAX else ""
    clipped = " and ".join(one for one in (low, high) if one)
    return f"{words}; clipped {clipped}" if clipped else words


def _sort_words(text: str | None) -> tuple[str, str]:
    """An expression, and which end of it comes first."""
    if text is None:
        return "", ""
    inner = text.strip().removeprefix("-").strip()
    turned = text.strip().startswith("-") and inner.isidentifier()
    return (inner, "largest first") if turned else (text, "smallest first")


def _missing_words(scaling: FeatureScaling, missing_inputs: str) -> str:
    """What a value that is not there does."""
    if missing_inputs == "native":
        return "stays missing"
    if missing_inputs != "impute":
        return "as the model has it"
    taken = math.expm1(min(scaling.offset, 80.0)) if scaling.kind == "log" else scaling.offset
    return f"taken as {taken:.4g}"
