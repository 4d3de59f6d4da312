"""Models on a server, by name, version and label: loaded, switched, put to sleep and taken away while it answers.

Invariant: what is found by a name is one `Served`, which never changes and is replaced whole. A reader needs no lock
and sees the old versions or the new ones; who found a model keeps it, whatever happens to its name.

Loading happens in threads of the repository; nothing here knows a transport or an event loop.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlaas4hep.errors import BundleError, MLaaSError, NotFoundError, nearest
from mlaas4hep.serve.entries import LATEST, Stamp, check_label, find_entries
from mlaas4hep.serve.following import Following
from mlaas4hep.serve.model import ServedModel, load_model
from mlaas4hep.serve.served import Bounds, IndexEntry, Kept, Served, absent, grouped, indexed, labels_of, too_much

LOADING_THREADS = 2
_Key = tuple[str, bool, str | None]  # of a load: name, whether it is asked for, and its config
_log = logging.getLogger(__name__)


class ModelRepository:
    """The models that a server answers for. Safe from several threads.

    Parameters
    ----------
    models
        Any number of names and versions that are always there.
    path
        A folder whose entries can be loaded and unloaded; None for none. Nothing is loaded yet.
    load
        A version folder to a model.
    lazy
        Entries are loaded when they are asked for.
    bounds
        How much is loaded at a time.

    Raises
    ------
    BundleError
        Two models have the same name and version.
    """

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        *,
        path: Path | None = None,
        load: Callable[..., ServedModel] = load_model,
        lazy: bool = False,
        bounds: Bounds | None = None,
    ) -> None:
        self.bounds = bounds or Bounds()
        self.lazy = lazy or self.bounds != Bounds()
        self.path, self._open = path, load
        self._served = grouped(models)
        self._kept: dict[str, Kept] = {}
        self._problems: dict[str, str] = {}
        self._pending: dict[_Key, Future[Served]] = {}
        self._lock = threading.Lock()
        self._clock = itertools.count(1)
        self._told: list[Callable[[ServedModel], None]] = []
        self._pool = ThreadPoolExecutor(LOADING_THREADS, thread_name_prefix="mlaas4hep-load")
        self._following = Following(
            self._kept,
            load=lambda *what: self._open(*what),
            find=self._member,
            switch=self._switch,
            pool=self._pool,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models that can be asked, sorted."""
        return tuple(sorted({*list(self._served), *self.asleep}))

    @property
    def asleep(self) -> frozenset[str]:
        """Names of those that are loaded when they are asked."""
        kept = list(self._kept.items()) if self.lazy else []
        return frozenset(name for name, one in kept if one.sleeps(self._served))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of those that are in memory, sorted."""
        return tuple(sorted(self._served))

    @property
    def problems(self) -> dict[str, str]:
        """Why entries cannot be asked, or not in all their versions, by name."""
        found = {name: kept.reasons for name, kept in list(self._kept.items()) if kept.broken}
        return {**self._problems, **found}

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of a model, oldest first."""
        return tuple((self._served.get(name) or self._woken(name)).versions)

    def labels(self, name: str) -> dict[str, str]:
        """Versions by label, ``latest`` among them."""
        served = self._served.get(name) or self._woken(name)
        return {LATEST: served.known[None].version, **served.labels}

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A model by name; the newest version where none is asked for.

        One that sleeps is loaded, for which this waits; see `waking`.

        Parameters
        ----------
        version
            A version or a label.

        Raises
        ------
        NotFoundError
            With the names or versions that are there, or why it cannot be asked.
        """
        served = self._served.get(name) or self._woken(name)
        found = served.find(name, version)
        if self.lazy:
            self._touch(name)
        return found

    def entry(self, name: str) -> Served | None:
        """What is in memory under a name, if anything; looking loads nothing and does not count as asking."""
        return self._served.get(name)

    def waking(self, name: str) -> Future[Served] | None:
        """The load that a question about a model has to wait for; None where it can be asked at once.

        Raises
        ------
        NotFoundError
            No such model, or it is unloaded or broken.
        """
        if name in self._served:
            return None
        kept = self._kept.get(name)
        if kept is not None and self.lazy and kept.sleeps(self._served):
            return self._submit(name, asked=False)
        raise absent(name, kept, self.names)

    def load(self, name: str, *, config: str | None = None) -> Future[Served]:
        """Load what the folder holds of a model now: new versions, changed ones, labels; what is gone is retired.

        Who asks for the same while it is under way gets the same load. What did not change is kept as it is. ``config``
        is JSON that stands for the ``config.pbtxt`` of a plain entry, until it is loaded again.

        Notes
        -----
        Errors of the future: `NotFoundError` where there is no such entry, `BundleError` where a version of it cannot
        be served; others of its versions, and what was served before, still are.
        """
        return self._submit(name, asked=True, config=config)

    def unload(self, name: str) -> Future[None]:
        """Take a model away until it is loaded again; what was asked of it is answered.

        Notes
        -----
        Errors of the future: `NotFoundError` where there is no such entry.
        """
        return self._pool.submit(self._unload, name)

    def folder(self, name: str, version: str | None = None) -> Path | None:
        """Where a version lies on disk, the newest where none is named; None for models that are not there."""
        kept = self._kept.get(name)
        return None if kept is None else kept.entry.version_folder(version)

    def remove(self, name: str) -> Future[None]:
        """Delete an entry from the disk, all its versions; what was asked of it is answered. Errors as `unload`."""
        return self._pool.submit(lambda: self._forget(name, self._find(name), delete=True))

    def label(self, name: str, label: str, version: str | None) -> None:
        """Set a label, or take it away (None), and keep it in ``labels.json`` beside the versions.

        Raises
        ------
        NotFoundError
            No such entry, or no such version of it.
        BundleError
            Not a label.
        """
        check_label(label)
        kept = self._find(name)
        with kept.lock:
            labels, there = kept.entry.labels(), kept.entry.stamps()
            if version is not None and version not in there:
                raise NotFoundError(f"model '{name}' has no version {version}; versions: {', '.join(there)}")
            labels.pop(label, None)
            kept.entry.write_labels(labels if version is None else {**labels, label: version})
            served = self._served.get(name)
            if served is not None:
                self._served[name] = Served.of(served.versions, kept.entry.labels())

    def kept_labels(self, name: str) -> dict[str, str]:
        """Versions by label as they lie on disk, ``latest`` among them; nothing is loaded. Raises as `label`."""
        return self._find(name).entry.known()

    def index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """All entries with state and reason; with ``ready`` only those that can be asked."""
        found = [IndexEntry(name, "", "UNAVAILABLE", why) for name, why in self._problems.items()]
        for name in {*list(self._served), *list(self._kept)}:
            found.extend(indexed(name, self._kept.get(name), self._served.get(name), lazy=self.lazy))
        found.sort(key=lambda one: (one.name, int(one.version or 0)))
        return tuple(one for one in found if one.state == "READY" or not ready)

    def peek(self, name: str | None, version: str | None = None) -> ServedModel | None:
        """A model that is loaded, looked at and not asked; None where there is none."""
        served = self._served.get(name or "")
        return None if served is None else served.known.get(version)

    def on_retired(self, told: Callable[[ServedModel], None]) -> None:
        """Tell of every model that is found no more, from the thread that took it away."""
        self._told.append(told)

    def refresh(self) -> None:
        """Bring the repository to what its folder holds: new entries, changed ones, those that are gone.

        What cannot be served is logged and in the index. An entry that was unloaded stays so.
        """
        self._scan()
        for name, kept in sorted(self._kept.items(), key=lambda one: one[1].entry.ensemble):  # their members first
            there = kept.entry.stamps()
            if not there:
                self._forget(name, kept)
            elif kept.wanted and self._changed(kept, there):
                self._quietly(name, kept)

    @contextmanager
    def watched(self, every_s: float) -> Iterator[None]:
        """Refresh from a thread, so often, while the context lasts."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(every_s):
                try:
                    self.refresh()
                except Exception:  # such as a file system that is away for a while: what is loaded is served on
                    _log.exception("looking through the model repository failed; once more in %g s", every_s)

        thread = threading.Thread(target=watch, name="mlaas4hep-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _woken(self, name: str) -> Served:
        future = self.waking(name)
        return self._served[name] if future is None else future.result()

    def _touch(self, name: str) -> None:
        kept = self._kept.get(name)
        if kept is not None:
            kept.used = next(self._clock)

    def _submit(self, name: str, *, asked: bool, config: str | None = None) -> Future[Served]:
        key = (name, asked, config)
        with self._lock:
            future = self._pending.get(key)
            if future is None:
                future = self._pending[key] = self._pool.submit(self._settled, key)
            return future

    def _settled(self, key: _Key) -> Served:
        try:
            return self._load(*key)
        finally:
            with self._lock:
                self._pending.pop(key, None)

    def _scan(self) -> None:
        """Note entries that are new in the folder."""
        if self.path is None:
            return
        entries, self._problems = find_entries(self.path)
        for entry in entries:
            self._kept.setdefault(entry.name, Kept(entry))

    def _find(self, name: str) -> Kept:
        if name not in self._kept:
            self._scan()
        kept = self._kept.get(name)
        if kept is None:
            raise NotFoundError(f"the repository has no entry '{name}'{nearest(name, self._kept)}")
        return kept

    def _load(self, name: str, asked: bool, config: str | None) -> Served:
        kept = self._find(name)
        with kept.lock:
            if not asked and not kept.wanted:
                raise absent(name, kept, self.names)
            before, kept.wanted, kept.busy = kept.entry, True, "LOADING"
            if asked:
                kept.entry = replace(before, config=config)
            try:
                served = self._bring(kept)
            finally:
                kept.busy = None
                if kept.broken:
                    kept.entry = before
        self._make_room(name)
        if served is None or (asked and kept.broken):
            error = f"model '{name}': {kept.reasons}"
            raise BundleError(error) if asked else NotFoundError(error)
        return served

    def _bring(self, kept: Kept) -> Served | None:
        """Open what is new or changed, then switch in one step; None where no version can be served."""
        served = self._following.bring(kept, self._served.get(kept.entry.name))
        kept.used = next(self._clock)
        self._switch(kept.entry.name, served)
        return served

    def _member(self, name: str, version: str | None) -> ServedModel:
        """Of an ensemble; loaded in this thread where it sleeps, since all others may be waiting for members."""
        kept = self._kept.get(name)
        if kept is not None and self.lazy and kept.sleeps(self._served):
            with kept.lock:
                if kept.sleeps(self._served):
                    self._bring(kept)
        served = self._served.get(name)
        if served is None:
            raise absent(name, kept, self.names)
        return served.find(name, version)

    def _switch(self, name: str, served: Served | None) -> None:
        """From here on the name means something else; what it no longer means is told of."""
        before = self._served.get(name)
        if served is None:
            self._served.pop(name, None)
        else:
            self._served[name] = served
        stays = set(served.versions.values()) if served else set()
        for model in before.versions.values() if before else ():
            if model not in stays:
                for told in self._told:
                    told(model)
        self._following.told(name, self._served)

    def _unload(self, name: str) -> None:
        kept = self._find(name)
        with kept.lock:
            kept.wanted = False
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        kept.stamps, kept.broken, kept.parts = {}, {}, {}
        self._switch(kept.entry.name, None)

    def _forget(self, name: str, kept: Kept, *, delete: bool = False) -> None:
        with kept.lock:
            if delete:
                kept.entry.delete()
            self._drop(kept)
            self._kept.pop(name, None)

    def _changed(self, kept: Kept, there: dict[str, Stamp]) -> bool:
        """Whether a load would find something else than the last one did."""
        if self.lazy and kept.entry.name not in self._served:
            seen = {version: stamp for version, (stamp, _) in kept.broken.items()}
            if kept.broken and seen != there:
                kept.broken = {}
            return False
        served = self._served.get(kept.entry.name)
        tried = {**kept.stamps, **{one: stamp for one, (stamp, _) in kept.broken.items() if stamp is not None}}
        return tried != there or (served is not None and labels_of(kept) != served.labels)

    def _quietly(self, name: str, kept: Kept) -> None:
        try:
            self._submit(name, asked=False).result()
        except MLaaSError as error:
            _log.warning("%s", error)
        else:
            if kept.broken:
                _log.warning("model '%s', which is served in other versions: %s", name, kept.reasons)

    def _make_room(self, name: str) -> None:
        """Put those to sleep that were not asked for longest, but not the one that was just loaded."""
        while (kept := self._too_much(name)) is not None:
            with kept.lock:
                self._drop(kept)

    def _too_much(self, name: str) -> Kept | None:
        if self.bounds == Bounds():
            return None
        awake = [kept for one, kept in list(self._kept.items()) if one in self._served]
        return too_much(awake, self.bounds, {name, *self._following.pinned(awake)})
