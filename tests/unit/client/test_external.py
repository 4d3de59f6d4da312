"""Questions beside other work, and many at once on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.client import AsyncClient, ExternalWork, Limits
from mlaas4hep.errors import RequestError, ServerError, UserError
from tests.crooked_server import MODELS, SILENCE, Asked, crooked, echoed, predicted, reply


def tensors_of(event: int) -> dict[str, NDArray[Any]] | None:
    return None if event % 5 == 4 else {"x": np.array([[event]], np.int64)}


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_answers_come_in_the_order_of_the_events_though_later_ones_are_answered_first(mode: str) -> None:
    late = threading.Event()

    def slow_first(asked: Asked) -> bytes:
        if asked.json["id"] == "1" and mode == "async":
            assert late.wait(10)
        if asked.json["id"] == "3":
            late.set()
        return echoed(asked)

    with crooked(slow_first) as server, ExternalWork(server.url, "m", most=4, mode=mode) as work:
        found = list(work.over(range(12), acquire=tensors_of))
    assert [event for event, _ in found] == list(range(12))
    assert [None if one is None else one["x"].tolist() for _, one in found] == [
        None if event % 5 == 4 else [[event]] for event in range(12)
    ]


def test_no_more_questions_are_under_way_than_allowed_and_events_are_read_no_further_ahead() -> None:
    under_way, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(3, timeout=10)

    def counted(asked: Asked) -> bytes:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        together.wait()  # three do come at once
        with lock:
            under_way[0] -= 1
        return echoed(asked)

    read, given = [0], [0]

    def events() -> Iterator[int]:
        for event in range(12):
            read[0] += 1
            assert read[0] - given[0] <= 4
            yield event

    with crooked(counted) as server, ExternalWork(server.url, "m", most=3) as work:
        for _ in work.over(events(), acquire=lambda event: {"x": np.array([event])}):
            given[0] += 1
    assert (given[0], most[0]) == (12, 3)


def test_acquire_starts_and_produce_takes_the_answer_or_the_error() -> None:
    script = [echoed, reply(400, {"error": "in its own words"}), predicted]
    with crooked(*script) as server, ExternalWork(server.url, "m", most=1) as work:
        ticket = work.acquire({"x": np.ones(2)})
        assert ticket.produce()["x"].tolist() == [1, 1]
        assert ticket.done()
        with pytest.raises(RequestError, match="in its own words"):
            work.acquire({"x": np.ones(2)}).produce()
        assert work.acquire_events([{"x": 2.0}, {}]).produce() == [{"s": 2.0}, None]
    work.close()
    with pytest.raises(UserError, match="this external work is closed"):
        work.acquire({"x": np.ones(2)})


def test_what_is_under_way_is_given_up_when_the_work_is_closed() -> None:
    with crooked(SILENCE) as server:
        work = ExternalWork(server.url, "m")
        ticket = work.acquire({"x": np.ones(2)})
        work.close()
        with pytest.raises(ServerError, match="given up"):
            ticket.produce()


def test_a_mode_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match="mode='pseudo' is none of 'async', 'sync'"):
        ExternalWork("http://localhost", "m", mode="pseudo")


def test_many_questions_share_few_connections_and_each_gets_its_own_answer() -> None:
    async def ask(url: str) -> list[list[float]]:
        async with AsyncClient(url, connections=5) as client:
            asked = (client.infer("m", {"x": np.array([float(i)])}) for i in range(60))
            return [one["x"].tolist() for one in await asyncio.gather(*asked)]

    with crooked(echoed) as server:
        assert asyncio.run(ask(server.url)) == [[float(i)] for i in range(60)]
        assert server.connections <= 5


def test_a_question_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    async def ask(url: str) -> dict[str, Any]:
        async with AsyncClient(url, connections=1, retries=0) as client:
            await client.infer("m", {"x": np.zeros(1)})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.infer("m", {"x": np.zeros(1)})
            return await client.infer("m", {"x": np.ones(1)})

    with crooked(echoed, SILENCE, echoed) as server:
        assert asyncio.run(ask(server.url))["x"].tolist() == [1.0]
        assert server.connections == 2


def test_a_part_that_fails_ends_the_others() -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url, limits=Limits(rows=1), retries=0) as client:
            await client.infer("m", {"x": np.zeros(9)})

    refused = reply(400, {"error": "in its own words"})
    with crooked(echoed, refused, SILENCE) as server, pytest.raises(RequestError, match="in its own words"):
        asyncio.run(ask(server.url))
    assert len(server.asked) < 9


def test_it_goes_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ask(url: str) -> list[str]:
        async with AsyncClient(url) as client:
            return await client.models()

    with crooked(MODELS) as server:
        assert uvloop.run(ask(server.url)) == ["a"]
