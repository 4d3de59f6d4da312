"""Law 11 of several models as one, proved where they are served: of each bundle in it, then of the whole.

The rows follow from the contracts of the members, so that nothing else is needed. Invariant: what is tried is made by
the calls that a server makes, and is all that it answers: scores of the whole and of its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import VerifyReport, load_bundle, verify_bundle
from mlaas4hep.errors import BundleError
from mlaas4hep.graph.invariance import JOINED, THREADS, Inputs, Run, Variance, company_of, probe_rows
from mlaas4hep.serve.ensemble import ENSEMBLE_FILE, Declared, Find, build_ensemble, open_parts, read_ensemble
from mlaas4hep.serve.following import read_named
from mlaas4hep.serve.joining import join_inputs
from mlaas4hep.serve.model import ServedModel, TensorSpec, load_model
from mlaas4hep.serve.repository import ModelRepository

# Of inputs that no contract says anything about.
_LOWEST, _HIGHEST = -4.0, 4.0


@dataclass(frozen=True, slots=True)
class EnsembleReport:
    """What `verify_ensemble` found.

    Parameters
    ----------
    name, note, path
        Which one, and how it is one.
    members
        Of the bundles in it, each once.
    graphs
        ``NAME/VERSION`` of plain graphs in it, of which nothing is written that could be held against.
    threads, rows, joined
        What was tried: numbers of threads, different rows, and batches of how many of them. 0 where questions are not
        joined.
    variances
        Where a row of the whole depends on those beside it; empty if nowhere.
    """

    name: str
    note: str
    path: str
    members: tuple[VerifyReport, ...]
    graphs: tuple[str, ...]
    threads: tuple[int, ...]
    rows: int
    joined: int
    variances: tuple[Variance, ...]

    @property
    def ok(self) -> bool:
        """Whether law 11 holds here for the whole, and all that `VerifyReport.ok` says of its bundles."""
        return not self.variances and all(one.ok for one in self.members)

    def __str__(self) -> str:
        tried = f"{self.rows} rows in batches of 1 to {self.joined} on {', '.join(map(str, self.threads))} threads"
        if not self.joined:
            law = ["no row is ever beside another: its graphs say that they take one question at a time"]
        else:
            law = [str(one) for one in self.variances]
            law = law or [f"each score is bit-equal to that of the row alone ({tried})"]
        below = [str(one).replace("\n", "\n  ") for one in self.members]
        below += [f"{one} is a plain graph: tried as a part of the whole alone" for one in self.graphs]
        return "\n  ".join([f"{self.name}: {self.note}", *law, *below])


def is_ensemble(place: Path) -> bool:
    """Whether a path is several models as one: a folder with ``ensemble.yaml``, ``NAME=FILE`` or ``NAME=RUN``."""
    return (place / ENSEMBLE_FILE).is_file() or (not place.exists() and "=" in str(place))


def verify_ensemble(place: Path, *, threads: Sequence[int] = THREADS) -> EnsembleReport:
    """Prove law 11 of the whole, and verify each bundle in it.

    Parameters
    ----------
    place
        See `is_ensemble`. Members that are named are looked for where a server would.
    threads
        Thread counts to try.

    Raises
    ------
    BundleError, NotFoundError
        It cannot be served, or takes tensors that cannot be made up.
    """
    whole, models = _open(place, threads[0])
    every = {one.folder: one for one in models.values() if one.folder is not None}
    bundles = [folder for folder, one in every.items() if one.contract is not None]
    graphs = tuple(f"{one.name}/{one.version}" for one in every.values() if one.contract is None)
    members = tuple(verify_bundle(load_bundle(folder), threads=threads) for folder in bundles)
    rows = _rows(whole, models, 2 * JOINED) if whole.batches else {}
    variances: list[Variance] = []
    joined = 0
    if whole.batches:
        variances, joined = company_of(lambda count: _run(_open(place, count)[0]), rows, threads=threads)
    return EnsembleReport(
        name=whole.name,
        note=whole.note,
        path=str(place),
        members=members,
        graphs=graphs,
        threads=tuple(threads),
        rows=2 * JOINED if joined else 0,
        joined=joined,
        variances=tuple(variances),
    )


def _open(place: Path, threads: int) -> tuple[ServedModel, dict[str, ServedModel]]:
    """The whole, and its parts under names of their own, the last model of a stack among them."""
    load = partial(load_model, threads=threads)
    name, declared, find = _declared(place, load)
    models, last = open_parts(declared, find=find, load=load)
    whole = build_ensemble(name, declared.spec, models, last=last, where=declared.where)
    return whole, models if last is None else {**models, "": last}


def _declared(place: Path, load: Any) -> tuple[str, Declared, Find]:
    file = place / ENSEMBLE_FILE
    if not file.is_file():
        return read_named(str(place), load)
    beside = ModelRepository(path=place.absolute().parent, load=load, lazy=True)
    beside.refresh()
    return place.absolute().name, read_ensemble(file), beside.get


def _run(whole: ServedModel) -> Run:
    """All outputs of rows side by side, in float64, which holds each of them as it is."""

    def run(inputs: Inputs) -> NDArray[np.float64]:
        outputs = whole.run(inputs)
        rows = len(next(iter(inputs.values())))
        return np.concatenate([outputs[one.name].reshape(rows, -1).astype(np.float64) for one in whole.outputs], axis=1)

    return run


def _rows(whole: ServedModel, models: Mapping[str, ServedModel], count: int) -> dict[str, NDArray[Any]]:
    """In the range of the contracts; of inputs that are known by none anything."""
    members = {name: one for name, one in models.items() if name}
    _, routes = join_inputs(members)
    rows: dict[str, NDArray[Any]] = {}
    for name, model in members.items():
        if model.contract is not None:
            made = probe_rows(model.contract.spec.scaling, count)
            for own, shared in routes[name].items():
                rows.setdefault(shared, made[own])
    return {one.name: rows[one.name] if one.name in rows else _anything(one, count) for one in whole.inputs}


def _anything(one: TensorSpec, count: int) -> NDArray[Any]:
    if one.datatype == "BYTES" or any(size < 0 for size in one.shape):
        asked = f"input '{one.name}' ({one.datatype}, {list(one.shape)}) cannot be made up"
        raise BundleError(f"{asked}; verify tries inputs of numbers and fixed sizes")
    random = np.random.default_rng(0)
    if one.dtype.kind == "f":
        return random.uniform(_LOWEST, _HIGHEST, (count, *one.shape)).astype(one.dtype)
    return random.integers(0, 2, (count, *one.shape)).astype(one.dtype)
