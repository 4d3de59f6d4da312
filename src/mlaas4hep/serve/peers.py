"""Changes of models told to all workers of one server: who asks for one is answered when every worker has it.

Each worker listens on a socket in a folder that only the server's user may enter; whoever is asked tells the others.
What was changed is noted in that folder as well, for a worker that starts later. Invariant: changes of one model happen
one after the other, in the same order everywhere, and a worker that starts takes part in them from its first answer on:
it listens before it looks at the notes.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import socket
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mlaas4hep.errors import BundleError, MLaaSError, NotFoundError, ServerError, UserError
from mlaas4hep.serve.repository import ModelRepository

# How long a worker may take for a change; a large model is read in that time.
LIMIT_S = 600.0
_MAX_BYTES = 1 << 20
_LOCKS = 64
_ERRORS = {one.__name__: one for one in (BundleError, NotFoundError, UserError)}
_log = logging.getLogger(__name__)


class Change(msgspec.Struct, frozen=True):
    """What is to be done with a model: ``load``, ``unload``, ``remove`` (from the disk), ``label``, or ``default``.

    Parameters
    ----------
    config
        Of a load.
    label, version
        Of a label.
    """

    what: str
    name: str
    config: str | None = None
    label: str = ""
    version: str | None = None

    @property
    def subject(self) -> str:
        """Of what changes happen one after the other: the model, or what all models share, which has no name."""
        return "" if self.what == "default" else self.name

    def apply(self, repository: ModelRepository) -> None:
        """Do it, in this process."""
        if self.what == "default":
            repository.default = self.name
        elif self.what == "load":
            repository.load(self.name, config=self.config).result()
        elif self.what == "unload":
            repository.unload(self.name).result()
        elif self.what == "remove":
            repository.remove(self.name).result()
        else:
            repository.label(self.name, self.label, self.version)


class _Outcome(msgspec.Struct):
    """Of a change in one worker; ``kind`` is the name of an error."""

    kind: str = ""
    text: str = ""

    @classmethod
    def of(cls, change: Change, repository: ModelRepository) -> _Outcome:
        try:
            change.apply(repository)
        except MLaaSError as error:
            return cls(type(error).__name__, str(error))
        except Exception as error:  # such as a full memory: told to who asked, as of every other worker
            _log.exception("a change of model '%s' failed", change.name)
            return cls("ServerError", f"{type(error).__name__}: {error}")
        return cls()


class Peers:
    """One worker among others; listens from the start, answers after `join`.

    Parameters
    ----------
    folder
        That all workers share.
    number, workers
        Of this worker, from 0, and how many there are.

    Raises
    ------
    UserError
        There can be no socket in the folder.
    """

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self._folder, self._number, self._workers = folder, number, workers
        (folder / "changes").mkdir(exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        place = self._place(number)
        place.unlink(missing_ok=True)
        try:
            self._socket.bind(str(place))
        except OSError as error:
            raise UserError(f"workers cannot talk over {place}: {error}; set TMPDIR to a shorter path") from error
        self._socket.listen(64)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="mlaas4hep-peers")
        self._repository: ModelRepository | None = None

    def join(self, repository: ModelRepository) -> None:
        """Catch up with what was changed before, and take part from now on."""
        self._repository = repository
        for path in sorted((self._folder / "changes").iterdir()):
            outcome = _Outcome.of(msgspec.json.decode(path.read_bytes(), type=Change), repository)
            if outcome.kind:
                _log.warning("%s", outcome.text)
        threading.Thread(target=self._listen, name="mlaas4hep-peers", daemon=True).start()

    def close(self) -> None:
        """Hear nothing more."""
        with suppress(OSError):  # it was never connected; this wakes who accepts
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, change: Change) -> Awaitable[None]:
        """Done when every worker has done it; raises what it met, and where."""
        return asyncio.wrap_future(self._pool.submit(self.spread, change))

    def spread(self, change: Change) -> None:
        """As calling it, for a thread.

        Raises
        ------
        NotFoundError
            No such entry; nothing happened.
        BundleError
            It could not be done, or not by all workers.
        """
        if self._repository is None:
            raise RuntimeError("a worker that has not joined was asked for a change")
        with self._locked(change.subject):
            mine = _Outcome.of(change, self._repository)
            if mine.kind == "NotFoundError":
                raise NotFoundError(mine.text)
            self._note(change)
            others = [one for one in range(self._workers) if one != self._number]
            found = dict(zip(others, self._tell_all(others, change), strict=True)) | {self._number: mine}
        failed = {number: one for number, one in sorted(found.items()) if one.kind}
        if failed:
            raise _error(change, failed, self._workers)

    def _tell_all(self, others: list[int], change: Change) -> list[_Outcome]:
        with ThreadPoolExecutor(max(len(others), 1)) as pool:
            return list(pool.map(lambda number: self._tell(number, change), others))

    def _tell(self, number: int, change: Change) -> _Outcome:
        """Of another worker. One that is not there, or dies meanwhile, finds the note when it starts again."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(LIMIT_S)
            try:
                line.connect(str(self._place(number)))
                line.sendall(msgspec.json.encode(change))
                line.shutdown(socket.SHUT_WR)
                data = _all_of(line)
            except TimeoutError:
                return _Outcome("ServerError", f"did not answer within {LIMIT_S:g} s")
            except OSError:
                return _Outcome()
        return msgspec.json.decode(data, type=_Outcome) if data else _Outcome()

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=self._answer, args=(line,), name="mlaas4hep-change", daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line:
            line.settimeout(LIMIT_S)
            try:
                change = msgspec.json.decode(_all_of(line), type=Change)
                if self._repository is not None:
                    line.sendall(msgspec.json.encode(_Outcome.of(change, self._repository)))
            except (OSError, msgspec.DecodeError) as error:  # who asked is gone
                _log.warning("a change that another worker told of broke off: %s", error)

    def _note(self, change: Change) -> None:
        """For who starts later, and finds what lies on disk: labels with it, but not what was unloaded."""
        if change.what == "label":
            return
        path = self._folder / "changes" / hashlib.sha256(change.subject.encode()).hexdigest()
        if change.what == "remove" or (change.what == "load" and change.config is None):
            path.unlink(missing_ok=True)
            return
        part = self._folder / f"change-{self._number}-{path.name}.part"
        part.write_bytes(msgspec.json.encode(change))
        part.replace(path)

    @contextmanager
    def _locked(self, subject: str) -> Iterator[None]:
        """No other worker, nor another thread of this one, changes the same meanwhile."""
        stripe = hashlib.sha256(subject.encode()).digest()[0] % _LOCKS
        with (self._folder / f"lock-{stripe}").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _place(self, number: int) -> Path:
        return self._folder / f"control-{number}"


def _all_of(line: socket.socket) -> bytes:
    """What comes until the other side has said all."""
    found = b""
    while part := line.recv(1 << 16):
        found += part
        if len(found) > _MAX_BYTES:
            raise OSError("more came than a change takes")
    return found


def _error(change: Change, failed: dict[int, _Outcome], workers: int) -> MLaaSError:
    texts = {one.text for one in failed.values()}
    if len(failed) == workers and len(texts) == 1:
        first = next(iter(failed.values()))
        return _ERRORS.get(first.kind, ServerError)(first.text)
    told = "; ".join(f"worker {number}: {one.text}" for number, one in failed.items())
    done = [str(number) for number in range(workers) if number not in failed]
    where = f"workers {', '.join(done)} have it" if done else "no worker has it"
    return BundleError(f"{change.what} of model '{change.name}': {told}; {where}; ask again, or start the others anew")
