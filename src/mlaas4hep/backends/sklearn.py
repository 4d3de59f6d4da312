"""scikit-learn: the network `mlp`, trained batch by batch, and the boosted trees `bdt`, in memory; classes and targets.

The framework of the plain installation. Networks are written as graphs by `lower_dense`, trees by `lower_trees`; no
converter is involved. Invariant: a user's estimator is copied, never fitted in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from mlaas4hep.backends.arrays import unpack
from mlaas4hep.backends.devices import device_problems
from mlaas4hep.backends.dials import Dials, bad_sizes, out_of_range
from mlaas4hep.backends.forest import StoredForest
from mlaas4hep.backends.losses import refuse_loss
from mlaas4hep.backends.protocol import Capabilities, Learner, Predictor, Task
from mlaas4hep.backends.sklearn_learners import BDT, MLP, BdtLearner, MlpLearner
from mlaas4hep.backends.sklearn_targets import LOSSES, BdtTargets
from mlaas4hep.errors import ModelError


class MlpDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    activation
        Between the layers.
    learning_rate
        Of Adam.
    l2
        Pull of the weights towards zero: ``l2 / 2`` times their squares is added to the mean loss of a batch.
    averaging
        The scores are those of the weights averaged over the steps, of which the past keeps this share at each step;
        0 takes the last weights. Single steps of small batches then matter less.
    device
        `auto` and `cpu` are the CPU; scikit-learn has no other.
    """

    hidden: tuple[int, ...] = (128, 64)
    activation: Literal["relu", "tanh", "logistic"] = "relu"
    learning_rate: float = 2e-3
    l2: float = 4e-3
    averaging: float = 0.998
    device: str = "auto"

    def problems(self) -> list[str]:
        """What is out of range."""
        ranges = out_of_range(
            self, above_zero=("learning_rate",), at_least_zero=("l2",), between={"averaging": (0, 0.99999)}
        )
        on_gpu = device_problems(self.device, only_cpu="for a GPU take backend: torch")
        return bad_sizes("hidden", self.hidden) + ranges + on_gpu


class BdtDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of the boosted trees.

    Parameters
    ----------
    trees
        At most so many rounds; the validation part says when to stop.
    learning_rate
        Weight of each tree.
    leaves, depth
        Largest tree; ``depth`` null sets no limit.
    min_events
        Fewest events in a leaf.
    l2
        Pull of the leaves towards zero.
    bins
        Histogram bins a variable, at most 255.
    patience
        Rounds without a better validation loss before it stops.
    loss
        Of a regression; classes are learned by cross-entropy. scikit-learn's boosting has no Huber loss.
    device
        `auto` and `cpu` are the CPU; scikit-learn has no other.
    """

    trees: int = 500
    learning_rate: float = 0.05
    leaves: int = 31
    depth: int | None = None
    min_events: int = 20
    l2: float = 0.0
    bins: int = 255
    patience: int = 20
    loss: Literal["squared", "absolute"] = "squared"
    device: str = "auto"

    def problems(self) -> list[str]:
        """What is out of range."""
        return out_of_range(
            self,
            above_zero=("trees", "learning_rate", "min_events", "patience"),
            at_least_zero=("l2",),
            between={"bins": (2, 255), "leaves": (2, 65536), "depth": (1, 64)},
        ) + device_problems(self.device, only_cpu="for a GPU take backend: xgboost")


class SklearnBackend:
    """scikit-learn behind the protocol of `mlaas4hep.backends.protocol.Backend`."""

    name = "sklearn"
    models: Mapping[str, type[Dials]] = {"mlp": MlpDials, "bdt": BdtDials}

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""
        return MLP if model == "mlp" else BDT

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner with fresh weights."""
        if isinstance(dials, MlpDials):
            return _build_mlp(dials, task)
        if isinstance(dials, BdtDials):
            return _build_bdt(dials, task)
        raise ModelError(f"model {model} of backend sklearn takes no {type(dials).__name__}")

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned model back from its native files."""
        settings, arrays = unpack(files)
        if settings["model"] == "bdt":
            return StoredForest(arrays, task)
        kind = MLPRegressor if task.kind == "regression" else MLPClassifier
        network = kind(**settings["parameters"])
        learner = MlpLearner(network, task)
        learner.start()
        learner.restore(arrays)
        return learner

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner around a user's estimator, `MLPClassifier` or `HistGradientBoostingClassifier`.

        Of a regression `MLPRegressor` or `HistGradientBoostingRegressor`, which is copied for each target. Its
        parameters are kept, but for what the training decides: ``batch_size``, ``max_iter`` and ``shuffle`` of a
        network; a ``random_state`` of None takes the seed of the run.
        """
        if dials:
            raise ModelError(f"{where}: an estimator carries its own settings; model.{next(iter(dials))} is not one")
        network, boosting = _KINDS[task.kind == "regression"]
        if isinstance(found, network):
            return MlpLearner(_adopted_network(found, task, where), task)
        if isinstance(found, boosting):
            trees = _adopted_boosting(found, task, where)
            return BdtTargets(trees, task) if task.kind == "regression" else BdtLearner(trees, task)
        of = " of a regression" if task.kind == "regression" else ""
        raise ModelError(
            f"{where}: returned a {type(found).__name__}, which cannot be written as a graph yet; "
            f"known estimators{of}: {network.__name__}, {boosting.__name__}"
        )


# By whether targets are learned: the network and the trees.
_KINDS: Mapping[bool, tuple[Any, Any]] = {
    False: (MLPClassifier, HistGradientBoostingClassifier),
    True: (MLPRegressor, HistGradientBoostingRegressor),
}


def _seeded(estimator: Any, task: Task) -> Any:
    fresh = clone(estimator)
    return fresh if fresh.random_state is not None else fresh.set_params(random_state=task.seed)


def _adopted_network(found: Any, task: Task, where: str) -> Any:
    name = type(found).__name__
    if found.solver == "lbfgs":
        raise ModelError(f"{where}: {name}(solver='lbfgs') cannot learn batch by batch; use 'adam' or 'sgd'")
    if found.early_stopping:
        raise ModelError(f"{where}: leave {name}(early_stopping=False); training.patience stops the training")
    if task.kind == "regression" and found.loss != "squared_error":
        raise ModelError(f"{where}: {name}(loss='{found.loss}') is of counts; targets are learned in standard units")
    return _seeded(found, task)


def _adopted_boosting(found: Any, task: Task, where: str) -> Any:
    if found.categorical_features not in (None, "from_dtype"):
        raise ModelError(f"{where}: categorical features cannot be written as a graph yet; give numbers")
    if task.kind == "regression" and found.loss not in LOSSES:
        raise ModelError(
            f"{where}: {type(found).__name__}(loss='{found.loss}') is not learned here; known: {', '.join(LOSSES)}"
        )
    return _seeded(found, task)


def _build_mlp(dials: MlpDials, task: Task) -> MlpLearner:
    network = _KINDS[task.kind == "regression"][0](
        hidden_layer_sizes=dials.hidden,
        activation=dials.activation,
        learning_rate_init=dials.learning_rate,
        random_state=task.seed,
    )
    return MlpLearner(network, task, l2=dials.l2, averaging=dials.averaging)


def _build_bdt(dials: BdtDials, task: Task) -> BdtLearner | BdtTargets:
    refuse_loss(dials, kind=task.kind, title="bdt (backend sklearn)")
    settings: dict[str, Any] = {
        "max_iter": dials.trees,
        "learning_rate": dials.learning_rate,
        "max_leaf_nodes": dials.leaves,
        "max_depth": dials.depth,
        "min_samples_leaf": dials.min_events,
        "l2_regularization": dials.l2,
        "max_bins": dials.bins,
        "n_iter_no_change": dials.patience,
        "early_stopping": True,
        "random_state": task.seed,
    }
    if task.kind == "regression":
        return BdtTargets(HistGradientBoostingRegressor(loss=f"{dials.loss}_error", **settings), task)
    return BdtLearner(HistGradientBoostingClassifier(**settings), task)
