"""A user's own file is run by path, and every way in which it can fail is told with file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.errors import ModelError
from mlaas4hep.testing_backends import make_spec

FOREST = "from sklearn.ensemble import RandomForestClassifier as R\ndef model(n):\n    return R()"
LBFGS = "from sklearn.neural_network import MLPClassifier as M\ndef model(n):\n    return M(solver='lbfgs')"


def write(folder: Path, text: str, name: str = "my_model.py") -> Model:
    file = folder / name
    file.write_text(dedent(text), encoding="utf-8")
    return Model(file=str(file))


def build(model: Model) -> object:
    return choose(model).build(Task.of(make_spec(), seed=0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def model(idim)\n    return 1", r"my_model.py, line 1: cannot be run: SyntaxError"),
        ("x = 1\nimport not_there_at_all", r"line 2: cannot be run: ModuleNotFoundError: No module named 'not_there"),
        ("def modell(idim):\n    return 1", r"has no function 'model'; did you mean 'modell'"),
        ("model = 3", r"has no function 'model'"),
        ("def model(idim):\n    return idim / 0", r"line 2: model failed: ZeroDivisionError"),
        ("def model(idim):\n    idim + 1", r"model returned None; is its return statement missing"),
        ("def model(idim):\n    return [idim]", r"returned a builtins.list; wants a torch.nn.Module"),
        ("def model(a, b):\n    return 1", r"model\(a, b\) wants 2 arguments"),
        (FOREST, r"returned a RandomForestClassifier, which cannot be written as a graph yet; known estimators: MLP"),
        (LBFGS, r"solver='lbfgs'\) cannot learn batch by batch"),
    ],
)
def test_a_file_that_fails_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        build(write(tmp_path, text))
    assert "my_model.py" in str(error.value)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(ModelError, match=r"my_modl.py does not exist; did you mean 'my_model.py'"):
        choose(Model(file=str(tmp_path / "my_modl.py")))


def test_a_file_named_like_a_library_is_itself(tmp_path: Path) -> None:
    model = write(
        tmp_path,
        """
        from sklearn.neural_network import MLPClassifier
        def model(idim):
            return MLPClassifier((idim, 3))
        """,
        name="sklearn.py",
    )
    before = sys.modules["sklearn"]
    learner = choose(model).build(Task.of(make_spec(), seed=0))
    assert learner.network.hidden_layer_sizes == (10, 3)  # type: ignore[attr-defined]
    assert sys.modules["sklearn"] is before
    assert [one.name for one in tmp_path.iterdir()] == ["sklearn.py"]


def test_the_spec_is_given_to_a_function_that_asks_for_it(tmp_path: Path) -> None:
    model = write(
        tmp_path,
        """
        from sklearn.ensemble import HistGradientBoostingClassifier
        def model(spec, depth=4):
            return HistGradientBoostingClassifier(max_iter=len(spec.classes), max_depth=depth)
        """,
    )
    learner = build(model)
    assert learner.boosting.max_iter == 2  # type: ignore[attr-defined]
    assert learner.boosting.random_state == 0  # type: ignore[attr-defined]


def test_the_source_that_was_run_goes_into_the_bundle(tmp_path: Path) -> None:
    text = "from sklearn.ensemble import HistGradientBoostingClassifier as H\ndef model():\n    return H()\n"
    choice = choose(write(tmp_path, text))
    (tmp_path / "my_model.py").write_text("changed since", encoding="utf-8")
    assert choice.file is not None
    files = choice.file.native()
    assert files["model.py"] == text.encode()
    assert str(tmp_path).encode() not in files["model.json"]


def test_dials_of_an_estimator_are_refused(tmp_path: Path) -> None:
    model = write(tmp_path, "from sklearn.neural_network import MLPClassifier as M\ndef model():\n    return M()")
    with pytest.raises(ModelError, match=r"an estimator carries its own settings; model.hidden is not one"):
        build(Model(file=model.file, dials={"hidden": [3]}))
