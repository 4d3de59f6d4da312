"""The processes of one machine that run trials: started, watched, replaced when they die, ended together.

Each has its share of the cores and a group of its own, so that a Ctrl-C reaches them only through the process that
started them. Invariant: none is left running when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlaas4hep.errors import MLaaSError

_ENDING_S = 20.0
# A process that heard a signal, and ended in good order for it, ends with this and the signal's number.
_BY_SIGNAL = 128
# Processes in one place that died in a row before any trial was begun: it is no accident then.
MAX_DEATHS = 5
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TOLD_LINES = 12


def share_of_cores(workers: int) -> int:
    """Cores for each of some processes, one at least."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


@dataclass(slots=True, eq=False)
class _Place:
    """One of the processes that there should be."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    deaths: int = 0


@dataclass(slots=True, eq=False)
class Processes:
    """Those of this machine.

    Parameters
    ----------
    search
        The folder.
    workers
        How many.
    threads
        That read ahead in each; None leaves it to the share of the cores.
    """

    search: Path
    workers: int
    threads: int | None = None
    _places: list[_Place] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start them; end them all when the block ends, gently at first."""
        try:
            for number in range(self.workers):
                log = self.search / "workers" / f"log-{os.uname().nodename}-{os.getpid()}-{number}.txt"
                log.parent.mkdir(exist_ok=True)
                self._places.append(_Place(number, self._start(log), log))
            yield
        finally:
            self._end()

    def look(self) -> tuple[bool, list[str]]:
        """Whether any is at work, and what is to be told of those that died; they are replaced.

        Raises
        ------
        MLaaSError
            One ended by an error of its own, or dies again and again.
        """
        told = []
        for place in list(self._places):
            status = place.process.poll()
            if status is None:
                continue
            _hang_up(place.process)
            if status == 0:
                self._places.remove(place)
            elif 0 < status <= _BY_SIGNAL:
                raise MLaaSError(
                    f"a worker ended with status {status}; {place.log} ends with\n{_last_lines(place.log)}"
                )
            else:
                told.append(self._replace(place, signal.Signals(-status if status < 0 else status - _BY_SIGNAL).name))
        return bool(self._places), told

    def _replace(self, place: _Place, by: str) -> str:
        place.deaths += 1
        if place.deaths >= MAX_DEATHS:
            raise MLaaSError(f"worker {place.number} was ended by {by}, for the {place.deaths}th time; see {place.log}")
        place.process = self._start(place.log)
        return f"worker {place.number} was ended by {by}: its trial is begun anew, another takes its place"

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        share = share_of_cores(self.workers)
        threads = min(2, share) if self.threads is None else self.threads
        command = [sys.executable, "-P", "-m", "mlaas4hep.train.tuning.work", str(self.search.absolute())]
        environment = {name: str(share) for name in _THREADS} | dict(os.environ)
        with log.open("ab") as file:
            return subprocess.Popen(
                [*command, "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
            )

    def _end(self) -> None:
        for place in self._places:
            place.process.terminate()
        deadline = time.monotonic() + _ENDING_S
        for place in self._places:
            try:
                place.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                place.process.kill()
                place.process.wait()
            _hang_up(place.process)


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD_LINES:])
