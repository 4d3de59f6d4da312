"""Commands that are forked are like those that are started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import warm

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _forked() -> None:
    if warm.scripts() is None:
        pytest.skip("commands are processes of their own here")


@pytest.mark.parametrize("arguments", [["inspect", "ttH_1.root", "--json"], ["inspect", "nothing.root"]])
def test_folder_streams_and_status_are_those_of_the_caller(arguments: list[str]) -> None:
    found, wanted = (
        subprocess.run([*words, *arguments], cwd=ROOT / "examples" / "tth" / "data", capture_output=True, text=True)
        for words in (warm.command(), warm.REAL)
    )
    assert (found.returncode, found.stdout, found.stderr) == (wanted.returncode, wanted.stdout, wanted.stderr)
    assert found.returncode == (0 if "--json" in arguments else 2)


def test_the_environment_is_that_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise ValueError('found')\n")
    (tmp_path / "mine-1.dist-info").mkdir()
    (tmp_path / "mine-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (tmp_path / "mine-1.dist-info" / "entry_points.txt").write_text("[mlaas4hep.sources]\nmine = mine:Mine\n")
    (tmp_path / "a.mine").write_text("of mine")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [*warm.command(), "inspect", "a.mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert "found" in done.stderr


def test_a_command_ends_with_its_caller() -> None:
    bundle = ROOT / "tests" / "golden" / "bundle_v1" / "trees"
    command = [*warm.command(), "serve", str(bundle), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as caller:
        assert caller.stdout is not None
        port = urlsplit(json.loads(caller.stdout.readline())["url"]).port
        assert is_open(port)
        caller.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_open(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_open(port: int | None) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
