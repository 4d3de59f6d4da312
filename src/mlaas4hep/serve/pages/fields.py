"""The form of a model: one field a column with a typical value, or one a tensor of a graph without a contract.

Typical is the median of the training part; columns that only expressions use have no figures, so values are tried until
the event passes the preselection. Invariant: what the form shows at first is a question that the model takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mlaas4hep.errors import MLaaSError
from mlaas4hep.serve.model import Contract, ServedModel, TensorSpec
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.features import InputGroup
from mlaas4hep.spec.statistics import FeatureStatistics

# Tried for columns of which the contract has no figures, in this order.
_GUESSES = (1.0, 0.0, 10.0, 100.0, 1000.0, -1.0)
# Quantiles of the objects of a list that a collection is sorted by, from the largest.
_SPREAD = (0.95, 0.84, 0.75, 0.5, 0.25, 0.16, 0.05)
_MAX_OBJECTS, _OBJECTS = len(_SPREAD), 2
# More fields, or numbers in one, are nothing to fill in by hand.
MAX_FIELDS, MAX_NUMBERS = 200, 1024


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form.

    Parameters
    ----------
    name
        Of the column or tensor.
    kind
        ``flat``, ``jagged``, ``nested``, or ``tensor``.
    type
        In words: ``float32[]``.
    dtype
        Of one value: ``bool``, ``int64`` ...
    value
        As it stands in the field at first: JSON, of a list without its outer brackets.
    low, high, step
        Of the slider; None where there is none.
    hint
        What else is to be said.
    """

    name: str
    kind: str
    type: str
    dtype: str
    value: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    hint: str = ""


def event_fields(contract: Contract, event: Mapping[str, Any]) -> list[Field]:
    """One field for each column of an event, single values first, then lists; none where they are too many."""
    figures, types = figures_of(contract), contract.reader.types
    if len(types) > MAX_FIELDS:
        return []
    names = sorted(types, key=lambda name: types[name].kind != "flat")
    return [_field(name, types[name], event[name], figures.get(name)) for name in names]


def tensor_fields(model: ServedModel) -> list[Field]:
    """One field for each tensor, one row of zeros in it; none where a tensor is too large for a form."""
    if len(model.inputs) > MAX_FIELDS or any(_size(one) > MAX_NUMBERS for one in model.inputs):
        return []
    return [_tensor_field(one, model.batches) for one in model.inputs]


def row_shape(spec: TensorSpec, *, batches: bool) -> list[int]:
    """Of one row; sizes that are open are 1."""
    return [*([1] if batches else []), *(1 if size < 0 else size for size in spec.shape)]


def figures_of(contract: Contract) -> dict[str, FeatureStatistics]:
    """What the training part holds of each variable."""
    statistics = contract.spec.statistics.groups
    return {
        variable.name: found
        for group in contract.spec.features.inputs
        for variable, found in zip(group.variables, statistics[group.name], strict=True)
    }


def typical_event(contract: Contract) -> dict[str, Any]:
    """An event like those of the training part, which passes the preselection where one was found."""
    lengths = _lengths(contract)
    alike = dict.fromkeys(lengths, _OBJECTS)
    for guess in _GUESSES:
        for counts in (lengths, alike):
            event = _event(contract, guess, counts)
            if _passes(contract, event):
                return event
    return _event(contract, _GUESSES[0], lengths)


def _passes(contract: Contract, event: Mapping[str, Any]) -> bool:
    body = msgspec.json.encode({"instances": [event]})
    try:
        columns, count = contract.reader.read(body, max_instances=1)
        return bool(contract.preprocessor.run(columns, count).selected[0])
    except MLaaSError:  # lists whose lengths do not go together, which another choice may mend
        return False


def _event(contract: Contract, guess: float, counts: Mapping[str, int]) -> dict[str, Any]:
    figures, sorts = figures_of(contract), dict(_sorts(contract.spec.features.inputs))
    return {
        name: _typical(declared, figures.get(name), guess, counts.get(name, _OBJECTS), sorts.get(name))
        for name, declared in contract.reader.types.items()
    }


def _typical(
    declared: ColumnType, figures: FeatureStatistics | None, guess: float, count: int, falling: bool | None
) -> Any:
    if declared.kind == "flat":
        return _number(declared, _quantile(figures, 0.5, guess))
    ranks = _ranks(count, falling) if figures is not None else [0.5] * count
    values = [_number(declared, _quantile(figures, rank, guess)) for rank in ranks]
    return values if declared.kind == "jagged" else [[value] for value in values]


def _ranks(count: int, falling: bool | None) -> list[float]:
    if falling is None:
        return [0.5] * count
    step = (len(_SPREAD) - 1) / max(count - 1, 1)
    found = [_SPREAD[round(place * step)] for place in range(count)] if count > 1 else [0.5]
    return found if falling else found[::-1]


def _quantile(figures: FeatureStatistics | None, rank: float, guess: float) -> float:
    found = figures.quantile(rank) if figures is not None else None
    return guess if found is None else found


def _number(declared: ColumnType, value: float) -> bool | int | float:
    if declared.dtype == "bool":
        return value != 0
    if declared.dtype == "uint64":
        return abs(round(value))
    return round(value) if declared.dtype == "int64" else float(f"{value:.4g}")


def _sorts(groups: Sequence[InputGroup]) -> Iterator[tuple[str, bool]]:
    """Columns by which collections are sorted, and whether the largest comes first."""
    for group in groups:
        text = (group.sort or "").strip()
        if text:
            yield text.removeprefix("-").strip(), text.startswith("-")


def _lengths(contract: Contract) -> dict[str, int]:
    """How many objects an event has of each list: the median of its collection, or of one whose name begins alike."""
    lists = [name for name, declared in contract.reader.types.items() if declared.kind != "flat"]
    groups = [group for group in contract.spec.features.inputs if group.length is not None]
    counts = {group.name: _usual(contract.spec.statistics.lengths.get(group.name, ())) for group in groups}
    own = {variable.name: counts[group.name] for group in groups for variable in group.variables}
    alike = {_collection(name): count for name, count in own.items() if name in lists}
    behind = {
        name: counts[group.name]
        for group in groups
        for variable in group.variables
        for name in contract.preprocessor.needs(variable.name)
    }
    return {name: own.get(name, alike.get(_collection(name), behind.get(name, _OBJECTS))) for name in lists}


def _usual(counts: Sequence[int]) -> int:
    return min(max(median_length(counts), 1), _MAX_OBJECTS)


def _collection(name: str) -> str:
    """``Jet`` of ``Jet_pt``."""
    return name.partition("_")[0]


def median_length(counts: Sequence[int]) -> int:
    """The length that half of the events do not exceed, of the numbers of events by length.

    Examples
    --------
    >>> median_length((0, 5, 3, 1)), median_length(())
    (1, 0)
    """
    seen, half = 0, sum(counts) / 2
    for length, events in enumerate(counts):
        seen += events
        if seen and seen >= half:
            return length
    return 0


def _field(name: str, declared: ColumnType, value: Any, figures: FeatureStatistics | None) -> Field:
    text = json.dumps(value) if declared.kind == "flat" else json.dumps(value)[1:-1]
    low, high = _range(figures) if declared.kind == "flat" and declared.dtype != "bool" else (None, None)
    if low is None or high is None:
        return Field(name, declared.kind, str(declared), declared.dtype, text)
    whole = "int" in declared.dtype
    step = max(1.0, round((high - low) / 200)) if whole else float(f"{(high - low) / 200:.1g}")
    return Field(name, declared.kind, str(declared), declared.dtype, text, low, high, step)


def _range(figures: FeatureStatistics | None) -> tuple[float | None, float | None]:
    """From the first to the 99th hundredth, which is all that training has seen enough of."""
    if figures is None:
        return None, None
    low, high = figures.quantile(0.01), figures.quantile(0.99)
    if low is None or high is None or not low < high:
        return None, None
    return float(f"{low:.4g}"), float(f"{high:.4g}")


def _size(spec: TensorSpec) -> int:
    size = 1
    for one in row_shape(spec, batches=False):
        size *= one
    return size


def _tensor_field(spec: TensorSpec, batches: bool) -> Field:
    shape = row_shape(spec, batches=batches)
    zero: Any = {"BYTES": "", "BOOL": False}.get(spec.datatype, 0.0 if spec.datatype.startswith("FP") else 0)
    value: Any = zero
    for size in reversed(shape):
        value = [value] * size
    text = json.dumps(value)[1:-1] if shape else json.dumps(value)
    open_sizes = "sizes that are open are 1 here" if any(size < 0 for size in spec.shape) else ""
    words = f"{spec.datatype} [{', '.join(map(str, shape))}]"
    return Field(spec.name, "tensor", words, spec.datatype, text, hint=open_sizes)
