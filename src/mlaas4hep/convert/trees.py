"""XGBoost's JSON and UBJ and LightGBM's text: read here without either, and held against both.

Invariant: the graph's trees are read from the file itself, as float64 with the framework's own comparisons, and never
by a converter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.forest import linked
from mlaas4hep.convert.made import (
    INPUT,
    OUTPUT,
    SCORE_BAR,
    VALUE_BAR,
    Arrays,
    Asked,
    Made,
    flat_rows,
    of_core,
    versions_of,
)
from mlaas4hep.errors import MissingExtraError, UploadError
from mlaas4hep.graph.core import Core, Link
from mlaas4hep.spec.scaling import Scaler

Margins = Callable[[NDArray[np.float32]], NDArray[np.float64]]
_ROUNDS = 32


def convert_xgboost(data: bytes, asked: Asked, *, ubj: bool) -> Made:
    """An XGBoost model; in UBJ it is read by XGBoost first."""
    from mlaas4hep.backends.xgboost_trees import read_forest

    try:
        import xgboost
    except ImportError as error:
        raise MissingExtraError("xgboost", "xgboost", "proving that a model of XGBoost was converted well") from error
    try:
        booster = xgboost.Booster(model_file=bytearray(data))
    except xgboost.core.XGBoostError as error:
        # Behind the first line it tells where its library lies.
        why = str(error).strip().partition("\n")[0]
        raise UploadError(f"XGBoost cannot read the model: {why[:200]}") from error
    booster.set_param({"nthread": 1, "device": "cpu"})
    forest = read_forest(bytes(booster.save_raw("json")) if ubj else data)

    def margins(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        total = np.tile(forest.base, (len(rows), 1))
        nothing = np.zeros(len(rows) if total.shape[1] == 1 else total.shape, np.float32)
        for start in range(0, booster.num_boosted_rounds(), _ROUNDS):
            some = (start, min(start + _ROUNDS, booster.num_boosted_rounds()))
            found = booster.inplace_predict(rows, iteration_range=some, predict_type="margin", base_margin=nothing)
            total += np.asarray(found).reshape(total.shape)
        return total

    return _made(forest.export(), forest.width, forest.link, margins, "XGBoost", "xgboost", asked)


def convert_lightgbm(data: bytes, asked: Asked) -> Made:
    """A LightGBM model."""
    from mlaas4hep.backends.lightgbm_trees import read_forest

    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtraError(
            "lightgbm", "lightgbm", "proving that a model of LightGBM was converted well"
        ) from error
    forest = read_forest(data)
    core = forest.export()
    try:
        booster = lightgbm.Booster(model_str=data.decode(), params={"num_threads": 1, "verbosity": -1})
    except lightgbm.basic.LightGBMError as error:
        raise UploadError(f"LightGBM cannot read the model: {str(error).strip()[:200]}") from error

    def margins(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        found = booster.predict(rows, raw_score=True, num_threads=1)
        return np.asarray(found, np.float64).reshape(len(rows), -1)

    return _made(core, forest.width, forest.link, margins, "LightGBM", "lightgbm", asked)


def _made(core: Core, width: int, link: Link, margins: Margins, framework: str, package: str, asked: Asked) -> Made:
    def reference(inputs: Arrays) -> Arrays:
        return {OUTPUT: linked(margins(inputs[INPUT]), link)}

    common: dict[str, Any] = {
        "framework": framework,
        "converter": f"own lowering of {framework}'s trees, sums in float64",
        "versions": versions_of(package, "xgboost-cpu" if package == "xgboost" else package),
        "bar": VALUE_BAR if link == "identity" else SCORE_BAR,
    }
    if asked.spec is None:
        rows = flat_rows(width, thresholds=core.thresholds, missing=True)
        return Made(model=of_core(core), reference=reference, rows=rows, **common)
    require_width(width, asked)
    scaler = Scaler(asked.spec.scaling)
    return Made(core=core, core_reference=lambda groups: linked(margins(scaler.native(groups)), link), **common)


def require_width(width: int, asked: Asked) -> None:
    """`UploadError` where a model takes another number of inputs than the contract's flat view has."""
    if asked.spec is not None and asked.spec.width != width:
        raise UploadError(f"the model takes {width} numbers an event; spec.json says {asked.spec.width}")
