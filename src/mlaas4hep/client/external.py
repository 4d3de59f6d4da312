"""Inference beside other work, in the way of SONIC in CMSSW: `acquire` starts a question, `produce` takes its answer.

An event loop in a thread of its own holds the connections, so that a program without one has many questions under way
while it does something else. Invariant: answers belong to the event that asked, come in the order of the events, and no
more questions are under way than allowed: `acquire` waits where that is reached.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from numpy.typing import NDArray

from mlaas4hep.arguments import whole, word
from mlaas4hep.client.async_client import AsyncClient
from mlaas4hep.client.tensors import Tensors
from mlaas4hep.errors import ServerError, UserError

E = TypeVar("E")
R = TypeVar("R")
MODES = ("async", "sync")


class Ticket(Generic[R]):
    """A question that is under way."""

    def __init__(self, future: concurrent.futures.Future[R]) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether `produce` would not wait."""
        return self._future.done()

    def produce(self) -> R:
        """The answer, or the error that came in its place; waits for it."""
        try:
            return self._future.result()
        except concurrent.futures.CancelledError as error:
            raise ServerError("the question was given up, since the external work was closed") from error


class ExternalWork:
    """Questions to a model that go on while the caller works.

    Parameters
    ----------
    url
        One server or several, as for `mlaas4hep.client.Client`.
    model, version
        Who is asked.
    outputs
        Those that are wanted; all where none is named.
    most
        Questions under way at once; each has a connection.
    mode
        ``async``; or ``sync``, where `acquire` itself waits for the answer, to look for mistakes in order.
    parameters
        Of each question in tensors; ``model_sha256`` is answered by that graph alone.
    options
        Further ones of `mlaas4hep.client.AsyncClient`.

    Notes
    -----
    May be shared between threads. Inputs belong to the question until it is answered: they are not copied.

    Examples
    --------
    ::

        with ExternalWork("http://gpu7:8000", "tth") as work:
            for event, answer in work.over(events, acquire=tensors_of):
                event["score"] = answer["scores"][:, 0]
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        most: int = 16,
        mode: str = "async",
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        word(mode, "mode", MODES)
        self._most = whole(most, "most", least=1)
        self._model, self._version, self._outputs = model, version, outputs
        self._parameters = dict(parameters or {})
        self._waits = mode == "sync"
        self._room = threading.BoundedSemaphore(self._most)
        self._loop = asyncio.new_event_loop()
        self._client: AsyncClient | None = AsyncClient(url, connections=self._most, **options)
        self._thread = threading.Thread(target=self._loop.run_forever, name="mlaas4hep-external", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def acquire(self, inputs: Mapping[str, NDArray[Any]]) -> Ticket[Tensors]:
        """Start asking with tensors; waits only where too many questions are under way."""
        return self._start(lambda client: self._infer(client, inputs))

    def acquire_events(self, events: Sequence[Mapping[str, Any]]) -> Ticket[list[dict[str, float | None] | None]]:
        """Start asking with events by name."""
        return self._start(lambda client: client.predict(self._model, events, version=self._version))

    def over(
        self, events: Iterable[E], *, acquire: Callable[[E], Mapping[str, NDArray[Any]] | None]
    ) -> Iterator[tuple[E, Tensors | None]]:
        """All events with their answers, in order; while one is given out, those behind it are asked.

        Parameters
        ----------
        events
            Of any kind; read only so far ahead as questions may be under way.
        acquire
            Makes the tensors of an event; None where there is nothing to ask, and then no answer either.
        """
        under_way: deque[tuple[E, Ticket[Tensors] | None]] = deque()
        try:
            for event in events:
                inputs = acquire(event)
                if len(under_way) == self._most:
                    yield _given(under_way.popleft())
                under_way.append((event, None if inputs is None else self.acquire(inputs)))
            while under_way:
                yield _given(under_way.popleft())
        finally:
            for _, ticket in under_way:
                if ticket is not None:
                    ticket._future.cancel()

    def close(self) -> None:
        """Give up what is under way and close the connections."""
        client, self._client = self._client, None
        if client is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(client), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, act: Callable[[AsyncClient], Coroutine[Any, Any, R]]) -> Ticket[R]:
        client = self._client
        if client is None:
            raise UserError("this external work is closed; make another")
        self._room.acquire()
        try:
            future = asyncio.run_coroutine_threadsafe(act(client), self._loop)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        ticket = Ticket(future)
        if self._waits:
            concurrent.futures.wait([future])
        return ticket

    async def _infer(self, client: AsyncClient, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        return await client.infer(
            self._model, inputs, version=self._version, outputs=self._outputs, parameters=self._parameters
        )

    async def _end(self, client: AsyncClient) -> None:
        tasks = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


def _given(one: tuple[E, Ticket[Tensors] | None]) -> tuple[E, Tensors | None]:
    event, ticket = one
    return event, None if ticket is None else ticket.produce()
