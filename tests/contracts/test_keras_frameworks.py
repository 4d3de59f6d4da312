"""What a Keras model is worth on one framework it is worth on the others; each runs in a process of its own.

Which framework Keras runs on is settled for a whole process. The suite itself takes the one that `settle_framework`
finds; here the rules that could differ are asked of the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlaas4hep.backends.keras_start import VARIABLE, settle_framework

settle_framework()
ROOT = Path(__file__).parents[2]
RULES = "graph or resumed or ratios or weight_two or same_model"


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_network_keeps_the_rules_on_every_framework(framework: str) -> None:
    pytest.importorskip("keras")
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not here; the extra 'all' brings PyTorch and JAX")
    if framework == os.environ.get(VARIABLE):
        pytest.skip("the suite itself runs on it")
    ask(sys.executable, framework, "tests/contracts/test_backend.py", f"KerasMlp and ({RULES})")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("tests/contracts/test_backend.py", "KerasMlp"),
        ("tests/unit/backends/test_keras.py", "resumed or beside or of_its_own"),
        ("tests/contracts/test_into.py", "tensorflow"),
    ],
    ids=["keras", "own models", "stream"],
)
def test_on_tensorflow_networks_keep_all_rules_and_the_stream_its_bits(file: str, tests: str) -> None:
    """TensorFlow wants other versions of some packages than the rest, so ``make check`` gives it a place of its own."""
    ask(tensorflows_python(), "tensorflow", file, tests)


def tensorflows_python() -> str:
    """An interpreter that has TensorFlow and all else."""
    own = ROOT / ".venv-tensorflow" / "bin" / "python"
    if find_spec("tensorflow") is not None:
        return sys.executable
    if not own.exists():
        pytest.skip("the package tensorflow is not installed: make .venv-tensorflow/.made")
    return str(own)


def ask(python: str, framework: str, file: str, tests: str) -> None:
    """Some tests of a file, by a process with Keras on a framework."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", tests, file]
    environment = os.environ | {VARIABLE: framework, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
