"""Models that come over the wire: received beside the repository, converted behind walls, loaded, and only then told.

Who converts is handed in, since this package knows no framework. Invariant: an upload is opened by nobody here, what is
refused leaves nothing behind, and however many come, one is converted at a time and a few wait.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from mlaas4hep.bundle.read import versions_of
from mlaas4hep.errors import BundleError, BusyError, NotFoundError, RequestError, UploadError
from mlaas4hep.serve.entries import CONVERTED, DELETED, UPLOADED
from mlaas4hep.serve.repository import ModelRepository

T = TypeVar("T")
# What is done with a model of this name.
Change = Callable[[str], Awaitable[None]]

# Uploads that are received or converted at a time; who comes then is asked to come back.
MAX_UPLOADS = 4
RETRY_S = 10.0
# What lies beside the entries longer than this was left by a process that was killed.
ABANDONED_S = 3600.0
# Groups of four letters at a time.
_PIECE = 4 << 18
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """An upload on the disk, as it came.

    Parameters
    ----------
    model
        The file.
    form
        The other fields of the form that it came with (name, params, labels, op); None where it came alone.
    """

    model: Path
    form: Mapping[str, bytes] | None = None


class Stored(Protocol):
    """A version of a model that was put into the repository."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def version(self) -> str:
        """Of this one."""

    def to_json(self) -> bytes:
        """What was done, for who wants to know."""


@dataclass(eq=False)
class Uploads:
    """Takes models into a repository, and away from it. Lives on one event loop.

    Parameters
    ----------
    repository
        With a folder.
    convert
        What was received to what was stored in that folder. Called in a thread; it raises what `mlaas4hep.convert`
        does.
    limit_bytes
        Of one upload.
    """

    repository: ModelRepository
    convert: Callable[[Received], Stored]
    limit_bytes: int = 512 << 20
    _under_way: int = field(default=0, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def folder(self) -> Path:
        """Of the repository."""
        if self.repository.path is None:
            raise BundleError("a repository of models in memory takes no uploads; open one on a folder")
        return self.repository.path

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[Path]:
        """A folder for what is received, gone in the end; `BusyError` where too many are under way."""
        if self._under_way >= MAX_UPLOADS:
            text = f"{self._under_way} uploads are being taken, and no more at a time"
            raise BusyError(text, retry_after_s=RETRY_S)
        self._under_way += 1
        place: Path | None = None
        try:
            place = Path(tempfile.mkdtemp(prefix=UPLOADED, dir=self.folder))
            yield place
        finally:
            self._under_way -= 1
            if place is not None:
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def take(self, received: Received, load: Change, remove: Change) -> Stored:
        """Convert, store, load. When this returns the new version answers.

        Parameters
        ----------
        load, remove
            Bring a model to what its folder holds, and delete it, in all workers.

        Raises
        ------
        UploadError, ParityError, MissingExtraError, BundleError
            It is refused; nothing of it is left.
        """
        stored = await _in_thread(lambda: self._converted(received))
        try:
            await load(stored.name)
        except BundleError as error:
            if not self._is_served(stored):
                await self._take_back(stored, remove)
                raise UploadError(f"the model was converted, but it cannot be served: {error}") from error
            _log.warning("%s", error)  # another version of it, which was broken before
        _log.info("model '%s', version %s, was uploaded", stored.name, stored.version)
        return stored

    async def remove(self, name: str, remove: Change) -> bool:
        """Delete a model, all its versions, by what deletes it in all workers; False where there is none."""
        try:
            await remove(name)
        except NotFoundError:
            return False
        _log.info("model '%s' was deleted", name)
        return True

    def clean(self) -> None:
        """Take away what uploads of a process that was killed left beside the entries."""
        for path in self.folder.iterdir():
            if path.name.startswith((UPLOADED, CONVERTED, DELETED)):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > ABANDONED_S:
                        shutil.rmtree(path, ignore_errors=True)

    def _is_served(self, stored: Stored) -> bool:
        try:
            return stored.version in self.repository.versions(stored.name)
        except NotFoundError:
            return False

    async def _take_back(self, stored: Stored, remove: Change) -> None:
        place = self.folder / stored.name
        await asyncio.to_thread(shutil.rmtree, place / stored.version, ignore_errors=True)
        if not versions_of(place):
            await self.remove(stored.name, remove)

    def _converted(self, received: Received) -> Stored:
        with self._turn:
            return self.convert(received)


async def _in_thread(work: Callable[[], T]) -> T:
    """As an executor would, but in a thread that the process does not wait for when it ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mlaas4hep-convert", daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(future))


def decode_base64(path: Path) -> None:
    """Unpack a file in place, piece by piece; `RequestError` where it is none."""
    plain = path.with_name(path.name + "-plain")
    left = b""
    try:
        with path.open("rb") as source, plain.open("xb") as target:
            while piece := source.read(_PIECE):
                left += piece.translate(None, b" \t\r\n")
                whole = len(left) // 4 * 4
                target.write(base64.b64decode(left[:whole], validate=True))
                left = left[whole:]
    except binascii.Error as error:
        raise RequestError(f"the model is not base64, as Content-Encoding says: {error}") from error
    if left:
        raise RequestError("the model is not base64, as Content-Encoding says: it ends within a group of four letters")
    plain.replace(path)
