"""Small questions answered together: the bytes of each alone, and whatever is unusual goes its own way."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.serve import lane
from mlaas4hep.serve.fronts import Fronts
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.lane import Lane
from mlaas4hep.serve.limits import Limits, QueueLimits
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.quick import quick_of
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.together import IN_JSON, Form, InBinary, InJson, together
from tests.small_bundle import write_small_bundle
from tests.unit.serve.test_hot import INFER, as_binary, as_json, connected, read, request, slowed
from tests.unit.serve.test_hot import tensors as tensors  # a fixture

Rows = dict[str, NDArray[np.float32]]
_ALONE = b"X-Request-Id: 7"  # such a head is not kept


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder: Path = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    # Quick on a machine that was busy when the model was loaded, too.
    return ModelRepository([dataclasses.replace(open_repository(folder).get("tth"), call_s=1e-5, row_s=1e-7)])


def flat_model() -> ServedModel:
    """Of one input of two numbers, whose difference is the score."""
    event, scores = TensorSpec("event", "FP32", (2,)), TensorSpec("scores", "FP32", (1,))

    def execute(tensors: Tensors) -> dict[str, NDArray[Any]]:
        return {"scores": tensors["event"][:, :1] - tensors["event"][:, 1:]}

    return ServedModel("flat", "1", (event,), (scores,), None, True, 256, 1e-5, 1e-7, execute)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, Form, bool]]:
    """Bodies that came this way, and whether they were answered here."""
    found: list[tuple[bytes, Form, bool]] = []
    for kind in (InJson, InBinary):
        monkeypatch.setattr(kind, "take", noting(kind.take, found))
    return found


def noting(usual: Any, found: list[tuple[bytes, Form, bool]]) -> Any:
    def take(self: Any, body: bytes, most: int) -> int:
        rows: int = usual(self, body, most)
        found.append((body, getattr(self, "_header", IN_JSON), rows > 0))
        return rows

    return take


def changed(body: bytes, change: Any) -> bytes:
    message = json.loads(body)
    change(message)
    return json.dumps(message).encode()


def bodies_of(tensors: Rows) -> list[bytes]:
    """Usual questions, unusual ones, and wrong ones."""
    usual, two = as_json(tensors, slice(0, 1)), as_json(tensors, slice(1, 3))

    def numbers(value: Any) -> Any:
        return lambda message: message["inputs"][0].update(data=[value, *message["inputs"][0]["data"][1:]])

    return [
        usual,
        two,
        as_json(tensors, slice(3, 4)),
        changed(usual, lambda message: message.update(id="a")),
        changed(usual, lambda message: message["inputs"].reverse()),
        changed(usual, numbers(None)),
        changed(usual, numbers(1e39)),
        changed(usual, numbers(3)),
        changed(usual, numbers("Infinity")),
        changed(usual, numbers(True)),
        changed(usual, lambda message: message["inputs"][0].update(shape=[2, *message["inputs"][0]["shape"][1:]])),
        changed(usual, lambda message: message["inputs"][0].update(datatype="FP64")),
        changed(usual, lambda message: message["inputs"].append(message["inputs"][0])),
        changed(usual, lambda message: message["inputs"].__setitem__(0, message["inputs"][-1])),
        changed(usual, lambda message: message["inputs"].pop()),
        changed(usual, lambda message: message["inputs"][0].update(name="other")),
        changed(usual, lambda message: message.update(parameters={"timeout": 5_000_000})),
        changed(usual, lambda message: message.update(outputs=[{"name": "scores"}])),
        b"{",
        usual[:-1],
    ]


def binaries_of(tensors: Rows) -> list[tuple[bytes, bytes]]:
    """The same in binary, each with the header that says where its JSON ends."""
    body, header = as_binary(tensors, slice(0, 1))
    length = int(header.partition(b": ")[2])
    head, tail = body[:length], body[length:]
    spoilt = np.full(len(tail) // 4, np.nan, np.float32).tobytes()

    def one(change: Any, tail: bytes = tail) -> tuple[bytes, bytes]:
        told = changed(head, change)
        return told + tail, b"%b: %d" % (header.partition(b":")[0], len(told))

    def output(**parameters: Any) -> Any:
        return lambda message: message.update(outputs=[{"name": "scores", "parameters": parameters}])

    def size(message: Any) -> None:
        message["inputs"][0]["parameters"]["binary_data_size"] += 4

    def nothing(message: Any) -> None:
        pass

    return [
        (body, header),
        as_binary(tensors, slice(1, 4)),
        as_binary(tensors, slice(7, 8)),
        (head + spoilt, header),
        (head + tail[:-1], header),
        (b"{" + head[1:-1] + b" " + tail, header),
        one(output(binary_data=True)),
        one(output(binary_data=False)),
        one(output(binary_data=True, classification=1)),
        one(lambda message: message.update(id="b", parameters={"binary_data_output": True})),
        one(lambda message: message.update(parameters={"binary_data_output": True, "timeout": 9_000_000})),
        one(lambda message: message.update(parameters={"binary_data_output": True})),
        one(lambda message: message["parameters"].update(model_sha256="0" * 64)),
        one(lambda message: message["inputs"].reverse()),
        one(lambda message: message["inputs"][0].update(datatype="INT32")),
        one(lambda message: message["inputs"][0].update(shape=message["inputs"][1]["shape"])),
        one(size),
        one(nothing, tail * 2),
    ]


WHERE = [one == "x" for one in "xxxxxxxx............" + "xxxx..x..x.x.x...." + ".x"]
"""Which of the questions below are usual."""


def test_in_any_company_an_answer_has_the_bytes_of_the_question_alone(
    repository: ModelRepository, tensors: Rows, taken: list[tuple[bytes, Form, bool]]
) -> None:
    questions: list[tuple[bytes, ...]] = [(INFER, body) for body in bodies_of(tensors)]
    questions += [(INFER, *one) for one in binaries_of(tensors)]
    questions += [(b"/v2/models/other/infer", b"{}"), (b"/v2/models/tth/versions/1/infer", questions[0][1])]
    seen: list[Seen] = []
    with ExitStack() as stack:
        url = stack.enter_context(background(InferenceService(repository), hooks=Hooks(on_request=seen.append)))
        lines = [stack.enter_context(connected(url)) for _ in range(3)]
        alone = []
        for question in questions:
            lines[0].sendall(request(*question, _ALONE))
            alone += read(lines[0], 1)
            lines[0].sendall(request(*question))  # so that its head is known
            assert read(lines[0], 1) == alone[-1:]
        assert {head.split()[1] for head, _ in alone} == {b"200", b"400", b"404"}
        taken.clear()  # bodies of one length have one head
        told = [(one.status, one.path, one.model, one.rows, one.bytes_in, one.bytes_out) for one in seen[::2]]
        drawn = random.Random(0)
        for _ in range(4):
            orders = [drawn.sample(range(len(questions)), len(questions)) for _ in lines]
            seen.clear()
            for raw, order in zip(lines, orders, strict=True):
                raw.sendall(b"".join(request(*questions[at]) for at in order))
            for raw, order in zip(lines, orders, strict=True):
                assert read(raw, len(order)) == [alone[at] for at in order]
        assert len(taken) == 4 * 3 * (len(questions) - 1)  # all but that to a model that is not there
        here = {body for body, _, answered in taken if answered}
        assert [body in here for _, body, *_ in questions] == WHERE
        found = [(one.status, one.path, one.model, one.rows, one.bytes_in, one.bytes_out) for one in seen]
        assert sorted(found, key=str) == sorted(told * 3, key=str)
        for one in seen:
            parts = (one.queue_s, one.read_s, one.run_s)
            assert min(parts) >= 0
            assert sum(parts) <= one.seconds + 1e-9


SPELT = [
    "1,2",
    "-0,-0.0",
    " 1 ,\\t2",
    "1e39,-1E+2",
    "1e400,1",
    "16777217,9007199254740993",
    "18446744073709551616,1",
    "1,null",
]
SPELT += [
    "1",
    "1,2,3",
    "1,",
    ",2",
    "1,,2",
    "1 2",
    "1],[2",
    "[1],[2]",
    '"1",2',
    "true,2",
    "NaN,1",
    "01,2",
    "1.,2",
    "+1,2",
    "",
]
SPELT += ['1,2],"data":[3,4', '1,2]}],"id":"a","more":[{"x":[1', "1,2/**/", "1,\\u0032", "0.1,0.30000000000000004"]


def around(before: str, behind: str) -> list[bytes]:
    return [f"{before}{one}{behind}".encode() for one in SPELT]


def spelt_bodies() -> list[bytes]:
    """Numbers in many spellings between texts of several kinds, the first of each kind usual."""
    usual = '{"inputs":[{"name":"event","shape":[1,2],"datatype":"FP32","data":['
    named = '{"id":"b","inputs":[{"name":"event","shape":[1,2],"datatype":"FP32","data":['
    twice = '{"inputs":[{"name":"event","data":[1,2],"shape":[1,2],"datatype":"FP32","data":['
    escaped = '{"inputs":[{"name":"event","d\\u0061ta":[1,2],"shape":[1,2],"datatype":"FP32","data":['
    found = around(usual, "]}]}") + around(usual.replace(":[", ": [ "), " ] } ] }\n") + around(named, "]}]}")
    found += around('{"inputs":[{"data":[', '],"shape":[1,2],"name":"event","datatype":"FP32"}]}')
    found += around('{"inputs":[{"data":[', '],"shape":[1,2],"name":"event","datatype":"FP32"}],"inputs":[]}')
    found += around(twice, "]}]}") + around(escaped, "]}]}")
    found += around('{"inputs":[{"name":"data","shape":[', '],"datatype":"FP32","data":[1,2]}]}')
    return [*found, usual.replace("1,2", "2,2").encode() + b"1,2,3,4]}]}"]


@given(st.data(), st.lists(st.sampled_from(spelt_bodies()), min_size=1, max_size=12))
def test_numbers_between_known_texts_are_those_of_the_question_alone(data: st.DataObject, drawn: list[bytes]) -> None:
    model = flat_model()
    usual, codec = spelt_bodies()[:: len(SPELT)], quick_of(model)
    assert codec.fronts is not None
    bodies = data.draw(st.permutations([*usual, *usual, *drawn]))
    for _ in range(2):  # what was learnt is used
        joined, careful = together(model, IN_JSON), together(model, IN_JSON, carefully=True)
        assert isinstance(joined, InJson)
        assert isinstance(careful, InJson)
        rows = [joined.take(body, 100) for body in bodies]
        tensors = joined.tensors()
        if tensors is not None:
            assert rows == [careful.take(body, 100) for body in bodies]
            expected = careful.tensors()
            assert expected is not None
            assert tensors["event"].tobytes() == expected["event"].tobytes()
    joined = together(model, IN_JSON)
    assert isinstance(joined, InJson)
    assert [joined.take(usual[0], 100) for _ in range(300)] == [1] * 300
    tensors = joined.tensors()
    assert len(joined._texts) == 300
    assert tensors is not None
    assert tensors["event"].tolist() == [[1, 2]] * 300


def test_a_list_without_numbers_is_not_taken_for_one_of_one_number() -> None:
    model = dataclasses.replace(flat_model(), inputs=(TensorSpec("event", "FP32", (1,)),))
    usual = b'{"inputs":[{"name":"event","shape":[1,1],"datatype":"FP32","data":[1]}]}'
    for bodies in ([usual], [usual.replace(b"[1]}", b"[ ]}")], [usual] * 256 + [usual.replace(b"[1]}", b"[]}")]):
        joined = together(model, IN_JSON)
        assert isinstance(joined, InJson)
        assert [joined.take(body, 300) for body in bodies] == [1] * len(bodies)
        assert (joined.tensors() is None) == (bodies[-1] != usual)


class Waiting:
    """Notes what becomes of it."""

    def __init__(self, target: tuple[str | None, ...] = ("tth", None), *, gone: bool = False) -> None:
        self.target, self.gone = target, gone
        self.began_s, self.told = 0.0, False
        self.became: list[tuple[str, bytes]] = []

    def ask_alone(self, body: bytes) -> None:
        self.became.append(("alone", body))

    def land(self, whole: bytes) -> None:
        self.told = True
        self.became.append(("landed", whole))


def answered(
    service: InferenceService, waiting: Sequence[Waiting], body: bytes, hooks: Hooks | None = None
) -> Iterator[list[str]]:
    """What became of each, as soon as all were taken and after the turn."""

    async def run() -> list[list[str]]:
        road = Lane(service, asyncio.get_running_loop(), hooks or Hooks())
        for one in waiting:
            road.add(one, body, (one.target, IN_JSON))
        first = [word for one in waiting for word, _ in one.became]
        await asyncio.sleep(0)
        return [first, [word for one in waiting for word, _ in one.became]]

    yield from asyncio.run(run())


def test_spellings_are_answered_in_company_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    usual = Fronts.read

    def read_noting(self: Fronts, texts: Sequence[bytes]) -> NDArray[np.float32] | None:
        found = usual(self, texts)
        used.append(0 if found is None else len(texts))
        return found

    monkeypatch.setattr(Fronts, "read", read_noting)
    questions, path = spelt_bodies(), b"/v2/models/flat/infer"
    with ExitStack() as stack:
        url = stack.enter_context(background(InferenceService(ModelRepository([flat_model()]))))
        raw = stack.enter_context(connected(url))
        alone = []
        for body in questions:
            raw.sendall(request(path, body, _ALONE))
            alone += read(raw, 1)
            raw.sendall(request(path, body))
            assert read(raw, 1) == alone[-1:]
        assert {head.split()[1] for head, _ in alone} == {b"200", b"400"}
        drawn = random.Random(1)
        for size in [3, *[40] * 6]:
            order = [drawn.randrange(len(questions)) for _ in range(size)]
            raw.sendall(b"".join(request(path, questions[at]) for at in order))
            assert read(raw, size) == [alone[at] for at in order]
            raw.sendall(request(path, questions[0]) * size)
            assert read(raw, size) == [alone[0]] * size
    assert max(used) == 40


def test_who_is_gone_is_not_told_and_all_others_are_told_once(repository: ModelRepository, tensors: Rows) -> None:
    asked = [Waiting(), Waiting(gone=True), Waiting(("other", None)), Waiting()]
    at_once, later = answered(InferenceService(repository), asked, as_json(tensors, slice(0, 1)))
    assert (at_once, later) == ([], ["landed", "alone", "landed"])


def test_no_more_are_collected_than_may_be(
    repository: ModelRepository, tensors: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "MOST", 3)
    asked = [Waiting() for _ in range(4)]
    at_once, later = answered(InferenceService(repository), asked, as_json(tensors, slice(0, 1)))
    assert (at_once, later) == (["landed"] * 3, ["landed"] * 4)


def test_who_was_not_answered_when_something_broke_is_asked_alone(
    repository: ModelRepository, tensors: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = InJson.answers

    def breaks(self: InJson, outputs: Any) -> Iterator[tuple[bytes, int]]:
        yield next(usual(self, outputs))
        raise RuntimeError("a mistake")

    monkeypatch.setattr(InJson, "answers", breaks)
    asked, counted = [Waiting(), Waiting(), Waiting()], list[int]()
    hooks = Hooks(on_together=lambda seen: counted.append(len(seen.began_s)))
    answers = list(answered(InferenceService(repository), asked, as_json(tensors, slice(0, 1)), hooks))
    assert answers[-1] == ["landed", "alone", "alone"]
    assert counted == [1]
    assert "a mistake" in caplog.text


def test_a_mistake_before_the_run_or_of_one_question_leaves_nobody_waiting(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(Waiting):
        def ask_alone(self, body: bytes) -> None:
            super().ask_alone(body)
            raise RuntimeError("of a hook")

    service = InferenceService(repository)
    assert list(answered(service, [Breaking(), Breaking()], b"{"))[-1] == ["alone"] * 2
    monkeypatch.setattr(service, "batcher", lambda model: 1 / 0)
    assert list(answered(service, [Waiting(), Waiting()], b"{"))[-1] == ["alone"] * 2
    assert {"of a hook", "division by zero"} <= {str(one.exc_info[1]) for one in caplog.records if one.exc_info}


def test_where_runs_are_long_or_wait_or_fail_each_is_asked_alone(
    repository: ModelRepository, tensors: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = as_json(tensors, slice(0, 1))
    _, slow = slowed(repository)
    waits = InferenceService(repository, limits=Limits(queue=QueueLimits(max_wait_ms=5)))
    for service in (slow, waits):
        assert list(answered(service, [Waiting(), Waiting()], body))[-1] == ["alone"] * 2

    def fails(self: ServedModel, inputs: Any, rows: int) -> Any:
        raise RuntimeError("the run failed")

    monkeypatch.setattr(ServedModel, "run_checked", fails)
    assert list(answered(InferenceService(repository), [Waiting(), Waiting()], body))[-1] == ["alone"] * 2


@pytest.mark.parametrize("binary", [False, True])
def test_a_graph_that_gives_more_than_it_declares_mixes_no_answers_up(
    repository: ModelRepository, tensors: Rows, binary: bool
) -> None:
    usual = repository.get("tth")

    def execute(inputs: Rows) -> Rows:
        return {name: np.hstack([one, -one]) for name, one in usual.execute(inputs).items()}

    def question(row: int, *headers: bytes) -> bytes:
        rows = slice(row, row + 1)
        body, *more = as_binary(tensors, rows) if binary else (as_json(tensors, rows),)
        return request(INFER, body, *more, *headers)

    liar = dataclasses.replace(usual, execute=execute, contract=None)
    with background(InferenceService(ModelRepository([liar]))) as url, connected(url) as raw:
        raw.sendall(question(0))  # its head is known then
        read(raw, 1)
        raw.sendall(b"".join(map(question, range(20))))
        together = read(raw, 20)
        raw.sendall(b"".join(question(row, _ALONE) for row in range(20)))
        assert [body for _, body in together] == [body for _, body in read(raw, 20)]
        assert {b'"shape":[1,2]' in body for _, body in together} == {True}
