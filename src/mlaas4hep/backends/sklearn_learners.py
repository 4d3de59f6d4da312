"""Learners around scikit-learn's estimators: a network that takes a step a batch, boosting on a table.

Used by `mlaas4hep.backends.sklearn`. Invariant: scikit-learn's own scores are what `predict` gives; they are the
reference of the parity gate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn import __version__ as sklearn_version
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from mlaas4hep.backends.arrays import below, pack, under
from mlaas4hep.backends.average import Average
from mlaas4hep.backends.binning import bin_edges, split_value, to_bins
from mlaas4hep.backends.forest import pack_trees
from mlaas4hep.backends.protocol import Arrays, Capabilities, EventWeights, Round, Scores, Table, Task, Truth
from mlaas4hep.backends.sklearn_optimiser import optimiser_arrays, recover_optimiser
from mlaas4hep.backends.weights import relative, require_positive
from mlaas4hep.errors import DataError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.scaling import Scaler, Tensors

MLP = Capabilities(streams=True, regression=True, resume="exact")
BDT = Capabilities(streams=False, missing_native=True, regression=True)
Network: TypeAlias = MLPClassifier | MLPRegressor
Boosting: TypeAlias = HistGradientBoostingClassifier | HistGradientBoostingRegressor


class MlpLearner:
    """`MLPClassifier`, or `MLPRegressor` of targets in standard units, one optimiser step a batch.

    Parameters
    ----------
    network
        Not fitted yet.
    task
        What is learned.
    l2
        As in `MlpDials`; None keeps the estimator's ``alpha``, which scikit-learn divides by the batch.
    averaging
        As in `MlpDials`.
    """

    capabilities = MLP

    def __init__(self, network: Network, task: Task, *, l2: float | None = None, averaging: float = 0.0) -> None:
        # One call is one step: the order inside a batch is the stream's.
        self.network = network.set_params(shuffle=False)
        self.task = task
        self.l2 = l2
        self._average = Average(averaging)
        self._shown = self.network
        self._scaler = Scaler(task.groups)
        self._classes = np.arange(len(task.classes))
        self._of_targets = task.kind == "regression"

    def learn(self, inputs: Tensors, truth: Truth, weights: EventWeights) -> float:
        """One step of the optimiser on the mean loss, weighted by the weights over their sum."""
        require_positive(weights, model="mlp (backend sklearn)")
        shares = relative(weights)
        if not shares.any():
            return 0.0
        loss = self._step(self._scaler.flat(inputs), truth, shares)
        if self._average.share:
            self._show_average()
        return loss

    def start(self) -> None:
        """Make the layers, by a step that is not used."""
        truth = np.zeros((1, self.task.outputs), np.float32) if self._of_targets else self._classes
        self._step(np.zeros((len(truth), self.task.width), np.float32), truth, np.ones(len(truth)))

    def _step(self, x: NDArray[np.float32], truth: Truth, shares: NDArray[np.float64]) -> float:
        # scikit-learn cuts a call into batches of batch_size, and divides alpha by the sum of weights.
        self.network.batch_size = len(x)
        total = float(shares.sum())
        if self.l2 is not None:
            self.network.alpha = self.l2 * total
        # The loss that scikit-learn tells includes the pull on the weights before the step; the figure is of the data.
        squares = sum(float(np.vdot(one, one)) for one in self._coefficients())
        pull = 0.5 * float(self.network.alpha) / total * squares
        with threads_of(self.task):
            if self._of_targets:
                # One target is a plain column to scikit-learn.
                self.network.partial_fit(x, truth[:, 0] if truth.shape[1] == 1 else truth, shares.astype(np.float32))
            else:
                self.network.partial_fit(x, truth, shares.astype(np.float32), classes=self._classes)
        self.network.loss_curve_.clear()
        loss = float(self.network.loss_) - pull
        return 2 * loss if self._of_targets else loss  # scikit-learn halves squares

    def _coefficients(self) -> Sequence[NDArray[Any]]:
        return getattr(self.network, "coefs_", ())

    def _show_average(self) -> None:
        if self._shown is self.network:
            self._shown = copy.deepcopy(self.network)
        self._average.update(_layers(self._shown), _layers(self.network))

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float32."""
        with threads_of(self.task):
            if self._of_targets:
                values: Scores = self._shown.predict(self._scaler.flat(inputs)).reshape(-1, self.task.outputs)
                return values
            scores: Scores = self._shown.predict_proba(self._scaler.flat(inputs))
        return scores[:, 1:] if self.task.outputs == 1 else scores

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all layers."""
        return _copies(self._shown)

    def restore(self, state: Arrays) -> None:
        """Write layers back in place."""
        for network in (self.network, self._shown):
            _write(network, state)

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Layers, their average, moments and counts of the optimiser; nothing before the first step."""
        if not hasattr(self.network, "coefs_"):
            return {}
        arrays = under("layers", _copies(self.network))
        if self._shown is not self.network:
            arrays |= under("average", self.state()) | {"average_steps": np.array(self._average.steps)}
        return arrays | under("optimiser", optimiser_arrays(self.network))

    def recover(self, arrays: Arrays) -> None:
        """Make a fresh learner one that goes on from what `checkpoint` gave."""
        if not arrays:
            return
        self.start()
        recover_optimiser(self.network, below("optimiser", arrays))
        _write(self.network, below("layers", arrays))
        if "average_steps" in arrays:
            self._average.steps = int(arrays["average_steps"])
            self._shown = copy.deepcopy(self.network)
            _write(self._shown, below("average", arrays))

    def export(self) -> Core:
        """The network as MatMul, Add and its activation."""
        return lower_dense(
            self._shown.coefs_,
            self._shown.intercepts_,
            activation=self._shown.activation,
            link=self.task.link,
        )

    def native(self) -> dict[str, bytes]:
        """Layers and the estimator's parameters."""
        return pack(settings_of("mlp", self.network), _layers(self._shown))


def _write(network: Network, layers: Arrays) -> None:
    for name, values in _layers(network).items():
        values[...] = layers[name]


def _copies(network: Network) -> dict[str, NDArray[Any]]:
    return {name: values.copy() for name, values in _layers(network).items()}


def _layers(network: Network) -> dict[str, NDArray[Any]]:
    layers = {f"weight_{i}": values for i, values in enumerate(network.coefs_)}
    return layers | {f"bias_{i}": values for i, values in enumerate(network.intercepts_)}


class BdtLearner:
    """`HistGradientBoostingClassifier` on raw values, NaN where missing.

    Parameters
    ----------
    boosting
        Not fitted yet; with early stopping it learns as many rounds as the validation part likes best.
    task
        What is learned.
    """

    capabilities = BDT
    # What scikit-learn computes with; in any other type it would hold the table twice.
    dtype: np.dtype[Any] = np.dtype(np.float64)

    def __init__(self, boosting: HistGradientBoostingClassifier, task: Task) -> None:
        self.boosting = boosting
        self.task = task
        self._scaler = Scaler(task.groups)

    def view(self, inputs: Tensors) -> NDArray[Any]:
        """Raw flat rows."""
        return self._scaler.native(inputs)

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """As `boosting_memory`."""
        return boosting_memory(rows, validation_rows, self.task, leaves=self.boosting.max_leaf_nodes)

    def fit(self, train: Table, validation: Table | None, *, patience: int) -> Sequence[Round]:
        """Learn, and keep the rounds up to the best on the validation part; writes over the tables.

        ``patience`` of the training counts epochs and is not used: a round is one tree, see `BdtDials`.
        """
        for part in (train, validation):
            if part is not None:
                require_positive(part.weights, model="bdt (backend sklearn)")
        self._require_classes(train)
        weights = relative(train.weights)
        edges = [bin_edges(column, weights, bins=self.boosting.max_bins) for column in train.x.T]
        for part in (train, validation):
            if part is not None:
                write_bins(part.x, edges)
        watched = self._validation(validation)
        with threads_of(self.task):
            self.boosting.fit(train.x, train.labels, weights, **watched)
            # scikit-learn keeps no losses of rounds that nothing watches; the table holds bins, as do the trees so far.
            last = (
                None if watched else log_loss(train.labels, self.boosting.predict_proba(train.x), sample_weight=weights)
            )
        split_values(self.boosting, edges)
        return self._keep_best() if last is None else [Round(math.nan)] * (self.boosting.n_iter_ - 1) + [Round(last)]

    def _require_classes(self, train: Table) -> None:
        counts = np.bincount(train.labels, minlength=len(self.task.classes))
        empty = [name for name, count in zip(self.task.classes, counts, strict=True) if not count]
        if empty:
            raise DataError(f"class {', '.join(empty)} has no event in the training part")

    def _validation(self, validation: Table | None) -> dict[str, Any]:
        if validation is None or not len(validation) or not self.boosting.early_stopping:
            if self.boosting.early_stopping is True:
                self.boosting.set_params(early_stopping=False)
            return {}
        return {
            "X_val": validation.x,
            "y_val": validation.labels,
            "sample_weight_val": relative(validation.weights),
        }

    def _keep_best(self) -> Sequence[Round]:
        losses, validation = -self.boosting.train_score_[1:], -self.boosting.validation_score_[1:]
        # scikit-learn keeps the rounds that it waited for; they are worse than the best.
        del self.boosting._predictors[int(np.argmin(validation)) + 1 :]
        return [Round(float(loss), float(after)) for loss, after in zip(losses, validation, strict=True)]

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64."""
        with threads_of(self.task):
            scores: Scores = self.boosting.predict_proba(self._scaler.native(inputs))
        return scores[:, 1:] if self.task.outputs == 1 else scores

    def trees(self) -> list[Tree]:
        """All trees, round by round, those of one round in the order of the classes."""
        return [
            tree_of(predictor.nodes, output)
            for one_round in self.boosting._predictors
            for output, predictor in enumerate(one_round)
        ]

    @property
    def base(self) -> NDArray[np.float64]:
        """Margin before the first tree, [C]."""
        return np.asarray(self.boosting._baseline_prediction, np.float64).ravel()

    def export(self) -> Core:
        """The trees as a float64 ensemble."""
        return lower_trees(self.trees(), num_features=self.task.width, base=self.base, link=self.task.link)

    def native(self) -> dict[str, bytes]:
        """Node arrays of all trees and the estimator's parameters."""
        return pack(settings_of("bdt", self.boosting), pack_trees(self.trees(), self.base))


def boosting_memory(rows: int, validation_rows: int, task: Task, *, leaves: int | None) -> int:
    """Bytes: tables in float64, their bins, gradients and scores, sorting for the bins, histograms of one tree.

    Read off scikit-learn 1.9: a bin is one byte, the search for missing ones makes one more a value, and above 200,000
    rows it sorts a sample of so many.
    """
    width, outputs = task.width, task.outputs
    tables = (rows + validation_rows) * (width * 9 + 24 + outputs * 8)
    search = rows * (width + outputs * 8 + 12)
    sample = 200_000 * width * 8 if rows > 200_000 else 0
    histograms = width * 256 * 20 * (leaves or 255)
    return tables + max(search, sample, rows * 56) + histograms


def split_values(boosting: Boosting, edges: Sequence[NDArray[np.float64] | None]) -> None:
    """From splits of bin numbers to splits of values: afterwards the estimator predicts from raw rows."""
    for predictor in chain.from_iterable(boosting._predictors):
        nodes = predictor.nodes
        for feature in np.unique(nodes["feature_idx"][nodes["is_leaf"] == 0]):
            own = (nodes["feature_idx"] == feature) & (nodes["is_leaf"] == 0)
            nodes["num_threshold"][own] = split_value(edges[feature], nodes["num_threshold"][own])


def write_bins(x: NDArray[np.float64], edges: Sequence[NDArray[np.float64] | None]) -> None:
    """Replace values by the numbers of their bins, column by column in place."""
    for column, own in zip(x.T, edges, strict=True):
        column[:] = to_bins(column, own)


@cache
def _pools() -> ThreadpoolController:
    """The thread pools of BLAS and OpenMP, found once: looking for them takes milliseconds."""
    return ThreadpoolController()


def threads_of(task: Task) -> AbstractContextManager[Any]:
    """Holds BLAS and OpenMP to the task's threads: sums of gradients depend on their number in the last bits."""
    limits: AbstractContextManager[Any] = _pools().limit(limits=task.threads)
    return limits


def tree_of(nodes: NDArray[Any], output: int) -> Tree:
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        value=nodes["value"].astype(np.float64),
        is_leaf=nodes["is_leaf"].astype(np.bool_),
        missing_left=nodes["missing_go_to_left"].astype(np.bool_),
        output=output,
    )


def settings_of(model: str, estimator: Any) -> dict[str, Any]:
    plain = (str, int, float, bool, tuple, list, type(None))
    parameters = {name: value for name, value in estimator.get_params(deep=False).items() if isinstance(value, plain)}
    return {
        "backend": "sklearn",
        "model": model,
        "estimator": type(estimator).__name__,
        "parameters": parameters,
        "version": sklearn_version,
    }
