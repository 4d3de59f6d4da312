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
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_network_keeps_the_rules_on_every_framework(framework: str) -> None:
    pytest.importorskip("keras")
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not here; the extra 'all' brings PyTorch and JAX")
    if framework == os.environ.get(VARIABLE):
        pytest.skip("the suite itself runs on it")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"KerasMlp and ({RULES})"]
    environment = os.environ | {VARIABLE: framework, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, "tests/contracts/test_backend.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
