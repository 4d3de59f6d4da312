"""What turns tensors into scores: the bundle's graph here, its folds, or a server that has the same graph.

Invariant: all of them give a row the same bits; which one answers changes time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.graph.session import Inputs, Session

Answer = Callable[[], NDArray[np.float32]]


class Engine(Protocol):
    """Scores of one model. May be shared by threads."""

    lasting: bool
    """Whether tensors must stay as they are until the answer is taken."""

    def start(self, inputs: Inputs, folds: NDArray[np.int8] | None) -> Answer:
        """Begin with at most ``max_batch`` rows; the answer waits for float32 [n, C].

        ``folds`` is int8 [n], the fold of each row; None where events have none.
        """
        ...

    def close(self) -> None:
        """Give back what is held."""


class LocalEngine:
    """The graph of a bundle, in this process and at once."""

    lasting = False

    def __init__(self, session: Session) -> None:
        self._session = session

    @classmethod
    def of(cls, bundle: Bundle) -> LocalEngine:
        """One thread an operator: several batches are run side by side instead."""
        return cls(bundle.session(threads=1))

    def start(self, inputs: Inputs, folds: NDArray[np.int8] | None) -> Answer:
        """See `Engine.start`."""
        scores = self._session.run(inputs)
        return lambda: scores

    def close(self) -> None:
        """See `Engine.close`."""


class FoldEngine:
    """The models of a bundle of folds: each row goes to the one that has not seen its fold.

    Parameters
    ----------
    sessions
        One a fold.
    """

    lasting = False

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions

    def start(self, inputs: Inputs, folds: NDArray[np.int8] | None) -> Answer:
        """See `Engine.start`."""
        assert folds is not None, "the folds of events are told by the pass that asks"
        scores = np.empty((len(folds), self._sessions[0].num_scores), np.float32)
        for fold in np.unique(folds).tolist():
            own = folds == fold
            scores[own] = self._sessions[fold].run({name: tensor[own] for name, tensor in inputs.items()})
        return lambda: scores

    def close(self) -> None:
        """See `Engine.close`."""


class ServedEngine:
    """A server, or the first of several that answers; many batches are under way at once.

    Parameters
    ----------
    urls
        In the order of preference.
    bundle
        The model, which must be served there with the same graph and contract.
    most
        Questions under way.
    options
        Of `mlaas4hep.client.Client`: ``timeout_s``, ``retries``, ``token_file``, ``tls``.

    Raises
    ------
    BundleError
        Another model is served under that name.
    NotFoundError, ServerError
        None is served, or nobody answers.
    """

    lasting = True

    def __init__(
        self, urls: Sequence[str], bundle: Bundle, *, most: int = 8, options: Mapping[str, Any] | None = None
    ) -> None:
        from mlaas4hep.client import Client, ExternalWork

        options = dict(options or {})
        with Client(urls, **options) as client:
            told = client.contract(bundle.name)
            _require_same(bundle, told, client.url)
        # The one that answers next may be another server, or the same with another model: each question says whose
        # answer it takes.
        self._work = ExternalWork(
            urls,
            bundle.name,
            version=str(told["version"]),
            outputs=("scores",),
            most=most,
            parameters={"model_sha256": bundle.model_sha256},
            **options,
        )

    def start(self, inputs: Inputs, folds: NDArray[np.int8] | None) -> Answer:
        """See `Engine.start`."""
        ticket = self._work.acquire(inputs)

        def answer() -> NDArray[np.float32]:
            scores: NDArray[np.float32] = ticket.produce()["scores"]
            return scores

        return answer

    def close(self) -> None:
        """See `Engine.close`."""
        self._work.close()


def _require_same(bundle: Bundle, told: Mapping[str, Any], url: str) -> None:
    from mlaas4hep.errors import BundleError

    ours = {"model_sha256": bundle.model_sha256, "spec_sha256": bundle.spec_sha256}
    for name, wanted in ours.items():
        if told.get(name) != wanted:
            raise BundleError(
                f"{url}: serves another '{bundle.name}' than {bundle.path}: {name} is "
                f"{str(told.get(name))[:12]}... there, {wanted[:12]}... here; its scores are not those of the bundle"
            )
