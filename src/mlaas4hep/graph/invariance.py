"""Law 11 where it stands: a row's score is the same alone, in any batch, and on any number of threads, bit for bit.

Used before a bundle is written and by ``mlaas4hep verify`` on the machine that serves, since another processor takes
other kernels. The rows tried here follow from the contract alone, so that a bundle needs to carry no data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, unflatten

BATCHES = (0, 1, 2, 7, 64, 256, 1000, 4096)
THREADS = (1, 2)

# Rows that are also run one by one, and in batches of a few; the others are compared from batch 64 on.
ALONE_ROWS = 1000
_SMALL_BATCH = 64

# The most rows that a server joins: it runs whatever came, so any number up to that.
JOINED = 256

# What proving the law may take. Graphs that need longer are proven, and then asked, in smaller batches.
BUDGET_S = 120.0
_LEAST_BATCH = 64

Inputs = Mapping[str, NDArray[Any]]
Run = Callable[[Inputs], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Variance:
    """A row whose score changed with its surroundings.

    Parameters
    ----------
    row, threads, batch
        Which row, under which threads and batch size.
    difference
        Largest absolute change over all rows of that batch size.
    rows
        How many rows changed there.
    """

    row: int
    threads: int
    batch: int
    difference: float
    rows: int

    def __str__(self) -> str:
        return (
            f"in batches of {self.batch} on {self.threads} thread{'s' if self.threads > 1 else ''} {self.rows} rows "
            f"get other scores than alone, first row {self.row}, by at most {self.difference:.1e}"
        )


def batches(inputs: Inputs, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Cut all tensors into batches of the same size, the last one shorter."""
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, size):
        yield {name: array[start : start + size] for name, array in inputs.items()}


def run_in_batches(session: Session, inputs: Inputs, size: int) -> NDArray[np.float32]:
    """Scores float32 [N, C] of any number of rows, at most ``size`` of them at a time; N may be 0.

    Raises
    ------
    RequestError
        As `Session.run`, before anything is cut: cut, groups of different N would lose the end of the longest.
    """
    if session.check(inputs) <= size:
        return session.run(inputs)
    return np.concatenate([session.run(batch) for batch in batches(inputs, size)])


def affordable_batch(session: Session, inputs: Inputs, *, budget_s: float = BUDGET_S) -> int:
    """The largest batch up to which `find_variance` takes about that long: 4096 but for heavy graphs, 64 at least.

    Parameters
    ----------
    session
        Of the graph.
    inputs
        A few rows or more, on which it is timed.
    """
    few = {name: array[:4] for name, array in inputs.items()}
    session.execute(few)  # the first call is never warm
    start = time.perf_counter()
    rows = len(session.execute(few))
    row_s = (time.perf_counter() - start) / max(rows, 1)
    size = BATCHES[-1]
    while size > _LEAST_BATCH and row_s * _rows_run(size) > budget_s:
        size //= 2
    return size


def _rows_run(most: int) -> int:
    """Rows that go through the graph to prove batches up to that size."""
    few = max(ALONE_ROWS * most // BATCHES[-1], 1)
    return few + most + len(THREADS) * sum(few if 0 < size < _SMALL_BATCH else most for size in _sizes(most) if size)


def _sizes(most: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(min(size, most) for size in BATCHES))


def find_variance(
    model: bytes, inputs: Inputs, *, threads: Sequence[int] = THREADS, most: int = BATCHES[-1]
) -> list[Variance]:
    """Run rows in all batch sizes and compare each score, bit for bit, to that of the row alone.

    Parameters
    ----------
    model
        A merged graph.
    inputs
        Raw tensors; ``most`` rows are repeated or cut from them.
    threads
        Thread counts to try; the row alone is run on the first.
    most
        Largest batch to try; rows run alone grow fewer with it.

    Returns
    -------
    What changed, empty if law 11 holds. An empty batch must give no scores without an error.
    """
    alone = max(ALONE_ROWS * most // BATCHES[-1], 1)
    rows = {name: np.resize(array, (most, *array.shape[1:])) for name, array in inputs.items()}
    few = {name: array[:alone] for name, array in rows.items()}
    first = Session(model, threads=threads[0])
    expected = np.concatenate([_in_batches(first, few, 1), _in_batches(first, rows, _SMALL_BATCH)[alone:]])
    found = []
    for count in threads:
        session = Session(model, threads=count)
        for size in _sizes(most):
            scores = _in_batches(session, few if size < _SMALL_BATCH else rows, size)
            variance = _compare(scores, expected[: len(scores)], count, size)
            if variance is not None:
                found.append(variance)
    return found


def find_company(
    model: bytes,
    inputs: Inputs,
    *,
    threads: Sequence[int] = THREADS,
    most: int = JOINED,
    budget_s: float = BUDGET_S / 4,
) -> tuple[list[Variance], int]:
    """As `find_variance`, in batches of every size as a server joins them: 1, 2, 3 and so on, each of other rows.

    Parameters
    ----------
    inputs
        Raw tensors of at least ``most`` rows.
    most
        Largest batch.
    budget_s
        About how long it may take; heavier graphs are tried up to a smaller batch.

    Returns
    -------
    What changed, and the largest batch that was tried.
    """

    def opens(count: int) -> Run:
        return Session(model, threads=count).execute

    return company_of(opens, inputs, threads=threads, most=most, budget_s=budget_s)


def company_of(
    opens: Callable[[int], Run],
    inputs: Inputs,
    *,
    threads: Sequence[int] = THREADS,
    most: int = JOINED,
    budget_s: float = BUDGET_S / 4,
) -> tuple[list[Variance], int]:
    """As `find_company`, of whatever makes scores of rows: ``opens`` gives that for a number of threads."""
    first, few = opens(threads[0]), {name: array[: 2 * most] for name, array in inputs.items()}
    started, expected = time.perf_counter(), []
    for batch in batches(few, 1):
        expected.append(first(batch))
        if len(expected) >= _LEAST_BATCH and time.perf_counter() - started > budget_s / 4:
            break  # a row costs so much that few can be tried
    alone, found = np.concatenate(expected), []
    row_s, most = (time.perf_counter() - started) / len(alone), min(most, len(alone))
    while most > _LEAST_BATCH and row_s * len(threads) * most * (most + 1) / 2 > budget_s:
        most //= 2
    for count in threads:
        run = opens(count)
        for size in range(1, most + 1):
            start = (size * 97) % (len(alone) - size + 1)
            scores = run({name: array[start : start + size] for name, array in inputs.items()})
            variance = _compare(scores, alone[start : start + size], count, size)
            if variance is not None:
                found.append(replace(variance, row=variance.row + start))
    return found, most


def _in_batches(session: Session, inputs: Inputs, size: int) -> NDArray[np.float32]:
    if size == 0:
        return session.execute({name: array[:0] for name, array in inputs.items()})
    return np.concatenate([session.execute(batch) for batch in batches(inputs, size)])


def _compare(scores: NDArray[Any], expected: NDArray[Any], threads: int, batch: int) -> Variance | None:
    if scores.shape != expected.shape:
        return Variance(row=0, threads=threads, batch=batch, difference=np.nan, rows=len(expected))
    bits = f"i{scores.itemsize}"
    other = (scores.view(bits) != expected.view(bits)).any(axis=1)
    if not other.any():
        return None
    difference = float(np.abs(scores - expected).max())
    return Variance(int(np.argmax(other)), threads, batch, difference, int(other.sum()))


def probe_rows(groups: Sequence[GroupScaling], rows: int) -> dict[str, NDArray[np.float32]]:
    """Rows in the range of the contract's scaling: a pure function of ``groups``, by integer hashes.

    Every eighth row is all missing, the next one complete; in the others collections are filled to a random length
    and single values are missing.
    """
    features = [feature for group in groups for _ in range(group.slots) for feature in group.features]
    uniform = _uniform(rows, len(features), stream=1)
    flat = np.stack([_values(feature, uniform[:, i]) for i, feature in enumerate(features)], axis=1)
    absent = _uniform(rows, len(features), stream=2) < 0.05
    slots = unflatten(groups, absent)  # shares memory with absent
    for index, group in enumerate(groups):
        if group.length is not None:
            length = (_uniform(rows, 1, stream=3 + index)[:, 0] * (group.length + 1)).astype(np.int64)
            slots[group.name][np.arange(group.length) >= length[:, None]] = True
    absent[0::8] = True
    absent[1::8] = False
    flat[absent] = np.nan
    return unflatten(groups, flat)


def _values(feature: FeatureScaling, uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Four widths around the centre; for ``log`` from 0 to 1024, each factor of two alike."""
    if feature.kind == "log":
        sixteenth = np.floor(uniform * 16)
        return np.ldexp(uniform * 16 - sixteenth + 1, sixteenth.astype(np.int32) - 6).astype(np.float32)
    values = np.float64(feature.offset) + (uniform.astype(np.float64) - 0.5) * 8.0 / feature.scale
    return np.clip(values, feature.low, feature.high).astype(np.float32)


def _uniform(rows: int, columns: int, *, stream: int) -> NDArray[np.float32]:
    """Multiples of 2^-24 in [0, 1) from a counter, by the mixing steps of splitmix64."""
    counter = np.arange(1, rows * columns + 1, dtype=np.uint64) + np.uint64(stream << 40)
    mixed = counter * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform = (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return uniform.reshape(rows, columns)
