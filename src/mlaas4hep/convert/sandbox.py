"""Starts the confined process, waits for it no longer than it may take, and says how it ended.

Invariant: it is given an empty environment, its own folder and one job; it is ended before `run_confined` returns, and
its answer is only read after it has ended.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.convert.child import ANSWER, OUT_OF_MEMORY
from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.operators import Operators
from mlaas4hep.convert.result import Conversion
from mlaas4hep.errors import MissingExtraError, MLaaSError, ParityError, UploadError

_log = logging.getLogger(__name__)
_MAX_ANSWER = 1 << 20
_LAST_WORDS = 2000
_ERRORS = ("UploadError", "ModelError", "BundleError", "ParityError", "ConfigError", "MLaaSError")
_START = "import sys; sys.path[:] = {path!r}; from mlaas4hep.convert.child import main; main()"
_DEATHS = {
    signal.SIGXCPU: "it used more than its CPU time",
    signal.SIGXFSZ: "it wrote a larger file than it may",
    signal.SIGKILL: "it was killed, as the system does when memory runs out",
    signal.SIGSEGV: "the library that read it crashed",
    signal.SIGABRT: "the library that read it gave up, as most do when their memory runs out",
    signal.SIGSYS: "it made a call that is forbidden here",
    signal.SIGBUS: "the library that read it crashed",
    signal.SIGFPE: "the library that read it crashed",
    signal.SIGILL: "the library that read it crashed",
}


def run_confined(
    folder: Path, *, name: str, beside: Mapping[str, bytes], limits: Limits, operators: Operators
) -> Conversion:
    """Convert ``folder/upload`` in a process of its own.

    Raises
    ------
    UploadError
        It was refused, or its conversion passed a limit of time or memory, or ended a library.
    MLaaSError
        The process could not do its work, and it is not known to be the upload's fault.
    """
    for one in ("tmp", "home"):
        (folder / one).mkdir()
    job = {
        "folder": str(folder),
        "name": name,
        "beside": {key: base64.b64encode(data).decode() for key, data in beside.items()},
        "limits": msgspec.to_builtins(limits),
        "operators": sorted(operators.allowed),
    }
    words = folder / "stderr"
    with words.open("wb") as stderr:
        status = _run(folder, json.dumps(job).encode(), stderr, limits)
    if status != 0:
        raise _death(status, words, limits)
    return _answer(folder, words)


def _run(folder: Path, job: bytes, stderr: Any, limits: Limits) -> int | None:
    """Exit status, negative for a signal; None where time was up."""
    command = [sys.executable, "-I", "-B", "-c", _START.format(path=[os.path.abspath(one) for one in sys.path if one])]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=_environment(folder),
        cwd=folder,
        start_new_session=True,
    )
    try:
        process.communicate(job, timeout=limits.wall_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours but where libraries lie."""
    own = {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JOBLIB_MULTIPROCESSING": "0",
        "PYTHONHASHSEED": "0",
    }
    kept = ("LD_LIBRARY_PATH", "KERAS_BACKEND")
    return own | {name: os.environ[name] for name in kept if name in os.environ}


def _death(status: int | None, words: Path, limits: Limits) -> MLaaSError:
    head = "the upload could not be converted within the limits of this server"
    if status is None:
        return UploadError(f"{head}: it took longer than {limits.wall_s:g} s; a smaller model, or ONNX, takes less")
    if status == OUT_OF_MEMORY:
        return UploadError(f"{head}: it needs more than {limits.memory_bytes >> 20} MiB of memory")
    if status < 0 and -status in _DEATHS:
        return UploadError(f"{head}: {_DEATHS[signal.Signals(-status)]}{_numbers(-status, limits)}")
    return MLaaSError(f"the confined process of a conversion ended with status {status}: {_last_words(words)}")


def _numbers(number: int, limits: Limits) -> str:
    if number == signal.SIGXCPU:
        return f" of {limits.cpu_s} s"
    return f" (memory: {limits.memory_bytes >> 20} MiB)" if number in (signal.SIGKILL, signal.SIGABRT) else ""


def _answer(folder: Path, words: Path) -> Conversion:
    """What it answered, believed as little as the upload itself; without the places of our files."""
    path = folder / ANSWER
    try:
        if path.is_symlink() or path.stat().st_size > _MAX_ANSWER:
            raise MLaaSError("the confined process of a conversion gave no answer that can be read")
        answer = json.loads(path.read_bytes())
        if "done" in answer:
            return msgspec.convert(answer["done"], Conversion)
        kind, message = str(answer["error"]), _shown(str(answer["message"]).replace(f"{folder}/", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MLaaSError(f"the confined process of a conversion gave no answer: {_last_words(words)}") from error
    raise _error(kind, message, words)


def _error(kind: str, message: str, words: Path) -> MLaaSError:
    if kind == "MissingExtraError":
        missing = MissingExtraError.__new__(MissingExtraError)
        missing.args = (message,)
        return missing
    if kind == "unforeseen":
        # A library's word on a strange file, or a mistake of ours: whoever runs the server can tell.
        _log.warning("an upload ended a conversion: %s\n%s", message, _last_words(words))
        return UploadError(f"the upload could not be converted: {message}")
    if kind in ("ModelError", "BundleError"):
        return UploadError(message)
    if kind == "ParityError":
        return ParityError(message)
    return UploadError(message) if kind in _ERRORS[:1] or kind not in _ERRORS else MLaaSError(message)


def _last_words(path: Path) -> str:
    text = path.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
    return _shown(text) or "it said nothing"


def _shown(text: str) -> str:
    """Text that does nothing to a terminal, though an upload has a part in it."""
    return "".join(one if one.isprintable() or one == "\n" else f"\\x{ord(one):02x}" for one in text)
