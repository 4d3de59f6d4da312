"""The user's own Python file with ``model(idim)``, ``model(spec)`` or ``model()``: run by path, kept with the bundle.

``idim`` is the length of the flat view, as in the original; ``spec`` the whole contract. What the function returns is
handed to the backend of its framework; a file with ``init`` and ``apply`` instead gives those two. Invariant: the
source that is kept is the very text that was run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.keras_start import settle_framework
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.stand_ins import builtins_for_user_file
from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.errors import ModelError, nearest

FUNCTION = "model"
# A function with parameters, as JAX has it.
PAIR = ("init", "apply")


@dataclass(frozen=True, slots=True, eq=False)
class UserFile:
    """A loaded file.

    Parameters
    ----------
    path
        As the user gave it.
    source
        Its text when it was loaded.
    function
        Its ``model``, or what gives its ``init`` and ``apply``.
    """

    path: str
    source: bytes
    function: Callable[..., Any]

    @property
    def sha256(self) -> str:
        """Hash of the source."""
        return hashlib.sha256(self.source).hexdigest()

    def build(self, task: Task) -> Any:
        """What ``model`` returns for a task, called with the seed of the task; `ModelError` where it fails."""
        with told_with(self.path, f"{FUNCTION} failed"), seeded(task.seed):
            found = self.function(*self._arguments(task))
        if found is None:
            raise ModelError(f"{self.path}: {FUNCTION} returned None; is its return statement missing?")
        return found

    def _arguments(self, task: Task) -> tuple[Any, ...]:
        required = [
            one
            for one in inspect.signature(self.function).parameters.values()
            if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        if len(required) > 1:
            names = ", ".join(one.name for one in required)
            raise ModelError(f"{self.path}: {FUNCTION}({names}) wants {len(required)} arguments; write model(idim)")
        if not required:
            return ()
        return (task.spec,) if required[0].name == "spec" else (task.width,)

    def native(self) -> dict[str, bytes]:
        """The source and its hash, for the bundle."""
        record = {"file": Path(self.path).name, "sha256": self.sha256}
        return {"model.py": self.source, "model.json": json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"}


def load_user_file(path: str) -> UserFile:
    """Run a Python file and find its ``model``.

    The file is run from its path, so that no module of the same name can be taken for it, and nothing is written
    beside it.

    Raises
    ------
    ModelError
        It is not there, cannot be run, or has no function ``model``; with the line.
    """
    source = _read(Path(path))
    if b"keras" in source:
        settle_framework()
    # A name of its own: two files called model.py are two modules.
    module = types.ModuleType(f"mlaas4hep_user_{hashlib.sha256(source).hexdigest()[:12]}")
    module.__file__ = path
    module.__dict__["__builtins__"] = builtins_for_user_file()
    sys.modules[module.__name__] = module
    with told_with(path, "cannot be run"):
        exec(compile(source, path, "exec"), module.__dict__)
    function = module.__dict__.get(FUNCTION)
    pair = tuple(module.__dict__.get(name) for name in PAIR)
    if function is None and all(map(callable, pair)):
        return UserFile(path, source, lambda: pair)
    if not callable(function):
        names = [name for name, value in module.__dict__.items() if callable(value) and not name.startswith("_")]
        raise ModelError(f"{path}: has no function '{FUNCTION}'{nearest(FUNCTION, names)}; write def model(idim): ...")
    return UserFile(path, source, function)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"model.file: {path} does not exist{nearest_file(path)}") from error
    except OSError as error:
        raise ModelError(f"model.file: {path} cannot be read: {error.strerror}") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All generators that a model's first weights may come from at a seed, and afterwards as they were."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(before[2])
