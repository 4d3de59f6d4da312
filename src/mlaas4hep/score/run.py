"""Files in, scored files out: `score_files`, and what became of each.

Inputs one after the other; what is finished already stays as it is. Invariant: an output appears under its name once it
is whole, with a row for each entry of its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import whole
from mlaas4hep.config import OnError
from mlaas4hep.data.inputs import open_inputs
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.quarantine import Quarantine, Skipped
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.score.alignment import Digest
from mlaas4hep.score.asked import Asked
from mlaas4hep.score.destination import destination, exists
from mlaas4hep.score.names import OutputColumn
from mlaas4hep.score.outputs import NAME, Output, base_of, friends_of, outputs_of
from mlaas4hep.score.program import Program
from mlaas4hep.score.reading import STRETCH_ENTRIES, Block, Reader
from mlaas4hep.score.stamp import ScoredBy, Stamp, Unreadable
from mlaas4hep.score.writers import COPY, TABLE, Format, Layout, format_for, format_of

PART_ENTRIES = 65_536
"""Entries that are written at once: a basket, cluster or row group has at least so many."""


@dataclass(frozen=True)
class Scored:
    """One output.

    Parameters
    ----------
    path, input
        Names of both.
    stamp
        What it says of itself.
    before
        Whether it was finished by an earlier run.
    """

    path: str
    input: str
    stamp: Stamp
    before: bool


@dataclass(frozen=True)
class Result:
    """What became of all inputs.

    Parameters
    ----------
    outputs
        In the order of the inputs.
    skipped
        What could not be read and was left out.
    """

    outputs: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Manner:
    """How outputs are written.

    Parameters
    ----------
    format
        One of `mlaas4hep.score.writers.FORMATS`.
    name
        Template of their names.
    table
        Name of the table in them.
    drop
        As of `mlaas4hep.score.writers.Layout`.
    overwrite
        Whether outputs of other inputs or models are replaced.
    """

    format: str = "ttree"
    name: str = NAME
    table: str = TABLE
    drop: tuple[str, ...] = ()
    overwrite: bool = False


def score_files(
    asked: Asked,
    files: Sequence[str],
    output: str,
    *,
    tree: str | None = None,
    friends: Sequence[str] = (),
    manner: Manner | None = None,
    on_error: OnError | None = None,
    threads: int = 2,
    stretch: int = STRETCH_ENTRIES,
    progress: Progress | None = None,
) -> Result:
    """Score every entry of some files, and write an output for each.

    Parameters
    ----------
    asked
        Models and columns; see `mlaas4hep.score.asked.ask`.
    files
        Paths, addresses, wild cards, lists of files.
    output
        A folder; see `mlaas4hep.score.outputs.outputs_of`.
    tree
        Name of the table in the inputs; None takes that of the training, else ``Events``, else the only one.
    friends
        Templates of files whose trees stand beside that of an input; see `mlaas4hep.score.outputs.friends_of`.
    manner
        How outputs are written.
    on_error
        What happens where an input cannot be read. Entries that are left out have no score in the output; files that
        cannot be opened have no output.
    threads
        That read and score ahead; 0 works in this one. Changes time alone.
    stretch
        Entries that a thread reads at a time. Changes time and memory alone.
    progress
        Told entry by entry.

    Raises
    ------
    DataError
        Inputs that cannot be read or do not fit the models, an output that is there already and is of something else,
        or cannot be written. Outputs that were finished before stay.
    """
    manner, told = manner or Manner(), progress or Silent()
    format_of(manner.format)  # says what is wrong with it before anything is opened
    threads = whole(threads, "threads", error=DataError)
    if manner.drop and manner.format != COPY:
        raise UserError(f"--drop is of copies, and --format {manner.format} copies nothing: leave it out")
    quarantine = Quarantine(on_error or OnError())
    told.start("opening files", unit="files")
    inputs = open_inputs(
        files,
        tree,
        quarantine,
        likely=likely_trees(asked),
        friends=friends_of(friends),
        look=lambda source: Program.of(asked, source),
        progress=told.update,
    )
    told.close()
    formats = {one.number: format_for(manner.format, one) for one in inputs}
    outputs = outputs_of(inputs, output, name=manner.name, suffix=lambda one: formats[one.number].suffix)
    jobs = [Job(asked, one, formats[one.input.number], manner) for one in outputs]
    finished = {job.output.path: found for job in jobs if (found := job.finished()) is not None}
    left = [job for job in jobs if job.output.path not in finished]
    pool = SourcePool()
    told.start("scoring", total=sum(job.output.input.num_entries for job in left))
    try:
        for job in left:
            settings: dict[str, Any] = {"threads": threads, "stretch": stretch, "progress": told}
            finished[job.output.path] = job.run(pool, quarantine, **settings)
    finally:
        pool.close()
        told.close()
    return Result(tuple(finished[one.path] for one in outputs), quarantine.records)


def likely_trees(asked: Asked) -> tuple[str, ...]:
    """Names of the tables that the models learned from, and what experiments call theirs."""
    known = [one.get("tree") for model in asked.models for one in model.bundle.spec.provenance.get("files", ())]
    return tuple(dict.fromkeys([*(one for one in known if one), "Events"]))


@dataclass(frozen=True, eq=False)
class Job:
    """One input on its way to an output."""

    asked: Asked
    output: Output
    format: Format
    manner: Manner

    @property
    def work(self) -> str:
        """Hash of all that the output depends on."""
        file = self.output.input
        layout = (self.manner.format, self.manner.table, *self.manner.drop)
        return self.asked.work(input=file.identity, tree=file.tree, layout=layout)

    def finished(self) -> Scored | None:
        """The output, if it is there and is that of this job.

        Raises
        ------
        DataError
            It is of something else, and may not be replaced.
        """
        if not exists(self.output):
            return None
        try:
            stamp = self._stamp()
        except DataError as error:
            if self.manner.overwrite:
                return None
            raise DataError(
                f"{self.output.shown}: is there and was not written by 'score': {error}{_WAY_OUT}"
            ) from error
        if stamp.work == self.work:
            return Scored(self.output.shown, self.output.input.path, stamp, True)
        if self.manner.overwrite:
            return None
        raise DataError(f"{self.output.shown}: is there and is of other work: {self._other(stamp)}{_WAY_OUT}")

    def _stamp(self) -> Stamp:
        found = self.format.stamp(self.output.path)
        if found is None:
            raise DataError("it says nothing of scores")
        return Stamp.from_json(found, where=self.output.shown)

    def _other(self, stamp: Stamp) -> str:
        hashes = [(one.spec_sha256, one.model_sha256) for one in stamp.models]
        if hashes != [(one.bundle.spec_sha256, one.bundle.model_sha256) for one in self.asked.models]:
            return f"of the models {', '.join(f'{one.name} ({one.model_sha256[:12]}...)' for one in stamp.models)}"
        if (stamp.input, stamp.tree) != (base_of(self.output.input.path), self.output.input.tree):
            return f"of the input {stamp.input}, tree '{stamp.tree}'"
        return "of an earlier state of its input, or with other columns"

    def run(
        self, pool: SourcePool, quarantine: Quarantine, *, threads: int, stretch: int, progress: Progress
    ) -> Scored:
        """Read, score and write."""
        file = self.output.input
        with pool.source(file) as source:
            program = Program.of(self.asked, source)
            known = frozenset(source.columns) - set(self.manner.drop) if self.format.whole else frozenset()
        reader = Reader(file, program, pool, quarantine)
        digest = Digest(program.teller.identity)
        counts = dict.fromkeys((one.selected for one in program.passes), 0)
        # A copy has what the input has: only what is new is added.
        columns = tuple(one for one in program.columns if one.kind in ("score", "selected") or one.name not in known)
        types = {one.name: program.types[one.name] for one in columns}
        parts = -(-file.num_entries // PART_ENTRIES) + 1
        with destination(self.output) as part:
            layout = Layout(self.manner.table, types, file.num_entries, parts, file, self.work, self.manner.drop)
            blocks = reader.blocks(threads=threads, stretch=stretch)
            with closing(blocks), closing(self.format.begin(part.file, layout)) as writer:
                for values in gathered(_watched(blocks, digest, counts, program, progress)):
                    writer.append({name: values[name] for name in types})
                stamp = self._told(program, columns, digest, counts, quarantine)
                if stamp.alignment.entries != file.num_entries:
                    raise DataError(f"{file.path}: {stamp.alignment.entries} of {file.num_entries} entries came")
                writer.finish(stamp.to_json())
            part.publish()
        return Scored(self.output.shown, file.path, stamp, False)

    def _told(
        self,
        program: Program,
        columns: tuple[OutputColumn, ...],
        digest: Digest,
        counts: dict[str, int],
        quarantine: Quarantine,
    ) -> Stamp:
        file = self.output.input
        nominal: dict[Any, int] = {}
        for one in program.passes:
            nominal.setdefault(one.bundle.path, counts[one.selected])
        models = tuple(
            ScoredBy(
                one.bundle.name,
                one.bundle.version,
                one.bundle.spec.task,
                one.bundle.spec_sha256,
                one.bundle.model_sha256,
                one.folds is not None,
                nominal[one.bundle.path],
            )
            for one in self.asked.models
        )
        lost = [one for one in quarantine.records if one.path == file.path and one.start is not None]
        unreadable = tuple(Unreadable(one.start or 0, one.stop or 0, one.reason) for one in lost)
        fill = None if math.isnan(self.asked.fill) else self.asked.fill
        return Stamp(
            base_of(file.path),
            file.tree,
            self.format.table(self.manner.table, file),
            digest.alignment(),
            models,
            columns,
            fill,
            unreadable,
            self.work,
        )


_WAY_OUT = "; choose another -o or --name, or replace it with --overwrite"


def _watched(
    blocks: Iterator[Block], digest: Digest, counts: dict[str, int], program: Program, progress: Progress
) -> Iterator[Block]:
    """The same blocks, counted on their way."""
    shown = tuple(program.teller.shown)
    for block in blocks:
        digest.add(block.hashes, {name: block.values[name] for name in shown})
        for name in counts:
            counts[name] += int(np.count_nonzero(block.values[name]))
        yield block
        progress.update(block.entries)


def gathered(blocks: Iterable[Block], least: int = PART_ENTRIES) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of blocks joined to at least so many entries; fewer at the end, and nothing of no entries."""
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if sum(one.entries for one in held) >= least:
            yield _joined(held)
            held = []
    if any(one.entries for one in held):
        yield _joined(held)


def _joined(blocks: Sequence[Block]) -> dict[str, NDArray[Any]]:
    if len(blocks) == 1:
        return blocks[0].values
    return {name: np.concatenate([one.values[name] for one in blocks]) for name in blocks[0].values}
