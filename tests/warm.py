"""The command line from a process that has imported everything, forked for each command: what `make test` runs.

Imports and pictures are most of a short command, so a page or a story of many commands is followed this way in a third
of the time. Under `make check`, and where the system cannot do it, commands are the processes that a user starts.

Invariant: a command sees its own arguments, folder, environment and streams, and nothing of another command; it ends
with its own status, and with whoever started it. Its pictures are those of `tests.pictures`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import NoReturn

from mlaas4hep import cli
from tests.examples import ALL

REAL = (sys.executable, "-m", "mlaas4hep")
_ROOT = Path(__file__).parents[1]
_READY = "ready"
# What commands import when they need it, beside the modules of our own; the frameworks of single models are left out.
_PACKAGES = ("cli", "config", "spec", "graph", "bundle", "data", "report", "train", "serve", "client", "score")
_LIBRARIES = (
    "matplotlib.backends.backend_agg",
    "mplhep",
    "onnx",
    "sklearn.ensemble",
    "sklearn.neural_network",
    "uproot",
    "uvicorn",
)
# It passes on what it was asked, with its three streams, and ends with the status that comes back.
_CLIENT = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as line:
    line.connect({place!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(asked)
    status = line.recv(16)
sys.exit(int(status) if status else "the process that should have run this command is gone")
"""


@cache
def command() -> tuple[str, ...]:
    """Words before the arguments of a command, as for `subprocess.run`."""
    folder = scripts()
    return REAL if folder is None else (str(folder / "mlaas4hep"),)


@cache
def scripts() -> Path | None:
    """A folder with a program ``mlaas4hep``, to stand first in ``PATH``; None where real processes are to run."""
    if ALL or not _can_watch():
        return None
    folder = Path(tempfile.mkdtemp(prefix="mlaas4hep-warm-"))
    program, place = folder / "mlaas4hep", str(folder / "door")
    program.write_text(_CLIENT.format(python=sys.executable, place=place), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline().strip() == _READY
    return folder


def _can_watch() -> bool:
    """Whether this system tells when a process ends."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _end(server: subprocess.Popen[str], folder: Path) -> None:
    server.communicate()
    shutil.rmtree(folder)


def _serve(place: str) -> None:
    """Fork for every command that is asked, until the process that started this one is gone."""
    _import_all()
    assert threading.active_count() == 1, "a fork takes no thread along"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(place)
        door.listen()
        print(_READY, flush=True)
        while True:
            happened, _, _ = select.select([door, sys.stdin], [], [])
            with contextlib.suppress(ChildProcessError):  # there is none
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if sys.stdin in happened:
                return
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                break
            line.close()
    _attend(line)


def _import_all() -> None:
    from mlaas4hep.report import style
    from tests.pictures import plain

    for name in _LIBRARIES:
        importlib.import_module(name)
    for package in _PACKAGES:
        found = importlib.import_module(f"mlaas4hep.{package}")
        for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            if ".into" not in module.name:
                importlib.import_module(module.name)
    style._figure = plain


def _attend(line: socket.socket) -> NoReturn:
    """Run one command in a process of its own and tell how it ended; it does not outlive its caller."""
    head, streams, _, _ = socket.recv_fds(line, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(head, "big"):
        asked += line.recv(1 << 16)
    process = os.fork()
    if process == 0:
        line.close()
        os._exit(_become(*json.loads(asked), streams=streams))
    for one in streams:
        os.close(one)
    ended = os.pidfd_open(process)
    while not (happened := select.select([line, ended], [], [])[0]):
        pass
    if ended not in happened:
        os.kill(process, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if ended in happened:
        line.sendall(b"%d" % (status if status >= 0 else 128 - status))
    os._exit(0)


def _become(arguments: list[str], folder: str, environment: dict[str, str], *, streams: list[int]) -> int:
    """Be the command, to its end; gives its status.

    What the interpreter does at its end is done here, but for that of libraries in C: onnxruntime waits there for a
    thread of its own, which a fork does not take along.
    """
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path]
    sys.argv = ["mlaas4hep", *arguments]
    importlib.invalidate_caches()
    status = cli.run(arguments)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    _serve(sys.argv[1])
