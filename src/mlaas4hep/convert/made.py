"""What converters are given and what they give; the words shared by all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.convert.params import Params
from mlaas4hep.graph.core import FLAT_INPUT, Core
from mlaas4hep.spec.contract import ModelSpec

Arrays = Mapping[str, NDArray[Any]]
SCORE_BAR, VALUE_BAR = 1e-6, 1e-5
INPUT, OUTPUT = "input", "scores"


@dataclass(frozen=True, slots=True)
class Asked:
    """What came with a model.

    Parameters
    ----------
    spec
        Our contract; None makes a plain entry.
    params
        TFaaS's description.
    """

    spec: ModelSpec | None = None
    params: Params = field(default_factory=Params)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Sample inputs of one sort.

    Parameters
    ----------
    sort
        In words.
    inputs
        By name.
    stretch
        By how much the bar is wider here: float32 sums of inputs that are as much larger.
    """

    sort: str
    inputs: Arrays
    stretch: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A model as ONNX, with what it is held against.

    Parameters
    ----------
    model
        Serialised, not canonical yet.
    reference
        The framework: inputs of the graph to its outputs, by name.
    rows
        To compare on; None for samples that follow from the graph's inputs.
    bar
        Largest difference allowed.
    framework
        Who answers as ``reference``.
    converter, versions, notes
        As of `mlaas4hep.convert.result.Conversion`.
    core, core_reference
        Of a model with a contract: what `mlaas4hep.bundle.write_bundle` takes instead.
    """

    framework: str
    converter: str
    versions: dict[str, str]
    model: bytes = b""
    reference: Callable[[Arrays], Arrays] | None = None
    rows: tuple[Rows, ...] | None = None
    bar: float = SCORE_BAR
    notes: tuple[str, ...] = ()
    core: Core | None = None
    core_reference: Callable[[Any], Any] | None = None


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of installed packages, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def flat_rows(width: int, *, thresholds: NDArray[np.float64] | None = None, missing: bool = False) -> tuple[Rows, ...]:
    """Seeded rows [n, W] for models of one vector: usual, large and zero ones, holes, and both sides of thresholds."""
    random = np.random.default_rng(7)
    usual = random.normal(size=(1000, width)).astype(np.float32)
    sorts = [
        Rows("normal", _named(usual)),
        Rows("a hundred times larger", _named(usual[:300] * np.float32(100)), 100.0),
        Rows("zero", _named(np.zeros((2, width), np.float32))),
    ]
    if missing:
        holes = usual.copy()
        holes[random.random(holes.shape) < 0.3] = np.nan
        holes[0] = np.nan
        sorts.append(Rows("with missing values", _named(holes)))
    if thresholds is not None and len(thresholds):
        sorts.append(Rows("next to a tree threshold", _named(_beside(thresholds, usual))))
    return tuple(sorts)


def _named(rows: NDArray[np.float32]) -> Arrays:
    return {INPUT: rows}


def _beside(thresholds: NDArray[np.float64], base: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each of at most 4096 thresholds the nearest float32 and its neighbours."""
    chosen = thresholds[np.linspace(0, len(thresholds) - 1, min(len(thresholds), 4096)).astype(np.int64)]
    columns = np.repeat(chosen[:, 0].astype(np.int64), 3)
    nearest = chosen[:, 1].astype(np.float32)
    sides = [np.nextafter(nearest, np.float32(-np.inf)), nearest, np.nextafter(nearest, np.float32(np.inf))]
    rows = np.resize(base, (len(columns), base.shape[1]))
    rows[np.arange(len(columns)), columns] = np.stack(sides, axis=1).ravel()
    return rows


def of_core(core: Core) -> bytes:
    """A core on the flat view as a model of its own: ``input`` [N, W] to ``scores`` [N, C]."""
    import onnx

    model = onnx.ModelProto.FromString(core.model)
    names = {FLAT_INPUT: INPUT, core.output: OUTPUT}
    for node in model.graph.node:
        for place in (node.input, node.output):
            for at, name in enumerate(place):
                place[at] = names.get(name, name)
    for end in (*model.graph.input, *model.graph.output):
        end.name = names.get(end.name, end.name)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
