"""The law of an interrupted training, as a helper for tests: stop anywhere, resume, take the same steps.

Used by `mlaas4hep.testing_backends`, and public like it. Invariant: what is compared is every array that the learner
keeps, bit for bit, after it went through a file without pickles.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import EventWeights, Labels, Learner, ResumableLearner
from mlaas4hep.spec.scaling import Tensors

Steps = Sequence[tuple[Tensors, Labels, EventWeights]]


def assert_learner_resumable(build: Callable[[], Learner], steps: Steps, *, stops: Iterable[int]) -> None:
    """Stop after so many steps, resume with a fresh learner, take the rest.

    Parameters
    ----------
    build
        A fresh learner, the same each time.
    steps
        Batches in order.
    stops
        After how many of them to stop. One that declares ``statistical`` only has to go on with the same kind of state.
    """
    whole = _after(build(), steps)
    exact = whole.capabilities.resume == "exact"
    for stop in stops:
        kept = _stored(_after(build(), steps[:stop]).checkpoint())
        fresh = _resumable(build())
        fresh.recover(kept)
        resumed = _after(fresh, steps[stop:])
        ours, theirs = whole.checkpoint(), resumed.checkpoint()
        assert ours.keys() == theirs.keys(), f"stopped after {stop} steps"
        if exact:
            different = [name for name, values in ours.items() if not _same_bits(values, theirs[name])]
            assert not different, f"stopped after {stop} steps: {', '.join(different)}"
            assert whole.native() == resumed.native(), f"stopped after {stop} steps: the native files differ"


def _after(learner: Learner, steps: Steps) -> ResumableLearner:
    able = _resumable(learner)
    for inputs, labels, weights in steps:
        able.learn(inputs, labels, weights)
    return able


def _resumable(learner: Learner) -> ResumableLearner:
    declared = learner.capabilities.resume
    assert isinstance(learner, ResumableLearner), f"declares resume '{declared}', but has no checkpoint and recover"
    return learner


def _stored(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays as they come back from a file."""
    file = io.BytesIO()
    np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as store:
        return {name: store[name] for name in store.files}


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
