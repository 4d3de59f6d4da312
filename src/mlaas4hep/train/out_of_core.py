"""Learning from disk: models that read their training part many times over, without holding it in memory.

Events are read once from their files and laid out as rows in a temporary folder; TMPDIR says where, and a folder in
memory (tmpfs) would defeat the purpose. Invariant: refused with the number before anything is read where memory or disk
do not suffice; nothing is left on disk, whatever happens.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from mlaas4hep.backends.protocol import OutOfCoreLearner
from mlaas4hep.backends.spool import Spool, record_type, write_spool
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.progress import Progress
from mlaas4hep.train.callbacks import History, describe
from mlaas4hep.train.loop import Part, rounds_history
from mlaas4hep.train.memory import size_text


def learn_out_of_core(
    learner: OutOfCoreLearner,
    train: Part,
    validation: Part | None,
    *,
    width: int,
    patience: int,
    max_memory: int,
    title: str,
    progress: Progress,
) -> History:
    """Rows to disk, one fit on them.

    Parameters
    ----------
    learner
        Learns from pages.
    train, validation
        Parts with training weights, in the order that is learned; the validation part says when to stop.
    width
        W, length of the flat view.
    patience
        Passed on; a learner may have a dial of its own for its rounds.
    max_memory
        Bytes.
    title
        The model in words, for messages.
    progress
        Told event by event while the rows are written.

    Raises
    ------
    ModelError
        The estimate is above ``max_memory``, or above what is free on disk.
    DataError
        There are more or fewer events than the scan found.
    """
    started = time.perf_counter()
    held = validation.events if validation else 0
    _require_memory(learner, train.events, held, max_memory=max_memory, title=title)
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as name:
        folder = Path(name)
        row = record_type(width, _targets_of(train)).itemsize
        _require_disk(learner, train.events, held, row=row, folder=folder, title=title)
        progress.start("collecting events on disk", total=train.events + held)
        pages = _spool(learner, train, folder / "train.rows", width=width, progress=progress)
        check = (
            _spool(learner, validation, folder / "validation.rows", width=width, progress=progress)
            if validation
            else None
        )
        progress.close()
        progress.start(f"learning {title} from {len(pages):,} events", unit="rounds")
        own = folder / "learner"
        own.mkdir()
        rounds = learner.fit(pages, check, patience=patience, folder=own)
        progress.close()
    history = rounds_history(rounds, train.events, time.perf_counter() - started)
    progress.note(describe(history.records[: history.best_epoch], unit=history.unit))
    return history


def _spool(learner: OutOfCoreLearner, part: Part, path: Path, *, width: int, progress: Progress) -> Spool:
    spool = write_spool(
        path, part.learned(0), view=learner.view, width=width, targets=_targets_of(part), update=progress.update
    )
    if len(spool) != part.events:
        raise DataError(
            f"{len(spool):,} events instead of the {part.events:,} that the scan found; have the files changed?"
        )
    return spool


def _require_memory(learner: OutOfCoreLearner, rows: int, held: int, *, max_memory: int, title: str) -> None:
    needed = learner.memory_estimate(rows, held)
    if needed > max_memory:
        raise ModelError(
            f"model {title} reads its events from disk, but keeps what it learns with of all {rows + held:,} in "
            f"memory: about {size_text(needed)}, and training.max_memory allows {size_text(max_memory)}. Raise it, "
            "take fewer events (--max-events), or a model that streams, such as mlp"
        )


def _targets_of(part: Part) -> int:
    """T of a regression, else 0."""
    return 0 if part.targets is None else len(part.targets.scale)


def _require_disk(learner: OutOfCoreLearner, rows: int, held: int, *, row: int, folder: Path, title: str) -> None:
    needed = (rows + held) * row + learner.disk_estimate(rows, held)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"model {title} needs about {size_text(needed)} on disk for {rows + held:,} events, and {folder.parent} "
            f"has {size_text(free)} free. Set TMPDIR to a larger folder, take fewer events (--max-events), or a model "
            "that streams, such as mlp"
        )
