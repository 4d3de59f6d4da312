"""The last model of a stack: it takes the scores of others as its columns or as its tensor.

Invariant: nothing but scores of the members reaches it, so that whatever is asked of the whole can be answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BundleError, nearest
from mlaas4hep.graph.session import SCORES
from mlaas4hep.serve.model import Contract, ServedModel, TensorSpec


@dataclass(frozen=True, eq=False, slots=True)
class Last:
    """A model on the scores of others.

    Parameters
    ----------
    model
        It.
    output
        Its scores, as the whole gives them.
    places
        Of a bundle: where among all scores, side by side, each of its columns stands.
    """

    model: ServedModel
    output: TensorSpec
    places: Mapping[str, int]

    @classmethod
    def of(cls, model: ServedModel, outputs: Mapping[str, TensorSpec], columns: Mapping[str, str], where: str) -> Last:
        """The last model behind members with these outputs.

        Raises
        ------
        BundleError
            It needs what no member gives.
        """
        for member, one in outputs.items():
            if len(one.shape) != 1 or one.shape[0] < 1 or not model.batches:
                asked = "asked for rows of a fixed number of scores"
                raise BundleError(f"{where}: '{member}' gives {list(one.shape)} to '{model.name}'; {asked}")
        name = SCORES if model.contract is not None else model.outputs[0].name
        output = next(one for one in model.outputs if one.name == name)
        if model.contract is None:
            _check_tensor(model, sum(one.shape[0] for one in outputs.values()), where)
            return cls(model, output, {})
        return cls(model, output, _places(model.contract, model.name, outputs, columns, where))

    def run(self, scores: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Its scores for those of the members, in order."""
        together = np.concatenate(scores, axis=1)
        model = self.model
        if model.contract is None:
            (asked,) = model.inputs
            return model.execute({asked.name: together.astype(asked.dtype)})[self.output.name]
        types = model.contract.reader.types
        columns = {name: together[:, place].astype(types[name].dtype) for name, place in self.places.items()}
        return model.execute(model.contract.preprocessor.run(columns, len(together)).inputs)[self.output.name]


def _check_tensor(model: ServedModel, count: int, where: str) -> None:
    if len(model.inputs) != 1 or model.inputs[0].shape not in ((count,), (-1,)):
        found = ", ".join(f"'{one.name}' {list(one.shape)}" for one in model.inputs)
        raise BundleError(f"{where}: the members give {count} scores, which '{model.name}' does not take: {found}")


def _places(
    contract: Contract, model: str, outputs: Mapping[str, TensorSpec], columns: Mapping[str, str], where: str
) -> dict[str, int]:
    """Of each column where it stands among all scores."""
    if contract.spec.features.preselection:
        cut = contract.spec.features.preselection
        raise BundleError(f"{where}: '{model}' has a preselection ({cut}); the last model scores every event")
    known: dict[str, int] = {}
    at = 0
    for member, one in outputs.items():
        labels = one.labels or tuple(map(str, range(one.shape[0])))
        for number, label in enumerate(labels):
            known |= {f"{member}.{label}": at + number, f"{member}_{label}": at + number}
        if len(labels) == 1:
            known[member] = at
        at += one.shape[0]
    for column in columns:
        if column not in contract.reader.types:
            near = nearest(column, contract.reader.types)
            raise BundleError(f"{where}: columns: '{model}' has no column '{column}'{near}")
    places = {}
    for column, declared in contract.reader.types.items():
        wanted = columns.get(column, column)
        if wanted not in known or declared.kind != "flat" or not declared.dtype.startswith("float"):
            near = nearest(wanted, known)
            asked = f"column '{column}' ({declared}) of '{model}' is no score of a member, '{wanted}'{near}"
            raise BundleError(f"{where}: {asked}; say which one it is: columns: {{{column}: {next(iter(known))}}}")
        places[column] = known[wanted]
    return places
