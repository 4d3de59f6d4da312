"""The client that users meet: a handful of questions, plain values in and out, while the caller waits."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from mlaas4hep.client import questions
from mlaas4hep.client.arrow import joined_scores, table_cut
from mlaas4hep.client.asking import Scores, event_cut, scores_of, tensor_cut
from mlaas4hep.client.attempts import Patience
from mlaas4hep.client.connection import Transport
from mlaas4hep.client.events import columns_of, encode_columns, encode_events
from mlaas4hep.client.identity import Bearer, Tls
from mlaas4hep.client.questions import Prediction, Question, TooLargeError, UnreadError
from mlaas4hep.client.servers import Servers
from mlaas4hep.client.splitting import Cut, Limits, Pin, halves, packed
from mlaas4hep.client.tensors import Tensors

T = TypeVar("T")
Progress = Callable[[int], None]


class Client:
    """Asks one server, or the first of several that answers, over connections that are kept between questions.

    Parameters
    ----------
    url
        Such as ``http://localhost:8000``; or several, in the order of preference. The one that answered last is asked,
        until it fails: then it is left out for a while, and the next is asked.
    timeout_s
        Longest time for a question, its repetitions and its parts included; the server is told.
    retries
        How often a question is asked again where the connection failed or the server said that it is busy (429, 503).
        The waits in between are by chance, of doubling length, and no shorter than the server's ``Retry-After``.
        What has an effect is not asked again where it may have been done.
    connect_s
        Longest wait for a connection.
    limits
        What the server takes in one question; larger ones are split.
    binary
        Tensors as their bytes; else as JSON, for servers that know nothing else.
    token, token_file
        A bearer token, sent with every question. Without one, the token that lies where the WLCG keeps it is shown to a
        server that asks for one. Tokens are sent over TLS, or within this machine.
    tls
        Authorities and certificates.

    Raises
    ------
    RequestError
        From every question that the server refused (4xx), in the server's words.
    NotFoundError
        The model is not served there.
    ServerError
        The server failed (5xx), or did not answer.

    Notes
    -----
    Not to be shared between threads: a thread needs a client of its own.

    Examples
    --------
    ::

        with Client("http://localhost:8000") as client:
            client.predict("tth", [{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}])
            # [{'signal': 0.93}]
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_s: float = 30.0,
        retries: int = 2,
        connect_s: float = 5.0,
        limits: Limits | None = None,
        binary: bool = True,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        servers = Servers(url)
        bearer = Bearer(servers.addresses, token=token, token_file=token_file)
        self._timeout_s = timeout_s
        patience = Patience(timeout_s=timeout_s, retries=retries, connect_s=connect_s)
        self._transport = Transport(servers, patience, bearer, tls or Tls())
        self._limits = limits or Limits()
        self._binary = binary
        self._arrow = True
        self._ids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a further question opens them again."""
        self._transport.close()

    @property
    def url(self) -> str:
        """The server that is asked next."""
        return self._transport.servers.current.url

    def live(self) -> bool:
        """Whether the server answers."""
        return self._ask(questions.live())

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or one model of it, can be asked."""
        return self._ask(questions.ready(model, version))

    def models(self) -> list[str]:
        """Names of the models that are served."""
        return self._ask(questions.models())

    def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """Tensors of a model in and out; of the server where no model is named."""
        return self._ask(questions.metadata(model, version))

    def contract(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Columns that a model is asked with, its scores, and an example event."""
        return self._ask(questions.contract(model, version))

    def index(self) -> list[dict[str, Any]]:
        """What the server's repository holds, loaded or not."""
        return self._ask(questions.index())

    def load(self, model: str, *, config: Mapping[str, Any] | None = None) -> None:
        """Load what the server's repository holds of a model now.

        ``config``, for a plain graph, stands for its ``config.pbtxt`` until the next load.
        """
        self._ask(questions.control(model, "load", config=config))

    def unload(self, model: str) -> None:
        """Let a model go."""
        self._ask(questions.control(model, "unload"))

    def labels(self, model: str) -> dict[str, str]:
        """Versions by label, ``latest`` among them."""
        return self._ask(questions.labels(model))

    def label(self, model: str, label: str, version: str | None) -> dict[str, str]:
        """Name a version, such as ``stable``; None takes the label away. Gives all labels."""
        return self._ask(questions.label(model, label, version))

    def predict(
        self,
        model: str,
        events: Iterable[Mapping[str, Any]],
        *,
        version: str | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Scores of events by name.

        Parameters
        ----------
        model
            Name.
        events
            One mapping an event, column to value: a number, a list for a jagged column, a list of lists for a nested
            one. None and NaN are missing.
        version
            Of the model, or a label such as ``stable``; the newest where none is given.
        progress
            Called with a number of events whenever so many more were answered.

        Returns
        -------
        One mapping an event, score name to value, in order; None where the event fails the model's preselection.
        """
        cut = event_cut(model, encode_events(events), self._limits, Pin(version))
        return self._whole(cut, self._deadline(), progress)

    def predict_image(self, model: str, data: bytes, *, version: str | None = None) -> dict[str, Any]:
        """Outputs for one picture.

        Parameters
        ----------
        model
            Name.
        data
            A PNG or JPEG, as its file holds it; what the model makes of it is declared beside the model.

        Returns
        -------
        Values by class where the model has one output with labels, else lists by output.
        """
        return self._ask(questions.predict_image(model, data, version=version))

    def predict_table(
        self, model: str, table: Any, *, version: str | None = None, progress: Progress | None = None
    ) -> Scores:
        """Scores of events that lie in columns.

        Parameters
        ----------
        model
            Name.
        table
            Columns by name in a mapping, a structured array of numpy, an awkward array of records, a data frame of
            pandas or Polars, or a table of Arrow.
        version, progress
            As in `predict`.

        Returns
        -------
        Arrays in the order of the events. Each part that is sent has ``timeout_s`` of its own.
        """
        columns, pin = columns_of(table), Pin(version)
        cut = table_cut(model, columns, self._limits, pin) if self._arrow else None
        if cut is not None:
            try:
                parts = [Cut((span,), cut.ask, cut.join) for span in cut.spans]
                return joined_scores([self._whole(one, self._deadline(), progress) for one in parts])
            except UnreadError:  # a server without pyarrow
                self._arrow = False
        predictions: list[Prediction] = []
        for part in packed(encode_columns(columns), self._limits):
            cut_part = event_cut(model, part, self._limits, pin)
            answers = self._whole(cut_part, self._deadline(), progress)
            predictions.extend(answers)
        names = None if any(predictions) else self.contract(model, pin.version).get("score_names")
        return scores_of(predictions, names)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Tensors:
        """Outputs of a model for tensors, bit for bit over the wire.

        Parameters
        ----------
        model
            Name.
        inputs
            Arrays by input. For a bundle float32, [N, F] or [N, K, F], NaN where a value is missing; for others any
            datatype of the protocol, texts as arrays of objects. What is larger than the server's limit is sent in
            parts, by the first dimension.
        version
            Of the model; the newest where none is given.
        outputs
            Those that are wanted; all where none is named.
        parameters
            Of the request, as the server knows them.

        Returns
        -------
        Arrays by output name; ``scores`` of a bundle is float32 [N, C].
        """
        cut = tensor_cut(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters={"timeout": int(self._timeout_s * 1e6)} | dict(parameters or {}),
            binary=self._binary,
            limits=self._limits,
            id=str(next(self._ids)),
        )
        return self._whole(cut, self._deadline(), None)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _ask(self, question: Question[T]) -> T:
        return self._transport.ask(question, self._deadline())

    def _whole(self, cut: Cut[T], deadline_s: float, progress: Progress | None) -> T:
        """Ask part by part; one that is too large for the server as two, and those behind it too."""
        answers, left = [], list(reversed(cut.spans))
        while left:
            span = left.pop()
            try:
                answers.append(self._transport.ask(cut.ask(*span), deadline_s))
            except TooLargeError:
                if halves(span) is None:
                    raise
                left = [half for one in [*left, span] for half in reversed(halves(one) or (one,))]
                continue
            if progress is not None:
                progress(span[1] - span[0])
        return cut.join(answers)
