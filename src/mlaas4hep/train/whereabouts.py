"""Where the files of a training lie now: as told, in the run's own config, or below a folder.

Invariant: every file is found and looked at, or one `DataError` lists those that are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlaas4hep.config import read_config
from mlaas4hep.config.addresses import is_address, shown
from mlaas4hep.data.contents import identity_of
from mlaas4hep.data.locate import search
from mlaas4hep.data.places import kind_of, remember
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.progress import Progress
from mlaas4hep.train.origins import Origin

Key = tuple[str, int, int]
"""Sample, place of the file in it, and 0 for the file itself, 1 and on for its friends."""
_AT_ONCE, _MOST_TOLD = 8, 6


@dataclass(frozen=True, slots=True)
class Found:
    """One file.

    Parameters
    ----------
    name
        As the bundle tells it.
    path
        Where it is now.
    then, now
        Identities; None where the bundle tells none.
    """

    name: str
    path: str
    then: str | None
    now: str


class Whereabouts:
    """Finds files by what a bundle calls them.

    Parameters
    ----------
    origins
        The files.
    told
        Folders to look in, and ``OLD=NEW``: OLD is a file or a folder as the bundle names it, NEW a path or address.
    run
        The run directory that the bundle lies in, whose config says where they were.

    Raises
    ------
    DataError
        An OLD that the bundle does not name.
    """

    def __init__(self, origins: Sequence[Origin], told: Sequence[str], *, run: Path | None = None) -> None:
        self._asked = dict(_asked(origins))
        names = [name for name, _ in self._asked.values()]
        moved = [one for one in told if "=" in one and not Path(one).exists()]
        self._moved = [(old.rstrip("/"), new.rstrip("/")) for old, _, new in (one.partition("=") for one in moved)]
        self._folders = [Path(one) for one in told if one not in moved]
        for old, _ in self._moved:
            if not any(_rest(name, old) is not None for name in names):
                known = dict.fromkeys([*names, *(PurePosixPath(one).parent.as_posix() for one in names)])
                raise DataError(f"--files {old}=...: the bundle names no such file or folder{nearest(old, known)}")
        for folder in self._folders:
            if not folder.is_dir():
                raise DataError(f"--files {folder}: is no folder; write OLD=NEW for one file")
        self._before = [] if run is None else _paths_of(run)

    def find(self, *, progress: Progress) -> dict[Key, Found]:
        """Find and look at every file.

        Raises
        ------
        DataError
            Some are not found, or cannot be read.
        """
        places = {key: self._place(name) for key, (name, _) in self._asked.items()}
        lost = [self._asked[key][0] for key, place in places.items() if place is None]
        if lost:
            raise DataError(_not_found(lost))
        progress.start("looking at files", total=len(places), unit="files")

        def look(key: Key) -> Found:
            name, then = self._asked[key]
            path = places[key] or name
            now = identity_of(path)[1]
            progress.update(1)
            return Found(name, path, then, now)

        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                return dict(zip(places, pool.map(look, places), strict=True))
        finally:
            progress.close()

    def _place(self, name: str) -> str | None:
        """The first place that may be meant and holds the file; of an address nobody asks whether it is there."""
        for old, new in self._moved:
            rest = _rest(name, old)
            if rest is not None:
                path = f"{new}/{rest}" if rest else new
                return remember(path) if is_address(path) else _existing([path])
        if is_address(name):
            return name
        ending = f"/{name}"
        own = [one for one in self._before if one.endswith(ending)]
        folders = [*self._folders, Path()]
        tried = [*own] if not self._folders else []
        tried += [str(folder / name) for folder in folders]
        tried += [str(folder / PurePosixPath(name).name) for folder in folders]
        return _existing([*tried, *own])


def _asked(origins: Sequence[Origin]) -> Iterator[tuple[Key, tuple[str, str | None]]]:
    for one in origins:
        yield (one.sample, one.index, 0), (one.path, one.identity)
        for number, friend in enumerate(one.friends, start=1):
            yield (one.sample, one.index, number), friend


def _rest(name: str, old: str) -> str | None:
    """What follows ``old`` in a name; None where it is not meant."""
    if name == old:
        return ""
    return name.removeprefix(f"{old}/") if name.startswith(f"{old}/") else None


def _existing(paths: Sequence[str]) -> str | None:
    return next((str(Path(one).absolute()) for one in paths if Path(one).is_file()), None)


def _paths_of(run: Path) -> list[str]:
    """Local files of a run's config that are still there; what is gone is looked for elsewhere."""
    config = read_config(run / "config.yaml")
    found = []
    for name, sample in config.samples.items():
        files, _ = search(sample.files, redirectors=config.redirectors_of(name))
        found += [one.path for one in files if not is_address(one.path)]
        for friend in sample.friends:
            try:
                found += [one for one in kind_of(friend).expand(friend) if not is_address(one)]
            except DataError:
                continue  # gone: told as not found if nothing else finds it
    return [str(Path(one).absolute()) for one in found]


def _not_found(names: Sequence[str]) -> str:
    shown_names = ", ".join(map(shown, names[:_MOST_TOLD]))
    more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
    return (
        f"{len(names)} files of the training are not found: {shown_names}{more}. Say where they are: --files FOLDER "
        "that holds them, or --files OLD=NEW for a file or a folder as it is named here"
    )
