"""The shape of the file itself, before samples and features are put together; and its short forms spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlaas4hep.config.values import Era, Sample, Training
from mlaas4hep.spec.features import InputGroup, Split, Variable, Weights


class GroupDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vars: tuple[Variable, ...]
    length: int | None = None
    sort: str | None = None


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    classes: tuple[str, ...] = ()
    signal: str | None = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    samples: dict[str, Sample]
    inputs: dict[str, GroupDocument]
    name: str | None = None
    tree: str | None = None
    eras: dict[str, Era] = {}
    preselection: str | None = None
    new_variables: dict[str, str] = {}
    labels: Labels = Labels()
    weights: Weights = Weights()
    split: Split = Split()
    variations: dict[str, dict[str, str]] = {}
    observers: tuple[str, ...] = ()
    model: Any = "mlp"
    training: Training = Training()

    def groups(self) -> list[InputGroup]:
        """The input groups, in the order of the file."""
        return [
            InputGroup(name=name, variables=group.vars, length=group.length, sort=group.sort)
            for name, group in self.inputs.items()
        ]

    def labels_of_samples(self) -> list[str]:
        """Label of every sample that can be learned from."""
        return [sample.label or name for name, sample in self.samples.items() if sample.kind == "mc"]


def spell_out(document: Mapping[Any, Any]) -> dict[Any, Any]:
    """Short forms to long ones: one file for a list, a name for a variable, a list for the event group."""
    plain = dict(document)
    samples = plain.get("samples")
    if isinstance(samples, Mapping):
        plain["samples"] = {name: _spell_out_sample(sample) for name, sample in samples.items()}
    inputs = plain.get("inputs")
    if isinstance(inputs, Mapping):
        plain["inputs"] = {name: _spell_out_group(group) for name, group in inputs.items()}
    return plain


def _spell_out_sample(sample: Any) -> Any:
    if not isinstance(sample, Mapping):
        return sample
    lists = {key: [sample[key]] for key in ("files", "friends") if isinstance(sample.get(key), str)}
    return {**sample, **lists}


def _spell_out_group(group: Any) -> Any:
    if isinstance(group, list):
        group = {"vars": group}
    if not isinstance(group, Mapping) or not isinstance(group.get("vars"), list):
        return group
    return {**group, "vars": [{"name": one} if isinstance(one, str) else one for one in group["vars"]]}
