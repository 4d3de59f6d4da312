"""The benchmark files as the stream is told of them: every branch an input, collections padded.

Invariant: the declaration names exactly the branches of the layout, so that all peers read the same columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.events import TREE, Layout
from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor

BATCH = 1024


def catalogue(files: Sequence[str], layout: Layout) -> tuple[Catalogue, Preprocessor]:
    """Files opened and declared: alternately to two samples, or one file as the only sample."""
    groups = "".join(
        f"  {name.lower()}s: {{vars: [{', '.join(f'{name}_{one}' for one in layout.variables[name])}], "
        f"length: {length}}}\n"
        for name, (_, length) in layout.collections.items()
    )
    samples = {"signal": list(files[::2]), "background": list(files[1::2]) or ["none.root"]}
    declared = "".join(f"  {name}: {{files: {msgspec.json.encode(some).decode()}}}\n" for name, some in samples.items())
    config = parse_config(
        f"tree: {TREE}\nsamples:\n{declared}inputs:\n  event: [{', '.join(layout.flat)}]\n{groups}"
        "split: {by: [evt_i0]}\n"
    )
    if len(files) == 1:
        # The config language rightly asks for two classes; this is about one file.
        config = msgspec.structs.replace(config, samples={"signal": config.samples["signal"]})
    opened = Catalogue.open(config)
    return opened, Preprocessor(config.features, opened.types)


def dataset(files: Sequence[str], layout: Layout, **settings: Any) -> EventDataset:
    """The stream over files, with the settings of `EventDataset`."""
    opened, preprocessor = catalogue(files, layout)
    return EventDataset(opened, preprocessor, batch_size=BATCH, **settings)


def read_epoch(stream: EventDataset, epoch: int) -> int:
    """Every batch of an epoch; gives the number of events."""
    with stream.epoch(epoch) as batches:
        return sum(len(batch) for batch in batches)


def fingerprint(stream: EventDataset, epoch: int) -> str:
    """SHA-256 over every batch of an epoch, in order: which events, and all their bits."""
    digest = hashlib.sha256()
    with stream.epoch(epoch) as batches:
        for batch in batches:
            for array in (batch.entries, batch.labels, batch.weights, *(batch.inputs[k] for k in sorted(batch.inputs))):
                digest.update(array.tobytes())
    return digest.hexdigest()
