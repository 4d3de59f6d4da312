"""Does a training that was killed end with the same weights? Real processes, SIGKILL at random moments, ``--resume``.

``python -m benchmarks.resume --json [CONFIG] [--kills 20]`` prints one JSON line a model: of a run that nobody
disturbs, and of runs that are killed again and again until there were so many kills. Half of the moments are drawn from
the whole life of the process, half from the time in which it learns.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlaas4hep.examples import example_folder
from mlaas4hep.train.checkpoint import LATEST, UNFINISHED, CheckpointFolder

MODELS = {
    "mlp_sklearn": ("model=mlp",),
    "mlp_torch": ("model={name: mlp, backend: torch}",),
    "deepsets_torch": ("model=deepsets",),
    "attention_torch": ("model=attention",),
    "cnn_torch": (
        "model={name: cnn, x: Jet_eta, y: Jet_pt, bins: [8, 8], range: [[-3, 3], [0, 500]]}",
        "inputs={event: [HT], jets: {vars: [Jet_pt, Jet_eta], length: 12, sort: -Jet_pt}}",
    ),
    "mlp_keras": ("model={name: mlp, backend: keras}",),
    "mlp_jax": ("model={name: mlp, backend: jax}",),
    "deepsets_jax": ("model={name: deepsets, backend: jax}",),
    # These keep no checkpoint: killed, they begin again.
    "bdt_sklearn": ("model=bdt",),
    "xgboost": ("model=xgboost",),
    "lightgbm": ("model=lightgbm",),
}
NO_EPOCHS = ("bdt_sklearn", "xgboost", "lightgbm")
# As many checkpoints as the share of time that they may take allows.
OFTEN = "training.checkpoint_s=0"
METRICS = "metrics.json"


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=example_folder("tth") / "config.yaml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="one JSON line a model (always so)")
    asked = parser.parse_args()
    for name in asked.models:
        epochs = [] if name in NO_EPOCHS else [f"training.epochs={asked.epochs}"]
        overrides = [*MODELS[name], *epochs]
        keeps = name not in NO_EPOCHS
        found = compare(asked.config, overrides, kills=asked.kills, seed=asked.seed, keeps=keeps)
        print(json.dumps({"model": name} | found), flush=True)


@dataclass
class Tally:
    """What happened to runs that were killed: how often, at what, and the hashes that they ended with."""

    kills: int = 0
    after_a_checkpoint: int = 0
    while_writing: int = 0
    hashes: list[str] = field(default_factory=list)


def compare(config: Path, overrides: Sequence[str], *, kills: int, seed: int, keeps: bool = True) -> dict[str, Any]:
    """One undisturbed run, and as many killed ones as it takes; ``keeps`` says whether the model keeps checkpoints."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        whole = finish(start(config, folder / "whole", overrides))
        life_s, learning_s = time.perf_counter() - started, _learning_s(folder / "whole")
        tally = Tally()
        while tally.kills < kills:
            output = folder / f"killed-{len(tally.hashes)}"
            # Three kills a run; a run may also end before its next one.
            wanted = min(kills, tally.kills + 3)
            spans_s = (life_s, learning_s if keeps else None)
            killed_run(config, output, overrides, tally, until=wanted, moments=moments, spans_s=spans_s)
    return {
        "kills": tally.kills,
        "kills_after_a_checkpoint": tally.after_a_checkpoint,
        "kills_while_writing": tally.while_writing,
        "runs": len(tally.hashes),
        "equal": sum(found == whole["model_sha256"] for found in tally.hashes),
        "model_sha256": whole["model_sha256"],
        "undisturbed_s": round(life_s, 1),
        "learning_s": round(learning_s, 1),
    }


def start(config: Path, output: Path, overrides: Sequence[str], *options: str) -> subprocess.Popen[str]:
    """A process that trains."""
    changes = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "mlaas4hep", "train", str(config), "-o", str(output), "--json", *changes, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The figures of a training that ends well."""
    printed, told = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(f"training ended with {process.returncode}: {told}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def killed_run(
    config: Path,
    output: Path,
    overrides: Sequence[str],
    tally: Tally,
    *,
    until: int,
    moments: random.Random,
    spans_s: tuple[float, float | None],
) -> None:
    """One run, killed and resumed until there were so many kills in all, then left to end.

    Parameters
    ----------
    config, output, overrides
        Of the run.
    tally
        Added to.
    until
        Kills in all.
    moments
        Draws them.
    spans_s
        Life of the process, and the part of it that learns; None where no checkpoint tells when that is.
    """
    folder = CheckpointFolder(output)
    life_s, learning_s = spans_s
    while True:
        process = start(config, output, [*overrides, OFTEN], *(["--resume"] if folder.found else []))
        if tally.kills >= until:
            break
        if learning_s is None or moments.random() < 0.5:
            _wait(process, life_s * moments.random())
        else:
            _wait_for_checkpoint(process, folder.path / LATEST)
            _wait(process, learning_s * moments.random() / 2)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        tally.kills += 1
        tally.after_a_checkpoint += folder.found
        tally.while_writing += (folder.path / UNFINISHED).exists()
        if (output / METRICS).is_file():  # the run was complete, its process not yet over
            tally.hashes.append(json.loads((output / METRICS).read_text(encoding="utf-8"))["model_sha256"])
            return
    tally.hashes.append(finish(process)["model_sha256"])


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)


def _wait_for_checkpoint(process: subprocess.Popen[str], file: Path) -> None:
    """Until the process has written one."""
    before = _written(file)
    while _written(file) == before and process.poll() is None:
        time.sleep(0.001)


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _learning_s(run: Path) -> float:
    with (run / "history.csv").open(encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


if __name__ == "__main__":
    main()
