"""Trials are handed out once, none is lost with its process, and the verdict counts how often one has looked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import read_config
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.testing import write_events

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

from mlaas4hep.progress import Silent
from mlaas4hep.train import output
from mlaas4hep.train.run import train
from mlaas4hep.train.tuning.journal import JournalFile
from mlaas4hep.train.tuning.processes import Processes
from mlaas4hep.train.tuning.results import write_results
from mlaas4hep.train.tuning.setup import Metric, read_setup, setup_of
from mlaas4hep.train.tuning.study import MAX_TRIES, Claimed, Study, TakenAwayError, best_of
from mlaas4hep.train.tuning.verdict import compare_runs, verdict_of
from mlaas4hep.train.tuning.work import work
from mlaas4hep.train.tuning.workers import GRACE_S, Workers

CONFIG = """
samples: {signal: {files: signal.root}, background: {files: background.root}}
inputs: {event: [x, y]}
split: {test: 0.2, validation: 0.2, by: [id]}
model:
  name: mlp
  hidden: choice([4], [8, 4])
  learning_rate: log(1e-4, 1e-1)
training: {epochs: 2, batch_size: 64}
"""
START = {"model.hidden": [4], "model.learning_rate": 0.002}


@pytest.fixture(scope="module", autouse=True)
def no_pictures_of_runs() -> Iterator[None]:
    """They are tested elsewhere, and take longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "draw_loss", lambda *_, **__: None)
        patch.setattr(output, "draw_roc", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("background", "signal")):
        random = np.random.default_rng(seed)
        columns = {one: random.normal(seed, 1.5, 400) for one in "xy"} | {"id": np.arange(400) + 1000 * seed}
        write_events(folder / f"{name}.root", columns)
    file = folder / "toy.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.fixture
def study(config: Path, tmp_path: Path) -> Study:
    return Study.begin(tmp_path, setup_of(config, trials=4), START)


@pytest.fixture
def alive(study: Study) -> Iterator[str]:
    """A worker that takes part as long as the test."""
    with study.workers.at_work() as name:
        yield name


def claimed(study: Study, worker: str = "a-1-b") -> Claimed:
    found = study.claim(worker)
    assert isinstance(found, Claimed)
    return found


def dead_worker(study: Study) -> str:
    """A process that took part and is gone."""
    code = (
        "import sys, os\nfrom pathlib import Path\nfrom mlaas4hep.train.tuning.workers import Workers\n"
        "with Workers(Path(sys.argv[1])).at_work() as name:\n    print(name, flush=True)\n    os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(study.folder / "workers")]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class TestJournal:
    def test_half_a_line_of_a_killed_writer_is_not_there_and_does_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        one, other = JournalFile(path), JournalFile(path)
        one.append_logs([{"a": 1}, {"a": 2}])
        with path.open("ab") as file:
            file.write(b'{"a": 3, "lo')
        assert [log["a"] for log in other.read_logs(0)] == [1, 2]
        other.append_logs([{"a": 4}])
        assert [log["a"] for log in one.read_logs(2)] == [4]
        assert [log["a"] for log in JournalFile(path).read_logs(1)] == [2, 4]

    def test_a_first_line_cut_in_two_is_forgotten(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_bytes(b"x" * 10_000)
        journal = JournalFile(path)
        journal.append_logs([{"a": 1}])
        assert list(journal.read_logs(0)) == [{"a": 1}]

    def test_a_killed_process_leaves_no_lock(self, tmp_path: Path) -> None:
        code = (
            "import sys, os\nfrom pathlib import Path\nfrom mlaas4hep.train.tuning.journal import locked\n"
            "with locked(Path(sys.argv[1])) as handle:\n    os.write(handle, b'{')\n    os._exit(9)"
        )
        path = tmp_path / "lines"
        assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
        journal = JournalFile(path)
        journal.append_logs([{"a": 1}])
        assert list(journal.read_logs(0)) == [{"a": 1}]


class TestWorkers:
    def test_who_is_at_work_is_alive_and_afterwards_not(self, tmp_path: Path) -> None:
        workers = Workers(tmp_path)
        with workers.at_work() as name:
            assert workers.alive(name)
            assert workers.names() == [name]
        assert not workers.alive(name)

    def test_of_another_machine_the_last_touch_decides(self, tmp_path: Path) -> None:
        path = tmp_path / "far-1-a.worker"
        path.write_text(json.dumps({"machine": "another"}))
        workers = Workers(tmp_path)
        assert workers.alive("far-1-a")
        then = path.stat().st_mtime - GRACE_S - 60
        os.utime(path, (then, then))
        assert not workers.alive("far-1-a")


class TestStudy:
    def test_the_default_config_comes_first(self, study: Study, alive: str) -> None:
        first = claimed(study, alive)
        assert (first.values, first.default, first.number) == (START, True, 0)
        assert not claimed(study, alive).default

    def test_processes_together_make_as_many_as_were_asked_for(self, study: Study, alive: str) -> None:
        running = [claimed(study, alive) for _ in range(4)]
        assert study.claim(alive) == "wait"
        for place, one in enumerate(running):
            study.complete(one, 0.5 + place)
        assert study.claim(alive) == "done"
        assert len({str(one.values) for one in running}) == 4
        best = best_of(study.records(), 1)
        assert best is not None
        assert best.number == 3
        assert best_of(study.records(), -1) == study.records()[0]

    def test_a_trial_whose_process_died_is_begun_anew_with_its_values(self, study: Study) -> None:
        lost = claimed(study, dead_worker(study))
        anew = claimed(study)
        assert (anew.values, anew.default, anew.number) == (lost.values, True, 1)
        first, second = study.records()
        assert (first.state, first.counts, second.retry_of) == ("lost", False, 0)

    def test_what_takes_its_process_with_it_again_and_again_has_failed(self, study: Study) -> None:
        for _ in range(MAX_TRIES):
            assert claimed(study, dead_worker(study)).values == START
        study.recover()
        states = [one.state for one in study.records()]
        assert states == ["lost"] * (MAX_TRIES - 1) + ["failed"]
        assert study.records()[-1].reason == f"its process died {MAX_TRIES} times"

    def test_an_interrupted_trial_costs_no_try(self, study: Study) -> None:
        for _ in range(MAX_TRIES + 2):
            study.hand_back(claimed(study))
        assert claimed(study).values == START

    def test_who_was_taken_for_dead_learns_it(self, study: Study) -> None:
        slow = claimed(study, dead_worker(study))
        study.recover()
        with pytest.raises(TakenAwayError):
            slow.behind(1, 0.5)
        with pytest.raises(TakenAwayError):
            study.complete(slow, 0.5)

    def test_a_trial_behind_the_median_is_ended_but_never_the_default(self, study: Study, alive: str) -> None:
        study.total = 10
        default = claimed(study, alive)
        for _ in range(6):
            one = claimed(study, alive)
            assert not one.behind(2, 0.8)
            study.complete(one, 0.8)
        assert not default.behind(2, 0.1)
        late = claimed(study, alive)
        assert not late.behind(1, 0.1), "the first epochs say nothing"
        assert late.behind(2, 0.1)

    def test_another_process_sees_the_same(self, study: Study) -> None:
        study.failed(claimed(study), "too large")
        again = Study(study.folder)
        assert again.records() == study.records()
        assert again.records()[0].reason == "too large"
        assert again.total == 4
        again.total = 9
        assert study.total == 9

    def test_one_process_tries_the_same_values_again(self, config: Path, tmp_path: Path) -> None:
        tried = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            study = Study.begin(tmp_path / name, setup_of(config, trials=9, seed=3), START)
            for place in range(9):
                one = claimed(study)
                study.complete(one, one.values["model.learning_rate"] + place / 100)
            tried.append([one.values for one in study.records()])
        assert tried[0] == tried[1]


class TestSetup:
    def test_it_begins_with_what_the_model_has_unsaid(self, config: Path) -> None:
        assert setup_of(config, trials=1).start() == START

    def test_it_is_read_again_as_it_was_written(self, config: Path, tmp_path: Path) -> None:
        setup = setup_of(config, trials=7, seed=5, max_events=100, prune=False)
        setup.write(tmp_path)
        assert read_setup(tmp_path) == setup
        assert (setup.seed, setup.metric, setup.cached) == (5, "auc", True)

    def test_ends_that_no_model_takes_are_refused_before_anything_is_read(self, config: Path) -> None:
        setup = setup_of(config, overrides=("model.learning_rate=uniform(0, 1)",), trials=1)
        with pytest.raises(ConfigError, match=r"uniform\(0, 1\) with 0: model\.learning_rate: 0\.0 is out of range"):
            setup.check(setup.start())

    def test_a_config_without_ranges_is_refused_with_an_example(self, config: Path) -> None:
        with pytest.raises(ConfigError, match=r"nothing is to be searched: write a range"):
            setup_of(config, overrides=("model=mlp",), trials=1)

    def test_without_a_validation_part_there_is_nothing_to_select_by(self, config: Path) -> None:
        with pytest.raises(ConfigError, match=r"split\.validation: is 0"):
            setup_of(config, overrides=("split.validation=0",), trials=1)

    def test_a_folder_that_is_no_search_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"is no search: lacks search\.json"):
            read_setup(tmp_path)


class TestVerdict:
    def test_the_best_of_many_needs_a_larger_gain(self) -> None:
        chances = [verdict_of(0.003, 0.001, events=100, trials=trials).chance_of_best for trials in (1, 10, 100)]
        assert chances == sorted(chances)
        assert [verdict_of(0.003, 0.001, events=100, trials=one).beats for one in (1, 10, 100)] == [True, True, False]

    def test_of_trials_that_are_no_better_it_is_wrong_as_often_as_it_says(self) -> None:
        random = np.random.default_rng(1)
        gains = random.normal(0.0, 0.001, (4000, 20)).max(axis=1)
        share = np.mean([verdict_of(gain, 0.001, events=1, trials=20).beats for gain in gains])
        assert 0.035 < share < 0.065

    @pytest.mark.parametrize(("gain", "beats"), [(0.0, False), (-0.1, False), (0.1, True)])
    def test_without_any_uncertainty_only_a_gain_counts(self, gain: float, beats: bool) -> None:
        assert verdict_of(gain, 0.0, events=10, trials=20).beats is beats


@pytest.mark.parametrize("metric", ["auc", "loss"])
def test_two_runs_are_compared_on_the_same_events(config: Path, tmp_path: Path, metric: Metric) -> None:
    task = [] if metric == "auc" else ["targets={z: x + y}"]
    figures = []
    for name, epochs in (("short", 1), ("long", 6)):
        chosen = ["model={name: mlp, hidden: [8]}", f"training.epochs={epochs}", *task]
        result = train(read_config(config, overrides=chosen), output=tmp_path / name, threads=1)
        figures.append(result.metrics["parts"]["validation"][metric])
    names = {"metric": metric, "trials": 1, "max_events": None, "progress": Silent()}
    found = compare_runs(tmp_path / "long", tmp_path / "short", **names)  # type: ignore[arg-type]
    assert found is not None
    assert found.difference > 0
    assert found.difference == pytest.approx((figures[1] - figures[0]) * (1 if metric == "auc" else -1), rel=1e-4)
    assert 0 < found.error < 1
    back = compare_runs(tmp_path / "short", tmp_path / "long", **names)  # type: ignore[arg-type]
    assert back is not None
    assert (back.difference, back.error, back.beats) == (-found.difference, found.error, False)


@pytest.fixture(scope="module")
def searched(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, object]]:
    """Three trials in this process, one of which cannot be done."""
    folder = tmp_path_factory.mktemp("search")
    setup = setup_of(config, trials=3)
    study = Study.begin(folder, setup, START)
    impossible = claimed(study)
    study.failed(impossible, "cannot be done")
    work(folder, threads=1, progress=None)
    return study, write_results(study, Silent())


class TestResults:
    def test_the_best_config_is_an_ordinary_one(self, searched: tuple[Study, dict[str, object]]) -> None:
        study, _ = searched
        best = best_of(study.records(), 1)
        assert best is not None
        config = read_config(study.folder / "best.yaml")
        assert config.model.dials == {name.removeprefix("model."): value for name, value in best.values.items()}
        assert config.cache is None, "the rows of the search are not those of later runs"

    def test_the_default_and_the_best_keep_their_runs_and_no_test_part_is_open(
        self, searched: tuple[Study, dict[str, object]]
    ) -> None:
        study, _ = searched
        best = best_of(study.records(), 1)
        assert best is not None
        assert [path.name for path in (study.folder / "runs").iterdir()] == [f"trial-{best.number}"]
        assert not list(study.folder.rglob("scores.npz"))
        assert not list((study.folder / "runs").glob(".*"))

    def test_figures_stand_in_table_and_page(self, searched: tuple[Study, dict[str, object]]) -> None:
        study, found = searched
        lines = (study.folder / "trials.csv").read_text().splitlines()
        assert len(lines) == 4
        assert lines[1].startswith("0,failed,,,")
        assert lines[1].endswith("cannot be done")
        page = (study.folder / "tune.html").read_text()
        for words in ("model.learning_rate", "cannot be done", "best.yaml", 'src="pictures/history.png"'):
            assert words in page
        assert "cannot be said: that failed (cannot be done)" in str(found["words"])
        assert found["counts"] == {"complete": 2, "pruned": 0, "failed": 1, "lost": 0}

    def test_without_any_complete_trial_all_reasons_are_told(self, study: Study) -> None:
        study.failed(claimed(study), "diverged")
        with pytest.raises(UserError, match="no trial is complete"):
            write_results(study, Silent())


def test_a_trial_judged_by_other_events_is_no_trial(config: Path, tmp_path: Path) -> None:
    study = Study.begin(tmp_path, setup_of(config, trials=1), START)
    assert study.same_events("other events")
    work(tmp_path, threads=1)
    assert study.records()[0].state == "failed"
    assert "holds other events than that of the others" in str(study.records()[0].reason)
    assert not list((tmp_path / "runs").iterdir())


def test_workers_end_with_the_block(tmp_path: Path, config: Path) -> None:
    Study.begin(tmp_path, setup_of(config, trials=1), START).total = 0
    processes = Processes(tmp_path, 1)
    with processes.running():
        started = [place.process for place in processes._places]
    assert [one.poll() is not None for one in started] == [True]
