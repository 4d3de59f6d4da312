"""The scan before training: done, or taken from what an earlier run kept of the same files and declaration.

Invariant: either way the result has the same bits, and the user is told which way it was; the catalogue that comes back
knows which stretches hold which classes, so that it is shuffled the same way too.
"""

from __future__ import annotations

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.kept_statistics import StatisticsStore, scan_key, unchanged
from mlaas4hep.data.quarantine import told
from mlaas4hep.data.scan import ScanResult, scan_files
from mlaas4hep.progress import Progress
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics
from mlaas4hep.train.scoring import events_by_part


def scanned(
    catalogue: Catalogue,
    preprocessor: Preprocessor,
    *,
    threads: int,
    max_memory: int | None,
    rescan: bool,
    progress: Progress,
    duplicates: bool = False,
) -> tuple[Catalogue, ScanResult]:
    """Statistics of a catalogue, kept ones where there are any and ``rescan`` does not forbid it.

    Parameters and errors are those of `mlaas4hep.data.scan.scan_files`. Where something had to be left out, all is
    scanned once more with weights that make up for it, in the catalogue that comes back, and nothing is kept.
    """
    store, key = StatisticsStore.of_user(), scan_key(catalogue, preprocessor, duplicates=duplicates)
    kept = store.find(key, note=progress.note) if key is not None and not rescan else None
    if kept is not None and key is not None:
        progress.note(
            f"statistics: kept from an earlier pass over the same files ({key[:12]}); --rescan makes a new one"
        )
        return catalogue.stratified(kept.strata), kept

    def scan(words: str, catalogue: Catalogue) -> ScanResult:
        progress.start(words, total=catalogue.num_entries)
        found = scan_files(
            catalogue,
            preprocessor,
            threads=threads,
            max_memory=max_memory,
            duplicates=duplicates,
            progress=progress.update,
        )
        progress.close()
        return found

    found = scan("scanning events", catalogue)
    for line in told(catalogue.quarantine.records):
        progress.note(f"left out, cannot be read: {line}")
    if catalogue.quarantine:
        catalogue = catalogue.corrected()
        found = scan("scanning again with corrected weights", catalogue)
        return catalogue.stratified(found.strata), found
    if key is not None and unchanged(catalogue):
        store.keep(key, found, note=progress.note)
    return catalogue.stratified(found.strata), found


def account_of(catalogue: Catalogue, statistics: Statistics) -> str:
    """Where the entries went, in words."""
    counts, split = events_by_part(statistics), catalogue.features.split
    parts = f": {counts['train']} train, {counts['validation']} validate, {counts['test']} test"
    if split.in_folds:
        parts = f" for {split.num_folds} folds, each held out once"
    return f"{catalogue}; {sum(counts.values())} selected{parts}; told apart by {catalogue.identity}"
