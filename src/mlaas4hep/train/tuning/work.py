"""One process that runs trials until there are enough: ``python -m mlaas4hep.train.tuning.work SEARCH``.

It ends when its standard input closes, so that no process is left behind by one that started it and was killed.
Invariant: whatever becomes of a trial is written down before the next is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from mlaas4hep.errors import MLaaSError, UserError
from mlaas4hep.progress import Progress
from mlaas4hep.train.callbacks import EpochRecord
from mlaas4hep.train.checkpoint import CheckpointFolder
from mlaas4hep.train.interrupt import Interrupt, Interrupted
from mlaas4hep.train.output import to_json
from mlaas4hep.train.run import train
from mlaas4hep.train.tuning.journal import locked
from mlaas4hep.train.tuning.study import Claimed, Study, TakenAwayError, best_of

RUNS_FOLDER = "runs"
_POLL_S = 0.5


class Pruned(BaseException):
    """Ends a training that fell behind; no `Exception`, so that nobody takes it for a failure."""


class NotKept(BaseException):
    """Ends a run that would not be kept, before anything is drawn of it; holds its figure."""

    def __init__(self, value: float) -> None:
        super().__init__(f"{value:g} is not the best")
        self.value = value


class Lines:
    """Progress as plain lines on standard error, which is a file."""

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        """Nothing."""

    def update(self, count: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing."""


def work(search: Path, *, threads: int | None = None, progress: Progress | None = None) -> None:
    """Run trials until as many as are wanted have ended.

    Parameters
    ----------
    search
        Its folder.
    threads
        That read ahead.
    progress
        Told what a training tells.

    Raises
    ------
    Interrupted
        By a signal; the trial that was running is queued again.
    """
    told = progress or Lines()
    with Interrupt():
        study = Study(search)
        with study.workers.at_work() as name:
            while (claimed := study.claim(name)) != "done":
                if isinstance(claimed, Claimed):
                    _run_trial(study, claimed, threads, told)
                else:
                    time.sleep(_POLL_S)


def _run_trial(study: Study, claimed: Claimed, threads: int | None, told: Progress) -> None:
    """One trial, whatever becomes of it."""
    target = study.folder / RUNS_FOLDER / f"trial-{claimed.number}"
    told.note(f"trial {claimed.number}: {to_json(claimed.values).strip()}")
    try:
        _learn_and_tell(study, claimed, target, threads, told)
    except TakenAwayError as error:
        told.note(str(error))
        shutil.rmtree(target, ignore_errors=True)
    finally:
        CheckpointFolder(target).remove()


def _learn_and_tell(study: Study, claimed: Claimed, target: Path, threads: int | None, told: Progress) -> None:
    """An error that nobody foresaw is written down and goes on upwards."""
    try:
        _learn(study, claimed, target, threads, told)
    except Pruned:
        study.pruned(claimed)
    except NotKept as done:
        study.complete(claimed, done.value)
    except TakenAwayError:
        raise
    except (MLaaSError, MemoryError) as error:
        told.note(f"trial {claimed.number} failed: {error}")
        study.failed(claimed, str(error) or "out of memory")
    except KeyboardInterrupt:
        study.hand_back(claimed)
        raise
    except Exception as error:  # a mistake of ours: the study is told, so that nobody waits for the trial
        study.failed(claimed, f"{type(error).__name__}: {error}")
        raise


def _learn(study: Study, claimed: Claimed, target: Path, threads: int | None, told: Progress) -> None:
    setup = study.setup

    def watch(record: EpochRecord) -> None:
        value = record.validation_auc if setup.metric == "auc" else record.validation_loss
        if value is not None and claimed.behind(record.epoch, value):
            raise Pruned

    def judged(metrics: dict[str, Any]) -> None:
        value, error = _figure(metrics, setup.metric)
        _require_same_events(study, metrics)
        claimed.note(error=error)
        if not (claimed.default or study.would_be_best(value)):
            raise NotKept(value)

    config = setup.for_trial(claimed.values, study.folder)
    result = train(
        config,
        output=target,
        max_events=setup.max_events,
        threads=threads,
        progress=told,
        on_epoch=watch,
        on_judged=judged,
    )
    claimed.note(run=f"{RUNS_FOLDER}/{target.name}")
    study.complete(claimed, _figure(result.metrics, setup.metric)[0])
    tidy(study)


def _require_same_events(study: Study, metrics: dict[str, Any]) -> None:
    if not study.same_events(_judged_by(metrics)):
        raise UserError(
            "its validation part holds other events than that of the others, so their figures cannot be compared: "
            f"events are told apart by {metrics['split_by']}; name columns in split.by that no dial changes"
        )


def _figure(metrics: dict[str, Any], metric: str) -> tuple[float, float | None]:
    """The figure of merit and its uncertainty, both of the validation part."""
    part = metrics["parts"]["validation"]
    if part[metric] is None:
        raise UserError(f"no {metric} on the validation part: {part['reason']}")
    return part[metric], part["auc_err"] if metric == "auc" else None


def _judged_by(metrics: dict[str, Any]) -> str:
    """What two equal validation parts have in common."""
    part = metrics["parts"]["validation"]
    sums = {name: f"{one['events']}: {one['sum_weights']:.9g}" for name, one in part.get("classes", {}).items()}
    return f"{part['events']} events, {part['negative']} negative; {sums}"


def tidy(study: Study) -> None:
    """Keep the runs of the default config and of the best trial so far; remove those that were the best before."""
    with locked(study.folder / "claim.lock"):
        records = study.records()
        best = best_of(records, study.setup.sign)
        for one in records:
            if one.state == "complete" and one.run is not None and not one.default and one is not best:
                shutil.rmtree(study.folder / one.run, ignore_errors=True)


def _end_with_standard_input() -> None:
    """Ask this process to end when the one that started it is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("search", type=Path)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    try:
        work(asked.search, threads=asked.threads)
    except Interrupted as error:
        sys.exit(128 + error.number)
    except UserError as error:
        sys.exit(f"Error: {error}")
    except Exception:  # the log of a worker is all that is left of it
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
