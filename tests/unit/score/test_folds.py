"""Models of folds: out of fold for what they learned from, their mean for all else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.bundle.write import write_mean_bundle
from mlaas4hep.data.contents import identity_of
from mlaas4hep.data.split import Identity, Splitter
from mlaas4hep.errors import BundleError, UserError
from mlaas4hep.score.asked import FoldChoice, ask
from mlaas4hep.score.run import score_files
from mlaas4hep.spec.columns import Column, ColumnType
from tests.scored import offline, read_output, write_input
from tests.small_bundle import make_events, write_small_bundle

FOLDS = 3
IDENTITY = ("run", "event")
TYPES = {name: ColumnType("flat", "int64" if name == "run" else "uint64") for name in IDENTITY}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Column]]:
    path = tmp_path_factory.mktemp("learned") / "a.root"
    return path, write_input(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("models")
    more = f"\nsplit: {{folds: {FOLDS}}}\n"
    return [write_small_bundle(folder / str(fold), seed=fold, more=more) for fold in range(FOLDS)]


@pytest.fixture(scope="module")
def mean(
    models: list[Bundle], learned: tuple[Path, dict[str, Column]], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Their mean, as a training in folds writes it."""
    told = {
        "folds": FOLDS,
        "seed": 0,
        "identity": {"columns": IDENTITY, "origin": "split.by", "types": msgspec.to_builtins(TYPES)},
        "models": [one.model_sha256 for one in models],
    }
    files = [{"file": "a.root", "tree": "Events", "identity": identity_of(str(learned[0]))[1]}]
    return write_mean_bundle(
        tmp_path_factory.mktemp("mean"),
        spec=models[0].spec.with_provenance({"files": files}),
        models=models,
        rows=models[0].spec.preprocessor().run(make_events(2000), 2000).inputs,
        native={"folds.json": json.dumps(told).encode()},
    )


def out_of_fold(models: list[Bundle], columns: dict[str, Column]) -> NDArray[np.float32]:
    splitter = Splitter(models[0].spec.features.split, Identity(IDENTITY, "split.by"), TYPES)
    folds = splitter.folds(columns, 300)
    assert len(set(folds.tolist())) == FOLDS
    every = np.stack([offline(one, columns)[:, 0] for one in models])
    return every[folds, np.arange(300)]


def scored(bundle: Bundle, path: Path, out: Path, folds: FoldChoice = "auto") -> tuple[NDArray[np.float32], bool]:
    asked = ask([bundle], files=[str(path)], folds=folds)
    done = score_files(asked, [str(path)], str(out)).outputs[0]
    return read_output(done.path)["tth_signal"], done.stamp.models[0].out_of_fold


def test_events_that_were_learned_from_get_the_score_of_the_model_that_has_not_seen_them(
    mean: Bundle, models: list[Bundle], learned: tuple[Path, dict[str, Column]], tmp_path: Path
) -> None:
    path, columns = learned
    found, told = scored(mean, path, tmp_path / "out")
    assert told
    assert found.tobytes() == out_of_fold(models, columns).tobytes()
    moved = tmp_path / "moved.root"
    shutil.copy(path, moved)
    assert scored(mean, moved, tmp_path / "moved")[0].tobytes() == found.tobytes(), "known by its bytes, not its name"


def test_other_events_get_the_mean(mean: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "data.root", seed=5)
    found, told = scored(mean, tmp_path / "data.root", tmp_path / "out")
    assert not told
    assert found.tobytes() == offline(mean, columns)[:, 0].tobytes()


def test_what_cannot_be_told_is_asked(
    mean: Bundle, models: list[Bundle], learned: tuple[Path, dict[str, Column]], tmp_path: Path
) -> None:
    path = tmp_path / "a.root"
    columns = write_input(path, seed=6)
    with pytest.raises(UserError, match=r"of the name of .*a.root with other bytes.*--folds out.*--folds mean"):
        ask([mean], files=[str(path)])
    (tmp_path / "b.root").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="score them apart"):
        ask([mean], files=[str(learned[0]), str(tmp_path / "b.root")])
    assert scored(mean, path, tmp_path / "out", "out")[0].tobytes() == out_of_fold(models, columns).tobytes()
    assert scored(mean, path, tmp_path / "mean", "mean")[0].tobytes() == offline(mean, columns)[:, 0].tobytes()


def test_a_model_without_folds_has_no_score_out_of_fold(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not trained in folds"):
        ask([write_small_bundle(tmp_path)], folds="out")


def test_folds_are_not_asked_of_a_server(mean: Bundle, learned: tuple[Path, dict[str, Column]]) -> None:
    with pytest.raises(UserError, match="a server has the mean of its models alone"):
        ask([mean], files=[str(learned[0])], urls=["http://127.0.0.1:9"])


def test_models_are_those_that_the_bundle_names(mean: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    named = json.loads((mean.path / "native" / "folds.json").read_text())
    monkeypatch.setattr(json, "loads", lambda _: named | {"models": ["0" * 64] * FOLDS})
    with pytest.raises(BundleError, match="is not the model of fold 0"):
        ask([mean], folds="out")
