"""The client for programs on an event loop: the same questions, many at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from mlaas4hep.client import questions
from mlaas4hep.client.arrow import joined_scores, table_cut
from mlaas4hep.client.asking import Scores, event_cut, scores_of, tensor_cut
from mlaas4hep.client.attempts import Patience
from mlaas4hep.client.client import Progress
from mlaas4hep.client.events import columns_of, encode_columns, encode_events
from mlaas4hep.client.identity import Bearer, Tls
from mlaas4hep.client.lines import AsyncTransport
from mlaas4hep.client.questions import Prediction, Question, TooLargeError, UnreadError
from mlaas4hep.client.servers import Servers
from mlaas4hep.client.splitting import Cut, Limits, Pin, halves, packed
from mlaas4hep.client.tensors import Tensors

T = TypeVar("T")
# Parts of one question that are under way side by side: while one is answered, others are written and read.
PARTS = 4


class AsyncClient:
    """Asks as `mlaas4hep.client.Client` does, from coroutines. Belongs to one event loop.

    Parameters
    ----------
    url, timeout_s, retries, connect_s, limits, binary, token, token_file, tls
        As there.
    connections
        Most that are open at once; further questions wait for one.

    Examples
    --------
    ::

        async with AsyncClient("http://localhost:8000") as client:
            await asyncio.gather(*(client.predict("tth", [event]) for event in events))
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_s: float = 30.0,
        retries: int = 2,
        connect_s: float = 5.0,
        connections: int = 16,
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
        self._transport = AsyncTransport(servers, patience, bearer, tls or Tls(), connections=connections)
        self._limits = limits or Limits()
        self._binary = binary
        self._arrow = True
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a further question opens them again."""
        await self._transport.close()

    @property
    def url(self) -> str:
        """The server that is asked next."""
        return self._transport.servers.current.url

    async def live(self) -> bool:
        """Whether the server answers."""
        return await self._ask(questions.live())

    async def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or one model of it, can be asked."""
        return await self._ask(questions.ready(model, version))

    async def models(self) -> list[str]:
        """Names of the models that are served."""
        return await self._ask(questions.models())

    async def metadata(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """Tensors of a model in and out; of the server where no model is named."""
        return await self._ask(questions.metadata(model, version))

    async def contract(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Columns that a model is asked with, its scores, and an example event."""
        return await self._ask(questions.contract(model, version))

    async def index(self) -> list[dict[str, Any]]:
        """What the server's repository holds, loaded or not."""
        return await self._ask(questions.index())

    async def load(self, model: str, *, config: Mapping[str, Any] | None = None) -> None:
        """Load what the server's repository holds of a model now.

        ``config``, for a plain graph, stands for its ``config.pbtxt`` until the next load.
        """
        await self._ask(questions.control(model, "load", config=config))

    async def unload(self, model: str) -> None:
        """Let a model go."""
        await self._ask(questions.control(model, "unload"))

    async def labels(self, model: str) -> dict[str, str]:
        """Versions by label, ``latest`` among them."""
        return await self._ask(questions.labels(model))

    async def label(self, model: str, label: str, version: str | None) -> dict[str, str]:
        """Name a version, such as ``stable``; None takes the label away. Gives all labels."""
        return await self._ask(questions.label(model, label, version))

    async def predict(
        self,
        model: str,
        events: Iterable[Mapping[str, Any]],
        *,
        version: str | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Scores of events by name; see `mlaas4hep.client.Client.predict`."""
        cut = event_cut(model, encode_events(events), self._limits, Pin(version))
        return await self._whole(cut, self._deadline(), progress)

    async def predict_image(self, model: str, data: bytes, *, version: str | None = None) -> dict[str, Any]:
        """As `Client.predict_image`."""
        return await self._ask(questions.predict_image(model, data, version=version))

    async def predict_table(
        self, model: str, table: Any, *, version: str | None = None, progress: Progress | None = None
    ) -> Scores:
        """Scores of events that lie in columns; see `mlaas4hep.client.Client.predict_table`."""
        columns, pin = columns_of(table), Pin(version)
        cut = table_cut(model, columns, self._limits, pin) if self._arrow else None
        if cut is not None:
            try:
                parts = [Cut((span,), cut.ask, cut.join) for span in cut.spans]
                return joined_scores([await self._whole(one, self._deadline(), progress) for one in parts])
            except UnreadError:  # a server without pyarrow
                self._arrow = False
        predictions: list[Prediction] = []
        for part in packed(encode_columns(columns), self._limits):
            cut_part = event_cut(model, part, self._limits, pin)
            answers = await self._whole(cut_part, self._deadline(), progress)
            predictions.extend(answers)
        names = None if any(predictions) else (await self.contract(model, pin.version)).get("score_names")
        return scores_of(predictions, names)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Tensors:
        """Outputs of a model for tensors; see `mlaas4hep.client.Client.infer`."""
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
        return await self._whole(cut, self._deadline(), None)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    async def _ask(self, question: Question[T]) -> T:
        return await self._transport.ask(question, self._deadline())

    async def _whole(self, cut: Cut[T], deadline_s: float, progress: Progress | None) -> T:
        """Ask part by part, a few at once; one that is too large for the server as two."""

        async def ask(span: tuple[int, int]) -> list[T]:
            try:
                answer = await self._transport.ask(cut.ask(*span), deadline_s)
            except TooLargeError:
                parts = halves(span)
                if parts is None:
                    raise
                return [one for half in parts for one in await ask(half)]
            if progress is not None:
                progress(span[1] - span[0])
            return [answer]

        first, *others = cut.spans
        found = await ask(first)  # says which version answers the others, too
        for part in await in_order(ask, others, most=PARTS):
            found += part
        return cut.join(found)


async def in_order(act: Callable[[Any], Awaitable[T]], items: Iterable[Any], *, most: int) -> list[T]:
    """Results in the order of the items, of which so many are acted on at once; the first error ends all."""
    room = asyncio.Semaphore(most)

    async def one(item: Any) -> T:
        async with room:
            return await act(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
