"""What is imported when, and by whom. The layers themselves are held by import-linter (`make lint`)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "mlaas4hep"
HEAVY = {
    "torch",
    "jax",
    "sklearn",
    "xgboost",
    "lightgbm",
    "uproot",
    "awkward",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "scipy",
    "starlette",
    "optuna",
    "sqlalchemy",
}


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a run of the command line imports, as ``python -X importtime`` names them."""
    command = [sys.executable, "-X", "importtime", "-m", "mlaas4hep", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["tune"],
        ["evaluate"],
        ["replay"],
        ["verify"],
        ["inspect"],
        ["convert"],
        ["serve"],
        ["label"],
        ["score"],
        ["predict"],
        ["quickstart"],
    ],
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    imported = imported_by(*command, "--help")
    assert "click" in imported, "the test must see what is imported"
    assert not imported & HEAVY


def test_no_module_imports_the_root_of_the_package() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert "mlaas4hep" not in [alias.name for alias in node.names], path
            if isinstance(node, ast.ImportFrom):
                assert node.module != "mlaas4hep", path


# What runs a Python file that the user names in the config: a model, and preprocessing(rec).
RUN_USER_CODE = {"userfile.py", "hook.py"}


def test_nothing_unpickles_and_nothing_evaluates_text() -> None:
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not forbidden & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile"} or path.name in RUN_USER_CODE, path


def test_the_conformance_kit_imports_nothing_of_ours() -> None:
    modules = list((PACKAGE.parents[1] / "conformance").rglob("*.py"))
    assert modules
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.partition(".")[0] == "mlaas4hep" for alias in node.names), path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] != "mlaas4hep", path
