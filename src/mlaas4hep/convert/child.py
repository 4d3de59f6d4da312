"""The confined process: its walls first, then the conversion; one JSON answer in a file of its own folder.

Started by `mlaas4hep.convert.sandbox` with a job on standard input. Invariant: nothing but the standard library is
imported before the walls stand, and every end of it that is no answer is told apart by the parent.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from mlaas4hep.convert.confine import confine

ANSWER = "answer.json"
OUT_OF_MEMORY = 86


def main() -> None:
    """Read the job, build the walls, convert, write the answer; never returns."""
    job = json.loads(sys.stdin.buffer.read())
    folder = Path(job["folder"])
    walls = confine(
        job["limits"], folder=folder, readable=[*(one for one in sys.path if one), sys.prefix, sys.base_prefix]
    )
    if not job["limits"]["weak_sandbox"] and not {"landlock", "namespaces", "seccomp"} & set(walls):
        _leave(folder, {"error": "MLaaSError", "message": _WEAK})
    try:
        answer = _convert(job, walls)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # whatever it is, the process that waits for the answer has to tell it
        answer = _told(error)
    _leave(folder, answer)


_WEAK = (
    "this machine lets an unprivileged process be kept neither from the network nor from files (no user namespaces, no "
    "Landlock, no seccomp), so that uploads are not opened here; Limits(weak_sandbox=True) does it nevertheless"
)


def _convert(job: dict[str, Any], walls: tuple[str, ...]) -> dict[str, Any]:
    import msgspec

    from mlaas4hep.convert.limits import Limits
    from mlaas4hep.convert.operators import Operators
    from mlaas4hep.convert.work import Job, work

    asked = Job(
        folder=job["folder"],
        name=job["name"],
        beside={name: base64.b64decode(data) for name, data in job["beside"].items()},
        limits=msgspec.convert(job["limits"], Limits),
        operators=Operators(frozenset(job["operators"])),
    )
    done = msgspec.structs.replace(work(asked), walls=walls)
    return {"done": msgspec.to_builtins(done)}


def _told(error: Exception) -> dict[str, Any]:
    """A refusal by its class and words; what nobody foresaw with its last lines."""
    from mlaas4hep.errors import MLaaSError

    if isinstance(error, MLaaSError):
        return {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, OSError) and error.errno is not None and "No space" in str(error):
        return {"error": "MLaaSError", "message": f"no room on the disk: {error}"}
    import traceback

    traceback.print_exception(error)
    text = str(error).strip()
    return {"error": "unforeseen", "message": f"{type(error).__name__}: {text[:500]}"}


def _leave(folder: Path, answer: dict[str, Any]) -> None:
    (folder / ANSWER).write_text(json.dumps(answer))
    sys.stderr.flush()
    os._exit(0)  # libraries' own ends may hang behind these walls
