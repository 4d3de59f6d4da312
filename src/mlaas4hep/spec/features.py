"""What the user declares: which variables a model sees, which events it sees, with which weights and labels.

A `FeatureSpec` comes out of the config (`mlaas4hep.config`) and goes into the sealed contract
(`mlaas4hep.spec.contract`). Invariant: two configs that say the same in another order of keys give equal values, since
input groups stand in a canonical order (``event`` first, then by name).
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Scale = Literal["standard", "minmax", "log", "none"]
EVENT = "event"
RESERVED_GROUPS = frozenset({"scores"})
_GROUP_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")

# CONTRACT limits: what one graph can carry and a client can reasonably send.
MAX_VARIABLES = 4096
MAX_LENGTH = 256
MAX_WIDTH = 16384
MAX_FOLDS = 100
MAX_TARGETS = 64


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number that the model sees.

    Parameters
    ----------
    name
        A column of the files or a new variable.
    scale
        How the graph brings it to order one: ``standard`` (mean 0, width 1), ``minmax`` (0 to 1), ``log``
        (log(1 + x) of the positive part, then standard), ``none``.
    clip
        Values outside are moved to the border, before scaling; in the unit of the column.
    """

    name: str
    scale: Scale = "standard"
    clip: tuple[float, float] | None = None


class InputGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor that the model sees: ``event`` [N, F], or a collection [N, K, F].

    Parameters
    ----------
    name
        Lower-case name of the tensor.
    variables
        Its features, in channel order.
    length
        K, the number of objects kept of a collection; None for the flat group ``event``.
    sort
        Expression by which the objects are sorted before the first K are kept, smallest first: ``-Jet_pt`` puts the
        hardest jet first. None keeps the order of the file.
    """

    name: str
    variables: tuple[Variable, ...]
    length: int | None = None
    sort: str | None = None

    @property
    def width(self) -> int:
        """Numbers an event in this group."""
        return len(self.variables) * (self.length or 1)

    def problems(self) -> list[str]:
        """What is wrong with this group, in words; empty where nothing is."""
        found = []
        if not _GROUP_NAME.match(self.name):
            found.append(f"'{self.name}' is not a group name; use lower-case letters, digits and _, such as 'jets'")
        if self.name in RESERVED_GROUPS or self.name.endswith("_mask") or self.name.startswith("__"):
            found.append(f"'{self.name}' is reserved; choose another name")
        if not self.variables:
            found.append("lists no variables")
        if len(self.variables) > MAX_VARIABLES:
            found.append(f"has {len(self.variables)} variables; at most {MAX_VARIABLES} fit one group")
        if self.length is not None and not 1 <= self.length <= MAX_LENGTH:
            found.append(f"length {self.length} is outside 1 to {MAX_LENGTH}")
        names = [variable.name for variable in self.variables]
        twice = sorted({name for name in names if names.count(name) > 1})
        found.extend(f"lists '{name}' twice" for name in twice)
        return found


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of events.

    Parameters
    ----------
    event
        Expression of the generator's weight, such as ``genWeight``; None counts every event once.
    training
        ``balanced``: physics weight, each class scaled to the same sum; ``physics``: as in the analysis; ``none``: 1.
        Evaluation always uses the physics weight.
    """

    event: str | None = None
    training: Literal["balanced", "physics", "none"] = "balanced"


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are kept from training; decided by a keyed hash of the event's identity.

    Parameters
    ----------
    by
        Columns that identify an event; empty takes run, luminosityBlock, event where the files have them, else a hash
        of the declared inputs.
    test, validation
        Shares of all events. With ``folds`` each fold is held out once, in place of a test part.
    seed
        Key of the hash: another seed, another split.
    folds
        Number k of folds, each with a model of its own that learns from the others.
    fold
        The one of them, 0 to k - 1, that is held out: its events are the test part. Without it nothing is.
    """

    by: tuple[str, ...] = ()
    test: float = 0.2
    validation: float = 0.1
    seed: int = 0
    # Unset ones are not written: a contract without folds says what it always said.
    folds: int | msgspec.UnsetType = msgspec.UNSET
    fold: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def num_folds(self) -> int:
        """Number of folds, 0 where there are none."""
        return self.folds or 0

    @property
    def held_out(self) -> int | None:
        """The fold that is held out; None where none is."""
        return None if self.fold is msgspec.UNSET else self.fold

    @property
    def in_folds(self) -> bool:
        """Whether it stands for all folds together rather than for a training."""
        return self.num_folds > 0 and self.held_out is None

    @property
    def shares(self) -> tuple[float, float]:
        """Expected shares of validation and test part among all events."""
        if not self.num_folds:
            return self.validation, self.test
        return (0.0, 0.0) if self.held_out is None else (self.validation, 1 / self.num_folds)

    def holding_out(self, fold: int) -> Split:
        """The split of the training that holds out one of the folds."""
        return msgspec.structs.replace(self, fold=fold)


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the user declares about events.

    Parameters
    ----------
    inputs
        The tensors, ``event`` first, then the collections by name.
    preselection
        Expression; events for which it is false are not seen by the model.
    new_variables
        Expressions by name; they may use columns and each other.
    classes
        Names of the classes; the position is the label. Empty takes those of the samples, sorted, where a class called
        ``signal`` comes last. None where there are targets.
    weights, split
        See there.
    variations
        Systematic variations by name: expressions that take the place of columns or new variables, or, as ``weight``,
        of ``weights.event``. The model learns without them; ``evaluate`` tells what they change.
    observers
        Columns, new variables or expressions of one number an event, such as a mass, that the model is not given:
        ``train`` and ``evaluate`` tell what a cut on the score does to their shape. ``spectators`` is the same key.
    missing
        Values that stand for a missing one in any column, such as -999: they become NaN before anything is computed.
        With such values whole-number columns are taken as float64, since a whole number cannot be missing.
    targets
        Expressions by name that a regression learns to give; then there are no classes.
    """

    inputs: tuple[InputGroup, ...]
    preselection: str | None = None
    new_variables: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    weights: Weights = Weights()
    split: Split = Split()
    variations: dict[str, dict[str, str]] = {}
    observers: tuple[str, ...] = ()
    # Left out of the JSON where nothing is declared: contracts older than this field keep their hashes.
    missing: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    targets: dict[str, str] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        """Equal declarations are equal values: in order, each once, and absent where there are none."""
        values = tuple(sorted(set(map(float, self.missing or ()))))
        msgspec.structs.force_setattr(self, "missing", values or msgspec.UNSET)
        msgspec.structs.force_setattr(self, "targets", dict(sorted((self.targets or {}).items())) or msgspec.UNSET)

    @property
    def missing_values(self) -> tuple[float, ...]:
        """Values that stand for a missing one; rising."""
        return self.missing or ()

    @property
    def target_texts(self) -> dict[str, str]:
        """Expressions of the targets in their order, by name; empty where there are classes."""
        return self.targets or {}

    @property
    def width(self) -> int:
        """Length of the flat view: all numbers of an event."""
        return sum(group.width for group in self.inputs)


def canonical_groups(groups: list[InputGroup]) -> tuple[InputGroup, ...]:
    """``event`` first, then the collections by name: the order of the keys in a config means nothing."""
    return tuple(sorted(groups, key=lambda group: (group.name != EVENT, group.name)))


def order_classes(labels: list[str]) -> tuple[str, ...]:
    """Class names in label order where the user fixed none: sorted, ``signal`` last.

    Of two classes the last is the signal, whose score a binary model gives.

    Examples
    --------
    >>> order_classes(["signal", "background", "signal"])
    ('background', 'signal')
    """
    return tuple(sorted(set(labels), key=lambda label: (label == "signal", label)))
