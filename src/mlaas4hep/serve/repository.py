"""Models on a server, by name and version.

Opened once from a folder of bundles, from one bundle, or from one version of it; every bundle is verified before it is
served. Invariant: what is found by a name stays what it is, so that an answer needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from mlaas4hep.arguments import path_of, whole
from mlaas4hep.bundle.layout import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE
from mlaas4hep.bundle.read import versions_of
from mlaas4hep.errors import BundleError, NotFoundError, nearest
from mlaas4hep.graph.session import providers_of
from mlaas4hep.serve.model import ServedModel, load_model

# Where a folder holds no bundle: how far, how wide and how much is looked for one to name.
MAX_DEPTH, MAX_LOOKED, MAX_HINTS = 3, 200, 3


class ModelRepository:
    """The models that a server answers for.

    Parameters
    ----------
    models
        Any number of names and versions; at least one.

    Raises
    ------
    BundleError
        Two of them have the same name and version.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models: dict[str, dict[str, ServedModel]] = {}
        for model in sorted(models, key=lambda one: (one.name, int(one.version))):
            versions = self._models.setdefault(model.name, {})
            if model.version in versions:
                raise BundleError(f"two bundles are model '{model.name}', version {model.version}; serve one of them")
            versions[model.version] = model

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models, sorted."""
        return tuple(self._models)

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of a model, oldest first."""
        return tuple(self._named(name))

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A model by name; the newest version where none is asked for.

        Raises
        ------
        NotFoundError
            With the names or versions that are there.
        """
        versions = self._named(name)
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise NotFoundError(f"model '{name}' has no version {version}; versions: {', '.join(versions)}")
        return versions[version]

    def _named(self, name: str) -> dict[str, ServedModel]:
        if name not in self._models:
            raise NotFoundError(f"no model '{name}' is served here{nearest(name, self._models)}")
        return self._models[name]


def open_repository(path: Path | str, *, threads: int = 1, device: str = "cpu") -> ModelRepository:
    """Verify and load all models under a path.

    Parameters
    ----------
    path
        A folder of bundles, a bundle (``NAME``, with all versions), or one version (``NAME/1``).
    threads
        Threads that one call of a graph may use.
    device
        Where graphs run; see `mlaas4hep.graph.session.Session`.

    Raises
    ------
    BundleError
        Nothing to serve, or a bundle that is not what was written; names all of those.
    """
    models: list[ServedModel] = []
    problems: list[str] = []
    whole(threads, "threads", least=1)
    providers_of(device)  # told once, not of every model
    for folder in find_bundles(path_of(path, "path")):
        try:
            models.append(load_model(folder, threads=threads, device=device))
        except BundleError as error:
            problems.append(str(error))
    if problems:
        raise BundleError("\n".join(problems))
    return ModelRepository(models)


def find_bundles(path: Path) -> list[Path]:
    """Version folders (``NAME/1``) under a path, by name and version."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path} is a file; asked for a bundle, which is a folder, or a folder of bundles")
    if not path.is_dir():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise BundleError(f"no folder {path}; asked for a bundle or a folder of bundles{near}")
    if _is_version(path):
        return [path]
    found = _versions(path) or [one for entry in sorted(path.iterdir()) for one in _versions(entry)]
    if not found:
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        below = ", ".join(map(str, islice(_bundles_below(path), MAX_HINTS)))
        hint = f"; did you mean {below}?" if below else ""
        raise BundleError(f"{path}: asked for NAME/1/{MODEL_FILE} in it, found {there}{hint}")
    return found


def _bundles_below(path: Path) -> Iterator[Path]:
    """Bundles a few levels down, such as that of a run, ``RUN/model/NAME``."""
    level = [path]
    for _ in range(MAX_DEPTH):
        level = [one for folder in level[:MAX_LOOKED] for one in sorted(folder.iterdir()) if one.is_dir()]
        yield from (folder for folder in level[:MAX_LOOKED] if (folder / CONFIG_FILE).exists() and versions_of(folder))


def _versions(folder: Path) -> list[Path]:
    """Version folders of a bundle; one that lost a file is among them, so that it is refused and not passed over."""
    found = [folder / str(number) for number in versions_of(folder)]
    return found if (folder / CONFIG_FILE).exists() else [version for version in found if _is_version(version)]


def _is_version(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (MODEL_FILE, MANIFEST_FILE))
