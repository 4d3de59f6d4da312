"""Numbers of the judged events that the model is not given: observers, and the weights of systematic variations.

They are read in a pass of its own over the same catalogue, with the selection, the split and the order of the scores.
Invariant: labels and weights that come with them equal those that were judged, event by event, or nothing comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.pace import default_threads, readers, reading_unit
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.reader import MAX_READ_BYTES, EventReader, reading_bytes
from mlaas4hep.data.rows import ENTRY
from mlaas4hep.data.split import Part
from mlaas4hep.errors import ConfigError, DataError, ExpressionError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import EVENT, FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.varied import WEIGHT, VariedPreprocessor
from mlaas4hep.train.loop import Judged

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """What was read of N events.

    Parameters
    ----------
    entries
        File and entry, structured [N].
    values
        float64 [N, S], in the order in which they were asked for.
    scales
        float64 [N]: what a generator weight is multiplied by to be a physics weight.
    """

    entries: NDArray[Any]
    values: Floats
    scales: Floats


def check_beside(features: FeatureSpec, catalogue: Catalogue) -> None:
    """Refuse observers and variations that cannot be read, before anything is learned.

    Raises
    ------
    ConfigError
        With all problems.
    """
    preprocessor = Preprocessor(features, catalogue.types)
    asked = [(f"observers[{n}]", text) for n, text in enumerate(features.observers)]
    asked += [
        (f"variations.{name}.{WEIGHT}", one[WEIGHT]) for name, one in features.variations.items() if WEIGHT in one
    ]
    problems = [line for path, text in asked for line in _not_a_number(preprocessor, path, text)]
    for name, replaced in features.variations.items():
        try:
            VariedPreprocessor(features, catalogue.types, name=name, replaced=replaced)
        except ConfigError as error:
            problems.extend(error.problems)
        if not replaced:
            problems.append(f"variations.{name}: replaces nothing; wants columns, such as {{Jet_pt: Jet_pt_jesUp}}")
    if problems:
        raise ConfigError(problems, where="observers and variations do not fit the columns of the files")


def _not_a_number(preprocessor: Preprocessor, path: str, text: str) -> Iterator[str]:
    try:
        found = _type_of(preprocessor, text)
    except (ExpressionError, KeyError) as error:
        yield f"{path}: {error}"
        return
    if found != "flat":
        yield f"{path}: '{text}' is a list an event; wants one number, such as {text}[0], max({text}) or sum({text})"


def _type_of(preprocessor: Preprocessor, text: str) -> str:
    try:
        return preprocessor.type_of(text).kind
    except KeyError:
        return Expression.parse(text).result_type(preprocessor.known).kind


def read_beside(
    catalogue: Catalogue,
    features: FeatureSpec,
    texts: Sequence[str],
    judged: Judged,
    *,
    part: Part,
    threads: int | None,
    max_memory: int,
    progress: Progress,
) -> Beside:
    """Columns or expressions of the events of a part, in the order in which they were judged.

    Parameters
    ----------
    catalogue
        As it was judged.
    features
        The declaration.
    texts
        S columns, new variables or expressions of one number an event.
    judged
        Of the same part; only its labels and weights are looked at.
    part, threads, max_memory, progress
        As for scoring.

    Raises
    ------
    DataError
        The files hold other events than were judged.
    """
    own = _declared(features, texts, Preprocessor(features, catalogue.types))
    preprocessor = Preprocessor(own, catalogue.types)
    entries = reading_unit(preprocessor)
    threads = readers(catalogue, default_threads() if threads is None else threads)
    read_bytes = min(reading_bytes(max_memory // 2, threads=threads), MAX_READ_BYTES)
    reader = EventReader(catalogue, preprocessor, max_read_bytes=read_bytes)
    plan = Plan(catalogue.files, catalogue.num_entries or 1, shuffle=False, chunk_entries=entries)
    size = len(texts)

    def read(chunk: Chunk) -> list[tuple[NDArray[Any], Floats, Floats, NDArray[np.int64]]]:
        file = catalogue.files[chunk.file]
        found = []
        for events in reader.read(file, chunk.start, chunk.stop, part=part):
            kept = events.rows.kept
            values = np.empty((int(kept.sum()), size))
            for column in range(size):
                values[:, column] = np.asarray(events.rows.flats[column])[kept]
            where = np.empty(len(values), dtype=ENTRY)
            where["file"], where["entry"] = file.number, events.entries[kept]
            found.append((where, values, events.weights[kept], events.labels[kept]))
        return found

    progress.start(f"reading observers and weights of the {part} part", total=catalogue.num_entries)
    parts = []
    try:
        with Prefetch(read, tuple(plan.chunks()), threads=threads, ahead=(threads + 1) * entries) as results:
            for chunk, found in results:
                parts.extend(found)
                progress.update(chunk.num_entries)
    finally:
        reader.close()
        progress.close()
    where, values, weights, labels = (np.concatenate([one[n] for one in parts]) for n in range(4))
    scales = np.array([catalogue.samples[one.sample].scale for one in catalogue.files])[where["file"]]
    if not (np.array_equal(labels, judged.labels) and np.array_equal(weights * scales, judged.weights)):
        raise DataError(
            f"the {part} part holds {len(labels)} events for observers and variations, and {len(judged.labels)} or "
            "other ones were judged; were the files changed in between?"
        )
    return Beside(where, values, scales)


def _declared(features: FeatureSpec, texts: Sequence[str], preprocessor: Preprocessor) -> FeatureSpec:
    """The same events, with the texts for inputs."""
    names, new = [], dict(features.new_variables)
    for number, text in enumerate(texts):
        try:
            preprocessor.type_of(text)
            names.append(text)
        except KeyError:
            names.append(f"__beside_{number}")
            new[names[-1]] = text
    group = InputGroup(EVENT, tuple(Variable(name) for name in names))
    return replace(features, inputs=(group,), new_variables=new, observers=(), variations={})


def weight_variations(features: FeatureSpec) -> dict[str, str]:
    """Variations of nothing but the weight, by name the expression."""
    return {name: one[WEIGHT] for name, one in features.variations.items() if set(one) == {WEIGHT}}


def value_variations(features: FeatureSpec) -> dict[str, Mapping[str, str]]:
    """All others: they may move events and scores."""
    return {name: one for name, one in features.variations.items() if set(one) != {WEIGHT}}
