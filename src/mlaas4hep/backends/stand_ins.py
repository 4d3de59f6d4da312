"""What model files of the original import that is not there any more: ``tensorflow.keras``, ``Adam(lr=...)``, and the
original's own layer for padded values.

Only import statements of the user's own file see this. Invariant: no module of the process is replaced, and what is
installed and current is handed out as it is, but for optimisers of Keras, which take ``lr`` for ``learning_rate``.
"""

from __future__ import annotations

import builtins
import importlib
import types
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

_JAGGED = "MLaaS4HEP.jarray.pytorch"


def builtins_for_user_file() -> dict[str, Any]:
    """Python's own names, for the ``__builtins__`` of one module, with an ``import`` that knows the original's."""
    return {**builtins.__dict__, "__import__": _import}


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Like Python's ``__import__``: the top package, or with ``fromlist`` the module itself."""
    top = name.partition(".")[0]
    if level or "*" in (fromlist or ()) or not _stands_in(name, top):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    found = package = _PACKAGES[top]()
    for part in name.split(".")[1:]:
        found = _submodule(found, part)
    for part in fromlist or ():
        _submodule(found, part, required=False)
    return found if fromlist else package


def _stands_in(name: str, top: str) -> bool:
    return name in (_JAGGED, "MLaaS4HEP.jarray") if top == "MLaaS4HEP" else top in _PACKAGES


class _StandIn(types.ModuleType):
    """A module behind another one, with some names of its own.

    Parameters
    ----------
    real
        What is behind it; None where that is not installed.
    own
        Names that stand before those of the module.
    """

    def __init__(self, name: str, real: types.ModuleType | None, own: Mapping[str, Any]) -> None:
        super().__init__(name, getattr(real, "__doc__", None))
        # A package, so that Python looks for modules in it.
        self.__path__: list[str] = []
        self.real = real
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        if self.real is not None:
            return getattr(self.real, name)
        own = ", ".join(sorted(one for one in self.__dict__ if not one.startswith("_") and one != "real"))
        raise AttributeError(
            f"{self.__name__}.{name}: {self.__name__} is not installed; only its {own} is stood in for"
        )


def _submodule(package: Any, part: str, *, required: bool = True) -> Any:
    """A part of a package, imported where it is a module that nobody imported before."""
    try:
        return getattr(package, part)
    except AttributeError:
        real = getattr(package, "real", package)
        if real is None:
            raise ImportError(f"{package.__name__} is not installed, and nothing stands in for its '{part}'") from None
        if not required and not (hasattr(real, "__path__") and find_spec(f"{real.__name__}.{part}")):
            return None  # Python itself says that the name cannot be imported
        return importlib.import_module(f"{real.__name__}.{part}")


def _keras() -> types.ModuleType:
    import keras

    own = {"optimizers": _StandIn("keras.optimizers", keras.optimizers, _optimisers(keras.optimizers))}
    return _StandIn("keras", keras, own)


def _tensorflow() -> types.ModuleType:
    """With Keras 3 as its ``keras``, which is what TensorFlow has too since 2.16."""
    there = find_spec("tensorflow") is not None
    return _StandIn("tensorflow", importlib.import_module("tensorflow") if there else None, {"keras": _keras()})


def _original() -> types.ModuleType:
    from mlaas4hep.backends import torch_jagged

    layers = _StandIn(_JAGGED, None, {"JaggedArrayLinear": torch_jagged.JaggedArrayLinear})
    return _StandIn("MLaaS4HEP", None, {"jarray": _StandIn("MLaaS4HEP.jarray", None, {"pytorch": layers})})


_PACKAGES = {"keras": _keras, "tensorflow": _tensorflow, "MLaaS4HEP": _original}


def _optimisers(module: types.ModuleType) -> dict[str, Any]:
    kinds = {name: one for name, one in vars(module).items() if isinstance(one, type)}
    return {name: _Optimiser(one) for name, one in kinds.items() if issubclass(one, kinds["Optimizer"])}


class _Optimiser:
    """A class of Keras's optimisers that takes ``lr`` too, as Keras 2 called the learning rate."""

    def __init__(self, real: type) -> None:
        self.real = real
        self.__doc__ = real.__doc__

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if "lr" in settings and "learning_rate" not in settings:
            settings["learning_rate"] = settings.pop("lr")
        return self.real(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __instancecheck__(self, one: Any) -> bool:
        return isinstance(one, self.real)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """A subclass of it is one of the real class."""
        return (self.real,)
