"""Questions joined into batches: whose rows are whose, who is refused, and what nobody else hears of."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.errors import BusyError, RequestError
from mlaas4hep.serve import batcher as module
from mlaas4hep.serve.batcher import INLINE_S, Batcher, QueueLimits
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec


def double(tensors: Tensors) -> dict[str, NDArray[Any]]:
    return {"y": tensors["x"] * 2, "first": tensors["x"][:, :1]}


class Graph:
    """Doubles its rows, and remembers what it was run with."""

    def __init__(self, work: Callable[[Tensors], dict[str, NDArray[Any]]] = double) -> None:
        self.work = work
        self.runs: list[list[float]] = []
        self.threads: set[str] = set()

    def __call__(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        self.runs.append(tensors["x"][:, 0].tolist())
        self.threads.add(threading.current_thread().name)
        return self.work(tensors)

    def model(self, *, batches: bool = True, call_s: float = 1e-5) -> ServedModel:
        return ServedModel(
            name="m",
            version="1",
            inputs=(TensorSpec("x", "FP32", (2,) if batches else (-1, 2)),),
            outputs=(TensorSpec("y", "FP32", (2,)), TensorSpec("first", "FP32", (1,))),
            contract=None,
            batches=batches,
            max_rows=4096,
            call_s=call_s,
            row_s=0.0,
            execute=self,
        )


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="runs") as executor:
        yield executor


def rows(first: float, count: int = 1) -> dict[str, NDArray[np.float32]]:
    return {"x": np.arange(2 * count, dtype=np.float32).reshape(count, 2) + np.float32(first)}


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(what, 20))


async def all_of(batcher: Batcher, *questions: dict[str, NDArray[np.float32]], **options: Any) -> list[Any]:
    asked = [batcher.infer(one, len(one["x"]), **options) for one in questions]
    return list(await asyncio.gather(*asked, return_exceptions=True))


def test_what_one_turn_brought_is_one_run_and_each_gets_its_own_rows(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        answers = await all_of(Batcher(graph.model(), threads), rows(1), rows(5, 3), rows(9))
        assert [len(one["y"]) for one in answers] == [1, 3, 1]
        assert answers[1]["y"].tolist() == [[10, 12], [14, 16], [18, 20]]
        assert [one["first"][0, 0] for one in answers] == [1, 5, 9]

    run(ask())
    assert graph.runs == [[1, 5, 7, 9, 9]]
    assert graph.threads == {threading.main_thread().name}


def test_batches_hold_no_more_rows_than_allowed_and_a_larger_question_is_run_alone(
    threads: ThreadPoolExecutor,
) -> None:
    graph = Graph()

    async def ask() -> None:
        batcher = Batcher(graph.model(), threads, limits=QueueLimits(batch_rows=4))
        answers = await all_of(batcher, rows(0, 3), rows(0, 2), rows(0, 9), rows(0, 2), rows(0, 2))
        assert [len(one["y"]) for one in answers] == [3, 2, 9, 2, 2]

    run(ask())
    assert [len(one) for one in graph.runs] == [3, 2, 9, 4]


def test_a_slow_model_runs_in_a_thread_and_what_arrives_meanwhile_is_the_next_batch(
    threads: ThreadPoolExecutor,
) -> None:
    going, go_on = threading.Event(), threading.Event()

    def wait(tensors: Tensors) -> dict[str, NDArray[Any]]:
        going.set()
        assert go_on.wait(10)
        return double(tensors)

    graph = Graph(wait)

    async def ask() -> None:
        batcher = Batcher(graph.model(call_s=1.0), threads)
        first = asyncio.create_task(batcher.infer(rows(1), 1))
        while not going.is_set():
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.infer(rows(number), 1)) for number in (2, 3, 4)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, *others)
        await batcher.drain()

    run(ask())
    assert graph.runs == [[1], [2, 3, 4]]
    assert all(name.startswith("runs") for name in graph.threads)


def test_a_model_whose_rows_depend_on_each_other_is_asked_one_by_one(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        batcher = Batcher(graph.model(batches=False), threads)
        answers = await asyncio.gather(*(batcher.infer(rows(number, 2), 1) for number in range(3)))
        assert [one["y"].tolist()[0][0] for one in answers] == [0, 2, 4]

    run(ask())
    assert graph.runs == [[0, 2], [1, 3], [2, 4]]


def test_what_does_not_fit_is_refused_before_it_is_joined(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        wrong: list[dict[str, NDArray[Any]]] = [
            {"x": np.zeros((1, 3), np.float32)},
            {"x": np.zeros((1, 2), np.float64)},
            {"x": np.zeros((1, 2), np.float32), "z": np.zeros((1, 2), np.float32)},
        ]
        *refused, good = await all_of(Batcher(graph.model(), threads), *wrong, rows(7))
        assert all(isinstance(one, RequestError) for one in refused)
        assert good["y"].tolist() == [[14, 16]]
        with pytest.raises(RequestError, match="3 rows are announced, but the tensors have 1"):
            await Batcher(graph.model(), threads).infer(rows(0), 3)

    run(ask())
    assert graph.runs == [[7]]


def test_who_makes_a_run_fail_is_told_alone(threads: ThreadPoolExecutor) -> None:
    def fail_at_13(tensors: Tensors) -> dict[str, NDArray[Any]]:
        if 13 in tensors["x"][:, 0]:
            raise ValueError("unlucky")
        return double(tensors)

    async def ask() -> None:
        answers = await all_of(Batcher(Graph(fail_at_13).model(), threads), rows(1), rows(13), rows(3))
        assert isinstance(answers[1], ValueError)
        assert [answers[0]["y"][0, 0], answers[2]["y"][0, 0]] == [2, 6]

    run(ask())


def test_a_graph_that_does_not_give_a_row_a_row_is_not_trusted_with_joined_ones(threads: ThreadPoolExecutor) -> None:
    graph = Graph(lambda tensors: {"y": tensors["x"][:1] * 2})

    async def ask() -> None:
        answers = await all_of(Batcher(graph.model(), threads), rows(1), rows(2))
        assert [one["y"].tolist() for one in answers] == [[[2, 4]], [[4, 6]]]

    run(ask())


def test_rows_of_several_lengths_are_asked_at_once_and_run_apart(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph(lambda tensors: {"y": tensors["x"][:, :2] * 2, "first": tensors["x"][:, :1]})
    model = replace(graph.model(), inputs=(TensorSpec("x", "FP32", (-1,)),))

    async def ask() -> None:
        questions = [{"x": np.arange(size, dtype=np.float32).reshape(1, -1)} for size in (2, 5, 3)]
        answers = await all_of(Batcher(model, threads), *questions)
        assert [one["y"].tolist() for one in answers] == [[[0, 2]]] * 3
        assert len(await all_of(Batcher(model, threads), rows(1), rows(2))) == 2

    run(ask())
    assert [len(one) for one in graph.runs] == [1, 1, 1, 2]
    assert not caplog.records


@pytest.mark.parametrize("call_s", [1e-5, 1.0])
def test_a_mistake_in_joining_leaves_nobody_waiting(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, call_s: float
) -> None:
    graph = Graph(lambda tensors: {"first": tensors["x"][:, :1]})  # and not the other output

    async def ask() -> None:
        batcher = Batcher(graph.model(call_s=call_s), threads)
        for first in (1, 3):
            answers = await all_of(batcher, rows(first), rows(first + 1))
            assert [one["first"].tolist() for one in answers] == [[[first]], [[first + 1]]]

    run(ask())
    assert "each is run apart" in caplog.text


def test_who_went_away_is_not_run_and_one_that_fails_to_listen_harms_nobody(threads: ThreadPoolExecutor) -> None:
    graph = Graph()
    told: list[Any] = []

    async def ask() -> None:
        loop_errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
        batcher = Batcher(graph.model(), threads)
        task = asyncio.create_task(batcher.infer(rows(4), 1))
        await asyncio.sleep(0)
        gone = batcher.submit(rows(1), 1, told.append)
        batcher.submit(rows(2), 1, lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
        batcher.submit(rows(3), 1, told.append)
        gone.cancel()
        task.cancel()
        await batcher.drain()
        assert task.cancelled()
        assert [type(one["exception"]) for one in loop_errors] == [ZeroDivisionError]
        assert (batcher.waiting_rows, batcher.waiting_bytes) == (0, 0)

    run(ask())
    assert 1 not in graph.runs[0]
    assert [one["y"][0, 0] for one in told] == [6]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (QueueLimits(rows=3), "2 rows wait already, and 3 may"),
        (QueueLimits(bytes=20), "16 bytes wait already, and 20 may"),
        (QueueLimits(wait_s=0.5), "an answer would take .* and 0.5 s may be waited"),
    ],
)
def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    threads: ThreadPoolExecutor, limits: QueueLimits, said: str
) -> None:
    async def ask() -> None:
        batcher = Batcher(Graph().model(call_s=1.0), threads, limits=limits)
        taken, refused = await all_of(batcher, rows(0, 2), rows(0, 2))
        assert len(taken["y"]) == 2
        with pytest.raises(BusyError, match=said):
            raise refused
        assert refused.retry_after_s >= 0.5
        assert len((await batcher.infer(rows(0, 5), 5))["y"]) == 5, "what exceeds the bound alone is taken alone"

    run(ask())


def test_a_deadline_that_cannot_be_met_is_refused_before_and_after_waiting(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        batcher = Batcher(graph.model(call_s=0.5), threads)
        now = time.monotonic()
        with pytest.raises(BusyError, match="cannot be there within"):
            await batcher.infer(rows(1), 1, deadline=now + 0.1)
        assert (await batcher.infer(rows(2), 1, deadline=now + 60))["y"][0, 0] == 4
        late: list[Any] = []
        quick = Batcher(graph.model(call_s=0.0), threads)
        quick.submit(rows(3), 1, late.append, deadline=time.monotonic() + 0.01)
        time.sleep(0.02)  # the loop is held up by others
        await quick.drain()
        with pytest.raises(BusyError, match="passed while it waited"):
            raise late[0]

    run(ask())
    assert graph.runs == [[2]]


def test_a_run_may_be_put_off_for_company_but_not_when_it_is_full(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        batcher = Batcher(graph.model(), threads, limits=QueueLimits(batch_rows=3, max_wait_ms=50))
        first = asyncio.create_task(batcher.infer(rows(1), 1))
        await asyncio.sleep(0.001)
        await asyncio.gather(first, batcher.infer(rows(2), 1))
        forever = Batcher(graph.model(), threads, limits=QueueLimits(batch_rows=3, max_wait_ms=1e6))
        await all_of(forever, rows(4), rows(5), rows(6))

    run(ask())
    assert graph.runs == [[1, 2], [4, 5, 6]]


def test_a_measured_pace_brings_a_model_of_unknown_speed_back_to_the_loop(threads: ThreadPoolExecutor) -> None:
    graph = Graph()

    async def ask() -> None:
        batcher = Batcher(graph.model(call_s=module.INLINE_S * 4), threads)
        for _ in range(60):
            await batcher.infer(rows(1), 1)

    run(ask())
    assert threading.main_thread().name in graph.threads


ARRIVALS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60)


@settings(max_examples=60, deadline=None)
@given(arrivals=ARRIVALS, batch_rows=st.integers(1, 12), slow=st.booleans())
def test_whatever_arrives_when_each_gets_its_rows_once_with_the_bits_of_alone(
    threads: ThreadPoolExecutor, arrivals: list[tuple[int, int, bool]], batch_rows: int, slow: bool
) -> None:
    random = np.random.default_rng(len(arrivals))

    async def ask() -> None:
        batcher = Batcher(
            Graph().model(call_s=1.0 if slow else 0.0), threads, limits=QueueLimits(batch_rows, wait_s=1e9)
        )
        asked: list[tuple[NDArray[np.float32], list[Any]]] = []
        for count, turns, wrong in arrivals:
            tensor = random.normal(size=(count, 3 if wrong else 2)).astype(np.float32)
            asked.append((tensor, []))
            batcher.submit({"x": tensor}, count, asked[-1][1].append)
            for _ in range(turns):
                await asyncio.sleep(0)
        await batcher.drain()
        for (tensor, told), (_, _, wrong) in zip(asked, arrivals, strict=True):
            (outcome,) = told
            if wrong:
                assert isinstance(outcome, RequestError)
            else:
                alone = double({"x": tensor})
                assert {name: array.tobytes() for name, array in outcome.items()} == {
                    name: array.tobytes() for name, array in alone.items()
                }

    run(ask())


def test_one_run_that_took_long_keeps_nobody_out_for_good(threads: ThreadPoolExecutor) -> None:
    async def ask() -> None:
        batcher = Batcher(Graph().model(call_s=0.01), threads)
        batcher._pace = 1e6  # such as after the machine stood still
        assert (await batcher.infer(rows(1), 1, deadline=time.monotonic() + 1))["y"][0, 0] == 2
        assert batcher._pace < 1e6

    run(ask())


def test_who_waited_for_others_as_long_as_may_be_is_refused_not_answered_late(threads: ThreadPoolExecutor) -> None:
    go_on = threading.Event()

    def hold(tensors: Tensors) -> dict[str, NDArray[Any]]:
        assert go_on.wait(20)
        return double(tensors)

    async def ask() -> None:
        batcher = Batcher(Graph(hold).model(call_s=0.02), threads, limits=QueueLimits(wait_s=0.1))
        first = asyncio.create_task(batcher.infer(rows(1), 1))
        await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.infer(rows(2), 1))
        await asyncio.sleep(0.15)
        go_on.set()
        assert (await first)["y"][0, 0] == 2
        with pytest.raises(BusyError, match="the time that may be waited, passed while it waited"):
            await second

    run(ask())


def test_quick_runs_leave_nothing_of_what_one_turn_brought_to_the_next(threads: ThreadPoolExecutor) -> None:
    graph, told = Graph(), []

    async def ask() -> None:
        batcher = Batcher(graph.model(), threads, limits=QueueLimits(batch_rows=2))
        for one in range(7):
            batcher.submit(rows(one), 1, told.append)
        await asyncio.sleep(0)
        assert len(told) == 7

    run(ask())
    assert graph.runs == [[0, 1], [2, 3], [4, 5], [6]]


@pytest.mark.parametrize(("call_s", "most"), [(1e-5, 256), (INLINE_S, 0), (1.0, 0)])
def test_what_may_be_run_on_the_loop_at_once_follows_from_what_a_run_takes(
    threads: ThreadPoolExecutor, call_s: float, most: int
) -> None:
    async def ask() -> None:
        assert Batcher(Graph().model(call_s=call_s), threads).rows_at_once == most

    run(ask())
