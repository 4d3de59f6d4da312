"""Virtual environments of the peers, made where they are missing, and the running of their scripts.

``python -m benchmarks.peers.environments root`` makes one alone.

Invariant: an environment counts as made only once the list of its requirements was written into it, which is the last
step; one that was cut off or is of other versions is made anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.turns import Rate, Reading, Unavailable

REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "weaver": ("weaver-core==0.5.3", "torch==2.13.0", "uproot==5.7.7", "awkward==2.14.0", "numpy==2.4.6"),
    # The Python distribution of ROOT 6.40, which its developers call alpha: hence a pre-release.
    "root": ("--pre", "root==0.1a12", "numpy==2.4.6"),
    "fastapi": (
        "fastapi==0.165.0",
        "pydantic==2.14.3",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
        "httptools==0.9.0",
        "onnxruntime==1.31.0",
    ),
    "mosec": ("mosec==0.9.8", "onnxruntime==1.31.0", "numpy==2.4.6"),
    # With a later uvloop it does not start: "no current event loop".
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22", "onnxruntime==1.31.0"),
    "pytriton": ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.0"),
}
SYSTEM_PYTHON = {"pytriton": "/usr/bin/python3.11"}
"""Whose server starts Python by itself and finds its library only where a distribution of Linux has put it."""
INSTALL_S = 1200
"""Time that one installation may take; 650 MB for ROOT."""
_MADE = "made-of.txt"


def interpreter(name: str, folder: Path) -> Path:
    """Python of a peer's environment, which is made where it is missing.

    Raises
    ------
    Unavailable
        It cannot be installed here; says which step failed, and how.
    """
    home = folder / f"env-{name}"
    python, made = home / "bin" / "python", home / _MADE
    wanted = "\n".join(REQUIREMENTS[name])
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(home, ignore_errors=True)
        base = SYSTEM_PYTHON.get(name, sys.executable)
        if not Path(base).exists():
            raise Unavailable(f"{name}: needs {base} (Debian: apt-get install python3.11-venv), which is not there")
        _run([base, "-m", "venv", str(home)], f"{name}: venv", INSTALL_S)
        _run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], f"{name}: pip", INSTALL_S)
        made.write_text(wanted, encoding="utf-8")
    return python


def ask(script: str, python: Path, request: Mapping[str, Any], *, limit_s: float) -> dict[str, Any]:
    """Run a script of this folder with a request; gives the JSON object of its last line.

    Raises
    ------
    Unavailable
        It fails, or takes longer than ``limit_s``.
    """
    path = Path(__file__).with_name(script)
    output = _run([str(python), "-W", "ignore", str(path), json.dumps(request)], script, limit_s)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def reading(
    name: str, script: str, request: Mapping[str, Any], *, folder: Path, limit_s: float, expected: Mapping[str, float]
) -> Reading:
    """A reading for `Turns`: the script in a fresh process each time.

    Its answer is ``{"rates": {figure: [events a second, cpu ns an event]}, "check": {...}}``. The first time, the
    check must agree with ``expected``: a peer that reads other events or values is no peer.
    """
    python = interpreter(name, folder)
    checked = False

    def measure() -> dict[str, Rate]:
        nonlocal checked
        found = ask(script, python, {**request, "check": not checked}, limit_s=limit_s)
        if not checked:
            _agree(script, found["check"], expected)
            checked = True
        return {figure: Rate(*values) for figure, values in found["rates"].items()}

    return measure


def _agree(script: str, found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    for name, value in expected.items():
        if abs(found[name] - value) > 1e-6 * abs(value):
            raise Unavailable(f"{script}: {name} is {found[name]!r}, ours is {value!r}")


def _run(command: Sequence[str], step: str, limit_s: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{step}: took longer than {limit_s:.0f} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Unavailable(f"{step}: exit code {done.returncode}: {lines[-1] if lines else 'says nothing'}")
    return done.stdout


def made(name: str, folder: Path) -> Path | None:
    """Python of a peer's environment, if it is there and whole."""
    home = folder / f"env-{name}"
    wanted = "\n".join(REQUIREMENTS[name])
    marked = home / _MADE
    whole = marked.exists() and marked.read_text(encoding="utf-8") == wanted
    return home / "bin" / "python" if whole else None


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        print(interpreter(asked, Path(".bench").absolute()))
