"""A training in folds that is under way: finished folds beside the run directory, until all of them are.

::

    runs/.NAME.folds/facts.json      config and data that it began with
    runs/.NAME.folds/0/              the run of the first fold, whole
    runs/.NAME.folds/.1.checkpoint/  where the training of the second one stands

Invariant: a fold that was finished is not learned again, and one of other data or another config is never taken for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas4hep.config import Config
from mlaas4hep.errors import UserError
from mlaas4hep.progress import Progress
from mlaas4hep.train.checkpoint import CheckpointFolder
from mlaas4hep.train.output import free_path
from mlaas4hep.train.resume import Facts, Unfinished, config_facts, require_equal

_FACTS = "facts.json"


class _Folder(CheckpointFolder):
    """The folder beside one run directory; its lock is that of checkpoints."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self.path = target.parent / f".{target.name}.folds"

    @property
    def found(self) -> bool:
        return (self.path / _FACTS).is_file()


@dataclass(slots=True, eq=False)
class FoldFolder:
    """One go at a run of folds.

    Parameters
    ----------
    target
        The run directory that will appear.
    folds
        How many.
    """

    target: Path
    folds: int
    _config: Facts
    _folder: _Folder

    @classmethod
    def begin(
        cls, config: Config, *, output: str | Path | None, max_events: int | None, unfinished: Unfinished
    ) -> FoldFolder:
        """Where a run goes and whether it may; asked before anything is read.

        Raises
        ------
        UserError
            A run or an unfinished one is there, another process writes it now, or there is nothing to go on from.
        """
        target = free_path(output, config.name)
        folder = _Folder(target)
        made = cls(target, config.features.split.num_folds, config_facts(config, max_events), folder)
        folder.require_free()
        if unfinished == "resume":
            if not folder.found:
                raise UserError(f"{folder.path}: no training in folds to go on from; start it without --resume")
            require_equal(folder.path / _FACTS, made._kept()["config"], made._config)
        elif unfinished == "restart":
            folder.remove()
        elif folder.found:
            raise UserError(
                f"{folder.path}: this run was interrupted ({made}). Go on with --resume, begin anew with --restart, or "
                "give another -o"
            )
        return made

    def __str__(self) -> str:
        done = [number + 1 for number in range(self.folds) if self.finished(number)]
        return f"{len(done)} of {self.folds} folds finished"

    def path(self, fold: int) -> Path:
        """The run directory of a fold."""
        return self._folder.path / str(fold)

    def finished(self, fold: int) -> bool:
        """Whether its run is whole."""
        return (self.path(fold) / "metrics.json").is_file()

    def standing(self, fold: int) -> Unfinished:
        """How its training begins: from its checkpoint where there is one."""
        return "resume" if CheckpointFolder(self.path(fold)).found else "restart"

    def claim(self, data: Facts) -> None:
        """Keep others out, and note what the data says.

        Raises
        ------
        UserError
            Another process trains this run, or it was other data that the folds were trained with.
        """
        self._folder.claim()
        file = self._folder.path / _FACTS
        facts: dict[str, Any] = json.loads(json.dumps({"config": self._config, "data": data}))
        if self._folder.found:
            require_equal(file, self._kept()["data"], facts["data"])
            return
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
        draft.replace(file)

    def _kept(self) -> dict[str, Any]:
        file = self._folder.path / _FACTS
        try:
            kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); begin anew with --restart") from error
        return kept

    @contextmanager
    def kept(self, progress: Progress) -> Iterator[None]:
        """Around all that reads, learns and writes: when it ends well the folder goes, else it is pointed to."""
        try:
            yield
        except BaseException:
            progress.close()
            if self._folder.claimed:
                progress.note(
                    f"kept in {self._folder.path}: {self}. The same command with --resume goes on from there, with "
                    "--restart it begins anew"
                )
            self._folder.release()
            raise
        self._folder.remove()
        self._folder.release()

    def copy_to(self, folder: Path) -> None:
        """The finished runs into a folder that is made; they stay here too until the run is complete."""
        folder.mkdir()
        for number in range(self.folds):
            shutil.copytree(self.path(number), folder / str(number))
