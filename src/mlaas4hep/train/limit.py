"""Fewer events of everything, for a quick look: ``--max-events``.

Invariant: every sample keeps its share, and weights that come from cross-sections still add up to what is expected.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.errors import DataError


def limit_events(catalogue: Catalogue, max_events: int) -> Catalogue:
    """The first entries of every sample, about ``max_events`` in all, in proportion to the samples' sizes.

    Parameters
    ----------
    catalogue
        The whole.
    max_events
        Entries to read, before any selection. A sample keeps at least one.

    Raises
    ------
    DataError
        ``max_events`` is below the number of samples.
    """
    if max_events < len(catalogue.samples):
        raise DataError(f"--max-events {max_events}: there are {len(catalogue.samples)} samples; give at least as many")
    if max_events >= catalogue.num_entries:
        return catalogue
    files: list[FileEntry] = []
    samples = []
    for sample in catalogue.samples:
        own = [file for file in catalogue.files if file.sample == sample.number]
        entries = sum(file.num_entries for file in own)
        share = max(1, entries * max_events // catalogue.num_entries)
        files.extend(_first_entries(own, share))
        weighted = sample.factor * entries / share if sample.factor != 1.0 else 1.0
        samples.append(replace(sample, factor=weighted))
    numbered = tuple(replace(file, number=number) for number, file in enumerate(files))
    return replace(catalogue, samples=tuple(samples), files=numbered)


def _first_entries(files: list[FileEntry], share: int) -> list[FileEntry]:
    kept = []
    for file in files:
        take = min(share, file.num_entries)
        if take:
            clusters = np.append(file.clusters[file.clusters < take], take)
            kept.append(replace(file, clusters=clusters))
        share -= take
    return kept
