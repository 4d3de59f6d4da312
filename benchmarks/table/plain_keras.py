"""A plain sequential network of Keras with AdamW, one `train_on_batch` a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table.folds import FLAT, Fold, Inputs
from benchmarks.table.plain_loop import Arrays


class KerasPeer:
    """`Network` of Keras."""

    def __init__(self, fold: Fold, seed: int) -> None:
        import keras

        from mlaas4hep.backends.keras import MlpDials  # which settles the framework under Keras

        keras.utils.set_random_seed(seed)
        dials = MlpDials()
        self.averaging = dials.averaging
        layers: list[Any] = [keras.Input((fold.train.inputs[FLAT].shape[1],))]
        for size in dials.hidden:
            layers += [keras.layers.Dense(size, activation="relu"), keras.layers.Dropout(dials.dropout)]
        self.model = keras.Sequential([*layers, keras.layers.Dense(fold.outputs)])
        losses = keras.losses
        kind = losses.BinaryCrossentropy if fold.outputs == 1 else losses.SparseCategoricalCrossentropy
        adam = keras.optimizers.AdamW(dials.learning_rate, weight_decay=dials.weight_decay, epsilon=1e-8)
        self.model.compile(optimizer=adam, loss=kind(from_logits=True), jit_compile=False)
        self.shown = keras.models.clone_model(self.model)
        self.to_numpy = keras.ops.convert_to_numpy

    def step(self, inputs: Inputs, labels: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """Keras divides by the number of rows."""
        truth = labels[:, np.newaxis].astype(np.float32) if self.model.output_shape[1] == 1 else labels
        self.model.train_on_batch(inputs[FLAT], truth, sample_weight=shares * len(shares))

    def weights(self) -> Arrays:
        """A copy."""
        found: list[NDArray[Any]] = [np.array(one) for one in self.model.get_weights()]
        return found

    def scores(self, weights: Arrays, inputs: Inputs) -> NDArray[Any]:
        """By a copy of the network that is never learned."""
        self.shown.set_weights(list(weights))
        logits = self.to_numpy(self.shown(inputs[FLAT], training=False)).astype(np.float64)
        if logits.shape[1] == 1:
            return np.asarray(1 / (1 + np.exp(-logits)))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
