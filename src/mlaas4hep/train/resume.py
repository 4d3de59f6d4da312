"""A run that was interrupted: found, compared with what is asked for now, taken up or begun anew.

Used by `mlaas4hep.train.run`, first before anything is read and again when files and statistics are known. Invariant:
a training goes on only where config, model, files and statistics are those that it began with, or says what differs;
hours of learning are thrown away by ``--restart`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from mlaas4hep.backends.arrays import below
from mlaas4hep.backends.protocol import Learner, ResumableLearner
from mlaas4hep.backends.registry import Choice
from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.errors import ModelError, UserError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.checkpoint import CheckpointFolder, Saved
from mlaas4hep.train.interrupt import Interrupt
from mlaas4hep.train.output import free_path
from mlaas4hep.train.standing import Keeper, Standing, read_document, standing_of

Unfinished = Literal["refuse", "resume", "restart"]
Facts = Mapping[str, Any]
# Change speed, memory and safety only.
_FREE = frozenset({"training.checkpoint_s", "training.max_memory", "cache", "cache.path", "cache.limit", "duplicates"})
_WIDEST = 60


@dataclass(slots=True, eq=False)
class Attempt:
    """One go at a run.

    Parameters
    ----------
    target
        The run directory that will appear.
    folder
        Of its checkpoints.
    config, data
        What both say, by key; the data's part comes later.
    saved
        What it goes on from.
    """

    target: Path
    folder: CheckpointFolder
    config: Facts
    data: Facts = field(default_factory=dict)
    saved: Saved | None = None

    @contextmanager
    def kept(self, progress: Progress) -> Iterator[None]:
        """Around all that reads, learns and writes: when it ends well the checkpoint goes, else it is pointed to."""
        try:
            yield
        except BaseException as error:
            progress.close()
            if (self.folder.claimed or isinstance(error, KeyboardInterrupt)) and self.folder.found:
                progress.note(
                    f"kept in {self.folder.path}: {_described(self.folder)}. The same command with --resume goes on "
                    "from there, with --restart it begins anew"
                )
            self.folder.release()
            raise
        self.folder.remove()
        self.folder.release()

    def take_up(
        self,
        learner: Learner,
        *,
        title: str,
        packages: Mapping[str, str],
        every_s: float,
        interrupt: Interrupt,
        progress: Progress,
    ) -> tuple[Keeper | None, Standing]:
        """Bring a fresh learner to where the training stood, and keep it from now on.

        Parameters
        ----------
        learner
            Just built.
        title
            The model in words, for messages.
        packages
            Versions of the packages that compute.
        every_s
            Seconds between two checkpoints.
        interrupt, progress
            As in `Keeper`.

        Returns
        -------
        Who keeps it, None where the model cannot be resumed; and where the training stands.
        """
        if learner.capabilities.resume == "none":
            if self.saved is not None:
                raise _unable(title)
            return None, Standing()
        if not isinstance(learner, ResumableLearner):
            raise ModelError(f"model {title} declares resume '{learner.capabilities.resume}', but has no checkpoint()")
        self.folder.claim()
        keeper = Keeper(self.folder, learner, self.config, self.data, packages, every_s, interrupt, progress)
        if self.saved is None:
            self.folder.discard()
            return keeper, Standing()
        standing = standing_of(self.saved)
        try:
            learner.recover(below("learner", self.saved.arrays))
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{self.saved.file}: model {title} cannot take up what is kept there: {error}. Was another version of "
                "its framework used? Begin anew with --restart"
            ) from error
        progress.note(f"going on from {self.saved.file}: {standing}")
        if learner.capabilities.resume == "statistical":
            progress.note(f"model {title} goes on in distribution, not to the bit")
        for line in _other_packages(read_document(self.saved).packages, packages):
            progress.note(line)
        self.saved = None
        return keeper, standing

    def require_same_data(self, facts: Facts) -> None:
        """Note what the data says; `UserError` where it was other data that the training began with."""
        self.data = facts
        if self.saved is not None:
            require_equal(self.saved.file, read_document(self.saved).data, facts)


def begin(
    config: Config, *, output: str | Path | None, max_events: int | None, unfinished: Unfinished, progress: Progress
) -> Attempt:
    """Where a run goes and whether it may; asked before anything is read.

    Parameters
    ----------
    config
        What to train.
    output
        As for `mlaas4hep.train.run.train`.
    max_events
        Part of what must be equal.
    unfinished
        What to do with a run that was interrupted there: refuse to touch it, go on, or begin anew.
    progress
        Told of a damaged checkpoint.

    Raises
    ------
    UserError
        A run or an unfinished one is there, another process writes it now, or there is nothing to go on from.
    """
    if unfinished == "resume" and output is not None:
        _refuse_finished(Path(output))
    target = free_path(output, config.name)
    attempt = Attempt(target, CheckpointFolder(target), config_facts(config, max_events))
    attempt.folder.require_free()
    if unfinished == "resume":
        attempt.saved = _saved(attempt.folder)
        if attempt.saved.damage is not None:
            progress.note(f"{attempt.saved.damage}; the one before it is taken")
        require_equal(attempt.saved.file, read_document(attempt.saved).config, attempt.config)
    elif unfinished == "refuse" and attempt.folder.found:
        raise UserError(
            f"{attempt.folder.path}: this run was interrupted {_described(attempt.folder)}. Go on with --resume, begin "
            "anew with --restart, or give another -o"
        )
    return attempt


def refuse_unable(choice: Choice) -> None:
    """`ModelError` where a model that was asked to go on cannot; a user's file has to be run first."""
    if choice.backend is None or choice.file is not None:
        return
    if choice.backend.capabilities(choice.model).resume == "none":
        raise _unable(choice.title)


def _unable(title: str) -> ModelError:
    return ModelError(
        f"--resume: model {title} keeps no checkpoints: it learns from all events in one go. Start it without --resume"
    )


def data_facts(choice: Choice, catalogue: Catalogue, spec: ModelSpec, *, order: str) -> dict[str, Any]:
    """What files, statistics and the user's own source say; ``order`` is the fingerprint of the stream."""
    facts: dict[str, Any] = {}
    for sample in catalogue.samples:
        own = [file for file in catalogue.files if file.sample == sample.number]
        entries = sum(file.num_entries for file in own)
        facts[f"samples.{sample.name}"] = f"{entries:,} entries in {len(own)} file{'s' if len(own) != 1 else ''}"
    if choice.file is not None:
        facts["source of model.file"] = choice.file.sha256
    facts["order of events"] = order
    facts["left out"] = [str(one) for one in catalogue.quarantine.records]
    facts["statistics of the training part"] = spec.sha256
    return facts


def config_facts(config: Config, max_events: int | None) -> dict[str, Any]:
    """What a config says by key, without places of files: those may move."""
    plain = msgspec.to_builtins(config)
    features = plain.pop("features")
    features["inputs"] = {group["name"]: group for group in features["inputs"]}
    for sample in plain["samples"].values():
        del sample["files"], sample["friends"]
    del plain["path"], plain["model"]["file"], plain["tracking"]
    plain["model"] |= plain["model"].pop("dials")
    plain["--max-events"] = max_events
    facts = {key: value for key, value in _flat(plain | features) if key not in _FREE}
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def _flat(plain: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def require_equal(file: Path, then: Facts, now: Facts) -> None:
    """`UserError` that names each fact in which what a file kept differs from what is asked for now."""
    lines = [_difference(key, then.get(key), now.get(key)) for key in {**then, **now} if then.get(key) != now.get(key)]
    if not lines:
        return
    raise UserError(
        "\n".join(
            [
                f"{file}: was kept by a run that is not this one, so it cannot go on as this one:",
                *(f"  - {line}" for line in lines),
                "Put that back, or begin anew with --restart or another -o",
            ]
        )
    )


def _difference(key: str, then: Any, now: Any) -> str:
    before, after = _shown(then), _shown(now)
    if " " in key or len(before) + len(after) > _WIDEST:
        return f"{key}: not the same"
    return f"{key}: {before} then, {after} now"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "nothing" if value is None else json.dumps(value)


def _other_packages(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            before, after = then.get(name, "not installed"), now.get(name, "not installed")
            yield f"{name}: {before} then, {after} now; the last bits may differ from an undisturbed run"


def _saved(folder: CheckpointFolder) -> Saved:
    if folder.found:
        return folder.read()
    raise UserError(
        f"{folder.path}: no checkpoint to go on from{_there(folder)}. A training keeps one each "
        "training.checkpoint_s seconds, models that learn in one go (such as bdt) keep none; start it without --resume"
    )


def _there(folder: CheckpointFolder) -> str:
    """What else is in the folder of runs, in words."""
    parent = folder.target.parent
    runs = [one for one in sorted(parent.iterdir()) if one.is_dir()] if parent.is_dir() else []
    interrupted = [one.name[1 : -len(".checkpoint")] for one in runs if CheckpointFolder(_run_of(one)).found]
    finished = [one.name for one in runs if (one / "metrics.json").is_file()]
    words = [
        f"{kind}: {', '.join(names[:8])}"
        for kind, names in (("interrupted", interrupted), ("finished", finished))
        if names
    ]
    return f"; in {parent} are {'; '.join(words)}" if words else ""


def _run_of(path: Path) -> Path:
    """The run that a folder of checkpoints belongs to; nonsense for any other folder."""
    return path.with_name(path.name.removeprefix(".").removesuffix(".checkpoint"))


def _refuse_finished(target: Path) -> None:
    if (target / "metrics.json").is_file():
        # Killed between the rename of the run and the removal of its checkpoint.
        CheckpointFolder(target).remove()
        raise UserError(f"{target}: is finished, there is nothing to resume; look at {target / 'report.html'}")


def _described(folder: CheckpointFolder) -> str:
    """Where a training stood and when that was written, in words."""
    try:
        saved = folder.read()
        return f"{standing_of(saved)} ({read_document(saved).written})"
    except UserError:
        return "but what it kept cannot be read"
