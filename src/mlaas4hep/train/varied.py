"""Systematic variations of a run: the test part read once more for each, scored by the same graph.

Variations of the weight alone are read together, as many as fit the memory; one of values is read, selected, weighed
and scored anew. Invariant: of one variation of values at a time events are held, of all others sums alone
(`mlaas4hep.train.shifts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.pace import default_threads
from mlaas4hep.errors import DeclarationError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.varied import VariedPreprocessor
from mlaas4hep.train.beside import read_beside, value_variations, weight_variations
from mlaas4hep.train.counting import cuts_of
from mlaas4hep.train.figures import positives_of
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.shifts import Placed, Shift, shift_of

_BATCH = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What every variation of a run is held against, and how it is read.

    Parameters
    ----------
    config, bundle, catalogue
        Of the run.
    judged
        The nominal test part.
    threads
        That read ahead.
    progress
        Told event by event.
    """

    config: Config
    bundle: Bundle
    catalogue: Catalogue
    judged: Judged
    threads: int | None
    progress: Progress

    @property
    def max_memory(self) -> int:
        """Bytes that a stream may take."""
        return self.config.training.max_memory_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What was read of the test part beside its scores.

    Parameters
    ----------
    observers
        float64 [N, S].
    shifts
        Of all variations, in the order of the config.
    """

    observers: NDArray[np.float64]
    shifts: tuple[Shift, ...]


def read_test_part(setting: Setting) -> Read:
    """Observers and variations of the test part; nothing is read where the config names none."""
    features = setting.config.features
    weights = weight_variations(features)
    room = max(setting.max_memory // 4 // (8 * max(len(setting.judged.labels), 1)), 1)
    groups = [list(weights)[start : start + room] for start in range(0, len(weights), room)]
    size = len(features.observers)
    if not (features.observers or features.variations):
        return Read(np.zeros((len(setting.judged.labels), 0)), ())
    found: dict[str, Shift] = {}
    first = groups[0] if groups else []
    beside = _beside(setting, [*features.observers, *(weights[name] for name in first)])
    nominal = Placed(setting.judged, beside.entries, _processes(setting, beside.entries["file"], setting.judged))
    held_against = _Against(setting, nominal)
    observers = np.ascontiguousarray(beside.values[:, :size])
    found |= held_against.weights(first, beside.values[:, size:], beside.scales)
    del beside
    for group in groups[1:]:
        more = _beside(setting, [weights[name] for name in group])
        found |= held_against.weights(group, more.values, more.scales)
    for name, replaced in value_variations(features).items():
        try:
            found[name] = held_against.shift(name, _scored(setting, name, replaced))
        except DeclarationError as error:
            setting.progress.note(f"variations.{name}: {error}")
            found[name] = held_against.failed(name, str(error))
    return Read(observers, tuple(found[name] for name in features.variations))


def _beside(setting: Setting, texts: Sequence[str]) -> Any:
    return read_beside(
        setting.catalogue,
        setting.config.features,
        texts,
        setting.judged,
        part="test",
        threads=setting.threads,
        max_memory=setting.max_memory,
        progress=setting.progress,
    )


class _Against:
    """The nominal events, and the cuts at which variations are held against them."""

    def __init__(self, setting: Setting, nominal: Placed) -> None:
        spec = setting.bundle.spec
        self._nominal = nominal
        self._positives = positives_of(spec)
        judged = nominal.judged
        self._cuts = [
            cuts_of(judged.scores[:, column].astype(np.float64), judged.labels == label)
            for column, label in enumerate(self._positives)
        ]
        self._processes = len(setting.catalogue.samples) * len(spec.classes)

    def shift(self, name: str, varied: Placed) -> Shift:
        return shift_of(
            name, self._nominal, varied, cuts=self._cuts, processes=self._processes, positives=self._positives
        )

    def failed(self, name: str, reason: str) -> Shift:
        return Shift.failed(name, reason, cuts=self._cuts, processes=self._processes)

    def weights(
        self, names: Sequence[str], values: NDArray[np.float64], scales: NDArray[np.float64]
    ) -> Iterator[tuple[str, Shift]]:
        """Of variations that only weigh the events anew."""
        for column, name in enumerate(names):
            if bad := int(np.count_nonzero(~np.isfinite(values[:, column]))):
                yield name, self.failed(name, f"its weight is not finite for {bad} of {len(values)} events")
                continue
            judged = replace(self._nominal.judged, weights=values[:, column] * scales)
            yield name, self.shift(name, replace(self._nominal, judged=judged))


def _scored(setting: Setting, name: str, replaced: Mapping[str, str]) -> Placed:
    """The test part as a variation selects it, with its scores."""
    config = setting.config
    preprocessor = VariedPreprocessor(config.features, setting.catalogue.types, name=name, replaced=replaced)
    progress = setting.progress
    progress.start(f"scoring the variation {name}", total=len(setting.judged.labels))
    scores, labels, weights, entries = [], [], [], []
    with EventDataset(
        setting.catalogue,
        preprocessor,
        part="test",
        batch_size=_BATCH,
        threads=default_threads() if setting.threads is None else setting.threads,
        max_memory=setting.max_memory,
    ) as dataset:
        for batch in dataset:
            scores.append(setting.bundle.predict(batch.inputs))
            labels.append(batch.labels)
            weights.append(batch.weights)
            entries.append(batch.entries)
            progress.update(len(batch))
    progress.close()
    if not scores:
        raise DeclarationError("selects no event of the test part")
    judged = Judged(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights))
    where = np.concatenate(entries)
    return Placed(judged, where, _processes(setting, where["file"], judged))


def _processes(setting: Setting, files: NDArray[Any], judged: Judged) -> NDArray[np.int64]:
    samples = np.array([file.sample for file in setting.catalogue.files], np.int64)
    found: NDArray[np.int64] = samples[files] * len(setting.bundle.spec.classes) + judged.labels
    return found
