"""``mlaas4hep quickstart``: from ROOT files through training to an answer over HTTP, on simulated events of our own.

Every step is the command of the same name, so what it shows is what a user's own analysis does. Invariant: the figures
it ends with were computed in this run; nothing is kept from an earlier one.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.bundle import Bundle
    from mlaas4hep.client import Client
    from mlaas4hep.config import Config
    from mlaas4hep.spec.columns import Columns
    from mlaas4hep.train.evaluate import EvaluatedRun

EVENTS_A_FILE = 300
_START_S = 60.0


@click.command(
    epilog="""\b
Examples:
  mlaas4hep quickstart                      # writes runs/quickstart
  mlaas4hep quickstart --seed 1             # another split, another start of the models
  mlaas4hep quickstart --json | tail -1     # one line of figures for scripts

\b
Afterwards, the same step by step:
  mlaas4hep inspect examples/tth/data/*.root
  mlaas4hep train examples/tth/config.yaml
  mlaas4hep evaluate runs/tth
  mlaas4hep serve runs/quickstart/mlp/model/tth
"""
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of its runs.  [default: runs/quickstart]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, order and models.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON line of figures on standard output.")
@click.option("--progress/--no-progress", default=None, help="Draw bars.  [default: on a terminal]")
def command(output: Path | None, seed: int, as_json: bool, progress: bool | None) -> None:
    """The whole story on a small real sample, in a minute.

    All-hadronic ttH(bb) against ttbar and QCD at 13 TeV, simulated with Pythia 8: read the ROOT files, train a network
    batch by batch and boosted trees beside it, judge both on events they never saw, serve the network and ask it by
    column name.
    """
    import json

    figures = _story(output, seed, progress, Tell(to_stderr=as_json))
    if as_json:
        click.echo(json.dumps(figures))


class Tell:
    """Says what happens; on standard error where standard output is for figures."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._started = time.perf_counter()

    def __call__(self, text: str) -> None:
        click.echo(text, err=self._to_stderr)

    def step(self, text: str) -> None:
        """A new step, with the time since the start."""
        self(f"\n[{time.perf_counter() - self._started:4.0f} s] {text}")


def _story(output: Path | None, seed: int, progress: bool | None, tell: Tell) -> dict[str, Any]:
    from mlaas4hep.config import read_config
    from mlaas4hep.examples import example_folder
    from mlaas4hep.train.compare import compare
    from mlaas4hep.train.output import free_path
    from mlaas4hep.train.reference import reference_auc

    folder = free_path(output, "quickstart")
    source = example_folder("tth") / "config.yaml"
    seeds = [f"training.seed={seed}", f"split.seed={seed}"]
    config = read_config(source, overrides=seeds)
    tell.step(f"Files and config: {source}")
    tell(_files(config))
    network, bundle = _train(config, folder / "mlp", "a network, batch by batch", progress, tell)
    boosting = read_config(source, overrides=[*seeds, "model=bdt"])
    trees, _ = _train(boosting, folder / "bdt", "boosted trees, in memory", progress, tell)
    compared = compare([network, trees], output=folder / "comparison")
    tell.step("Default boosting of scikit-learn on the same rows and columns, to compare")
    reference = reference_auc(config)
    tell(f"AUC {reference.value:.4f} +- {reference.error:.4f}")
    tell.step("Serve the network and ask it over HTTP by column name")
    difference, events = _serve_and_compare(bundle, config, tell)
    tell.step("Done")
    tell(_summary(network, trees, reference.value, bundle, compared))
    return {
        "auc": network.evaluation.auc,
        "auc_err": network.evaluation.auc_err,
        "auc_bdt": trees.evaluation.auc,
        "auc_reference": reference.value,
        "events": network.metrics["entries_read"],
        "events_test": network.metrics["events"]["test"],
        "served_minus_offline_max": difference,
        "events_served": events,
        "report": str(network.report.absolute()),
        "comparison": str(compared.absolute()),
        "spec_sha256": bundle.spec_sha256,
        "model_sha256": bundle.model_sha256,
        "seed": seed,
    }


def _files(config: Config) -> str:
    from mlaas4hep.data.catalogue import Catalogue

    catalogue = Catalogue.open(config)
    lines = [f"{catalogue}"]
    for sample in catalogue.samples:
        files = [file for file in catalogue.files if file.sample == sample.number]
        entries = sum(file.num_entries for file in files)
        lines.append(f"  {sample.name:<8}{entries:>7,} entries, {len(files)} files, {catalogue.classes[sample.label]}")
    return "\n".join(lines)


def _train(config: Config, path: Path, words: str, progress: bool | None, tell: Tell) -> tuple[EvaluatedRun, Bundle]:
    """``train`` and, right after it, ``evaluate``."""
    from mlaas4hep.cli.progress import Bars
    from mlaas4hep.train.evaluate import evaluate
    from mlaas4hep.train.run import train

    tell.step(f"Train {config.model.name}: {words}")
    bars = Bars(show=progress)
    try:
        result = train(config, output=path, progress=bars, unfinished="restart")
        tell(f"AUC {result.metrics['auc']:.4f} +- {result.metrics['auc_err']:.4f} on the validation part")
        tell.step(f"Evaluate {config.model.name}: open its test part")
        evaluated = evaluate(path, progress=bars)
    finally:
        bars.close()
    tell(_judged(evaluated))
    return evaluated, result.bundle


def _judged(run: EvaluatedRun) -> str:
    from mlaas4hep.cli.evaluate import describe

    return "\n".join(describe(run))


def _serve_and_compare(bundle: Bundle, config: Config, tell: Tell) -> tuple[float, int]:
    """Largest difference between served and offline scores, and how many events were compared."""
    import numpy as np

    from mlaas4hep.client import Client
    from mlaas4hep.data.catalogue import Catalogue

    differences = [0.0]
    compared = 0
    with _server(bundle.path.parent) as url, Client(url) as client:
        for number, file in enumerate(Catalogue.open(config).files):
            entries = min(EVENTS_A_FILE, file.num_entries)
            with file.open() as source:
                columns = source.read(sorted(bundle.spec.columns), 0, entries)
            served = _ask(client, bundle, columns, entries)
            offline, selected = bundle.score(columns, entries)
            if number == 0:
                _show(url, bundle, columns, served, tell)
            differences.append(float(np.abs(served[selected] - offline).max(initial=0.0)))
            if np.isnan(served[selected]).any() or not np.isnan(served[~selected]).all():
                differences.append(float("inf"))
            compared += entries
    tell(f"{compared:,} events asked over HTTP; largest difference to the offline score: {max(differences):g}")
    return max(differences), compared


def _ask(client: Client, bundle: Bundle, columns: Columns, entries: int) -> Any:
    """Served scores float32 [N, C]; NaN where an event is not selected."""
    import numpy as np

    events = _instances(columns, range(entries))
    scores = np.full((entries, len(bundle.spec.score_names)), np.nan, dtype=np.float32)
    for row, one in zip(scores, client.predict(bundle.name, events), strict=True):
        if one is not None:
            row[:] = [one[name] for name in bundle.spec.score_names]
    return scores


def _instances(columns: Columns, entries: range) -> list[dict[str, Any]]:
    """Events as a user sends them: column name to value, a list for a jagged column."""
    from mlaas4hep.spec.columns import slice_columns

    plain = {name: column.tolist() for name, column in slice_columns(columns, entries.start, entries.stop).items()}
    return [{name: values[i] for name, values in plain.items()} for i in range(len(entries))]


def _show(url: str, bundle: Bundle, columns: Columns, served: Any, tell: Tell) -> None:
    """One question and its answer, as they go over the wire."""
    import json
    import math

    event = _instances(columns, range(1))[0]
    shown = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in event.items()}
    text = json.dumps({"instances": [shown]})
    tell(f"POST {url}/v1/models/{bundle.name}:predict")
    tell(f"  {text[:150]}{'...' if len(text) > 150 else ''}")
    tell(f"  -> {bundle.spec.score_names[0]} {served[0, 0]:.6g}")


@contextmanager
def _server(path: Path) -> Iterator[str]:
    """``mlaas4hep serve`` as a process of its own on a free port; gives its URL, and ends it."""
    import json
    import subprocess

    from mlaas4hep.errors import ServerError

    command_line = [sys.executable, "-m", "mlaas4hep", "serve", str(path), "--port", "0", "--json"]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ServerError(f"mlaas4hep serve did not start: {process.communicate(timeout=_START_S)[1].strip()}")
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.communicate(timeout=_START_S)


def _summary(network: EvaluatedRun, trees: EvaluatedRun, reference: float, bundle: Bundle, compared: Path) -> str:
    rows = [
        ("network (mlp)", network.evaluation.auc),
        ("boosted trees (bdt)", trees.evaluation.auc),
        ("scikit-learn's default boosting", reference),
    ]
    table = "\n".join(f"  {name:<34}AUC {value:.4f}" for name, value in rows)
    return "\n".join(
        [
            f"{table}   (each +- about {network.evaluation.auc_err:.4f})",
            f"Page:     {network.report.absolute()}",
            f"Compared: {compared.absolute()}",
            f"Bundle:   {bundle.path.parent}",
            f"Serve it: {program()} serve {shlex.quote(str(bundle.path.parent))}",
            f"Runs:     {network.path.parent}",
        ]
    )


def program() -> str:
    """What to type for this program: its name where the shell finds it by that, else its path."""
    own = Path(sys.executable).with_name("mlaas4hep")
    found = shutil.which(own.name)
    if found is not None and (not own.exists() or own.samefile(found)):
        return own.name
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m mlaas4hep"
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))
