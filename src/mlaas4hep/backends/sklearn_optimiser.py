"""What scikit-learn's networks carry from step to step besides their layers, as arrays and back.

Used by `mlaas4hep.backends.sklearn_learners` for checkpoints. Invariant: a network with its layers and these arrays
written back takes the same next step, to the bit; the estimator is never pickled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor

from mlaas4hep.backends.protocol import Arrays

# Lists of the optimiser, an array a layer each: Adam's moments, or the velocities of stochastic gradient descent.
_LISTS = ("ms", "vs", "velocities")
# Counts of the estimator; the schedules of its gradient descent hang on them.
_COUNTS = ("t_", "n_iter_", "_no_improvement_count")
# Set for each batch, and written into the native files.
_SETTINGS = ("batch_size", "alpha")


def optimiser_arrays(network: MLPClassifier | MLPRegressor) -> dict[str, NDArray[Any]]:
    """Copies of moments, counts and learning rate of a network that has taken a step."""
    optimiser = network._optimizer
    arrays = {
        f"{name}/{place}": np.array(values)
        for name in _LISTS
        for place, values in enumerate(getattr(optimiser, name, ()))
    }
    arrays |= {name: np.array(getattr(network, name), np.int64) for name in _COUNTS}
    arrays |= {name: np.array(getattr(network, name)) for name in _SETTINGS}
    arrays["steps"] = np.array(getattr(optimiser, "t", 0), np.int64)
    arrays["learning_rate"] = np.array(optimiser.learning_rate, np.float64)
    arrays["best_loss"] = np.array(network.best_loss_)
    return arrays


def recover_optimiser(network: MLPClassifier | MLPRegressor, arrays: Arrays) -> None:
    """Back to what `optimiser_arrays` gave, on a network that has taken a step of any kind."""
    optimiser = network._optimizer
    for name in _LISTS:
        if hasattr(optimiser, name):
            own = getattr(optimiser, name)
            setattr(optimiser, name, [np.array(arrays[f"{name}/{place}"]) for place in range(len(own))])
    for name in (*_COUNTS, *_SETTINGS):
        setattr(network, name, arrays[name].item())
    if hasattr(optimiser, "t"):
        optimiser.t = arrays["steps"].item()
    # A float of Python, as it was: one of numpy would turn float32 velocities into float64.
    optimiser.learning_rate = arrays["learning_rate"].item()
    network.best_loss_ = arrays["best_loss"][()]
