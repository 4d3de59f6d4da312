"""What is particular to Keras on TensorFlow: a step is traced for any number of events, before the first of them.

Left alone, TensorFlow traces one graph for the size of the first batch and another for further sizes. Which of them a
batch takes, and with it the last bits of its gradients, then hangs on the batch that came first in the process: a
training resumed before the last, smaller batch of an epoch would end with other weights. Invariant: one graph for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def trace_once(model: keras.Model) -> None:
    """Give a compiled model such a step for `train_on_batch`; one that is to run without a graph keeps its own."""
    if not model.run_eagerly:
        model.train_function = _Step(model)


class _Step:
    """What `keras.Model.make_train_function` would make, of one process and one step."""

    def __init__(self, model: keras.Model) -> None:
        import tensorflow as tf

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def step(data: Any) -> Any:
            return model.train_step(data)

        self._step = tf.function(step, reduce_retracing=True, jit_compile=model.jit_compile)
        self._traced = False

    def __call__(self, batches: Iterator[Any]) -> Any:
        data = next(batches)
        if not self._traced:
            self._step.get_concrete_function(keras.tree.map_structure(_of_any_size, data))
            self._traced = True
        return self._step(data)


def _of_any_size(array: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec((None, *array.shape[1:]), array.dtype)
