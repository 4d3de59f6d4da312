"""Files to XRootD and dCache doors, by the XRootD client that also reads them.

Invariant: a file is written under a hidden name, closed by a server that has all of its bytes, and then renamed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlaas4hep.config.addresses import secrets_in, split_address
from mlaas4hep.data.places.put import hidden
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.data.places.xrootd import client_of, failed_of

_PIECE_BYTES = 4 << 20


def put_xrootd(path: Path, url: str, stall_s: float) -> None:
    """Copy a file, once; see `mlaas4hep.data.places.put`."""
    client, secrets = client_of(), [value for _, value in secrets_in(url)]

    def ask(answer: tuple[Any, Any]) -> Any:
        status, found = answer
        if not status.ok:
            raise failed_of(status, secrets)
        return found

    timeout = int(stall_s)
    flags = client.flags.OpenFlags.DELETE | client.flags.OpenFlags.UPDATE | client.flags.OpenFlags.MAKEPATH
    file, part = client.File(), hidden(url)
    ask(file.open(part, flags, timeout=timeout))
    try:
        with path.open("rb") as source:
            at = 0
            while data := source.read(_PIECE_BYTES):
                ask(file.write(data, at, timeout=timeout))
                at += len(data)
        ask(file.sync(timeout=timeout))
        if int(ask(file.stat(force=True, timeout=timeout)).size) != path.stat().st_size:
            raise Failed("the server has not as many bytes as were sent")
    finally:
        closed = file.close(timeout=timeout)
    ask(closed)
    parts = split_address(url)
    system = client.FileSystem(f"{parts.scheme}://{parts.netloc}")
    ask(system.mv(_path(part), _path(url), timeout=timeout))


def _path(url: str) -> str:
    parts = split_address(url)
    return re.sub(r"^/*", "/", parts.path) + (f"?{parts.query}" if parts.query else "")
