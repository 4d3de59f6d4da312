"""Entries of a model repository on disk: where they lie, what they are called, their versions and labels.

Nothing is loaded here. Invariant: a name that somebody asks for is compared with those that were found, and never
made part of a path.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from mlaas4hep.bundle.layout import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, SPEC_FILE
from mlaas4hep.bundle.read import versions_of
from mlaas4hep.errors import BundleError, nearest
from mlaas4hep.serve.ensemble import ENSEMBLE_FILE, VERSION, Declared, read_ensemble
from mlaas4hep.serve.images import IMAGE_FILE
from mlaas4hep.serve.pbtxt import Message, parse_json, parse_pbtxt
from mlaas4hep.serve.policy import followed

LABELS_FILE = "labels.json"
LATEST = "latest"
# Folders of what is under way, beside the entries: they are hidden, so that none is taken for an entry.
UPLOADED, CONVERTED, DELETED = ".upload-", ".convert-", ".delete-"

# Where a folder holds no bundle: how far, how wide and how much is looked for one to name.
MAX_DEPTH, MAX_LOOKED, MAX_HINTS = 3, 200, 3

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r'^\s*name\s*:\s*"([^"\\]+)"', re.MULTILINE)

# What tells whether a version is the one that was loaded: what stands beside it; name, time, size, place of its files.
Stamp = tuple[bytes, tuple[tuple[str, int, int, int], ...]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on disk.

    Parameters
    ----------
    name
        As it is asked for: of ``config.pbtxt``, else of its folder.
    folder
        That holds version folders.
    only
        The one version that is served; None for all.
    config
        JSON that stands for ``config.pbtxt``; None for the file.
    ensemble
        It is several models as one, and has no versions but one.
    """

    name: str
    folder: Path
    only: str | None = None
    config: str | None = None
    ensemble: bool = False

    def stamps(self) -> dict[str, Stamp]:
        """Versions that are there now and are to be served, oldest first."""
        config = self.folder / CONFIG_FILE
        try:
            if self.ensemble:
                return {VERSION: self._declared()}
            found = [one for one in _versions(self.folder) if self.only in (None, one.name)]
            there = config.read_bytes() if config.is_file() else b""
            text = there if self.config is None else self.config.encode()
            if self.only is None:
                found = _followed(found, text, parse_pbtxt if self.config is None else parse_json)
            image = self.folder / IMAGE_FILE
            text += b"\0" + image.read_bytes() if image.is_file() else b""
            return {one.name: (text, _files(one)) for one in found}
        except FileNotFoundError:  # taken away while it was looked at
            return {}

    def version_folder(self, version: str | None = None) -> Path | None:
        """Of a version that is there, the newest where none is named."""
        there = list(self.stamps())
        found = version or (there[-1] if there else "")
        return self.folder / found if found in there else None

    def declared(self) -> Declared:
        """What an ensemble is made of; `BundleError` where it cannot be read."""
        return read_ensemble(self.folder / ENSEMBLE_FILE)

    def _declared(self) -> Stamp:
        """Its text, and files that only it uses."""
        text = (self.folder / ENSEMBLE_FILE).read_bytes()
        try:
            folders = self.declared().paths
        except BundleError:  # said when it is loaded
            folders = []
        return text, tuple(one for folder in folders for one in _files(folder))

    def size(self) -> int:
        """Bytes of all graphs."""
        return sum(size for _, files in self.stamps().values() for name, _, size, _ in files if "onnx" in name)

    def delete(self) -> None:
        """Take all of it off the disk, in one step for who looks at the folder."""
        aside = Path(tempfile.mkdtemp(prefix=DELETED, dir=self.folder.parent))
        try:
            with contextlib.suppress(FileNotFoundError):
                self.folder.rename(aside / "entry")
        finally:
            shutil.rmtree(aside)

    def labels(self) -> dict[str, str]:
        """Versions by label, as they are kept in ``labels.json``.

        Raises
        ------
        BundleError
            The file is not what `write_labels` writes.
        """
        path = self.folder / LABELS_FILE
        try:
            labels = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f'{path}: asked for labels such as {{"stable": "1"}}: {error}') from error
        for label in labels:
            check_label(label)
        return labels

    def known(self) -> dict[str, str]:
        """Versions by label, ``latest`` among them where there is a version."""
        newest = list(self.stamps())[-1:]
        return {**dict(zip([LATEST], newest, strict=False)), **self.labels()}

    def write_labels(self, labels: Mapping[str, str]) -> None:
        """Keep labels; who reads meanwhile finds all of the old ones or all of the new ones."""
        content = msgspec.json.encode(labels, order="deterministic")
        handle, temporary = tempfile.mkstemp(prefix=".labels-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(self.folder / LABELS_FILE)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise


def check_label(label: str) -> None:
    """Refuse what could be taken for a version, and ``latest``, which is always the newest."""
    if label == LATEST:
        raise BundleError("the label 'latest' is always the newest version; choose another, such as 'stable'")
    if not _LABEL.fullmatch(label):
        raise BundleError(f"label '{label}': asked for a letter, then letters, digits, '.', '_' or '-', at most 64")


def find_entries(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """Entries under a path, and what is wrong with others, by the name of their folder.

    Parameters
    ----------
    path
        A folder of entries, one of them (``NAME``), or one version (``NAME/1``). Hidden folders are passed over.

    Raises
    ------
    BundleError
        No such folder.
    """
    check_folder(path)
    if _is_version(path):
        return [Entry(_name_of(path.parent), path.parent, path.name)], {}
    if (alone := _entry(path)) is not None:
        return [alone], {}
    entries: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    for folder in sorted(path.iterdir()):
        entry = None if folder.name.startswith(".") else _entry(folder)
        if entry is None:
            continue
        if not entry.ensemble and (folder / ENSEMBLE_FILE).exists():
            problems[folder.name] = f"{folder} holds versions and an {ENSEMBLE_FILE}; asked for one of them"
            continue
        first = entries.setdefault(entry.name, entry)
        if first is not entry:
            problems[folder.name] = f"two folders are model '{entry.name}': {first.folder.name} and {folder.name}"
    return list(entries.values()), problems


def _entry(folder: Path) -> Entry | None:
    if _versions(folder):
        return Entry(_name_of(folder), folder)
    return Entry(folder.name, folder, ensemble=True) if (folder / ENSEMBLE_FILE).is_file() else None


def find_bundles(path: Path) -> list[Path]:
    """Version folders (``NAME/1``) under a path, by name and version; `BundleError` where there is none."""
    entries, _ = find_entries(path)
    found = [entry.folder / version for entry in entries if not entry.ensemble for version in entry.stamps()]
    if not found:
        raise nothing_in(path)
    return found


def check_folder(path: Path) -> None:
    """Refuse a file, and a folder that is not there with what is near."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path} is a file; asked for a bundle, which is a folder, or a folder of bundles")
    if not path.is_dir():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise BundleError(f"no folder {path}; asked for a bundle or a folder of bundles{near}")


def nothing_in(path: Path) -> BundleError:
    """The error of a folder that holds no entry: what it holds, and bundles further down."""
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    below = ", ".join(map(str, islice(_bundles_below(path), MAX_HINTS)))
    hint = f"; did you mean {below}?" if below else ""
    return BundleError(f"{path}: asked for NAME/1/{MODEL_FILE} in it, found {there}{hint}")


def _bundles_below(path: Path) -> Iterator[Path]:
    """Bundles a few levels down, such as that of a run, ``RUN/model/NAME``."""
    level = [path]
    for _ in range(MAX_DEPTH):
        level = [one for folder in level[:MAX_LOOKED] for one in sorted(folder.iterdir()) if one.is_dir()]
        yield from (folder for folder in level[:MAX_LOOKED] if (folder / CONFIG_FILE).exists() and versions_of(folder))


def is_entry(path: Path) -> bool:
    """Whether a folder is a model, or one version of it, and no folder of models."""
    return _is_version(path) or bool(_versions(path))


def _versions(folder: Path) -> list[Path]:
    """Version folders of an entry; one that lost a file is among them, so that it is refused and not passed over."""
    found = [folder / str(number) for number in versions_of(folder)]
    return found if (folder / CONFIG_FILE).exists() else [version for version in found if _is_version(version)]


def _followed(versions: list[Path], config: bytes, parse: Callable[..., Message]) -> list[Path]:
    """Versions of a plain entry that its config asks for; all of a bundle, whose config is written for Triton alone."""
    is_said = b"version_policy" in config or b"versionPolicy" in config
    if not is_said or any((one / name).exists() for one in versions for name in (MANIFEST_FILE, SPEC_FILE)):
        return versions
    try:
        wanted = followed([int(one.name) for one in versions], parse(config.decode(), where=""), "")
    except (BundleError, UnicodeDecodeError):
        return versions  # told where they are loaded
    return [one for one in versions if int(one.name) in wanted]


def _is_version(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (MODEL_FILE, MANIFEST_FILE))


def _name_of(folder: Path) -> str:
    config = folder / CONFIG_FILE
    found = _NAME.search(config.read_text(errors="replace")) if config.is_file() else None
    return found.group(1) if found else folder.absolute().name


def _files(version: Path) -> tuple[tuple[str, int, int, int], ...]:
    with os.scandir(version) as there:
        stats = [(one.name, one.stat()) for one in there]
    return tuple(sorted((name, one.st_mtime_ns, one.st_size, one.st_ino) for name, one in stats))
