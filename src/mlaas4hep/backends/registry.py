"""From ``model:`` in a config to a learner: finds backend, model and dials by name.

Third parties add a backend by an entry point in the group ``mlaas4hep.backends``. Invariant: everything that can be
refused without data (an unknown name, a dial out of range, a model file that does not run) is refused by `choose`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from mlaas4hep.backends.dials import Dials, parse_dials
from mlaas4hep.backends.protocol import Backend, Capabilities, Learner, Task
from mlaas4hep.backends.userfile import UserFile, load_user_file
from mlaas4hep.config import Model
from mlaas4hep.errors import MissingExtraError, ModelError, nearest

GROUP = "mlaas4hep.backends"
# Found without an installed package too; the first backend of a model is its default.
BUILT_IN: Mapping[str, str] = {
    "keras": "mlaas4hep.backends.keras:KerasBackend",
    "sklearn": "mlaas4hep.backends.sklearn:SklearnBackend",
    "torch": "mlaas4hep.backends.torch:TorchBackend",
    "xgboost": "mlaas4hep.backends.xgboost:XgboostBackend",
    "lightgbm": "mlaas4hep.backends.lightgbm:LightgbmBackend",
    "jax": "mlaas4hep.backends.jax:JaxBackend",
}
MODELS: Mapping[str, tuple[str, ...]] = {
    "mlp": ("sklearn", "torch", "keras", "jax"),
    "bdt": ("sklearn", "xgboost"),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
    "deepsets": ("torch", "jax"),
    "attention": ("torch",),
    "cnn": ("torch",),
    "resnet50": ("torch",),
}


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A model that was found and whose dials are good.

    Parameters
    ----------
    model
        Its name; ``own`` for a user's file.
    backend
        Who learns it; None for a user's file until it has said what it returns.
    dials
        Typed, or as given for a user's file.
    file
        The user's file.
    """

    model: str
    backend: Backend | None
    dials: Dials | Mapping[str, Any]
    file: UserFile | None = None

    @property
    def title(self) -> str:
        """The model in words: ``bdt (backend sklearn)``."""
        if self.file is not None:
            return self.file.path
        assert self.backend is not None
        return f"{self.model} (backend {self.backend.name})"

    def build(self, task: Task) -> Learner:
        """A learner with fresh weights; `ModelError` where the task is beyond the model."""
        if self.file is None and self.backend is not None:
            require_capable(self.backend.capabilities(self.model), task, self.title)
        learner = self._build(task)
        require_capable(learner.capabilities, task, self.title)
        return learner

    def _build(self, task: Task) -> Learner:
        if isinstance(self.dials, Dials) and self.backend is not None:
            return self.backend.build(self.model, self.dials, task)
        assert self.file is not None
        assert not isinstance(self.dials, Dials)
        found = self.file.build(task)
        backend = self.backend or backend_of(found, where=self.file.path)
        return backend.adopt(found, self.dials, task, where=self.file.path)

    def native(self, learner: Learner) -> dict[str, bytes]:
        """Files for the bundle's native folder: the learner's own, and the user's source."""
        return learner.native() | (self.file.native() if self.file else {})


def choose(model: Model, *, where: str = "config") -> Choice:
    """Find what a config names.

    Raises
    ------
    ModelError
        No such model or backend, or a user's file that does not run.
    ConfigError
        Dials that are unknown, of a wrong type or out of range, all at once.
    MissingExtraError
        The backend's framework is not installed.
    """
    if model.file is not None:
        backend = find_backend(model.backend) if model.backend else None
        return Choice("own", backend, dict(model.dials), load_user_file(model.file))
    backend = find_backend(_backend_name(model, where))
    if model.name not in backend.models:
        known = nearest(model.name, backend.models)
        raise ModelError(f"{where}: model.name: backend {backend.name} has no model '{model.name}'{known}")
    owner = f"{model.name} (backend {backend.name})"
    return Choice(model.name, backend, parse_dials(model.dials, backend.models[model.name], owner=owner, where=where))


def _backend_name(model: Model, where: str) -> str:
    if model.backend is not None:
        return model.backend
    if model.name in MODELS:
        return MODELS[model.name][0]
    known = dict.fromkeys([*MODELS, *(name for backend in _third_party() for name in find_backend(backend).models)])
    for backend in _third_party():
        if model.name in find_backend(backend).models:
            return backend
    raise ModelError(
        f"{where}: model.name: no model '{model.name}'{nearest(model.name, known)}; "
        "your own: model: {file: my_model.py}"
    )


def _third_party() -> list[str]:
    return sorted(one.name for one in entry_points(group=GROUP) if one.name not in BUILT_IN)


def find_backend(name: str) -> Backend:
    """A backend by name.

    Raises
    ------
    ModelError
        No such backend.
    MissingExtraError
        Its framework is not installed.
    """
    targets = {one.name: one.value for one in entry_points(group=GROUP)} | dict(BUILT_IN)
    if name not in targets:
        raise ModelError(f"model.backend: no backend '{name}'{nearest(name, targets)}")
    module, _, attribute = targets[name].partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise MissingExtraError(missing, name, f"backend {name}") from error
    return backend


def backend_of(found: Any, *, where: str) -> Backend:
    """The backend of the framework that an object comes from; two functions are of JAX."""
    if isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)):
        return find_backend("jax")
    roots = [cls.__module__.partition(".")[0] for cls in type(found).__mro__]
    for name in roots:
        if name in BUILT_IN or name in _third_party():
            return find_backend(name)
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    raise ModelError(
        f"{where}: model returned a {kind}; wants a torch.nn.Module, a keras.Model, scikit-learn's MLPClassifier or "
        "HistGradientBoostingClassifier, xgboost's XGBClassifier, lightgbm's LGBMClassifier, or two functions of JAX, "
        "(init, apply); of a regression MLPRegressor, HistGradientBoostingRegressor or XGBRegressor"
    )


def require_capable(can: Capabilities, task: Task, title: str) -> None:
    """`ModelError` where a task is beyond what a model declares."""
    if task.kind == "multiclass" and not can.multiclass:
        raise ModelError(f"model {title} tells two classes apart, not {len(task.classes)}: {', '.join(task.classes)}")
    if task.kind == "regression" and not can.regression:
        names = ", ".join(one.name for one in task.targets)
        raise ModelError(f"model {title} learns classes, not a regression of {names}")
