"""What a repository knows under one name: the versions that answer, and what was found of the others.

Invariant: a `Served` never changes. `Kept` is the repository's own note about an entry, changed under its lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from mlaas4hep.errors import BundleError, MLaaSError, NotFoundError, nearest
from mlaas4hep.serve.entries import LATEST, Entry, Stamp
from mlaas4hep.serve.model import ServedModel

State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
ASLEEP, UNLOADED = "loads when it is asked", "unloaded"
_log = logging.getLogger(__name__)


class IndexEntry(msgspec.Struct, frozen=True):
    """One version in the index, in Triton's words; a name of which none is loaded stands with an empty version."""

    name: str
    version: str
    state: State
    reason: str


class Bounds(msgspec.Struct, frozen=True):
    """How much is loaded at a time; beyond it, who was not asked for longest sleeps. None for no bound.

    Parameters
    ----------
    models
        Names, each with all of its versions. While one loads there is one more.
    bytes
        Of their graphs on disk.
    """

    models: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """What is found under a name.

    Parameters
    ----------
    versions
        Oldest first.
    known
        By all that can be asked: versions, labels, ``latest``, and None for the newest.
    labels
        Versions by label, also of versions that are not served.
    """

    versions: Mapping[str, ServedModel]
    known: Mapping[str | None, ServedModel]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, models: Mapping[str, ServedModel], labels: Mapping[str, str]) -> Served:
        """At least one model by version."""
        versions = dict(sorted(models.items(), key=lambda one: int(one[0])))
        newest = next(reversed(versions.values()))
        known: dict[str | None, ServedModel] = {None: newest, LATEST: newest}
        known.update({label: versions[version] for label, version in labels.items() if version in versions})
        known.update(versions)
        return cls(versions, known, dict(labels))

    def find(self, name: str, version: str | None) -> ServedModel:
        """By version or label; `NotFoundError` tells what is there under the name."""
        found = self.known.get(version)
        if found is not None:
            return found
        if version in self.labels:
            text = f"'{version}' is version {self.labels[str(version)]}, which is not served"
            raise NotFoundError(f"model '{name}': {text}")
        labels = f"; labels: {', '.join([LATEST, *self.labels])}" if not str(version).isdecimal() else ""
        raise NotFoundError(f"model '{name}' has no version {version}; versions: {', '.join(self.versions)}{labels}")


@dataclass(eq=False, slots=True)
class Kept:
    """What the repository remembers of an entry on disk.

    Parameters
    ----------
    entry
        Where it lies.
    lock
        Held by who changes anything here, as long as it loads.
    stamps
        Of the versions that are served.
    broken
        Why versions are not, with their stamps where they have one.
    size
        Bytes of its graphs.
    used
        Grows with each question, over all entries.
    wanted
        False once it was unloaded.
    busy
        What is being done to it.
    parts
        Of an ensemble: the models that it was made of, by name and version as they were asked for.
    members
        Of an ensemble: names of all that it may be made of.
    """

    entry: Entry
    lock: threading.Lock = field(default_factory=threading.Lock)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    broken: dict[str, tuple[Stamp | None, str]] = field(default_factory=dict)
    size: int = 0
    used: int = 0
    wanted: bool = True
    busy: State | None = None
    parts: dict[tuple[str, str | None], ServedModel] = field(default_factory=dict)
    members: frozenset[str] = frozenset()

    @property
    def reasons(self) -> str:
        """All that is wrong with it."""
        return "; ".join(reason for _, reason in self.broken.values())

    def sleeps(self, served: Container[str]) -> bool:
        """Of a lazy repository: whether a question would load it."""
        return self.wanted and not self.broken and self.entry.name not in served


def bring(kept: Kept, before: Served | None, load: Callable[..., ServedModel]) -> Served | None:
    """What the folder of an entry holds now; None where no version of it can be served.

    What did not change is the same object as before. A version whose files changed for the worse stays as it was.
    """
    there = kept.entry.stamps()
    old: Mapping[str, ServedModel] = before.versions if before else {}
    broken: dict[str, tuple[Stamp | None, str]] = {}
    models: dict[str, ServedModel] = {}
    stamps: dict[str, Stamp] = {}
    for version, stamp in there.items():
        if version in old and kept.stamps.get(version) == stamp:
            models[version], stamps[version] = old[version], stamp
            continue
        try:
            models[version], stamps[version] = _opened(kept.entry, version, load), stamp
        except Exception as error:  # told by index, log and whoever asked for it; others are served
            broken[version] = (stamp, _told(error, version))
            if version in old:
                models[version], stamps[version] = old[version], kept.stamps[version]
    if not there:
        broken[""] = (None, f"{kept.entry.folder} holds no version")
    kept.broken, kept.stamps, kept.size = broken, stamps, kept.entry.size()
    return Served.of(models, labels_of(kept)) if models else None


def grouped(models: Iterable[ServedModel]) -> dict[str, Served]:
    """Models by name; `BundleError` where two have the same name and version."""
    found: dict[str, dict[str, ServedModel]] = {}
    for model in models:
        versions = found.setdefault(model.name, {})
        if model.version in versions:
            raise BundleError(f"two bundles are model '{model.name}', version {model.version}; serve one of them")
        versions[model.version] = model
    return {name: Served.of(versions, {}) for name, versions in found.items()}


def labels_of(kept: Kept) -> dict[str, str]:
    """Labels of an entry; none where the file cannot be read, which is noted."""
    try:
        return kept.entry.labels()
    except BundleError as error:
        kept.broken["labels"] = (None, str(error))
        return {}


def indexed(name: str, kept: Kept | None, served: Served | None, *, lazy: bool) -> Iterator[IndexEntry]:
    """The lines of the index about one name."""
    broken = dict(kept.broken) if kept else {}
    for version in served.versions if served else ():
        yield IndexEntry(name, version, "READY", broken.pop(version, (None, ""))[1])
    for version, (_, reason) in broken.items():
        yield IndexEntry(name, version if version.isdecimal() else "", "UNAVAILABLE", reason)
    if kept is None or served or broken:
        return
    if kept.busy:
        yield IndexEntry(name, "", kept.busy, "")
    elif lazy and kept.wanted:
        yield IndexEntry(name, "", "READY", ASLEEP)
    else:
        yield IndexEntry(name, "", "UNAVAILABLE", UNLOADED)


def too_much(awake: Sequence[Kept], bounds: Bounds, held: Container[str]) -> Kept | None:
    """Who goes to sleep next, of those that are not held; None where all find room, or nobody may go."""
    others = [kept for kept in awake if kept.entry.name not in held]
    over = bounds.models is not None and len(awake) > bounds.models
    over |= bounds.bytes is not None and sum(kept.size for kept in awake) > bounds.bytes
    return min(others, key=lambda one: one.used) if over and others else None


def absent(name: str, kept: Kept | None, known: Iterable[str]) -> NotFoundError:
    """The error of a model that cannot be asked."""
    if kept is None:
        return NotFoundError(f"no model '{name}' is served here{nearest(name, known)}")
    if not kept.wanted:
        return NotFoundError(f"model '{name}' is unloaded")
    return NotFoundError(f"model '{name}' cannot be served: {kept.reasons or 'it is being loaded'}")


def _opened(entry: Entry, version: str, load: Callable[..., ServedModel]) -> ServedModel:
    folder = entry.folder / version
    model = load(folder) if entry.config is None else load(folder, entry.config)
    if (model.name, model.version) != (entry.name, version):
        raise BundleError(f"{entry.folder / version} holds model '{model.name}', version {model.version}")
    return model


def _told(error: Exception, version: str) -> str:
    if isinstance(error, MLaaSError):
        return str(error)
    _log.error("version %s of a model cannot be loaded", version, exc_info=error)
    return f"version {version} cannot be loaded: {type(error).__name__}: {error}"
