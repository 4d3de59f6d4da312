"""LightGBM: boosted trees that grow leaf by leaf, `lightgbm`.

Events lie on disk in plan order; LightGBM keeps one byte a value of them in memory (`lightgbm_learner`). Its trees are
written as a graph from its own text (`lightgbm_trees`). It takes weights, refuses negative ones, and sees missing
values; where the training part has none in a column, a missing value counts as 0. Invariant: a user's estimator is
read, never fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np

from mlaas4hep.backends.devices import asked, cuda_devices, cuda_or_cpu, device_problems
from mlaas4hep.backends.dials import Dials, out_of_range
from mlaas4hep.backends.lightgbm_learner import BOOSTING, MAX_BIN, MODEL_FILE, SAMPLE, BoostedTrees, BoostingLearner
from mlaas4hep.backends.lightgbm_trees import read_forest
from mlaas4hep.backends.protocol import Capabilities, Learner, Predictor, Task
from mlaas4hep.errors import BundleError, ModelError

# What of a user's LGBMClassifier is learned with, by scikit-learn's names and LightGBM's own; its other settings are
# refused, but for those that the run decides.
_KEPT: Mapping[str, str] = {
    "colsample_bytree": "feature_fraction",
    "min_child_samples": "min_data_in_leaf",
    "min_child_weight": "min_sum_hessian_in_leaf",
    "min_split_gain": "min_gain_to_split",
    "reg_alpha": "lambda_l1",
    "reg_lambda": "lambda_l2",
    "subsample": "bagging_fraction",
    "subsample_for_bin": "bin_construct_sample_cnt",
    "subsample_freq": "bagging_freq",
} | {
    name: name
    for name in (
        "extra_trees",
        "feature_fraction_bynode",
        "learning_rate",
        "max_bin",
        "max_delta_step",
        "max_depth",
        "min_data_in_bin",
        "monotone_constraints",
        "num_leaves",
        "path_smooth",
        "scale_pos_weight",
    )
}
_DECIDED = ("deterministic", "importance_type", "n_estimators", "n_jobs", "random_state", "verbose", "verbosity")
_PATIENCE = "early_stopping_round"
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "boosting_type": ("gbdt",),
    "objective": ("binary", "multiclass"),
    "linear_tree": (False,),
    "use_missing": (True,),
    "zero_as_missing": (False,),
}


class BoostingDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of the boosted trees, by LightGBM's own names.

    Parameters
    ----------
    num_iterations
        At most so many rounds; the validation part says when to stop.
    learning_rate
        Weight of each tree.
    num_leaves
        Of the largest tree.
    max_depth
        Of the largest tree; -1 sets no limit.
    min_data_in_leaf
        Fewest events in a leaf, whatever they weigh.
    min_sum_hessian_in_leaf
        Least sum of second derivatives in a leaf, in units of events of mean weight; an event counts 1/4 or less.
    lambda_l1, lambda_l2
        Pull of the leaves towards zero.
    bagging_fraction
        Share of the events that each round learns from, drawn with the seed of the run.
    feature_fraction
        Share of the variables that each tree looks at, drawn with the seed of the run.
    max_bin
        Histogram bins a variable; above 256 takes twice the memory.
    bin_construct_sample_cnt
        Events that the bins are made from, drawn with the seed of the run; 20 bytes a value for a moment.
    early_stopping_round
        Rounds without a better validation loss before it stops.
    device
        `cpu`; `cuda` or `cuda:1`, which wants LightGBM built with CUDA; or `auto`, which takes such a GPU where it can.
        On a GPU the trees are not the same to the bit. LightGBM's own `gpu`, of OpenCL, is not taken.
    """

    num_iterations: int = 1000
    learning_rate: float = 0.03
    num_leaves: int = 31
    max_depth: int = -1
    min_data_in_leaf: int = 20
    min_sum_hessian_in_leaf: float = 1e-3
    lambda_l1: float = 0.0
    lambda_l2: float = 5.0
    bagging_fraction: float = 0.8
    feature_fraction: float = 1.0
    max_bin: int = MAX_BIN
    bin_construct_sample_cnt: int = SAMPLE
    early_stopping_round: int = 50
    device: str = "cpu"

    def problems(self) -> list[str]:
        """What is out of range."""
        problems = out_of_range(
            self,
            above_zero=("num_iterations", "learning_rate", "min_data_in_leaf", "early_stopping_round"),
            at_least_zero=("min_sum_hessian_in_leaf", "lambda_l1", "lambda_l2"),
            # Below 100,000 LightGBM warns of poor bins.
            between={
                "num_leaves": (2, 131_072),
                "max_bin": (2, 65_535),
                "bin_construct_sample_cnt": (100_000, 2**31 - 1),
            },
        )
        shares = {"bagging_fraction": self.bagging_fraction, "feature_fraction": self.feature_fraction}
        problems += [
            f"{name}: {share!r} is out of range; wants above 0 to 1"
            for name, share in shares.items()
            if not 0 < share <= 1
        ]
        if self.max_depth == 0 or self.max_depth < -1:
            problems.append(f"max_depth: {self.max_depth!r} is out of range; wants above 0, or -1 for no limit")
        return problems + device_problems(self.device)


class LightgbmBackend:
    """LightGBM behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "lightgbm"
    models: Mapping[str, type[Dials]] = {"lightgbm": BoostingDials}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return BOOSTING

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner that has no trees yet."""
        if not isinstance(dials, BoostingDials):
            raise ModelError(f"model {model} of backend lightgbm takes no {type(dials).__name__}")
        parameters: dict[str, Any] = {
            "learning_rate": dials.learning_rate,
            "num_leaves": dials.num_leaves,
            "max_depth": dials.max_depth,
            "min_data_in_leaf": dials.min_data_in_leaf,
            "min_sum_hessian_in_leaf": dials.min_sum_hessian_in_leaf,
            "lambda_l1": dials.lambda_l1,
            "lambda_l2": dials.lambda_l2,
            "bagging_fraction": dials.bagging_fraction,
            "bagging_freq": int(dials.bagging_fraction < 1),
            "feature_fraction": dials.feature_fraction,
            "max_bin": dials.max_bin,
            "bin_construct_sample_cnt": dials.bin_construct_sample_cnt,
            **_device(dials.device, f"{model} (backend lightgbm)"),
        }
        return BoostingLearner(parameters, rounds=dials.num_iterations, patience=dials.early_stopping_round, task=task)

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """Learned trees back from LightGBM's text."""
        if MODEL_FILE not in files:
            raise BundleError(f"native weights: {MODEL_FILE} is not among {', '.join(sorted(files)) or 'no files'}")
        try:
            # Before LightGBM sees it: refuses all that is no text of trees, with a reason.
            forest = read_forest(files[MODEL_FILE])
            forest.export()
            if (forest.width, forest.outputs) != (task.width, task.outputs):
                raise ModelError(
                    f"its trees give {forest.outputs} scores of {forest.width} inputs; the task has {task.outputs} of "
                    f"{task.width}"
                )
            return BoostedTrees(files[MODEL_FILE], task)
        except (ModelError, lightgbm.basic.LightGBMError) as error:
            raise BundleError(f"native weights: {MODEL_FILE} cannot be read: {error}") from error

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner with the parameters of a user's `LGBMClassifier`.

        The run decides the objective, the threads and, where ``random_state`` is None, the seed. Without
        ``early_stopping_round`` all ``n_estimators`` rounds are learned; those up to the best on the validation part
        are kept either way.
        """
        if dials:
            raise ModelError(f"{where}: an estimator carries its own settings; model.{next(iter(dials))} is not one")
        if not isinstance(found, lightgbm.LGBMClassifier):
            raise ModelError(
                f"{where}: returned a {type(found).__name__}, which is not learned here; return an LGBMClassifier"
            )
        given = found.get_params()
        problems = _refused(given)
        if problems:
            raise ModelError(f"{where}: LGBMClassifier: {'; '.join(problems)}")
        parameters = {own: given[name] for name, own in _KEPT.items() if given.get(name) is not None}
        if given["random_state"] is not None:
            parameters["seed"] = _seed(given["random_state"], where)
        return BoostingLearner(parameters, rounds=int(given["n_estimators"]), patience=given.get(_PATIENCE), task=task)


def _device(device: str, where: str) -> dict[str, Any]:
    """LightGBM's parameters for where it learns; none for the CPU."""
    install = (
        "build LightGBM with it (pip install --no-binary lightgbm --config-settings=cmake.define.USE_CUDA=ON lightgbm)"
    )
    kind = asked(device).kind
    built = kind != "cpu" and (kind != "auto" or cuda_devices() > 0) and _has_cuda()
    found, problem = cuda_or_cpu(device, built=built, install=install)
    if problem is not None:
        raise ModelError(f"{where}: device: {device} cannot be used: {problem}")
    if found == "cpu":
        return {}
    number = asked(found).number
    rows = {"force_col_wise": False, "force_row_wise": True}  # all that LightGBM knows there
    return {"device_type": "cuda", **rows, **({} if number is None else {"gpu_device_id": number})}


def _has_cuda() -> bool:
    """Whether this LightGBM was built with CUDA: it says so only when it is asked to learn."""
    rows = lightgbm.Dataset(np.zeros((2, 1)), np.array([0.0, 1.0]), params={"verbosity": -1})
    try:
        lightgbm.Booster({"objective": "binary", "device_type": "cuda", "verbosity": -1}, rows)
    except lightgbm.basic.LightGBMError as error:
        if "not enabled in this build" in str(error):
            return False
        raise ModelError(f"LightGBM cannot learn on a CUDA GPU here: {error}; give device: cpu") from error
    return True


def _refused(given: Mapping[str, Any]) -> list[str]:
    """One line for every parameter that would be learned differently, or not at all."""
    problems = []
    for name, value in given.items():
        if value is None or name in _KEPT or name in _DECIDED or name == _PATIENCE:
            continue
        if name not in _ONLY:
            problems.append(f"{name} is not taken; leave it")
        elif value not in _ONLY[name]:
            problems.append(f"{name}={value!r} is not taken; wants {' or '.join(map(repr, _ONLY[name]))}")
    return problems


def _seed(state: Any, where: str) -> int:
    if not isinstance(state, int):
        raise ModelError(
            f"{where}: LGBMClassifier: random_state is a {type(state).__name__}; give a number or leave it"
        )
    return state
