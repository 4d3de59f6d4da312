"""A real browser for the tests of pages: Chromium without a window, told what to do through a pipe.

It speaks the DevTools protocol over two file descriptors, so that it needs no package. Invariant: it asks nothing but
the page that it is given, and nothing of it is left behind.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_START = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"]
_QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"]
# No claim of speed: longer than that is a hang.
LIMIT_S = 180.0


class Tab:
    """One page of the browser.

    Attributes
    ----------
    messages
        What the page wrote to its console, and what the browser refused it.
    """

    def __init__(self, reading: int, writing: int, log: Path) -> None:
        self._reading, self._writing, self._log = reading, writing, log
        self._numbers = itertools.count(1)
        self._rest = b""
        self.messages: list[str] = []
        self._name: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._name = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1200, height: int = 900) -> None:
        """Load a page, whole; messages of the one before are forgotten."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.messages.clear()
        self._ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait for an expression to be true."""
        ends_s = time.monotonic() + LIMIT_S
        while not self.run(script):
            assert time.monotonic() < ends_s, f"{script} did not come true"
            time.sleep(0.02)

    def choose(self, selector: str, file: Path) -> None:
        """A file in a field for files, as a person chooses it in the window of the system."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        found = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", nodeId=found, files=[str(file)])

    def press(self, key: str) -> None:
        """A key that goes to whatever has the focus, such as ``Tab``."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], text=text)

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._name is not None:
            message["sessionId"] = self._name
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Log.entryAdded":
            self.messages.append(event["params"]["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(str(event["params"]["exceptionDetails"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], LIMIT_S)
            assert ready, "the browser does not answer"
            piece = os.read(self._reading, 1 << 20)
            assert piece, f"the browser ended: {self._log.read_text(errors='replace')[-2000:]}"
            self._rest += piece
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser with one page; a test that needs one that is missing is skipped (see ``tests/required.py``)."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("the program chromium is not installed")
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-browser-", ignore_cleanup_errors=True) as folder:
        with (Path(folder) / "log").open("wb") as log:
            process = _start(program, folder, to_browser[0], from_browser[1], log)
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Tab(from_browser[0], to_browser[1], Path(folder) / "log")
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with its helpers, who would write on into the folder
            process.wait()
            os.close(to_browser[1])
            os.close(from_browser[0])


# It looks for its pipe at the descriptors 3 and 4.
_MOVED = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(reading, 3), os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def _start(program: str, folder: str, reading: int, writing: int, log: Any) -> subprocess.Popen[bytes]:
    command = [program, *_START, *_QUIET, f"--user-data-dir={folder}/profile"]
    moved = [sys.executable, "-c", _MOVED, str(reading), str(writing)]
    return subprocess.Popen(
        [*moved, *command],
        stdout=log,
        stderr=log,
        pass_fds=(reading, writing),
        env=os.environ | {"TMPDIR": folder},
        start_new_session=True,
    )
