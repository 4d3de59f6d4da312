"""Whatever else fsspec knows: ``hdfs://``, ``memory://``, ``ftp://``, ``gs://`` and others.

fsspec is asked for ranges; it has its own connections and, in places, its own retries. It cannot be told to give up, so
that each attempt runs in a thread that is left behind when it makes no progress. Invariant: an answer counts only if it
has the length that was asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mlaas4hep.config.addresses import secrets_in, shown
from mlaas4hep.data.places import Place, scheme_of
from mlaas4hep.data.places.listing import Entry, expand_address
from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.ranges import PIECE_BYTES, Piece
from mlaas4hep.data.places.remote import Failed, Replica, system_reason
from mlaas4hep.data.places.steady import SteadyPlace
from mlaas4hep.errors import DataError

T = TypeVar("T")

# No word comes while bytes do: for them a slow line has so long on top of the patience for silence.
_LEAST_BYTES_A_S = 256 * 1024
_OPEN_S = 20.0


_HADOOP = (
    "Java and the client of Hadoop (libhdfs); install them and set JAVA_HOME, HADOOP_HOME and "
    "CLASSPATH=$(hadoop classpath --glob). Or ask the gateway of the cluster, which needs neither: webhdfs://host:9870/path"
)
_PYARROW = f"pip install pyarrow; and {_HADOOP}"
# What to install for schemes whose own message names a module alone.
_DRIVERS = {
    "hdfs": _PYARROW,
    "arrow_hdfs": _PYARROW,
    "viewfs": _PYARROW,
    "sftp": "pip install paramiko",
    "ssh": "pip install paramiko",
}


class FileSystems:
    """Files of any kind that fsspec has a class for."""

    def open(self, url: str) -> Place:
        """See `mlaas4hep.data.places.PlaceKind.open`."""
        return SteadyPlace([self.replica(url)])

    def replica(self, url: str) -> Replica:
        """See `mlaas4hep.data.places.remote.RemoteKind.replica`."""
        return Replica(shown(url), lambda stall_s: FileSystemRemote(url, stall_s))

    def expand(self, pattern: str) -> tuple[str, ...]:
        """See `mlaas4hep.data.places.PlaceKind.expand`."""
        return expand_address(pattern, _list_folder, is_folder=_is_folder)

    def key(self, url: str) -> object:
        """Scheme and path as fsspec spells it."""
        _, path = _system(url)
        return scheme_of(url), shown(url).partition("://")[2].partition("/")[0], path


class FileSystemRemote:
    """One file of an fsspec file system.

    Raises
    ------
    Failed
        It is not there, may not be read, or nobody answers.
    """

    head = b""
    most_pieces = 1
    piece_bytes = PIECE_BYTES

    def __init__(self, url: str, stall_s: float) -> None:
        self.url = shown(url)
        self._secrets = [value for _, value in secrets_in(url)]
        self._system, self._path = _system(url)
        told = _within(max(stall_s, _OPEN_S), self._info, self._secrets)
        if told.get("type") == "directory":
            raise Failed("is a folder, not a file", again=False)
        if told.get("size") is None:
            raise Failed("does not tell its size, without which it cannot be read in ranges", again=False)
        self.size = int(told["size"])
        self.identity = f"{self.size}-{_version(told)}"

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        """See `mlaas4hep.data.places.remote.Remote.fetch`."""
        [piece] = pieces
        allowed = patience_s + len(piece.view) / _LEAST_BYTES_A_S
        data = _within(allowed, lambda: self._system.cat_file(self._path, piece.start, piece.stop), self._secrets)
        if len(data) != len(piece.view):
            raise Failed(f"{len(piece.view)} bytes were asked for, {len(data)} were sent")
        piece.view[:] = data

    def close(self) -> None:
        """fsspec keeps its file systems for the whole process; nothing is held here."""

    def _info(self) -> Any:
        self._system.invalidate_cache()
        return self._system.info(self._path)


def act_on(url: str, act: Callable[[Any, str], object], seconds: float) -> None:
    """Do something with the file system of an address and the path in it; `Failed` where it fails, or takes longer."""
    system, path = _system(url)
    _within(seconds, lambda: act(system, path), [value for _, value in secrets_in(url)])


def knows(scheme: str) -> bool:
    """Whether fsspec has a class for a scheme, installed or not."""
    return scheme in fsspec_schemes()


def fsspec_schemes() -> frozenset[str]:
    """All schemes that fsspec has classes for."""
    import fsspec

    return frozenset(fsspec.available_protocols())


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        driver = _DRIVERS.get(scheme_of(url), str(error))
        raise DataError(f"{shown(url)}: {scheme_of(url)}:// needs another package: {driver}") from error
    except (OSError, ValueError) as error:
        words = system_reason(error) or " ".join(str(error).split())[:200]
        if any(one in words for one in ("libjvm", "libhdfs")):
            raise DataError(f"{shown(url)}: {scheme_of(url)}:// needs its driver: {_HADOOP}") from error
        raise DataError(f"{shown(url)}: cannot be reached: {words}") from error
    return system, path


def _version(told: dict[str, Any]) -> str:
    """What changes with the content, from what the file system says of a file."""
    for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created", "modify"):
        if told.get(name):
            return str(told[name])
    plain = repr(sorted((str(name), str(value)) for name, value in told.items()))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _within(seconds: float, act: Callable[[], T], secrets: Sequence[str]) -> T:
    """Carry out something that knows no time-out; past it, it is left to its own thread."""
    done: list[T] = []
    failed: list[Exception] = []

    def carry_out() -> None:
        try:
            done.append(act())
        except Exception as error:  # whatever a file system raises is told by the caller's thread
            failed.append(error)

    helper = threading.Thread(target=carry_out, daemon=True)
    helper.start()
    helper.join(seconds)
    if done:
        return done[0]
    if failed:
        raise _translated(failed[0], secrets) from failed[0]
    raise Failed(f"no answer within {seconds:.0f} s", slow=True)


def _translated(error: Exception, secrets: Sequence[str]) -> Failed:
    if isinstance(error, FileNotFoundError):
        return Failed("no such file", again=False)
    if isinstance(error, PermissionError):
        return Failed("may not be read by us", again=False)
    words = system_reason(error) or " ".join(str(error).split())[:200] or type(error).__name__
    for secret in secrets:
        words = words.replace(secret, "...")
    return Failed(f"{type(error).__name__}: {words}", again=isinstance(error, OSError))


def _list_folder(url: str) -> list[Entry]:
    system, path = _system(url)

    def once(stall_s: float) -> list[Entry]:
        found = _within(max(stall_s, _OPEN_S), lambda: system.ls(path, detail=True, refresh=True), ())
        own = path.rstrip("/")
        return [
            Entry(one["name"].rstrip("/").rpartition("/")[2], one["type"] == "directory")
            for one in found
            if one["name"].rstrip("/") != own
        ]

    return ask(shown(url), "cannot be listed", once)


def _is_folder(url: str) -> bool:
    system, path = _system(url)
    return ask(shown(url), "cannot be found", lambda stall_s: _within(_OPEN_S, lambda: bool(system.isdir(path)), ()))
