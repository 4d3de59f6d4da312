"""The study: which trials there are, who takes the next one, and what becomes of those whose process died.

The only module that asks Optuna anything. Trials are handed out under one lock, so that processes together make as many
as were asked for. Invariant: a trial that was begun ends as complete, pruned or failed, or is lost and begun anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mlaas4hep.config.search import Choice, Dial
from mlaas4hep.errors import MLaaSError
from mlaas4hep.train.tuning.journal import JournalFile, locked
from mlaas4hep.train.tuning.setup import Setup, Values, read_setup
from mlaas4hep.train.tuning.workers import GRACE_S, Workers

STUDY_FILE = "study.jsonl"
_NAME = "search"
_TOTAL = "trials"
_JUDGED_BY = "judged_by"
# A trial that took its process with it so often is not begun again: it may be too large for the machine.
MAX_TRIES = 3
# Before there is something to compare with, and before a training has found its feet, nothing is pruned.
STARTUP_TRIALS, WARM_UP_EPOCHS = 5, 2
State = Literal["waiting", "running", "complete", "pruned", "failed", "lost"]


class Record(msgspec.Struct, frozen=True):
    """A trial, as it stands.

    Parameters
    ----------
    number
        From 0, in the order of beginning.
    state
        ``complete``; ``pruned``; ``failed`` for a reason of its own; ``lost`` with its process, and begun anew as
        another one; ``running``; ``waiting``.
    values
        By path of the dial.
    value, error
        The figure of merit on the validation part, and its uncertainty where that is known.
    epochs
        The figure after each epoch, as the pruning saw it.
    default
        Whether these are the values of the default config.
    run
        The run directory below that of the search, where it is kept.
    reason
        Why it failed.
    seconds
        Wall time.
    worker
        Who ran it.
    retry_of
        Number of the lost trial that is begun anew.
    """

    number: int
    state: State
    values: dict[str, Any]
    value: float | None = None
    error: float | None = None
    epochs: dict[int, float] = {}
    default: bool = False
    run: str | None = None
    reason: str | None = None
    seconds: float | None = None
    worker: str | None = None
    retry_of: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it is one of those that were asked for."""
        return self.state in ("complete", "pruned", "failed")


class TakenAwayError(MLaaSError):
    """A trial that was given to another process, because this one did not show a sign of life."""


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """A trial that this process runs.

    Parameters
    ----------
    trial
        Optuna's.
    setup
        The search.
    number, values, default
        As in `Record`.
    """

    trial: optuna.Trial
    setup: Setup
    number: int
    values: dict[str, Any]
    default: bool

    def behind(self, epoch: int, value: float) -> bool:
        """Note the figure of an epoch; whether the trial is to be ended for it.

        Raises
        ------
        TakenAwayError
            It is no longer this process's.
        """
        with self.own():
            self.trial.report(value, epoch)
        return self.setup.prune and not self.default and self.trial.should_prune()

    def note(self, **facts: Any) -> None:
        """Keep what is known of it; names as in `Record`, errors as in `behind`."""
        with self.own():
            for name, value in facts.items():
                self.trial.set_user_attr(name, value)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Around all that is written of it."""
        try:
            yield
        except (UpdateFinishedTrialError, ValueError) as error:
            if isinstance(error, ValueError) and not str(error).startswith("Cannot tell"):
                raise
            raise TakenAwayError(f"trial {self.number} was given to another process") from error


class Study:
    """The trials of one folder.

    Parameters
    ----------
    folder
        Of the search.
    """

    def __init__(self, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder = folder
        self.setup = read_setup(folder)
        self.workers = Workers(folder / "workers")
        self._dials = self.setup.dials
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARM_UP_EPOCHS)
        self._study = optuna.load_study(study_name=_NAME, storage=_storage(folder), pruner=pruner)

    @classmethod
    def begin(cls, folder: Path, setup: Setup, start: Values) -> Study:
        """Begin one in an empty folder, with the default config as its first trial; what others look for comes last."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        direction = StudyDirection.MAXIMIZE if setup.sign > 0 else StudyDirection.MINIMIZE
        study = optuna.create_study(study_name=_NAME, storage=_storage(folder), direction=direction)
        study.set_user_attr(_TOTAL, setup.trials)
        parameters = {name: _stored(dial, start[name]) for name, dial in setup.dials.items()}
        study.enqueue_trial(parameters, user_attrs={"default": True})
        setup.write(folder)
        return cls(folder)

    @property
    def total(self) -> int:
        """Trials that are wanted."""
        return int(self._study.user_attrs[_TOTAL])

    @total.setter
    def total(self, trials: int) -> None:
        self._study.set_user_attr(_TOTAL, trials)

    def records(self) -> list[Record]:
        """All trials, by number."""
        return _records(self._study.get_trials(deepcopy=False), self._dials)

    def importance(self) -> dict[str, float]:
        """Share of each dial in the spread of the figure, by Optuna's fANOVA; empty where too few are complete."""
        complete = [one for one in self.records() if one.state == "complete"]
        if len(complete) < 4 or len({one.value for one in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.setup.seed)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

    def claim(self, worker: str) -> Claimed | Literal["wait", "done"]:
        """The next trial; ``wait`` while others run what is left and may still die, ``done`` where nothing is."""
        with locked(self.folder / "claim.lock"):
            self.give_up_dead()
            records = self.records()
            counted = sum(one.counts for one in records)
            if counted >= self.total:
                return "done"
            if counted + sum(one.state == "running" for one in records) >= self.total:
                return "wait"
            # By the number of trials, so that one process gives the same trials also after a pause.
            self._study.sampler = optuna.samplers.TPESampler(seed=self.setup.seed + len(records))
            trial = self._study.ask()
            trial.set_user_attr("worker", worker)
        values = {name: _suggested(trial, name, dial) for name, dial in self._dials.items()}
        default = bool(trial.user_attrs.get("default", False))
        return Claimed(trial, self.setup, trial.number, values, default)

    def complete(self, claimed: Claimed, value: float) -> None:
        """The trial gave a figure."""
        self._tell(claimed, TrialState.COMPLETE, value)

    def pruned(self, claimed: Claimed) -> None:
        """The trial fell behind."""
        self._tell(claimed, TrialState.PRUNED)

    def failed(self, claimed: Claimed, reason: str) -> None:
        """The trial cannot be done with these values."""
        claimed.note(reason=reason)
        self._tell(claimed, TrialState.FAIL)

    def hand_back(self, claimed: Claimed) -> None:
        """The trial was interrupted; it is begun anew by whoever goes on."""
        with locked(self.folder / "claim.lock"), suppress(TakenAwayError), claimed.own():
            self._begin_anew(self._study.get_trials(deepcopy=False)[claimed.number], tries=0)

    def _tell(self, claimed: Claimed, state: TrialState, value: float | None = None) -> None:
        with claimed.own():
            self._study.tell(claimed.trial, value, state=state)

    def same_events(self, judged_by: str) -> bool:
        """Whether a trial was judged by the events of the first one to end; that one says which they are."""
        with locked(self.folder / "claim.lock"):
            known = self._study.user_attrs.get(_JUDGED_BY)
            if known is None:
                self._study.set_user_attr(_JUDGED_BY, judged_by)
            return known is None or known == judged_by

    def would_be_best(self, value: float) -> bool:
        """Whether a figure is better than that of every trial that is complete by now."""
        best = best_of(self.records(), self.setup.sign)
        return best is None or best.value is None or self.setup.sign * (value - best.value) > 0

    def recover(self) -> list[int]:
        """Take trials from processes that are gone, and queue them again; their numbers."""
        with locked(self.folder / "claim.lock"):
            return self.give_up_dead()

    def give_up_dead(self) -> list[int]:
        """As `recover`, for who holds the lock."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [one for one in trials if self._is_dead(one)]
        for one in dead:
            self._begin_anew(one, tries=1)
            if name := one.user_attrs.get("worker"):
                self.workers.forget(name)
        return [one.number for one in dead]

    def _is_dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is not None:
            return not self.workers.alive(worker)
        # Its process died between two lines of the journal: only this lock's holder writes them.
        began = trial.datetime_start
        return not self.workers.names() or began is None or time.time() - began.timestamp() > GRACE_S

    def _begin_anew(self, trial: FrozenTrial, *, tries: int) -> None:
        """Queue a trial's values again, once, and end it. After `MAX_TRIES` deaths it is not queued again."""
        done = trial.user_attrs.get("tries", 0) + tries
        anew = {one.user_attrs.get("retry_of") for one in self._study.get_trials(deepcopy=False)}
        if done < MAX_TRIES and trial.number not in anew:
            facts = {"retry_of": trial.number, "tries": done, "default": trial.user_attrs.get("default", False)}
            self._study.enqueue_trial(
                dict(trial.params or trial.system_attrs.get("fixed_params", {})), user_attrs=facts
            )
        self._study.tell(trial.number, state=TrialState.FAIL)


def _storage(folder: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFile(folder / STUDY_FILE))


def best_of(records: Iterable[Record], sign: int) -> Record | None:
    """The complete trial with the best figure; of equals one whose run is kept, then the earliest."""
    complete = [one for one in records if one.state == "complete" and one.value is not None]
    return max(complete, key=lambda one: (sign * (one.value or 0.0), one.run is not None, -one.number), default=None)


def _suggested(trial: optuna.Trial, name: str, dial: Dial) -> Any:
    if isinstance(dial, Choice):
        return dial.values[dial.labels.index(trial.suggest_categorical(name, dial.labels))]
    if dial.whole:
        step = 1 if dial.step is None else int(dial.step)
        return trial.suggest_int(name, int(dial.low), int(dial.high), step=step, log=dial.logarithmic)
    return trial.suggest_float(name, dial.low, dial.high, step=dial.step, log=dial.logarithmic)


def _stored(dial: Dial, value: Any) -> Any:
    """A value as the study keeps it: of a choice the text that stands for it."""
    return dial.labels[dial.values.index(value)] if isinstance(dial, Choice) else value


def _records(trials: Sequence[FrozenTrial], dials: dict[str, Dial]) -> list[Record]:
    anew = {one.user_attrs.get("retry_of") for one in trials}
    return [_record(one, dials, lost=one.number in anew) for one in trials]


def _record(trial: FrozenTrial, dials: dict[str, Dial], *, lost: bool) -> Record:
    facts = trial.user_attrs
    states: dict[TrialState, State] = {
        TrialState.WAITING: "waiting",
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "lost" if lost else "failed",
    }
    state = states[trial.state]
    reason = facts.get("reason")
    if state == "failed" and reason is None:
        reason = f"its process died {MAX_TRIES} times"
    taken = trial.duration.total_seconds() if trial.duration is not None else None
    return Record(
        number=trial.number,
        state=state,
        values=_values(trial, dials),
        value=trial.value if state == "complete" else None,
        error=facts.get("error"),
        epochs={int(epoch): value for epoch, value in sorted(trial.intermediate_values.items())},
        default=facts.get("default", False),
        run=facts.get("run"),
        reason=reason,
        seconds=None if taken is None else round(taken, 3),
        worker=facts.get("worker"),
        retry_of=facts.get("retry_of"),
    )


def _values(trial: FrozenTrial, dials: dict[str, Dial]) -> dict[str, Any]:
    stored = trial.params or trial.system_attrs.get("fixed_params", {})
    return {
        name: dial.values[dial.labels.index(stored[name])] if isinstance(dial, Choice) else stored[name]
        for name, dial in dials.items()
        if name in stored
    }
