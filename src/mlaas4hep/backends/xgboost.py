"""XGBoost: boosted trees on more events than memory holds, `xgboost`, also as `bdt`.

Events lie on disk in plan order and XGBoost reads them page by page (`xgboost_learner`); its trees are written as a
graph from its own JSON (`xgboost_trees`). It takes weights and sees missing values. Negative weights it refuses;
instead take a network that learns from them, absolute weights, equal weights for learning, or events that were
resampled to positive weights beforehand (arXiv:2005.09375). Invariant: a user's estimator is read, never fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xgboost

from mlaas4hep.backends.devices import cuda_or_cpu, device_problems
from mlaas4hep.backends.dials import Dials, out_of_range
from mlaas4hep.backends.losses import LossName, refuse_loss
from mlaas4hep.backends.protocol import Capabilities, Learner, Predictor, Task
from mlaas4hep.backends.xgboost_learner import BOOSTING, MAX_BIN, MODEL_FILE, BoostedTrees, BoostingLearner
from mlaas4hep.backends.xgboost_trees import BINARY, MULTICLASS, REGRESSIONS, read_forest
from mlaas4hep.errors import BundleError, ModelError

# What of a user's XGBClassifier or XGBRegressor is learned with; its other settings are refused, but for those that
# the run decides.
_KEPT = (
    "base_score",
    "colsample_bylevel",
    "colsample_bynode",
    "colsample_bytree",
    "gamma",
    "grow_policy",
    "learning_rate",
    "max_bin",
    "max_delta_step",
    "max_depth",
    "max_leaves",
    "min_child_weight",
    "monotone_constraints",
    "num_parallel_tree",
    "reg_alpha",
    "reg_lambda",
    "scale_pos_weight",
    "subsample",
)
_DECIDED = (
    "early_stopping_rounds",
    "importance_type",
    "max_cat_threshold",
    "max_cat_to_onehot",
    "n_estimators",
    "n_jobs",
    "random_state",
    "validate_parameters",
    "verbosity",
)
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "booster": ("gbtree",),
    "enable_categorical": (False,),
    "multi_strategy": ("one_output_per_tree",),
    "sampling_method": ("uniform",),
    "tree_method": ("auto", "hist"),
}
# And by whether targets are learned.
_ONLY_OF: Mapping[bool, Mapping[str, tuple[Any, ...]]] = {
    False: {**_ONLY, "eval_metric": ("logloss", "mlogloss"), "objective": (BINARY, MULTICLASS)},
    True: {**_ONLY, "eval_metric": ("rmse", "mae", "mphe"), "objective": REGRESSIONS},
}
_DEFAULT_ROUNDS = 100
# By whether targets are learned: the estimator that is taken, and its kin that is not.
_WANTED: Mapping[bool, tuple[Any, Any]] = {
    False: (xgboost.XGBClassifier, xgboost.XGBRFClassifier),
    True: (xgboost.XGBRegressor, xgboost.XGBRFRegressor),
}


class BoostingDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of the boosted trees.

    Parameters
    ----------
    trees
        At most so many rounds; the validation part says when to stop.
    learning_rate
        Weight of each tree.
    depth
        Of the largest tree.
    min_child_weight
        Least sum of second derivatives in a leaf, in units of events of mean weight; an event counts 1/4 or less.
    l2
        Pull of the leaves towards zero.
    subsample
        Share of the events that each round learns from, drawn with the seed of the run.
    bins
        Histogram bins a variable; above 256 takes twice the disk.
    patience
        Rounds without a better validation loss before it stops.
    loss
        Of a regression; classes are learned by cross-entropy. ``huber`` is XGBoost's smooth kin of it, pseudo-Huber.
    huber_delta
        Where that turns from squared to absolute, in units of the target's spread.
    device
        `cpu`; `cuda` or `cuda:1`, which wants XGBoost with CUDA, and the bins of all events in memory; or `auto`, which
        takes such a GPU where it can. On a GPU the trees are not the same to the bit.
    """

    trees: int = 1000
    learning_rate: float = 0.03
    depth: int = 6
    min_child_weight: float = 5.0
    l2: float = 5.0
    subsample: float = 0.8
    bins: int = MAX_BIN
    patience: int = 50
    loss: LossName = "squared"
    huber_delta: float = 0.3
    device: str = "cpu"

    def problems(self) -> list[str]:
        """What is out of range."""
        problems = out_of_range(
            self,
            above_zero=("trees", "learning_rate", "subsample", "patience", "huber_delta"),
            at_least_zero=("min_child_weight", "l2"),
            between={"bins": (2, 65536), "depth": (1, 16)},
        )
        if self.subsample > 1:
            problems.append(f"subsample: {self.subsample!r} is out of range; wants above 0 to 1")
        return problems + device_problems(self.device)


class XgboostBackend:
    """XGBoost behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "xgboost"
    models: Mapping[str, type[Dials]] = {"xgboost": BoostingDials, "bdt": BoostingDials}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return BOOSTING

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner that has no trees yet."""
        if not isinstance(dials, BoostingDials):
            raise ModelError(f"model {model} of backend xgboost takes no {type(dials).__name__}")
        parameters = {
            "learning_rate": dials.learning_rate,
            "max_depth": dials.depth,
            "min_child_weight": dials.min_child_weight,
            "reg_lambda": dials.l2,
            "subsample": dials.subsample,
            "max_bin": dials.bins,
            "device": _device(dials.device, f"{model} (backend xgboost)"),
            **_objective(dials, task, model),
        }
        return BoostingLearner(parameters, rounds=dials.trees, patience=dials.patience, task=task)

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """Learned trees back from XGBoost's JSON."""
        if MODEL_FILE not in files:
            raise BundleError(f"native weights: {MODEL_FILE} is not among {', '.join(sorted(files)) or 'no files'}")
        try:
            # Before XGBoost sees it: refuses all that is no JSON of trees, with a reason.
            read_forest(files[MODEL_FILE])
            return BoostedTrees(xgboost.Booster(model_file=bytearray(files[MODEL_FILE])), task)
        except (ModelError, xgboost.core.XGBoostError) as error:
            raise BundleError(f"native weights: {MODEL_FILE} cannot be read: {error}") from error

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner with the parameters of a user's `XGBClassifier`, or of an `XGBRegressor` of a regression.

        The run decides the objective of classes, the threads and, where ``random_state`` is None, the seed. Without
        ``early_stopping_rounds`` all ``n_estimators`` rounds are learned; those up to the best on the validation part
        are kept either way.
        """
        if dials:
            raise ModelError(f"{where}: an estimator carries its own settings; model.{next(iter(dials))} is not one")
        kind, forests = _WANTED[task.kind == "regression"]
        if not isinstance(found, kind) or isinstance(found, forests):
            raise ModelError(
                f"{where}: returned a {type(found).__name__}, which is not learned here; return an {kind.__name__}"
            )
        given = found.get_params()
        problems = _refused(given, _ONLY_OF[task.kind == "regression"])
        if problems:
            raise ModelError(f"{where}: {kind.__name__}: {'; '.join(problems)}")
        parameters = {name: given[name] for name in _KEPT if given[name] is not None}
        parameters["device"] = _device(given["device"] or "cpu", f"{where}: {kind.__name__}")
        if task.kind == "regression":
            parameters["objective"] = given["objective"]
        if given["random_state"] is not None:
            parameters["seed"] = _seed(given["random_state"], where)
        rounds = _DEFAULT_ROUNDS if given["n_estimators"] is None else int(given["n_estimators"])
        return BoostingLearner(parameters, rounds=rounds, patience=given["early_stopping_rounds"], task=task)


def _device(device: str, where: str) -> str:
    """Where XGBoost learns: it would fall back to the CPU with no more than a warning."""
    built = bool(xgboost.build_info().get("USE_CUDA"))
    install = "install 'xgboost' in the place of 'xgboost-cpu' (pip uninstall xgboost-cpu; pip install xgboost)"
    found, problem = cuda_or_cpu(device, built=built, install=install)
    if problem is not None:
        raise ModelError(f"{where}: device: {device} cannot be used: {problem}")
    return found


def _objective(dials: BoostingDials, task: Task, model: str) -> dict[str, Any]:
    """Of a regression; nothing where classes are learned."""
    refuse_loss(dials, kind=task.kind, title=f"{model} (backend xgboost)")
    if task.kind != "regression":
        return {}
    squared, absolute, huber = REGRESSIONS
    if dials.loss == "huber":
        # XGBoost's own first guess is one step of Newton's from 0.5, far off for this loss; 0 is the mean here.
        return {"objective": huber, "huber_slope": dials.huber_delta, "base_score": 0.0}
    return {"objective": squared if dials.loss == "squared" else absolute}


def _refused(given: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """One line for every parameter that would be learned differently, or not at all."""
    problems = []
    for name, value in given.items():
        if value is None or name in _KEPT or name in _DECIDED:
            continue
        if name == "device":
            problems += device_problems(value)
        elif name == "missing":
            if not (isinstance(value, float) and value != value):
                problems.append(f"missing={value!r}: missing values are NaN here; leave it")
        elif name not in only:
            problems.append(f"{name} is not taken; leave it")
        elif value not in only[name]:
            problems.append(f"{name}={value!r} is not taken; wants {' or '.join(map(repr, only[name]))}")
    return problems


def _seed(state: Any, where: str) -> int:
    if not isinstance(state, int):
        raise ModelError(f"{where}: XGBClassifier: random_state is a {type(state).__name__}; give a number or leave it")
    return state
