"""Opens zip and tar archives, gzip-packed or not, into a folder, member by member and counted while it streams.

Invariant: nothing is written outside of the folder, nothing but plain files and folders is made, no name twice, and no
more bytes than the limits say, whatever an archive claims of itself.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from mlaas4hep.convert.limits import MIB, Limits
from mlaas4hep.errors import UploadError

_PIECE = 1 << 18
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError,
    ValueError, UnicodeError,
)  # fmt: skip
# Packers whose sizes are told while they unpack; others are not opened.
_PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive, not packed."""
    return head[257:262] == b"ustar"


def unpack(source: Path, folder: Path, limits: Limits) -> None:
    """Unpack an archive.

    Parameters
    ----------
    source
        A zip, a tar, or a tar packed by gzip; told apart by their first bytes.
    folder
        An empty one.
    limits
        Bounds of members, names and bytes.

    Raises
    ------
    UploadError
        A member leads out of the folder, is a link or a device, comes twice, or a limit is passed; or the archive is
        damaged or locked.
    """
    writer = _Writer(folder, limits, packed=source.stat().st_size)
    try:
        with source.open("rb") as stream:
            if zipfile.is_zipfile(source):
                _unzip(stream, writer)
            else:
                _untar(stream, writer)
    except _BROKEN as error:
        raise UploadError(f"the archive is damaged or locked: {type(error).__name__}: {error}") from error


class _Writer:
    """Writes members below a folder and counts."""

    def __init__(self, folder: Path, limits: Limits, *, packed: int) -> None:
        self._folder = folder
        self._limits = limits
        self._most = min(limits.inflated_bytes, int(MIB + limits.ratio * packed))
        self._files: set[Path] = set()
        self._members = self._bytes = 0

    def folder(self, name: str) -> None:
        """Make a folder."""
        self._count()
        path = self._place(name)
        if path in self._files:
            raise UploadError(f"the archive holds '{name[:80]}' as a file and a folder")
        if path is not None and not _is_litter(name):
            path.mkdir(parents=True, exist_ok=True)

    def file(self, name: str, content: IO[bytes]) -> None:
        """Write a file, piece by piece; what macOS adds is passed over."""
        self._count()
        path = self._place(name)
        if path is None or path in self._files or path.exists():
            raise UploadError(f"the archive holds '{name[:80]}' twice, or as a file and a folder")
        if _is_litter(name):
            return
        self._files.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            while piece := content.read(_PIECE):
                self.add(len(piece))
                target.write(piece)

    def add(self, count: int) -> None:
        """Count bytes that came out."""
        self._bytes += count
        if self._bytes > self._most:
            raise UploadError(
                f"the archive unpacks to more than {self._most} bytes, which is more than it may; a model that is as "
                "large as that needs a larger limit on the server"
            )

    def _count(self) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise UploadError(f"the archive has more than {self._limits.members} members")

    def _place(self, name: str) -> Path | None:
        """Where a member goes; None for the top folder itself."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
            raise UploadError(f"the archive has a member {name[:80]!r} that leads out of it")
        if len(name) > self._limits.member_name or any(len(part) > 255 for part in path.parts):
            raise UploadError(f"the archive has a member with a name of {len(name)} letters: {name[:40]!r}...")
        if not path.parts:
            return None
        place = self._folder.joinpath(*path.parts)
        if not self._files.isdisjoint(place.parents):
            raise UploadError(f"the archive holds '{name[:80]}' below what is a file in it")
        return place


def _is_litter(name: str) -> bool:
    """What macOS packs beside each file, which is no part of a model and makes its folder look like several."""
    parts = PurePosixPath(name).parts
    return parts[:1] == ("__MACOSX",) or parts[-1:] == (".DS_Store",) or any(one.startswith("._") for one in parts)


def _unzip(stream: IO[bytes], writer: _Writer) -> None:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UploadError(f"the archive has a member {member.filename[:80]!r} that is a link or a device")
            if member.flag_bits & 1:
                raise UploadError("the archive is locked by a password; send it without")
            if member.compress_type not in _PACKED:
                raise UploadError("the archive is packed by another method than zip's usual one (deflate)")
            if member.is_dir():
                writer.folder(member.filename)
                continue
            with archive.open(member) as content:
                writer.file(member.filename, content)


def _untar(stream: IO[bytes], writer: _Writer) -> None:
    head = stream.peek(2)[:2] if isinstance(stream, io.BufferedReader) else b""
    with _inflated(stream, writer, packed=head == b"\x1f\x8b") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        for member in tar:
            if member.isdir():
                writer.folder(member.name)
            elif member.isreg() and not member.issparse():
                content = tar.extractfile(member)
                if content is not None:
                    writer.file(member.name, content)
            else:
                raise UploadError(f"the archive has a member {member.name[:80]!r} that is a link, a device or sparse")


@contextmanager
def _inflated(stream: IO[bytes], writer: _Writer, *, packed: bool) -> Iterator[IO[bytes]]:
    """The tar itself; what comes out of gzip is bounded there, long headers included."""
    if not packed:
        yield stream
        return
    with gzip.GzipFile(fileobj=stream) as inflated:
        yield _Counted(inflated, writer)  # type: ignore[misc]


class _Counted(io.RawIOBase):
    """A stream that counts what is read of it, against twice the limit: members are counted once more."""

    def __init__(self, stream: gzip.GzipFile, writer: _Writer) -> None:
        self._stream = stream
        self._left = 2 * writer._most + MIB

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(_PIECE if size < 0 else min(size, _PIECE))
        self._left -= len(piece)
        if self._left < 0:
            raise UploadError("the archive unpacks to more bytes than it may")
        return piece

    def readable(self) -> bool:
        return True


def files_below(folder: Path) -> dict[str, Path]:
    """Files that were unpacked, by path with ``/``, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}
