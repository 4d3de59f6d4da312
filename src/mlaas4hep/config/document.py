"""The shape of the file itself, before samples and features are put together; and its short forms spelled out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlaas4hep.config.labels import Labels, classes_of
from mlaas4hep.config.values import Cache, Era, OnDuplicates, Sample, Tracking, Training
from mlaas4hep.errors import nearest
from mlaas4hep.spec.features import InputGroup, Split, Variable, Weights


class GroupDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vars: tuple[Variable, ...]
    length: int | None = None
    sort: str | None = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    samples: dict[str, Sample]
    inputs: dict[str, GroupDocument]
    name: str | None = None
    tree: str | None = None
    eras: dict[str, Era] = {}
    preselection: str | None = None
    new_variables: dict[str, str] = {}
    preproc: str | None = None
    labels: Labels = Labels()
    targets: dict[str, str] = {}
    weights: Weights = Weights()
    split: Split = Split()
    variations: dict[str, dict[str, str]] = {}
    observers: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()
    model: Any = "mlp"
    training: Training = Training()
    redirector: tuple[str, ...] = ()
    on_error: str = "stop"
    cache: Cache | None = None
    tracking: Tracking | None = None
    duplicates: OnDuplicates = "report"

    def groups(self) -> list[InputGroup]:
        """The input groups, in the order of the file."""
        return [
            InputGroup(name=name, variables=group.vars, length=group.length, sort=group.sort)
            for name, group in self.inputs.items()
        ]

    def labels_of_samples(self) -> list[str]:
        """Every class that an event can have, again and again; nothing of a regression."""
        return [] if self.targets else list(classes_of(self.samples, self.labels))


_SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "training": Training,
    "split": Split,
    "weights": Weights,
    "labels": Labels,
    "cache": Cache,
    "tracking": Tracking,
}


# What has to be said; of all else a key without a value says nothing.
_REQUIRED = ("samples", "inputs")
# What a section looks like, for one that is written as something else.
_SUCH_AS = {
    "training": "{epochs: 60, batch_size: 256}",
    "split": "{test: 0.2, validation: 0.1}",
    "weights": "{event: genWeight}",
    "labels": "{signal: ttH}",
    "cache": "{path: /scratch/rows, limit: 50 GB}",
    "tracking": "{tensorboard: true, mlflow: 'http://localhost:5000'}",
}
_SHUFFLES = (
    "window (events are shuffled window by window) or exact (all events, with a cache); they are always shuffled: "
    "nothing is learned from one sample after the other"
)


def spell_out(document: Mapping[Any, Any]) -> dict[Any, Any]:
    """Short forms to long ones: one file for a list, a name for a variable, a list for the event group.

    A key without a value is one that is not there, where it may be left out.
    """
    plain = {key: value for key, value in document.items() if value is not None or key in _REQUIRED}
    if isinstance(plain.get("missing"), int | float) and not isinstance(plain["missing"], bool):
        plain["missing"] = [plain["missing"]]
    if isinstance(plain.get("on_error"), int | float):
        plain["on_error"] = str(plain["on_error"])  # no policy: told with those that there are
    if "observers" not in plain and "spectators" in plain:
        plain["observers"] = plain.pop("spectators")
    if isinstance(plain.get("observers"), str):
        plain["observers"] = [plain["observers"]]
    if isinstance(plain.get("redirector"), str):
        plain["redirector"] = [plain["redirector"]]
    samples = plain.get("samples")
    if isinstance(samples, Mapping):
        plain["samples"] = {name: _spell_out_sample(sample) for name, sample in samples.items()}
    if "labels" in plain:
        plain["labels"] = _spell_out_labels(plain["labels"])
    if isinstance(plain.get("cache"), str):
        plain["cache"] = {"path": plain["cache"]}
    split = plain.get("split")
    if isinstance(split, Mapping) and split.get("folds") is not None:
        plain["split"] = {"test": 0.0, **split}  # each fold is held out once, in place of a test part
    inputs = plain.get("inputs")
    if isinstance(inputs, Mapping):
        plain["inputs"] = {name: _spell_out_group(group) for name, group in inputs.items()}
    return plain


# What may be one text instead of a list of them.
_LISTS = ("files", "friends", "redirector")


def _spell_out_sample(sample: Any) -> Any:
    if not isinstance(sample, Mapping):
        return sample
    lists = {key: [sample[key]] for key in _LISTS if isinstance(sample.get(key), str)}
    labels = {"labels": _spell_out_labels(sample["labels"])} if "labels" in sample else {}
    return {**sample, **lists, **labels}


def _spell_out_labels(labels: Any) -> Any:
    """One value of a class for a list of them."""
    classes = labels.get("classes") if isinstance(labels, Mapping) else None
    if not isinstance(labels, Mapping) or not isinstance(classes, Mapping):
        return labels
    listed = {name: one if isinstance(one, list) else [one] for name, one in classes.items()}
    return {**labels, "classes": listed}


def _spell_out_group(group: Any) -> Any:
    if isinstance(group, list):
        group = {"vars": group}
    if not isinstance(group, Mapping) or not isinstance(group.get("vars"), list):
        return group
    return {**group, "vars": [{"name": one} if isinstance(one, str) else one for one in group["vars"]]}


def take_misplaced(document: dict[Any, Any]) -> Iterator[str]:
    """Keys that stand in the wrong place, taken out: one line each that names the right one.

    At the top, what belongs into a section (``seed``); under training, what is no setting of the training and so may be
    one of the model (``learning_rate``). And sections that are no sections, with an example of one.
    """
    own = _fields(Document)
    for key in [key for key in document if str(key) not in own]:
        homes = [f"{name}.{key}" for name, section in _SECTIONS.items() if str(key) in _fields(section)]
        if homes or not nearest(str(key), own):
            del document[key]
            hint = f"did you mean {' or '.join(map(repr, homes))}?" if homes else _of_the_model(key)
            yield f"{key}: unknown key; {hint}"
    for name, such in _SUCH_AS.items():
        if name in document and not isinstance(document[name], Mapping):
            wanted = "a folder on a local disk, such as /scratch/rows, or" if name == "cache" else "a mapping such as"
            yield f"{name}: wants {wanted} {such}; found {document.pop(name)!r}"
    training = document.get("training")
    if isinstance(training, Mapping):
        if isinstance(training.get("shuffle", ""), bool | None):
            found = {True: "true", False: "false", None: "nothing"}[training["shuffle"]]
            training = {key: value for key, value in training.items() if key != "shuffle"}
            yield f"training.shuffle: wants {_SHUFFLES}; found {found}"
        strays = [key for key in training if not _is_near(str(key), _fields(Training))]
        document["training"] = {key: value for key, value in training.items() if key not in strays}
        yield from (f"training.{key}: unknown key; {_of_the_model(key)}" for key in strays)


def _fields(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _is_near(key: str, known: list[str]) -> bool:
    return key in known or "did you mean" in nearest(key, known)


def _of_the_model(key: Any) -> str:
    return f"if it is a setting of the model, it stands there: model.{key}"
