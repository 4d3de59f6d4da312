"""Where Keras learns: where the framework under it puts things, which cannot change once it is there.

Used by `mlaas4hep.backends.keras`. Invariant: a device that is asked for by name is the one that is used, or refused
with what to set before Python starts.
"""

from __future__ import annotations

import keras

from mlaas4hep.backends.devices import asked
from mlaas4hep.errors import ModelError

# What makes a GPU seen, by the framework under Keras.
_SEEN = {"tensorflow": "pip install 'tensorflow[and-cuda]'", "jax": "pip install 'jax[cuda12]'"}


def device_of(device: str, where: str) -> str:
    """``cpu`` or ``gpu``, by the dial ``device``.

    Raises
    ------
    ModelError
        The framework under Keras is elsewhere.
    """
    kind, number = asked(device)
    framework, found = keras.config.backend(), framework_device()
    if kind in ("auto", found) or (kind == "cuda" and number in (None, 0) and found == "gpu"):
        return found
    if found == "gpu" and kind == "cpu":
        instead = f"Keras on {framework} uses the GPU that it sees; hide it, with CUDA_VISIBLE_DEVICES= (nothing)"
    elif found == "gpu":
        instead = f"Keras on {framework} uses the first GPU that it sees; choose that, with CUDA_VISIBLE_DEVICES=1"
    elif framework in _SEEN:
        instead = f"Keras on {framework} sees no GPU; {_SEEN[framework]}, or give device: cpu"
    else:
        instead = "Keras on PyTorch learns on the CPU here; for a GPU take backend: torch, or KERAS_BACKEND=tensorflow"
    raise ModelError(f"{where}: model.device: {device} cannot be used: {instead}")


def framework_device() -> str:
    """``cpu`` or ``gpu``: where the framework under Keras puts things by itself."""
    framework = keras.config.backend()
    if framework == "tensorflow":
        import tensorflow

        return "gpu" if tensorflow.config.list_logical_devices("GPU") else "cpu"
    if framework == "jax":
        import jax

        return "cpu" if jax.default_backend() == "cpu" else "gpu"
    return "cpu"  # `keras_start` holds PyTorch under Keras to it
