"""A search with two workers, one of which is killed in the middle: does it end whole, and is its best worth anything?

``python -m benchmarks.tuning --json [--seeds 0 1 2]`` runs the command line on the HIGGS sample, ends one worker by
SIGKILL while it learns, and prints one JSON line a seed: trials that were asked for and that ended, which one was lost
and begun anew, the verdict on the validation part, and beside it what the test part says of the same two runs, which is
opened here, after the search.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlaas4hep.train.tuning.setup import SETUP_FILE
from mlaas4hep.train.tuning.study import Record, Study

CONFIG = Path(__file__).parent / "higgs.yaml"
RANGES = (
    "model.learning_rate=log(1e-4, 1e-2)",
    "model.hidden=choice([64, 32], [32], [128], [128, 64])",
    "training.batch_size=logint(64, 1024)",
)
FIXED = ("split.validation=0.2", "training.epochs=6")
_POLL_S, _PATIENCE_S = 0.05, 600.0


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-events", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="one JSON line a seed (always so)")
    asked = parser.parse_args()
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--seed", str(seed), "--max-events", str(asked.max_events)]
            search, killed, figures = killed_search(
                CONFIG, Path(folder) / "search", [*RANGES, *FIXED], options, trials=asked.trials, workers=asked.workers
            )
            line = {"seed": seed, **outcome(search, killed, figures, trials=asked.trials)}
            line |= test_part(search, figures)
        print(json.dumps(line), flush=True)


def killed_search(
    config: Path, folder: Path, settings: Sequence[str], options: Sequence[str], *, trials: int, workers: int
) -> tuple[Path, Record, dict[str, Any]]:
    """One search by the command line, a worker of which is killed while it runs a trial of the middle.

    Returns
    -------
    The folder, the trial that was running in the worker, and what the command printed.
    """
    command = [sys.executable, "-m", "mlaas4hep", "tune", str(config), "-o", str(folder), "--json", "--no-progress"]
    command += ["--trials", str(trials), "--workers", str(workers), *options]
    command += [word for one in settings for word in ("--set", one)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            killed = _kill_one(process, folder, after=trials // 2)
            printed, told = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.terminate()
    if process.returncode:
        raise RuntimeError(f"the search ended with status {process.returncode}:\n{told}")
    figures = json.loads(printed)
    return folder, killed, {**figures, "wall_s": time.perf_counter() - started}


def _kill_one(process: subprocess.Popen[str], folder: Path, *, after: int) -> Record:
    """SIGKILL to the process of a trial that has learned an epoch, when so many trials have ended."""
    deadline, study = time.monotonic() + _PATIENCE_S, None
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if study is None and (folder / SETUP_FILE).is_file():
            study = Study(folder)
        records = [] if study is None else study.records()
        running = [one for one in records if one.state == "running" and one.epochs and one.worker]
        if sum(one.counts for one in records) >= after and running:
            os.kill(int(str(running[0].worker).split("-")[-2]), signal.SIGKILL)
            return running[0]
    raise RuntimeError("no worker was found to kill")


def outcome(search: Path, killed: Record, figures: dict[str, Any], *, trials: int) -> dict[str, Any]:
    """Whether it ended whole, and its verdict."""
    records = Study(search).records()
    anew = [one for one in records if one.retry_of == killed.number]
    verdict = figures["verdict"] or {}
    return {
        "trials": trials,
        "ended": sum(one.counts for one in records),
        "counts": figures["counts"],
        "killed_trial": killed.number,
        "killed_state": records[killed.number].state,
        "begun_anew_as": [one.number for one in anew],
        "anew_state": [one.state for one in anew],
        "same_values": all(one.values == killed.values for one in anew),
        "wall_s": round(figures["wall_s"], 1),
        "trial_s": figures["trial_seconds"],
        "auc_default": round(figures["default"]["value"], 5) if figures["default"] else None,
        "auc_best": round(figures["best"]["value"], 5),
        "best_trial": figures["best"]["number"],
        "best_values": figures["best"]["values"],
        "gain": round(verdict["difference"], 5) if verdict else None,
        "gain_err": round(verdict["error"], 5) if verdict else None,
        "chance_of_best": verdict.get("chance_of_best"),
        "beats": verdict.get("beats", False),
        "test_part_opened_by_search": any(search.rglob("scores.npz")),
    }


def test_part(search: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """The same two runs on events that chose nothing."""
    if figures["default"] is None or figures["best"]["default"]:
        return {}
    runs = [str(search / figures[name]["run"]) for name in ("default", "best")]
    command = [sys.executable, "-m", "mlaas4hep", "evaluate", *runs, "-o", str(search / "compared"), "--no-progress"]
    subprocess.run(command, check=True, capture_output=True)
    best = json.loads((search / "compared" / "comparison.json").read_text(encoding="utf-8"))["runs"][1]
    return {"test_gain": round(best["difference"], 5), "test_gain_err": round(best["difference_err"], 5)}


if __name__ == "__main__":
    main()
