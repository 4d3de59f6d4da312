"""Which framework Keras runs on, settled before Keras is first imported: afterwards it cannot change.

``KERAS_BACKEND`` decides where it is set. Else TensorFlow is taken where it is installed, as Keras itself would, then
PyTorch, then JAX. Invariant: imports nothing heavy, and changes nothing once Keras is there.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

VARIABLE = "KERAS_BACKEND"
FRAMEWORKS = ("tensorflow", "torch", "jax")


def settle_framework() -> None:
    """Set ``KERAS_BACKEND`` where nobody has; networks are learned on the CPU, with PyTorch under Keras too."""
    if "keras" in sys.modules:
        return
    # Keras on PyTorch would move to a GPU by itself; here nothing is learned on one unless it is asked for.
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    if os.environ.get(VARIABLE):
        return
    found = [name for name in FRAMEWORKS if find_spec(name) is not None]
    if found:
        os.environ[VARIABLE] = found[0]
