"""A search from a config to its best: trials by processes of this machine, joined by those of others.

Invariant: who starts a search or goes on with it ends with all trials that were asked for and with everything written,
however many others take part; interrupted, it leaves a folder that can be gone on with.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.backends.registry import choose
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.report.page import SEARCH_PAGE
from mlaas4hep.train.interrupt import Interrupt
from mlaas4hep.train.output import free_path
from mlaas4hep.train.run_plan import prepare
from mlaas4hep.train.tuning.journal import locked
from mlaas4hep.train.tuning.processes import Processes
from mlaas4hep.train.tuning.results import BEST_FILE, FIGURES, write_results
from mlaas4hep.train.tuning.setup import SETUP_FILE, Setup, cache_folder, setup_of
from mlaas4hep.train.tuning.study import Record, Study

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """A search that is over.

    Parameters
    ----------
    path
        Its folder.
    found
        Content of ``tune.json``.
    """

    path: Path
    found: dict[str, Any]

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / SEARCH_PAGE

    @property
    def best_config(self) -> Path:
        """The best config, ready for ``train``."""
        return self.path / BEST_FILE

    @property
    def best_run(self) -> Path:
        """The run directory of the best trial."""
        return self.path / str(self.found["best"]["run"])


def tune(
    config: str | Path,
    *,
    output: str | Path | None = None,
    overrides: tuple[str, ...] = (),
    trials: int = 20,
    workers: int = 1,
    seed: int | None = None,
    max_events: int | None = None,
    threads: int | None = None,
    prune: bool = True,
    rescan: bool = False,
    progress: Progress | None = None,
) -> Search:
    """Search the dials of a config for the best figure on the validation part; the test part stays closed.

    Parameters
    ----------
    config
        A file, with ranges where values would stand.
    output
        The folder, which must not be there yet; ``runs/NAME-tune`` (or ``NAME-tune-2``, ...) where None.
    overrides
        As for `mlaas4hep.config.read_config`; may give ranges too.
    trials
        How many; the first is the default config.
    workers
        Processes, each with its share of the cores.
    seed
        Of the trainings and of what is tried.
    max_events
        Entries to read in all, shared among the samples.
    threads
        That read ahead in each process.
    prune
        End trials early that fall behind the median of those before them.
    rescan
        Scan the events even where statistics are kept.
    progress
        Told how far it is.

    Raises
    ------
    UserError
        Whatever is wrong with config, files or folder, before the first trial; or no trial is complete in the end.
    Interrupted
        By a signal; what was done is kept.
    """
    told = progress or Silent()
    setup = setup_of(config, overrides=overrides, trials=trials, seed=seed, max_events=max_events, prune=prune)
    start = setup.start()
    setup.check(start)
    default = setup.ordinary(start)
    if default.features.split.in_folds:
        raise ConfigError(
            f"{default.path}: split.folds: a search goes by one validation part; leave folds out of the search, and "
            "train its best.yaml with them"
        )
    target = _free(output, f"{default.name}-tune")
    with Interrupt():
        choice = choose(default.model, where=default.path)
        prepare(default, choice, max_events=max_events, threads=threads, rescan=rescan, progress=told)
    _make(target)
    Study.begin(target, setup, start)
    for line in _described(setup, start):
        told.note(line)
    return _search(target, workers, threads, told)


def resume(
    search: str | Path,
    *,
    trials: int | None = None,
    workers: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Search:
    """Go on with a search, or take part in one that others run.

    Parameters
    ----------
    search
        Its folder.
    trials
        How many there shall be in all, the old ones counted; None leaves what was asked for.
    workers, threads, progress
        As for `tune`.

    Raises
    ------
    UserError
        It is no search, or not found from here.
    """
    study = Study(Path(search))
    if trials is not None:
        study.total = trials
    return _search(Path(search), workers, threads, progress or Silent())


def _free(output: str | Path | None, name: str) -> Path:
    if output is not None and (Path(output) / SETUP_FILE).is_file():
        raise UserError(f"{output}: is a search already; go on with it by --resume {output}, or give another -o")
    return free_path(output, name)


def _make(target: Path) -> None:
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be made: {error.strerror}") from error


def _described(setup: Setup, start: dict[str, Any]) -> list[str]:
    return [f"searching {name}: {dial}, beginning with {start[name]}" for name, dial in setup.dials.items()]


def _search(folder: Path, workers: int, threads: int | None, told: Progress) -> Search:
    study = Study(folder)
    processes = Processes(folder, workers, threads)
    try:
        with Interrupt():
            study.recover()
            seen = {one.number for one in study.records() if one.counts}
            told.start("searching", total=study.total, unit="trials")
            told.update(len(seen))
            with processes.running():
                _watch(study, processes, seen, told)
            told.close()
            with locked(folder / "results.lock"):
                told.start("comparing and drawing", unit="steps")
                found = write_results(study, told)
    except KeyboardInterrupt:
        told.close()
        study.recover()
        told.note(f"kept in {folder}: go on with: mlaas4hep tune --resume {folder}")
        raise
    finally:
        told.close()
    shutil.rmtree(cache_folder(folder), ignore_errors=True)
    return Search(folder, found)


def _watch(study: Study, processes: Processes, seen: set[int], told: Progress) -> None:
    """Until no process is at work any more."""
    busy = True
    while busy:
        busy, lines = processes.look()
        for line in lines:
            told.note(line)
        records = study.records()
        for one in records:
            if one.counts and one.number not in seen:
                seen.add(one.number)
                told.update(1)
                told.note(_line(one, records, study))
        time.sleep(_POLL_S)


def _line(record: Record, records: list[Record], study: Study) -> str:
    """A trial in words."""
    done = sum(one.counts for one in records)
    values = ", ".join(f"{name.removeprefix('model.')} {_shown(value)}" for name, value in record.values.items())
    if record.state == "complete":
        error = "" if record.error is None else f" +- {record.error:.4f}"
        ended = f"{FIGURES[study.setup.metric]} {record.value:.4f}{error}"
    elif record.state == "pruned":
        ended = f"ended after {len(record.epochs)} epochs"
    else:
        ended = f"failed: {record.reason}"
    return f"trial {record.number} ({done} of {study.total}): {ended}; {values}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
