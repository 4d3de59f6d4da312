"""How the command line ends where nothing below it expected the end."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlaas4hep import cli
from mlaas4hep.cli import predict, quickstart, run


def ends_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fail() -> None:
        raise error

    monkeypatch.setattr(predict, "command", click.Command("predict", callback=fail))
    return run(["predict"])


def test_a_lack_of_memory_is_one_message_that_says_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, MemoryError("Unable to allocate 186. GiB for an array")) == cli.EXIT_FAILURE
    assert capsys.readouterr().err == (
        "Error: 'mlaas4hep predict' ran out of memory: Unable to allocate 186. GiB for an array\n"
    )


def test_a_full_disk_is_one_message_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "runs/a")) == cli.EXIT_FAILURE
    said = capsys.readouterr().err
    assert said == "Error: 'mlaas4hep predict' has no room on the disk for 'runs/a': No space left on device\n"


def test_what_nobody_foresaw_keeps_its_traceback_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, ZeroDivisionError("of ours")) == cli.EXIT_FAILURE
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ZeroDivisionError: of ours" in said
    assert said.splitlines()[-1].startswith("This is a mistake in mlaas4hep, not yours: please report it")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
def test_an_output_that_takes_nothing_is_one_message(arguments: list[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as output:
        done = subprocess.run([sys.executable, "-m", "mlaas4hep", *arguments], stdout=output, stderr=subprocess.PIPE)
    assert done.returncode == cli.EXIT_FAILURE
    assert done.stderr.decode() == "Error: standard output cannot be written: No space left on device\n"


def test_quickstart_names_a_command_that_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "my bin" / "mlaas4hep"
    own.parent.mkdir()
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    monkeypatch.setenv("PATH", "")
    assert quickstart.program() == f"'{own.parent}/python' -m mlaas4hep"
    own.touch(mode=0o755)
    assert quickstart.program() == f"'{own}'"
    monkeypatch.setenv("PATH", str(own.parent))
    assert quickstart.program() == "mlaas4hep"
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    assert quickstart.program() == "'my bin/mlaas4hep'"
