"""From a config to a run directory: files, scan, contract, learning, bundle, first figures and pictures.

::

    RUN/config.yaml    the config as it was used
    RUN/metrics.json   every figure of the training
    RUN/history.csv    loss by epoch
    RUN/report.html    the page; its pictures are in RUN/pictures
    RUN/model/NAME/    the bundle: one version of a model repository

The test part is left alone: `mlaas4hep.train.evaluate` opens it, once.

Invariant: the directory appears when everything in it is written, or not at all; two runs of one config and one seed
give the same contract and the same graph, hash by hash.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from mlaas4hep.arguments import require, text_path, whole, word
from mlaas4hep.backends.protocol import Learner, StreamingLearner, Task, reference_of
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.weights import refuse_negative
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.write import write_bundle
from mlaas4hep.config import Config
from mlaas4hep.config.values import MOST_SEED
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.weights import training_sums
from mlaas4hep.errors import UserError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.spec.targets import TargetScaler
from mlaas4hep.train import loop
from mlaas4hep.train.beside import read_beside
from mlaas4hep.train.callbacks import History, Watch
from mlaas4hep.train.figures import Judgement, held_out, judge_parts, plain
from mlaas4hep.train.interrupt import Interrupt
from mlaas4hep.train.learning import learn
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.lost import lost_since
from mlaas4hep.train.output import REPORT_FOLDER, draft_folder, write_report, write_run
from mlaas4hep.train.provenance import own_sources, versions
from mlaas4hep.train.resume import Attempt, Unfinished, begin, data_facts, refuse_unable
from mlaas4hep.train.run_plan import RunPlan, facts_of, parity_rows, prepare
from mlaas4hep.train.tracking import Tracks, require_address

MODEL_FOLDER = "model"


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What a run left behind.

    Parameters
    ----------
    path
        The run directory.
    bundle
        The model, checked.
    metrics
        Content of ``metrics.json``.
    history
        Losses by epoch.
    """

    path: Path
    bundle: Bundle
    metrics: dict[str, Any]
    history: History

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"


def train(
    config: Config,
    *,
    output: str | Path | None = None,
    seed: int | None = None,
    max_events: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished = "refuse",
    rescan: bool = False,
    on_epoch: Watch | None = None,
    on_judged: Callable[[dict[str, Any]], None] | None = None,
) -> RunResult:
    """Train the model of a config; the test part stays closed. With ``split.folds`` one model a fold, and their mean.

    Parameters
    ----------
    config
        As read from a file.
    output
        The run directory, which must not be there yet; ``runs/NAME`` (or ``NAME-2``, ...) where None.
    seed
        Instead of the config's ``training.seed``.
    max_events
        Entries to read in all, shared among the samples; for a quick look.
    threads
        That read ahead; changes speed only.
    progress
        Told how far it is.
    unfinished
        What to do with a run of this name that was interrupted: refuse, ``resume`` it (only with the same config, files
        and statistics) or ``restart``. A run that is resumed ends with the weights of one that was not interrupted, as
        far as the model declares it.
    rescan
        Scan the events even where statistics of the same files and declaration are kept from an earlier run.
    on_epoch
        Told each epoch of a model that learns batch by batch; what it raises ends the run, of which nothing is left but
        a checkpoint. Not with folds, nor is ``on_judged``.
    on_judged
        Told the figures before anything is drawn and written; the same holds for what it raises.

    Raises
    ------
    UserError
        Whatever is wrong with the config, the files, the model or the directory. Nothing is left behind, except a
        checkpoint beside the run directory where one had been written by then.
    ParityError
        The exported graph does not give the framework's scores; nothing else is left behind either.
    Interrupted
        A `KeyboardInterrupt`, by Ctrl-C or another signal, heard in the main thread only. A model that can be resumed
        ends between two batches, and what it learned is kept.
    """
    require(config, Config, "config", hint="read_config('config.yaml') reads one")
    word(unfinished, "unfinished", get_args(Unfinished))
    for name, number in (("max_events", max_events), ("threads", threads)):
        if number is not None:
            whole(number, name, least=-(2**63))  # what is too little is told with what it is for
    if output is not None:
        text_path(output, "output")
    if seed is not None:
        seed = whole(seed, "seed", most=MOST_SEED)
    told = progress or Silent()
    if seed is not None:
        config = replace(config, training=replace(config.training, seed=seed))
    settings: dict[str, Any] = {"threads": threads, "progress": told, "unfinished": unfinished, "rescan": rescan}
    if not config.features.split.in_folds:
        settings |= {"on_epoch": on_epoch, "on_judged": on_judged}
        return train_one(config, output=output, max_events=max_events, **settings)
    from mlaas4hep.train.folds import train_folds  # which comes back here for each of them

    if on_epoch is not None or on_judged is not None:
        raise UserError(
            f"{config.path}: on_epoch and on_judged are told of one training, and split.folds makes "
            f"{config.features.split.num_folds}; leave them out, or train one fold (split.fold)"
        )
    return train_folds(config, output=output, max_events=max_events, **settings)


def train_one(
    config: Config,
    *,
    output: str | Path | None,
    max_events: int | None,
    threads: int | None,
    progress: Progress,
    unfinished: Unfinished,
    rescan: bool,
    on_epoch: Watch | None = None,
    on_judged: Callable[[dict[str, Any]], None] | None = None,
    tracked_as: Path | None = None,
) -> RunResult:
    """One model: of a config without folds, or of one of them; parameters and errors are those of `train`.

    ``tracked_as`` is the run directory by which trackers know it, where that is not its own.
    """
    started = time.perf_counter()
    choice = choose(config.model, where=config.path)
    if unfinished == "resume":
        refuse_unable(choice)
    require_address(config)
    attempt = begin(config, output=output, max_events=max_events, unfinished=unfinished, progress=progress)
    with Interrupt() as interrupt, attempt.kept(progress):
        plan = prepare(config, choice, max_events=max_events, threads=threads, rescan=rescan, progress=progress)
        known = tracked_as or attempt.target
        with Tracks(config, known, resumed=unfinished == "resume", progress=progress) as tracks:
            plan = dataclasses.replace(plan, on_epoch=tracks.watching(on_epoch), on_judged=on_judged)
            result = _run(plan, attempt, interrupt, progress, started)
            tracks.result(result.metrics, result.history, result.bundle, result.path)
        return result


def _run(plan: RunPlan, attempt: Attempt, interrupt: Interrupt, told: Progress, started: float) -> RunResult:
    """Learn, judge, write."""
    target, config = attempt.target, plan.config
    learner, history = _learn(plan, attempt, interrupt, told)
    plan = plan.corrected()
    for line in lost_since(plan.scanned):
        told.note(str(line))
    learned = time.perf_counter()
    core = learner.export()
    judgement = _judge(plan, core, told)
    with draft_folder(target) as draft:
        seconds = {"total": time.perf_counter() - started, "until_learned": learned - started}
        metrics = _metrics(plan, core, judgement, history, seconds)
        if plan.on_judged is not None:
            plan.on_judged(metrics)
        write_report(draft, metrics, history, judgement.curves, held=judgement.parts.get("validation"))
        bundle = _write_bundle(draft, plan, learner, core)
        metrics |= {"spec_sha256": bundle.spec_sha256, "model_sha256": bundle.model_sha256}
        metrics["seconds"]["total"] = round(time.perf_counter() - started, 3)
        write_run(draft, config, metrics)
    name = target / MODEL_FOLDER / bundle.path.parent.name / bundle.path.name
    return RunResult(target, load_bundle(name), metrics, history)


def _learn(plan: RunPlan, attempt: Attempt, interrupt: Interrupt, progress: Progress) -> tuple[Learner, History]:
    learner = plan.choice.build(Task.of(plan.spec, seed=plan.seed))
    scaler = TargetScaler(plan.spec.targets) if plan.spec.targets else None
    _refuse_negative(plan, learner)
    with ExitStack() as stack:
        streams = isinstance(learner, StreamingLearner)
        stream = stack.enter_context(plan.dataset("train", training=True, shuffle=streams))
        validation = None
        if plan.events["validation"]:
            check = stack.enter_context(plan.dataset("validation", training=True))
            validation = loop.Part(check, plan.events["validation"], scaler)
        attempt.require_same_data(data_facts(plan.choice, plan.catalogue, plan.spec, order=stream.fingerprint))
        keeper, standing = attempt.take_up(
            learner,
            title=plan.choice.title,
            packages=versions(),
            every_s=plan.config.training.checkpoint_s,
            interrupt=interrupt,
            progress=progress,
        )
        history = learn(
            learner,
            loop.Part(stream, plan.events["train"], scaler),
            validation,
            settings=plan.config.training,
            width=sum(group.width for group in plan.spec.scaling),
            title=plan.choice.title,
            keeper=keeper,
            standing=standing,
            interrupt=interrupt,
            progress=progress,
            on_epoch=plan.on_epoch,
        )
        if left := stream.not_cached:
            progress.note(f"cache: {len(left)} files had no room in it and were read each epoch, such as {left[0]}")
    return learner, history


def _refuse_negative(plan: RunPlan, learner: Learner) -> None:
    """Before the first step rather than at the first batch that holds one."""
    classes = training_sums(plan.spec.statistics, plan.spec.classes)
    negative = sum(one.negative for one in classes.values())
    if learner.capabilities.negative_weights or not negative or plan.spec.features.weights.training == "none":
        return
    refuse_negative(plan.choice.title, negative=negative, events=sum(one.events for one in classes.values()))


def _judge(plan: RunPlan, core: Core, progress: Progress) -> Judgement:
    """By the graph that will be served, on the parts that learning has seen."""
    session = Session(merge(plan.spec, core))
    with ExitStack() as stack:
        streams: dict[str, tuple[Iterable[Batch], int]] = {}
        for part, events in plan.events.items():
            if events and part != "test":
                dataset = stack.enter_context(plan.dataset(part, training=False, shuffle=part == "train"))
                streams[part] = (dataset, events)
        observe = partial(_observers, plan, progress) if plan.config.features.observers else None
        return judge_parts(session.run, plan.spec, streams, progress=progress, observe=observe)


def _observers(plan: RunPlan, progress: Progress, judged: Judged) -> NDArray[np.float64]:
    """Of the validation part."""
    features = plan.config.features
    found = read_beside(
        plan.catalogue,
        features,
        features.observers,
        judged,
        part="validation",
        threads=plan.threads,
        max_memory=plan.config.training.max_memory_bytes,
        progress=progress,
    )
    return found.values


def _metrics(
    plan: RunPlan, core: Core, judgement: Judgement, history: History, seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        **held_out(judgement),
        "training_weights": plan.config.features.weights.training,
        "events": plan.events,
        "parts": plain(judgement),
        "missing_inputs": core.missing,
        "best_epoch": history.best_epoch,
        "epochs": len(history.records),
        "epoch_unit": history.unit,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        **facts_of(plan),
    }


def _write_bundle(draft: Path, plan: RunPlan, learner: Learner, core: Core) -> Bundle:
    rows = parity_rows(plan)
    spec = plan.spec.with_provenance(plan.begun.told(plan.catalogue, plan.files))
    return write_bundle(
        draft / MODEL_FOLDER,
        spec=spec,
        core=core,
        reference=reference_of(learner),
        rows=rows,
        native={**plan.choice.native(learner), **own_sources(plan.catalogue)},
        report=draft / REPORT_FOLDER,
    )
