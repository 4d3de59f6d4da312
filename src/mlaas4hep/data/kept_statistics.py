"""Results of a scan, kept on disk by content, so that the same files and declaration are scanned once.

An entry's name is a hash of everything that its figures depend on (`scan_key`): what the files hold, what is declared,
and the code that counts. Invariant: what comes back is bit for bit what scanning would give; an entry that cannot be
trusted is never used, and said to be so.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.own_code import own_code
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.scan import ScanResult
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable, Weights
from mlaas4hep.spec.preprocess import Preprocessor

MAX_ENTRIES = 256
MAX_BYTES = 64_000_000
_VERSION = 1
_HEAD = re.compile(rb"mlaas4hep statistics (\d+) ([0-9a-f]{64})\Z")
_STALE_DRAFT_S = 24 * 3600.0
_PACKAGE = Path(__file__).parents[1]


class StatisticsStore:
    """A folder of scan results. May be shared by processes: entries appear whole and are never changed.

    Parameters
    ----------
    folder
        Made when something is kept.
    max_entries, max_bytes
        Bounds; what was not used for longest goes first.
    """

    def __init__(self, folder: Path, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self._max_entries = max_entries
        self._max_bytes = max_bytes

    @classmethod
    def of_user(cls) -> StatisticsStore:
        """The one in the user's cache: ``$XDG_CACHE_HOME/mlaas4hep/statistics``."""
        home = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(home) if home else Path.home() / ".cache") / "mlaas4hep" / "statistics")

    def find(self, key: str, *, note: Callable[[str], None]) -> ScanResult | None:
        """What is kept under a key; None where nothing is, or where it is damaged, which is noted."""
        path = self._path(key)
        try:
            text = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            note(f"{path}: kept statistics cannot be read ({error.strerror}); events are scanned again")
            return None
        try:
            return _parse(text)
        except DataError as error:
            note(f"{path}: kept statistics are damaged ({error}); events are scanned again")
            return None

    def holds(self, key: str) -> bool:
        """Whether something is kept under a key; it may still turn out to be damaged."""
        return self._path(key).exists()

    def keep(self, key: str, result: ScanResult, *, note: Callable[[str], None]) -> None:
        """Write a result, whole or not at all; that it could not be written is noted."""
        draft = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f"{key}.", suffix=".part", dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(_text(result))
            Path(draft).replace(self._path(key))
            self._tidy()
        except OSError as error:
            if draft is not None:
                Path(draft).unlink(missing_ok=True)
            note(f"{self.folder}: statistics cannot be kept: {error.strerror}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.statistics"

    def _tidy(self) -> None:
        """Remove the entries unused for longest beyond the bounds, and drafts of writers that died."""
        found = sorted(_ages(self.folder, "*.statistics"), reverse=True)
        total = 0
        for place, (_, size, path) in enumerate(found):
            total += size
            if place and (place >= self._max_entries or total > self._max_bytes):
                path.unlink(missing_ok=True)
        newest = found[0][0] if found else 0.0
        for changed, _, path in _ages(self.folder, "*.part"):
            if newest - changed > _STALE_DRAFT_S:
                path.unlink(missing_ok=True)


def scan_key(catalogue: Catalogue, preprocessor: Preprocessor, *, duplicates: bool = False) -> str | None:
    """SHA-256 of all that the result of a scan depends on; None where it cannot be told by them.

    That is so where a file has no identity, where something is left out because it cannot be read (what is kept are
    passes over everything), and where the user's own function sees events first: it may depend on whatever it likes.

    Files by their content (`mlaas4hep.data.places.Place.identity`), trees, entries and clusters; the declaration, less
    what the scan does not look at (scaling, observers, variations, training weights); samples with their selections,
    labels or rules for them, and factors; types of columns; whether duplicates are looked for;
    this package's version and code, numpy's version and the kind of machine.
    """
    if catalogue.hook is not None or catalogue.quarantine or not all(file.identity for file in catalogue.files):
        return None
    document = {
        "version": _VERSION,
        "code": own_code(),
        "features": _declared(catalogue.features),
        "classes": catalogue.classes,
        "told_apart_by": catalogue.identity,
        "types": {name: str(one) for name, one in catalogue.types.items()},
        "columns": sorted(preprocessor.columns),
        "samples": [(one.name, one.label, one.rule, one.selection, one.scale) for one in catalogue.samples],
        "files": [_file(one) for one in catalogue.files],
        "duplicates": duplicates,
    }
    return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()


def unchanged(catalogue: Catalogue, *, threads: int = 8) -> bool:
    """Whether every file still is what it was when the catalogue was opened."""

    sources = SourcePool()

    def same(file: FileEntry) -> bool:
        with sources.source(file) as source:
            return source.identity == file.identity

    try:
        with ThreadPoolExecutor(threads) as pool:
            return all(pool.map(same, catalogue.files))
    except DataError:  # gone or out of reach by now: what was read of it is not kept
        return False
    finally:
        sources.close()


def _declared(features: FeatureSpec) -> FeatureSpec:
    inputs = tuple(replace(group, variables=_names(group)) for group in features.inputs)
    weights = Weights(event=features.weights.event)
    return replace(features, inputs=inputs, weights=weights, variations={}, observers=())


def _names(group: InputGroup) -> tuple[Variable, ...]:
    return tuple(Variable(one.name) for one in group.variables)


def _file(file: FileEntry) -> dict[str, Any]:
    clusters = hashlib.sha256(file.clusters.astype("<i8").tobytes()).hexdigest()
    return {"sample": file.sample, "identity": file.identity, "tree": file.tree, "clusters": clusters}


def _text(result: ScanResult) -> bytes:
    body = msgspec.json.encode(result)
    return f"mlaas4hep statistics {_VERSION} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _parse(text: bytes) -> ScanResult:
    head, _, body = text.partition(b"\n")
    match = _HEAD.match(head)
    if match is None or int(match[1]) != _VERSION:
        raise DataError("it does not begin as such an entry does")
    if hashlib.sha256(body).hexdigest().encode() != match[2]:
        raise DataError("its checksum does not match")
    try:
        return msgspec.json.decode(body, type=ScanResult)
    except msgspec.DecodeError as error:
        raise DataError(str(error)) from error


def _ages(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """When each file was last used, its bytes, and the file; what another process removes meanwhile is left out."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.glob(pattern):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((status.st_mtime, status.st_size, path))
    return found
