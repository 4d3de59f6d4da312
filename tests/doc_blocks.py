"""Code blocks of the documentation: found in Markdown, executed, and their output compared.

A page is one session in one folder. Of its fenced blocks, ``python`` is executed (in one namespace), ``bash`` and
``console`` are run (``mlaas4hep serve`` stays up until the page ends), ``yaml`` is read as a config, ``json`` and
``toml`` are parsed; ``text`` is what cannot be run. With a ``:caption:``, or a first line such as ``# config.yaml``, a
block is a file of the folder instead. Output stands behind ``$ command`` in a ``console`` block, or in an ``output``
block after Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from tests.servers import free_port

LANGUAGES = frozenset({"python", "output", "console", "bash", "yaml", "json", "toml", "text"})
_PORTS = ("8000", "8001")  # of HTTP and gRPC
_START_S, _COMMAND_S = 60, 200
_DIRECTIVE = re.compile(r"\{(?P<name>[a-z:-]+)\}\s*(?P<argument>\S*)")
_CAPTION = re.compile(r":caption:\s*(\S+)\s*\n")
_FIRST_LINE = re.compile(r"# (\S+\.(?:yaml|py|json|toml))\n")
# Numbers with a point or an exponent differ from machine to machine; 127.0.0.1 is none, 1.2s is one.
_REAL = r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=e[-+]?\d))(?:e[-+]?\d+)?"
_SHOWN_REAL = rf"(?<![\w.]){_REAL}(?!(?!s\b)\w|\.\d)"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" where it names none), its text, its place, and the file that it is."""

    language: str
    text: str
    place: str
    file: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """Fenced and indented code blocks of a page, those of directives other than ``code-block`` left out."""
    found = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        place = f"{page.name}:{token.map[0] + 1}" if token.map else page.name
        if token.type == "code_block":
            found.append(Block("", token.content, place))
        if token.type == "fence":
            directive = _DIRECTIVE.match(token.info)
            if directive is None:
                named = _FIRST_LINE.match(token.content)
                found.append(Block(token.info.strip(), token.content, place, named[1] if named else None))
            elif directive["name"] == "code-block":
                caption = _CAPTION.match(token.content)
                text = token.content[caption.end() :].lstrip("\n") if caption else token.content
                found.append(Block(directive["argument"], text, place, caption[1] if caption else None))
    return found


def setups_of(page: Path) -> list[str]:
    """What a page says that it needs, in comments: ``% setup: run``, or ``<!-- setup: two-epochs -->``."""
    return re.findall(r"^(?:%|<!--) setup: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def matches(wanted: str, found: str) -> bool:
    """Whether output is as shown: ``...`` stands for anything, real numbers for each other, blanks for blanks.

    Examples
    --------
    >>> matches("AUC 0.9549 +- 0.0048, 2,560 events", "AUC 0.9551 +- 0.0047,  2,560 events")
    True
    >>> matches("first ... last: 3", "first, second, last: 4")
    False
    """
    pattern = r"\s*"
    for word in wanted.split():
        pieces = [_pattern(piece) for piece in word.split("...")]
        pattern += "[\\s\\S]*?".join(pieces) + r"\s*"
    return re.fullmatch(pattern, found) is not None


def _pattern(text: str) -> str:
    return re.sub(r"\0+", lambda _: _REAL, re.escape(re.sub(_SHOWN_REAL, "\0", text)).replace("\\\0", "\0"))


class Session:
    """One page being followed, in one folder.

    Parameters
    ----------
    folder
        Where its commands run and its files are written.
    check_config
        Called with the text and the place of every ``yaml`` block.
    scripts
        A folder of programs that come before those of the environment.

    Attributes
    ----------
    check_config
        As given; a page may ask for another.
    train_options
        Put behind every ``mlaas4hep train``.
    """

    def __init__(self, folder: Path, *, check_config: Callable[[str, str], None], scripts: Path | None = None) -> None:
        self.folder = folder
        self.train_options = ""
        self.check_config = check_config
        self._scripts = scripts
        self._names: dict[str, Any] = {"__name__": "__page__"}
        self._printed = ""
        self._ports = [str(free_port()) for _ in _PORTS]
        self._servers: list[subprocess.Popen[bytes]] = []

    def follow(self, blocks: list[Block]) -> None:
        """Execute blocks in order."""
        try:
            for block in blocks:
                self.execute(block)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the servers that the page started."""
        for server in self._servers:
            server.terminate()
            server.wait(timeout=_START_S)
        self._servers.clear()

    def execute(self, block: Block) -> None:
        """Execute, run, parse or write one block."""
        text = block.text
        for shown, port in zip(_PORTS, self._ports, strict=True):
            text = text.replace(f":{shown}", f":{port}")
        if block.language == "yaml":
            self.check_config(text, block.place)
        if block.language == "toml":
            tomllib.loads(text)
        if block.language == "json":
            json.loads(text)
        if block.file is not None:
            (self.folder / block.file).write_text(text, encoding="utf-8")
        elif block.language == "python":
            self._printed = self._run_python(text, block.place)
        elif block.language == "output":
            self._compare(text, self._printed, block.place)
        elif block.language == "bash":
            self._run_command(text, block.place)
        elif block.language == "console":
            for command, output in _commands(text):
                self._compare(output, self._run_command(command, block.place), f"{block.place}: {command}")

    def _run_python(self, text: str, place: str) -> str:
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(text, place, "exec"), self._names)
        return printed.getvalue()

    def _run_command(self, command: str, place: str) -> str:
        """Run in a shell; gives both outputs together."""
        if command.startswith("mlaas4hep serve"):
            return self._serve(command)
        if command.startswith("mlaas4hep predict") and "--url" not in command:
            command = command.replace("predict", f"predict --url http://localhost:{self._ports[0]}", 1)
        command = command.replace("mlaas4hep train", f"mlaas4hep train {self.train_options}".rstrip())
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_S,
        )
        # Commands that are shown to fail do so with the status of a user's mistake.
        assert done.returncode in (0, 2), f"{place}: {command}\nstatus {done.returncode}\n{done.stdout}"
        assert done.returncode == 0 or "Error" in done.stdout, f"{place}: {command}\n{done.stdout}"
        return done.stdout

    def _serve(self, command: str) -> str:
        log = self.folder / "server.log"
        with log.open("wb") as out:
            where = "serve --port {} --grpc-port {}".format(*self._ports)
            words = ["bash", "-c", "exec " + command.replace("serve", where, 1)]
            server = subprocess.Popen(words, cwd=self.folder, env=self._environment(), stdout=out, stderr=out)
        self._servers.append(server)
        address = f"http://localhost:{self._ports[0]}/v2"
        for _ in range(_START_S * 10):
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(address) as answer:
                assert answer.status == 200
                return log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"'{command}' did not answer within {_START_S} s: {log.read_text()}")

    def _environment(self) -> dict[str, str]:
        """The commands of the environment that runs the tests; packages of the page's own folder are found."""
        scripts = [str(Path(sys.executable).parent)]
        if self._scripts is not None:
            scripts.insert(0, str(self._scripts))
        modules = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {
            "PATH": os.pathsep.join([*scripts, os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(modules),
        }

    def _compare(self, wanted: str, found: str, place: str) -> None:
        if wanted.strip():
            assert matches(wanted, found), f"{place}\n--- shown:\n{wanted}\n--- found:\n{found}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Commands behind ``$``, continued after a backslash, with the output shown below each."""
    command, output = "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command.strip(), output
            command, output = line[2:], ""
        elif command.endswith("\\\n"):
            command += line
        else:
            output += line
    if command:
        yield command.strip(), output
