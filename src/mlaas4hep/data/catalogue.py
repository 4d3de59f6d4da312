"""All files of all samples, opened once and checked against the config before anything else happens.

A `Catalogue` is what the rest of the layer works from: numbered files with their clusters, column types promoted over
all of them, factors for the physics weight. Invariant: either everything that the config asks for is there, or one
`DataError` lists all that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from mlaas4hep.arguments import require, word
from mlaas4hep.config import Config
from mlaas4hep.data.entries import FileEntry, SampleEntry, SampleKind, Strata
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.quarantine import Quarantine, Skipped
from mlaas4hep.data.split import Identity
from mlaas4hep.data.surveying import Survey
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.features import FeatureSpec


@dataclass(frozen=True)
class Catalogue:
    """Samples and files in the order of the config.

    Parameters
    ----------
    classes
        Names in label order.
    types
        Type of every readable column, promoted over all files that have it.
    features
        The declaration that the files were checked against.
    identity
        What tells one event from another: decides the split.
    kind
        ``mc``: what is learned from; ``data``: what is scored and shown alone, without labels, targets and split.
    quarantine
        What could not be read and was left out, while it is read too.
    hook
        The user's function that sees each event first.
    """

    samples: tuple[SampleEntry, ...]
    files: tuple[FileEntry, ...]
    classes: tuple[str, ...]
    types: Mapping[str, ColumnType]
    features: FeatureSpec
    identity: Identity
    kind: SampleKind = "mc"
    quarantine: Quarantine = field(default_factory=Quarantine, compare=False)
    hook: RecordHook | None = field(default=None, compare=False)

    @classmethod
    def open(
        cls, config: Config, *, kind: SampleKind = "mc", progress: Callable[[int], None] | None = None
    ) -> Catalogue:
        """Open and check every file of a config, of one kind of samples.

        Parameters
        ----------
        config
            What to open.
        kind
            ``mc``: the samples that are learned from; ``data``: the others, which need no column of labels, targets,
            weights or the split.
        progress
            Called with 1 for each file opened.

        Raises
        ------
        DataError
            With everything that is wrong: files that are missing, damaged or empty, trees and columns that are not
            there or of another kind, samples that select the same entries; no sample of that kind.
        """
        require(config, Config, "config", hint="read_config('config.yaml') reads one", error=DataError)
        word(kind, "kind", ("mc", "data"), error=DataError)
        survey = Survey(config, kind)
        names = config.simulated if kind == "mc" else config.observed
        if not names:
            raise DataError(f"{config.path}: has no sample of kind {kind}; it has {', '.join(config.samples)}")
        for name in names:
            survey.add_sample(name, progress or (lambda _: None))
        return cls(**survey.finish())

    @property
    def num_entries(self) -> int:
        """Entries of all files, before any selection."""
        return sum(one.num_entries for one in self.files)

    def leave_out(self, skipped: Iterable[Mapping[str, Any]]) -> None:
        """Put into quarantine what an earlier run left out, as its report says, so that it is not tried again.

        Raises
        ------
        DataError
            A file is not there any more.
        """
        files = {(self.samples[one.sample].name, one.index): one for one in self.files}
        for one in skipped:
            if one["tree"] is None:
                continue  # it could not be opened: if it still cannot, that was noted
            file = files.get((one["sample"], one["index"]))
            if file is None or (PurePosixPath(file.path).name, file.tree) != (one["file"], one["tree"]):
                raise DataError(
                    f"{one['file']}, tree '{one['tree']}': was file {one['index'] + 1} of the sample '{one['sample']}' "
                    "when the model was trained, and is not there any more"
                )
            where = (one["tree"], one["start"], one["stop"], one["index"])
            self.quarantine.add_range(file.number, Skipped(one["sample"], file.path, one["reason"], *where))

    def stratified(self, strata: Iterable[Strata]) -> Catalogue:
        """The same, to be shuffled so that every class is in every window in its share.

        Parameters
        ----------
        strata
            Of every file, as the scan found them (`mlaas4hep.data.scan.ScanResult`).
        """
        return replace(self, files=tuple(map(_with_strata, self.files, strata)))

    def corrected(self) -> Catalogue:
        """The same, with the weights of each sample scaled up for the entries of it that are in quarantine.

        Entries of files that could not be opened are not known; each counts as many as the others on average, except
        where the sum of weights was read from the files themselves: then it is right already.
        """
        return replace(self, samples=tuple(self._corrected(one) for one in self.samples))

    def _corrected(self, sample: SampleEntry) -> SampleEntry:
        files = [one for one in self.files if one.sample == sample.number]
        entries = sum(one.num_entries for one in files)
        missing = sum(high - low for one in files for low, high in self.quarantine.ranges(one.number))
        if missing == entries:
            raise DataError(f"samples.{sample.name}: none of its {entries} entries can be read")
        unopened = sum(one.sample == sample.name and one.tree is None for one in self.quarantine.records)
        whole = 1.0 if sample.sums_own_weights else 1.0 + unopened / len(files)
        return replace(sample, correction=whole * entries / (entries - missing))

    def __str__(self) -> str:
        files, samples = (
            f"{number} {word}{'' if number == 1 else 's'}"
            for number, word in ((len(self.files), "file"), (len(self.samples), "sample"))
        )
        return f"{self.num_entries} entries in {files} of {samples}"


def _with_strata(file: FileEntry, strata: Strata) -> FileEntry:
    return replace(file, strata=strata)
