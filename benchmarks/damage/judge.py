"""Stream a damaged file beside a good one, and say whether every entry is there with its bits, or accounted for.

Invariant: ``identical`` and ``accounted`` are only said of a stream of which every row was compared with the good
file's row of the same entry, and every missing entry was found in the quarantine's records and counts.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.damage.bases import LISTS, LONGEST, NARROW, WIDE, WIDE_BRANCHES
from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor

IDENTICAL, ACCOUNTED, WRONG, HANG = "identical", "accounted", "wrong", "hang"
ORDER = (IDENTICAL, ACCOUNTED, WRONG, HANG)
"""Verdicts, the worst last."""
BATCH = 1024
_INPUTS = {
    NARROW: f"{{event: [x, y, n, ev], jets: {{vars: [{', '.join(LISTS)}], length: {LONGEST}}}}}",
    WIDE: f"{{event: [ev, {', '.join(f'v{number}' for number in range(WIDE_BRANCHES))}]}}",
}

Rows = Mapping[str, NDArray[np.uint8]]
"""Bits of the rows of good files, by the name of the file: uint8 [entries, bytes]."""


@dataclass
class Finding:
    """What became of a file.

    Parameters
    ----------
    verdict
        One of `ORDER`.
    reason
        In words: why it is wrong, or what the first record or the refusal says.
    entries
        Delivered, of the damaged file.
    quarantined
        Entries left out, as the records say; all of them where the whole file was.
    seconds
        From before the file is opened to after the last batch.
    """

    verdict: str
    reason: str = ""
    entries: int = 0
    quarantined: int = 0
    seconds: float = 0.0


def config_of(files: list[str], kind: str, on_error: str) -> Config:
    """One sample of some files."""
    text = (
        f"tree: Events\nsamples:\n  signal: {{files: {json.dumps(files)}}}\n  background: {{files: none.root}}\n"
        f"inputs: {_INPUTS[kind]}\nsplit: {{by: [ev]}}\non_error: {on_error}\n"
    )
    config = parse_config(text)
    # The config language rightly asks for two classes; this is about one sample.
    return msgspec.structs.replace(config, samples={"signal": config.samples["signal"]})


def dataset(config: Config, **settings: Any) -> EventDataset:
    """The stream over the files of a config; nothing but quarantine and time differs with the settings."""
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    return EventDataset(catalogue, preprocessor, batch_size=BATCH, **{"threads": 2, **settings})


def bits(batch: Batch) -> NDArray[np.uint8]:
    """All that a batch holds of its events but where they are from: uint8 [events, bytes]."""
    parts = [batch.inputs[name] for name in sorted(batch.inputs)] + [batch.labels, batch.weights]
    flat = [np.ascontiguousarray(part).reshape(len(batch), -1).view(np.uint8) for part in parts]
    return np.concatenate(flat, axis=1)


def good_rows(path: str, kind: str) -> NDArray[np.uint8]:
    """Rows of a good file in the order of its entries."""
    with dataset(config_of([path], kind, "stop")) as stream, stream.epoch(0) as epoch:
        return np.concatenate([bits(batch) for batch in epoch])


@dataclass
class _Seen:
    """Which entries of a file came, and whether they were right."""

    rows: NDArray[np.uint8]
    times: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.times = np.zeros(len(self.rows), np.int64)

    def take(self, entries: NDArray[np.int64], found: NDArray[np.uint8]) -> str | None:
        """Compare rows; says what is wrong with them."""
        if np.any((entries < 0) | (entries >= len(self.rows))):
            return f"entry {entries.max()} came, the good file has {len(self.rows)}"
        self.times += np.bincount(entries, minlength=len(self.rows))
        if found.shape[1] != self.rows.shape[1]:
            return f"rows of {found.shape[1]} bytes, the good file's have {self.rows.shape[1]}"
        differ = np.flatnonzero((self.rows[entries] != found).any(axis=1))
        return f"entry {entries[differ[0]]} has other bits ({len(differ)} in a batch)" if len(differ) else None


def judge(path: str, companion: str, kind: str, on_error: str, rows: Rows) -> Finding:
    """Stream a file and a good companion in one sample.

    Parameters
    ----------
    path, companion
        Their places.
    kind
        Which columns they have.
    on_error
        As in a config.
    rows
        Of the good file, by ``path``, and of the companion by its own.
    """
    seen = {name: _Seen(rows[name]) for name in (path, companion)}
    started = time.perf_counter()
    try:
        catalogue, counts, problem = _stream(config_of([path, companion], kind, on_error), seen)
    except DataError as error:
        named = Path(path).name in str(error)
        what = str(error) if named else f"the refusal does not name the file: {error}"
        finding = Finding(ACCOUNTED if named else WRONG, what)
    except Exception as error:  # anything else is what must not happen
        finding = Finding(WRONG, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")
    else:
        finding = _compare(path, companion, seen, catalogue, counts, problem)
    finding.seconds = time.perf_counter() - started
    finding.entries = int((seen[path].times > 0).sum())
    finding.reason = finding.reason.replace(str(Path(path).parent) + "/", "")
    return finding


def _stream(config: Config, seen: Mapping[str, _Seen]) -> tuple[Catalogue, dict[int, Counts], str | None]:
    problem = None
    with dataset(config) as stream, stream.epoch(0) as epoch:
        paths = [one.path for one in stream.catalogue.files]
        for batch in epoch:
            found = bits(batch)
            for number in np.unique(batch.entries["file"]):
                mine = batch.entries["file"] == number
                wrong = seen[paths[number]].take(batch.entries["entry"][mine].astype(np.int64), found[mine])
                problem = problem or wrong
        return stream.catalogue, epoch.counts, problem


def _compare(
    path: str,
    companion: str,
    seen: Mapping[str, _Seen],
    catalogue: Catalogue,
    counts: Mapping[int, Counts],
    problem: str | None,
) -> Finding:
    records = catalogue.quarantine.records
    if problem is not None:
        return Finding(WRONG, problem)
    if np.any(seen[companion].times != 1) or any(one.path == companion for one in records):
        return Finding(WRONG, "the good file beside it is not whole")
    left_out = np.zeros(len(seen[path].rows), np.int64)
    for one in records:
        # The damaged file may announce entries that the good one has not; they are in the records all the same.
        left_out[slice(one.start, one.stop)] += 1
    if np.any(seen[path].times + left_out != 1):
        wrong = int(np.flatnonzero(seen[path].times + left_out != 1)[0])
        told = f"came {seen[path].times[wrong]} times and is left out {left_out[wrong]} times"
        return Finding(WRONG, f"entry {wrong} {told}")
    for file in catalogue.files:
        unfit = _law_8(
            counts.get(file.number, Counts()), file.num_entries, len(catalogue.quarantine.ranges(file.number))
        )
        if unfit is not None:
            return Finding(WRONG, f"{file.path}: {unfit}")
    if not records:
        return Finding(IDENTICAL)
    return Finding(ACCOUNTED, str(records[0]), quarantined=int(left_out.sum()))


def _law_8(found: Counts, entries: int, ranges: int) -> str | None:
    if found.read != entries or found.read != found.delivered + found.cut + found.other_part + found.quarantined:
        return f"{found} does not add up to {entries} entries"
    if bool(ranges) != bool(found.quarantined):
        return f"{found.quarantined} entries are counted as left out in {ranges} places"
    return None
