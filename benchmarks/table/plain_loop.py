"""Epochs over plain arrays: what anyone writes around a network, with an average of the weights over the steps.

Invariant: the same rules as the project's (a step on the weighted mean of a batch, the average's share of the past, the
epoch of the lowest validation loss, patience), written again with numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.table.folds import Fold, Inputs, Rows
from mlaas4hep.config import Training

Arrays = Sequence[NDArray[Any]]


class Network(Protocol):
    """One network of a framework, with its optimiser."""

    averaging: float
    """What the average over the steps keeps of the past at each step."""

    def step(self, inputs: Inputs, labels: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """One step on the sum of ``shares``, which add up to 1, times cross-entropy."""

    def weights(self) -> Arrays:
        """As they are after the last step."""

    def scores(self, weights: Arrays, inputs: Inputs) -> NDArray[Any]:
        """Probabilities by given weights: [N, 1] of the last of two classes, else [N, C]."""


def learn(network: Network, fold: Fold, training: Training) -> NDArray[Any]:
    """Scores of the test part after epochs that the validation part stops."""
    shuffle = np.random.default_rng(training.seed)
    average, steps = [one.copy() for one in network.weights()], 0
    best, best_epoch, kept = np.inf, 0, average
    for epoch in range(training.epochs):
        for batch in np.split(shuffle.permutation(len(fold.train)), _cuts(len(fold.train), training.batch_size)):
            _step(network, fold.train, batch)
            steps += 1
            past = min(network.averaging, (1 + steps) / (10 + steps))
            for mean, now in zip(average, network.weights(), strict=True):
                mean += (1 - past) * (now - mean)
        loss = _loss(network.scores(average, fold.validation.inputs), fold.validation)
        if loss < best:
            best, best_epoch, kept = loss, epoch, [one.copy() for one in average]
        elif epoch - best_epoch >= training.patience:
            break
    return network.scores(kept, fold.test.inputs)


def _cuts(rows: int, batch_size: int) -> NDArray[np.int64]:
    return np.arange(batch_size, rows, batch_size)


def _step(network: Network, rows: Rows, batch: NDArray[np.int64]) -> None:
    weights = rows.training[batch]
    inputs = {name: values[batch] for name, values in rows.inputs.items()}
    network.step(inputs, rows.labels[batch], (weights / weights.sum()).astype(np.float32))


def _loss(scores: NDArray[Any], rows: Rows) -> float:
    """Weighted cross-entropy."""
    both = scores if scores.shape[1] > 1 else np.concatenate([1 - scores, scores], axis=1)
    own = both[np.arange(len(rows)), rows.labels].astype(np.float64)
    return float(np.average(-np.log(np.clip(own, 1e-7, 1)), weights=rows.training))
