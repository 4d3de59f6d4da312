"""What a config says, as frozen typed values: samples, eras, model, training.

Invariant: a `Config` is whole; what was wrong with the text has been refused before one comes to be.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from mlaas4hep.arguments import as_found, whole
from mlaas4hep.config.labels import Labels, Rule, fixed_label, rule_of
from mlaas4hep.config.on_error import OnError
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.spec.features import FeatureSpec

MOST_SEED = 2**32 - 1
"""The largest seed that every framework takes."""
SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]*)?|\.[0-9]+)\s*([kMGT]?i?B?)\s*\Z")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Era(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data-taking period; ``lumi_fb`` is its integrated luminosity in fb^-1."""

    lumi_fb: float


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file set with one physical process.

    Parameters
    ----------
    files
        Paths, addresses, globs, folders, and text files with one of those a line; relative ones are taken from the
        folder of the config. A list inside the list holds addresses of one file, asked one after the other.
    tree
        Name of the TTree or RNTuple; None takes that of the config, or the only one of the file.
    label
        Class of all its events; by default that which ``labels`` tells, or else the sample's name.
    labels
        How its events are told apart where not as those of the other samples: as under ``labels``, without ``signal``.
    kind
        ``data`` is scored and shown, never trained on; its events have no class and weigh 1.
    era
        One of ``eras``; gives the luminosity.
    xsec_pb
        Cross-section in pb; with it, events weigh what the luminosity expects.
    sum_of_weights
        Sum of generator weights before any selection: a number, or ``Tree/branch`` to be summed over the files.
    selection
        Expression; events for which it is false do not belong to the sample.
    friends
        Files whose trees run in parallel to these.
    redirector
        Where absolute paths are looked for that are not on this machine; by default that of the config.
    """

    files: tuple[str | tuple[str, ...], ...]
    tree: str | None = None
    label: str | None = None
    labels: Labels | None = None
    kind: Literal["mc", "data"] = "mc"
    era: str | None = None
    xsec_pb: float | None = None
    sum_of_weights: float | str | None = None
    selection: str | None = None
    friends: tuple[str, ...] = ()
    redirector: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model learns: by name (``mlp``, ``bdt``) or the user's own file; ``dials`` are its own settings."""

    name: str = "mlp"
    backend: str | None = None
    file: str | None = None
    dials: dict[str, Any] = {}


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it learns.

    Parameters
    ----------
    epochs
        At most so many passes over the training part.
    batch_size
        Events a step.
    patience
        Epochs without a better validation loss before it stops.
    shuffle
        ``window``: events are shuffled window by window; ``exact``: from the second epoch on all of them, which needs
        ``cache``.
    shuffle_window
        Events shuffled together; part of the order, so of the result.
    max_memory
        Bound on the memory of the stream and of models that learn in memory; such as ``2 GB``.
    seed
        Of the order, of the model's first weights.
    checkpoint_s
        Seconds between two checkpoints of a model that learns batch by batch, from which ``train --resume`` goes on.
    """

    epochs: int = 60
    batch_size: int = 256
    patience: int = 8
    shuffle: Literal["window", "exact"] = "window"
    shuffle_window: int = 100_000
    max_memory: str = "2 GB"
    seed: int = 0
    checkpoint_s: float = 60.0

    @property
    def max_memory_bytes(self) -> int:
        """``max_memory`` in bytes."""
        return parse_size(self.max_memory)


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where rows are kept between epochs and runs.

    Parameters
    ----------
    path
        A folder on a local disk.
    limit
        At most so much of it is used, such as ``50 GB``, by all runs together; what was not used for longest goes
        first, and nothing that a living run uses.
    """

    path: str
    limit: str = "100 GB"

    @property
    def limit_bytes(self) -> int:
        """``limit`` in bytes."""
        return parse_size(self.limit)


class Tracking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of a training while it goes on.

    Parameters
    ----------
    tensorboard
        Write TensorBoard's event files into the folder ``tensorboard`` beside the run.
    mlflow
        Address of an MLflow server, ``http://host:port``; ``env`` takes it from ``MLFLOW_TRACKING_URI``.
    experiment
        MLflow's name for runs that belong together; by default the name of the model.
    bundle
        Send the bundle to the MLflow server as well.
    """

    tensorboard: bool = False
    mlflow: str | None = None
    experiment: str | None = None
    bundle: bool = False


OnDuplicates = Literal["report", "refuse", "ignore"]


class Config(msgspec.Struct, frozen=True):
    """A whole config; ``path`` is the file it came from, ``classes`` the labels in order.

    ``duplicates`` says what becomes of events that the files hold more than once: told, refused, or not looked for.
    ``preproc`` is the Python file whose ``preprocessing`` sees each event first; what a ``preproc.json`` says stands
    among the features instead.
    """

    name: str
    samples: dict[str, Sample]
    features: FeatureSpec
    model: Model
    training: Training
    tree: str | None = None
    eras: dict[str, Era] = {}
    on_error: OnError = OnError()
    cache: Cache | None = None
    path: str = "config"
    preproc: str | None = None
    redirector: tuple[str, ...] = ()
    labels: Labels = Labels()
    tracking: Tracking | None = None
    duplicates: OnDuplicates = "report"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; none of a regression."""
        return self.features.classes

    @property
    def simulated(self) -> tuple[str, ...]:
        """Samples that are learned from."""
        return tuple(name for name, sample in self.samples.items() if sample.kind == "mc")

    @property
    def observed(self) -> tuple[str, ...]:
        """Samples of kind ``data``: scored and shown, never learned from."""
        return tuple(name for name, sample in self.samples.items() if sample.kind == "data")

    def label_of(self, sample: str) -> str | None:
        """Class of all events of a sample; None where they are told apart one by one, or have none."""
        return None if self.features.targets else fixed_label(sample, self.samples[sample], self.labels)

    def rule_of(self, sample: str) -> Rule | None:
        """What tells the class of an event of a sample; None where all have one, or none."""
        return None if self.features.targets else rule_of(self.samples[sample], self.labels)

    def redirectors_of(self, sample: str) -> tuple[str, ...]:
        """Where files of a sample are looked for that are not on this machine."""
        return self.samples[sample].redirector or self.redirector

    def lumi_fb(self, sample: str) -> float:
        """Integrated luminosity of a sample's era in fb^-1; 1 where it names none."""
        era = self.samples[sample].era
        return self.eras[era].lumi_fb if era is not None else 1.0

    def unused(self) -> tuple[str, ...]:
        """Samples that neither a training nor its evaluation opens, one line each."""
        return tuple(
            f"samples.{name}: is of kind data: not used for learning, nor in any figure of the training and evaluation"
            for name in self.observed
        )

    def not_built(self) -> tuple[str, ...]:
        """What the config says that this version reads but cannot do yet, one line a thing."""
        if not self.features.target_texts:
            return ()
        given = (("variations", self.features.variations), ("observers", self.features.observers))
        return tuple(f"{name}: are not evaluated for a regression by this version yet" for name, one in given if one)


def parse_size(text: str) -> int:
    """Bytes in a size such as ``2 GB`` (10^9) or ``1.5 GiB`` (2^30).

    Examples
    --------
    >>> parse_size("2 GB")
    2000000000
    """
    match = SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise _no_size(text, "a size")
    return int(float(match[1]) * _UNITS[match[2].removesuffix("B")])


def bytes_of(size: float | str | None, name: str) -> int | None:
    """Bytes that are given in Python: a number of them, or words as in a config; None stays None.

    Examples
    --------
    >>> bytes_of("2 GB", "max_memory"), bytes_of(2e9, "max_memory"), bytes_of(None, "max_memory")
    (2000000000, 2000000000, None)
    """
    if size is None:
        return None
    if isinstance(size, str):
        if SIZE.match(size) is None:
            raise _no_size(size, name)
        return parse_size(size)
    if isinstance(size, float) and size.is_integer():
        return int(size)
    try:
        return whole(size, name, least=-(2**63))  # what is too little is told by who needs more
    except UserError:
        raise _no_size(size, name) from None


def _no_size(size: object, name: str) -> ConfigError:
    return ConfigError([f"{as_found(size)} is not a size; write it as '2 GB'"], where=name)
