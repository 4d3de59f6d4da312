"""Ensembles of a repository follow their members: made of them, made anew when one is switched, gone with one.

Locks are taken in one order, that of an ensemble and then those of its members; who switches a member holds its lock,
so that the ensemble is told from another thread. Invariant: while a member is switched the old whole answers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlaas4hep.bundle.read import versions_of
from mlaas4hep.errors import BundleError, nearest
from mlaas4hep.serve.ensemble import (
    ENSEMBLE_FILE,
    Declared,
    EnsembleSpec,
    Find,
    declare,
    open_ensemble,
    read_ensemble,
    version_folder,
)
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.served import Kept, Served, bring

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_log = logging.getLogger(__name__)


class Following:
    """Makes the ensembles of one repository.

    Parameters
    ----------
    kept
        All entries, by name.
    load
        A version folder to a model.
    find
        A model by name and version, loaded by this thread where it sleeps. `NotFoundError` where it is not there.
    switch
        Takes what is served under a name from now on.
    pool
        Threads in which ensembles are made anew.
    """

    def __init__(
        self,
        kept: Mapping[str, Kept],
        *,
        load: Callable[..., ServedModel],
        find: Find,
        switch: Callable[[str, Served | None], None],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._kept, self._load, self._find, self._switch, self._pool = kept, load, find, switch, pool

    def bring(self, kept: Kept, before: Served | None) -> Served | None:
        """As `mlaas4hep.serve.served.bring`, for entries of any kind; their lock is held."""

        def opened(folder: Path, config: str | None = None) -> ServedModel:
            if config is not None:
                raise BundleError(f"{folder.parent} is several models as one, by its {ENSEMBLE_FILE}: it has no config")
            return self._open(kept)

        return bring(kept, before, opened if kept.entry.ensemble else self._load)

    def pinned(self, awake: list[Kept]) -> frozenset[str]:
        """Models that cannot be put to sleep, since ensembles hold them."""
        return frozenset(name for kept in awake for name, _ in kept.parts)

    def told(self, name: str, served: Mapping[str, Served]) -> None:
        """Something else is served under a name: ensembles with such a member are made anew, soon."""
        entry = self._kept.get(name)
        if entry is not None and entry.entry.ensemble:  # is no member of any
            return
        for kept in list(self._kept.values()):
            if name in kept.members and kept.wanted and (kept.entry.name in served or kept.broken):
                self._pool.submit(self._make_anew, kept, served)

    def _open(self, kept: Kept) -> ServedModel:
        declared, parts = kept.entry.declared(), dict[tuple[str, str | None], ServedModel]()
        kept.members = declared.names

        def find(name: str, version: str | None) -> ServedModel:
            entry = self._kept.get(name)
            if entry is not None and entry.entry.ensemble:
                raise BundleError(f"{declared.where}: '{name}' is several models itself; name its members instead")
            found = parts[name, version] = self._find(name, version)
            return found

        model = open_ensemble(declared, kept.entry.name, find=find, load=self._load)
        kept.parts = parts
        return model

    def _make_anew(self, kept: Kept, served: Mapping[str, Served]) -> None:
        with kept.lock:
            name = kept.entry.name
            if not kept.wanted or not (name in served or kept.broken) or self._is_current(kept, served):
                return
            made = self.bring(kept, None)
            self._switch(name, made)
            if made is None:
                kept.parts = {}
                _log.warning("model '%s' is no longer served: %s", name, kept.reasons)

    def _is_current(self, kept: Kept, served: Mapping[str, Served]) -> bool:
        if kept.entry.name not in served:
            return False
        now = {name: found.known for name in kept.members if (found := served.get(name)) is not None}
        return all(now.get(name, {}).get(version) is model for (name, version), model in kept.parts.items())


def open_named(text: str, load: Callable[[Path], ServedModel]) -> ServedModel:
    """The ensemble that `read_named` reads; it raises as well where its members do not go together."""
    name, declared, find = read_named(text, load)
    return open_ensemble(declared, name, find=find, load=load)


def read_named(text: str, load: Callable[[Path], ServedModel]) -> tuple[str, Declared, Find]:
    """Name and declaration of ``NAME=FILE`` (an ``ensemble.yaml`` anywhere) or ``NAME=RUN`` (trained in folds).

    The third is who finds members that are named, beside the file.

    Raises
    ------
    BundleError
        Neither.
    """
    name, _, place = text.partition("=")
    path = Path(place)
    if not _NAME.match(name):
        raise BundleError(f"'{name[:80]}' cannot name a model: use at most 128 letters, digits, '_', '-' and '.'")
    if path.is_file():
        declared = read_ensemble(path)
    elif path.is_dir():
        declared = declare(EnsembleSpec(folds="."), path, str(path))
    else:
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BundleError(f"no {path}; asked for an {ENSEMBLE_FILE} or a run in folds{nearest(path.name, beside)}")

    def find(member: str, version: str | None) -> ServedModel:
        folder = version_folder(path.parent / member / (version or ""))
        if folder is None:
            asked = f"no {path.parent / member / (version or '')} with a model; beside the file are"
            raise BundleError(f"{declared.where}: {asked} {', '.join(_models_in(path.parent)) or 'none'}")
        return load(folder)

    return name, declared, find


def _models_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and versions_of(one))
