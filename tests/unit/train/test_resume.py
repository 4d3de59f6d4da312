"""A run that was interrupted goes on only as itself; nothing that was learned is thrown away unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import MLaaSError, ModelError, ParityError, UserError
from mlaas4hep.progress import Progress
from mlaas4hep.testing import write_events
from mlaas4hep.train import run
from mlaas4hep.train.checkpoint import LATEST, CheckpointFolder
from mlaas4hep.train.interrupt import Interrupt, Interrupted
from mlaas4hep.train.resume import Unfinished
from mlaas4hep.train.run import train
from tests.notes import Notes

pytestmark = pytest.mark.usefixtures("plain_pictures")

TREES = """
from sklearn.ensemble import HistGradientBoostingClassifier

def model():
    return HistGradientBoostingClassifier(max_iter=5)
"""


class AskedAt(Interrupt):
    """A signal that comes after so many batches."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    @property
    def urgent(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self._heard.append(2)
        return False


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("background", "signal", "more")):
        random = np.random.default_rng(seed)
        columns = {one: random.normal(seed % 2, 1, 400) for one in ("x", "y")}
        write_events(folder / f"{name}.root", columns, cluster=100)
    return folder


def config(folder: Path, **keys: object) -> Config:
    document = {
        "name": "toy",
        "samples": {name: {"files": f"{name}.root"} for name in ("signal", "background")},
        "inputs": {"event": ["x", "y"]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 3, "batch_size": 64, "checkpoint_s": 1000},
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


def interrupted(
    files: Path,
    output: Path | None,
    *,
    after: int = 13,
    unfinished: Unfinished = "refuse",
    progress: Progress | None = None,
) -> CheckpointFolder:
    """A run to which a signal comes after so many batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Interrupt", lambda: AskedAt(after))
        with pytest.raises(Interrupted):
            train(config(files), output=output, unfinished=unfinished, progress=progress)
    return CheckpointFolder(output or Path("runs/toy"))


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hash of the model that an undisturbed run gives."""
    result = train(config(files), output=tmp_path_factory.mktemp("whole") / "run")
    return str(result.metrics["model_sha256"])


def test_a_run_in_pieces_gives_the_model_of_a_run_in_one(files: Path, tmp_path: Path, whole: str) -> None:
    output, told = tmp_path / "run", Notes()
    interrupted(files, output)
    interrupted(files, output, after=9, unfinished="resume", progress=told)
    assert any("going on from" in line and "after 1 epoch and" in line for line in told.lines)
    assert "--resume goes on from there" in told.lines[-1]
    # Whatever changes speed and memory only may change.
    quick = {"epochs": 3, "batch_size": 64, "checkpoint_s": 0, "max_memory": "1 GB"}
    result = train(config(files, training=quick), output=output, threads=0, unfinished="resume")
    assert result.metrics["model_sha256"] == whole
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_what_was_kept_is_not_written_over_unasked(files: Path, tmp_path: Path, whole: str) -> None:
    folder = interrupted(files, tmp_path / "run")
    with pytest.raises(UserError, match=r"run.checkpoint: this run was interrupted after 1 epoch.*--resume.*--restart"):
        train(config(files), output=tmp_path / "run")
    assert folder.found
    result = train(config(files), output=tmp_path / "run", unfinished="restart")
    assert result.metrics["model_sha256"] == whole
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"training": {"epochs": 4, "batch_size": 64}}, "training.epochs: 3 then, 4 now"),
        ({"model": {"name": "mlp", "hidden": [9]}}, r"model.hidden: \[8\] then, \[9\] now"),
        ({"model": {"name": "mlp"}}, r"model.hidden: \[8\] then, nothing now"),
        ({"preselection": "x > 0"}, "preselection: nothing then, x > 0 now"),
        ({"inputs": {"event": ["x"]}}, "inputs.event.variables"),
        (
            {
                "samples": {
                    "signal": {"files": "signal.root"},
                    "background": {"files": ["background.root", "more.root"]},
                }
            },
            "samples.background: 400 entries in 1 file then, 800 entries in 2 files now",
        ),
        (
            {
                "samples": {
                    "signal": {"files": "more.root", "label": "signal"},
                    "background": {"files": "background.root"},
                }
            },
            "samples.signal.label",
        ),
        ({"samples": {one: {"files": f"{one}.root", "tree": "Events"} for one in ("signal", "background")}}, "tree"),
    ],
)
def test_another_run_does_not_go_on_from_it_and_is_told_why(
    files: Path, tmp_path: Path, keys: dict[str, object], words: str
) -> None:
    folder = interrupted(files, tmp_path / "run")
    with pytest.raises(UserError, match=words):
        train(config(files, **keys), output=tmp_path / "run", unfinished="resume")
    assert folder.found


def test_files_with_other_events_are_noticed(files: Path, tmp_path: Path) -> None:
    interrupted(files, tmp_path / "run")
    (tmp_path / "background.root").symlink_to(files / "background.root")
    (tmp_path / "signal.root").symlink_to(files / "more.root")
    with pytest.raises(UserError, match="statistics of the training part: not the same"):
        train(config(tmp_path), output=tmp_path / "run", unfinished="resume")


def test_files_that_moved_are_the_same_files(files: Path, tmp_path: Path, whole: str) -> None:
    interrupted(files, tmp_path / "run")
    for name in ("background.root", "signal.root"):
        (tmp_path / name).symlink_to(files / name)
    result = train(config(tmp_path), output=tmp_path / "run", unfinished="resume")
    assert result.metrics["model_sha256"] == whole


def test_with_nothing_to_go_on_from_it_says_what_is_there(files: Path, tmp_path: Path) -> None:
    interrupted(files, tmp_path / "wide")
    with pytest.raises(
        UserError, match=r"no checkpoint to go on from; in .* are interrupted: wide\. .*without --resume"
    ):
        train(config(files), output=tmp_path / "run", unfinished="resume")
    train(config(files), output=tmp_path / "run")
    with pytest.raises(UserError, match=r"run: is finished, there is nothing to resume"):
        train(config(files), output=tmp_path / "run", unfinished="resume")


def test_models_that_learn_in_one_go_are_refused_by_name(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--resume: model bdt \(backend sklearn\) keeps no checkpoints"):
        train(config(files, model="bdt"), output=tmp_path / "run", unfinished="resume")
    (tmp_path / "trees.py").write_text(TREES)
    with pytest.raises(MLaaSError, match="no checkpoint to go on from"):
        train(config(files, model={"file": str(tmp_path / "trees.py")}), output=tmp_path / "run", unfinished="resume")


def test_a_torn_checkpoint_gives_way_to_the_one_before(files: Path, tmp_path: Path, whole: str) -> None:
    output, told = tmp_path / "run", Notes()
    folder = interrupted(files, output)
    interrupted(files, output, after=5, unfinished="resume")
    (folder.path / LATEST).write_bytes(b"torn")
    result = train(config(files), output=output, unfinished="resume", progress=told)
    assert "the one before it is taken" in told.lines[0]
    assert result.metrics["model_sha256"] == whole


def test_what_was_learned_outlives_a_failure_at_the_end(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate(*_: object, **__: object) -> None:
        raise ParityError("scores differ")

    often = config(files, training={"epochs": 3, "batch_size": 64, "checkpoint_s": 0})
    monkeypatch.setattr(run, "write_bundle", gate)
    with pytest.raises(ParityError):
        train(often, output=tmp_path / "run")
    assert CheckpointFolder(tmp_path / "run").found
    monkeypatch.undo()
    assert train(often, output=tmp_path / "run", unfinished="resume").path == tmp_path / "run"


def test_without_an_output_it_goes_on_where_that_run_would_have_gone(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    interrupted(files, None, after=3)
    assert (tmp_path / "runs" / ".toy-2.checkpoint").is_dir()
    assert train(config(files), unfinished="resume").path == Path("runs/toy-2")
