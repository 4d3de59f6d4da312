"""What is odd about the inputs and the parts of a run: said after the scan, refused where nothing could be learned.

Invariant: figures are those of the contract's statistics, of the selected events of the training part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlaas4hep.config.values import OnDuplicates
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.duplicates import Duplicates
from mlaas4hep.data.label_values import unmatched
from mlaas4hep.data.split import Part
from mlaas4hep.data.weights import require_classes
from mlaas4hep.errors import DataError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.features import InputGroup, Split
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics

# Fewer expected events than this may all miss a part by chance.
_SURELY_SOME = 10
MAX_TOLD = 8


def require_labels(catalogue: Catalogue, preprocessor: Preprocessor, statistics: Statistics) -> None:
    """Refuse to go on where a class has no event in the training part.

    Raises
    ------
    DataError
        Names the classes; where none of the values that stand for one is in its column, says which are there.
    """
    try:
        require_classes(statistics.classes)
    except DataError as error:
        empty = [name for name, one in statistics.classes.items() if one.events == 0]
        lines = (f"  {line}" for line in unmatched(catalogue, preprocessor, empty))
        raise DataError("\n".join([str(error), *lines])) from error


def require_spread(statistics: Statistics, groups: Sequence[InputGroup]) -> None:
    """Refuse inputs of which none tells one event from another.

    Raises
    ------
    DataError
        Every input is constant or without any value.
    """
    features = [one for group in groups for one in statistics.groups[group.name]]
    if not any(one.count and one.minimum != one.maximum for one in features):
        lines = "\n".join(f"  - {line}" for line in notes_on_inputs(statistics, groups))
        raise DataError(f"no input tells one event of the training part from another:\n{lines}")


def notes_on_inputs(statistics: Statistics, groups: Sequence[InputGroup]) -> Iterator[str]:
    """One line an input that has no value, one value only, or infinities."""
    for group in groups:
        for variable, one in zip(group.variables, statistics.groups[group.name], strict=True):
            oddity = _oddity(one)
            if oddity:
                yield f"inputs.{group.name}: '{variable.name}': {oddity}"


def _oddity(one: FeatureStatistics) -> str | None:
    infinite = f"{one.infinite:,} of {one.infinite + one.missing + one.count:,} values are infinite"
    if not one.count:
        return "has no value in the training part" if not one.infinite else f"has no finite value: {infinite}"
    if one.infinite:
        return f"{infinite}; they count as its largest or smallest finite value, {one.minimum:.6g} to {one.maximum:.6g}"
    if one.minimum == one.maximum:
        return f"is {one.minimum:.6g} in every event of the training part"
    return None


def require_parts(events: Mapping[Part, int], split: Split, *, identity: str) -> None:
    """Refuse a split that leaves a part empty which should hold events.

    Raises
    ------
    DataError
        What identifies the events does not tell them apart.
    """
    selected = sum(events.values())
    validation, test = split.shares
    shares: dict[Part, float] = {"validation": validation, "test": test}
    for part, share in shares.items():
        if not events[part] and share * selected >= _SURELY_SOME:
            raise DataError(
                f"none of {selected:,} selected events fell into the {part} part, which is to hold {share:.0%} of "
                f"them: they are told apart by {identity}, which must be (nearly) the same for all; name other "
                f"columns in split.by"
            )


def require_targets(statistics: Statistics) -> None:
    """Refuse targets of a regression that are the same in all events.

    Raises
    ------
    DataError
        Names them.
    """
    if not statistics.targets:
        return
    if not statistics.targets.weights.events:
        raise DataError("no training events are left after selection and split; check preselection and targets")
    for name, one in statistics.targets.features.items():
        if not one.std or one.minimum == one.maximum:
            raise DataError(
                f"targets.{name}: is {one.minimum:.6g} in every event of the training part: nothing to learn; check "
                "its expression and the preselection"
            )


def tell_duplicates(found: Duplicates | None, wish: OnDuplicates, progress: Progress) -> None:
    """Say which events the files hold more than once.

    Raises
    ------
    DataError
        There are some, and the config refuses them.
    """
    lines = [] if found is None else list(found.lines())
    if lines and wish == "refuse":
        told = "\n".join(f"  - {line}" for line in lines[:MAX_TOLD])
        raise DataError(
            f"events are in the files more than once, and the config says duplicates: refuse\n{told}\n"
            "Leave a file out, or give the samples selections that exclude each other"
        )
    for line in lines[:MAX_TOLD]:
        progress.note(line)
    if len(lines) > MAX_TOLD:
        progress.note(f"duplicates: {len(lines) - MAX_TOLD} more pairs of samples; metrics.json lists them")
