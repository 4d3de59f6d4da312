"""Models that come, change, sleep and go while the server answers: names, versions, labels, switches."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.client import Client
from mlaas4hep.errors import BundleError, NotFoundError
from mlaas4hep.serve.entries import find_entries
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.served import ASLEEP, UNLOADED, Bounds
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService

X = np.ones((1, 2), np.float32)
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}).encode()


class Opener:
    """Makes of a version folder a model that answers with its own number; remembers what it opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.gate: threading.Event | None = None

    def __call__(self, folder: Path) -> ServedModel:
        self.opened.append(f"{folder.parent.name}/{folder.name}")
        if self.gate is not None:
            assert self.gate.wait(20)
        if (folder / "model.onnx").read_bytes() == b"broken":
            raise BundleError(f"{folder}: is broken")
        number = float(folder.name)

        def execute(tensors: Tensors) -> dict[str, Any]:
            return {"y": tensors["x"] * 0 + np.float32(number)}

        spec = (TensorSpec("x", "FP32", (2,)),)
        return ServedModel(
            folder.parent.name, folder.name, spec, (TensorSpec("y", "FP32", (2,)),), None, True, 64, 1e-5, 0.0, execute
        )


def put(place: Path, name: str, version: str, content: bytes = b"good") -> None:
    folder = place / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_bytes(content)
    (folder / "new").replace(folder / "model.onnx")


def opened(place: Path, **how: Any) -> tuple[ModelRepository, Opener]:
    opener = Opener()
    repository = ModelRepository(path=place, load=opener, **how)
    repository.refresh()
    return repository, opener


def states(repository: ModelRepository) -> dict[str, str]:
    return {f"{one.name}/{one.version}": one.state for one in repository.index()}


def test_a_new_version_answers_after_its_load_and_what_did_not_change_is_kept(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, opener = opened(tmp_path)
    first, retired = repository.get("m"), []
    repository.on_retired(retired.append)
    put(tmp_path, "m", "2")
    assert repository.get("m").version == "1"
    repository.load("m").result()
    assert repository.get("m").version == "2"
    assert repository.get("m", "1") is first
    assert opener.opened == ["m/1", "m/2"]
    shutil.rmtree(tmp_path / "m" / "1")
    repository.load("m").result()
    assert retired == [first]
    with pytest.raises(NotFoundError, match="model 'm' has no version 1; versions: 2"):
        repository.get("m", "1")


def test_a_version_that_was_replaced_is_another_model(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    first = repository.get("m")
    put(tmp_path, "m", "1", b"other")
    repository.refresh()
    assert repository.get("m") is not first


def test_a_version_that_breaks_is_told_and_the_old_one_goes_on(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    put(tmp_path, "other", "1", b"broken")
    repository, opener = opened(tmp_path)
    first = repository.get("m")
    put(tmp_path, "m", "1", b"broken")
    put(tmp_path, "m", "2", b"broken")
    with pytest.raises(BundleError, match=r"model 'm': .*m/1: is broken; .*m/2: is broken"):
        repository.load("m").result()
    assert repository.get("m") is first
    assert states(repository) == {"m/1": "READY", "m/2": "UNAVAILABLE", "other/1": "UNAVAILABLE"}
    assert "is broken" in repository.index()[1].reason
    with pytest.raises(NotFoundError, match=r"model 'other' cannot be served: .*other/1: is broken"):
        repository.get("other")
    tried = len(opener.opened)
    repository.refresh()
    assert len(opener.opened) == tried, "what is broken is tried again only when it changed"
    put(tmp_path, "other", "1")
    repository.refresh()
    assert repository.get("other").version == "1"


def test_an_unloaded_model_is_not_found_until_it_is_loaded(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    repository.unload("m").result()
    assert repository.names == ()
    with pytest.raises(NotFoundError, match="model 'm' is unloaded"):
        repository.get("m")
    repository.refresh()
    assert [(one.state, one.reason) for one in repository.index()] == [("UNAVAILABLE", UNLOADED)]
    assert repository.index(ready=True) == ()
    repository.load("m").result()
    assert repository.get("m").version == "1"
    for work in (repository.load, repository.unload):
        with pytest.raises(NotFoundError, match="the repository has no entry 'n'; known: m"):
            work("n").result()


def test_entries_come_and_go_with_the_folder_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    put(tmp_path, "new", "1")
    put(tmp_path, ".convert-x", "1")
    repository.refresh()
    assert repository.names == ("m", "new")
    shutil.rmtree(tmp_path / "m")
    repository.refresh()
    assert repository.names == ("new",)
    assert states(repository) == {"new/1": "READY"}


def test_a_watched_folder_is_looked_at_by_itself(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    seen = threading.Event()
    repository.on_retired(lambda model: seen.set())
    with repository.watched(0.01):
        put(tmp_path, "m", "1", b"other")
        assert seen.wait(20)


def test_two_folders_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path, name, "1")
        (tmp_path / name / "config.pbtxt").write_text('name: "same"\n')
    assert find_entries(tmp_path)[1] == {"b": "two folders are model 'same': a and b"}


def test_labels_are_asked_like_versions_and_outlive_the_server(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        put(tmp_path, "m", version)
    repository, _ = opened(tmp_path)
    repository.label("m", "stable", "2")
    assert [repository.get("m", one).version for one in ("stable", "latest", None)] == ["2", "10", "10"]
    again, opener = opened(tmp_path)
    assert again.labels("m") == {"latest": "10", "stable": "2"}
    repository.label("m", "stable", "1")
    again.refresh()
    assert again.get("m", "stable").version == "1"
    assert len(opener.opened) == 3
    repository.label("m", "stable", None)
    with pytest.raises(NotFoundError, match="model 'm' has no version stable; versions: 1, 2, 10; labels: latest"):
        repository.get("m", "stable")
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "10", "2", "labels.json"]


@pytest.mark.parametrize(
    ("label", "version", "words"),
    [("latest", "1", "always the newest"), ("7", "1", "asked for a letter"), ("stable", "7", "has no version 7")],
)
def test_what_is_no_label_is_refused(tmp_path: Path, label: str, version: str, words: str) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    with pytest.raises((BundleError, NotFoundError), match=words):
        repository.label("m", label, version)
    assert not (tmp_path / "m" / "labels.json").exists()


def test_labels_that_cannot_be_read_do_not_stop_the_model(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    (tmp_path / "m" / "labels.json").write_text("[")
    repository, _ = opened(tmp_path)
    assert repository.get("m").version == "1"
    assert "labels.json" in repository.problems["m"]


def test_loads_of_one_model_at_one_time_are_one(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, opener = opened(tmp_path, lazy=True)
    opener.gate = threading.Event()
    with ThreadPoolExecutor(8) as askers:
        asked = [askers.submit(repository.get, "m") for _ in range(8)]
        loads = [repository.load("m") for _ in range(3)]
        opener.gate.set()
        assert len({id(one.result()) for one in asked}) == 1
        assert all(load.result().versions["1"] is asked[0].result() for load in loads)
    assert opener.opened == ["m/1"]


def test_who_was_not_asked_for_longest_sleeps(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, "1")
    repository, opener = opened(tmp_path, bounds=Bounds(models=2))
    assert repository.names == ("a", "b", "c")
    assert opener.opened == []
    for name in "abac":
        repository.get(name)
    assert repository.loaded == ("a", "c")
    assert {one.name: one.reason for one in repository.index(ready=True)} == {"a": "", "b": ASLEEP, "c": ""}
    assert repository.get("b").name == "b"
    assert repository.loaded == ("b", "c")


def test_bytes_are_a_bound_too_and_one_model_may_exceed_it(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, "1", b"x" * 100)
    repository, _ = opened(tmp_path, bounds=Bounds(bytes=200))
    for name in "abc":
        repository.get(name)
    assert repository.loaded == ("b", "c")
    put(tmp_path, "d", "1", b"x" * 1000)
    repository.refresh()
    assert repository.get("d").name == "d"
    assert repository.loaded == ("d",)


def test_a_thousand_names_that_nobody_asks_for_are_not_opened(tmp_path: Path) -> None:
    for i in range(1000):
        put(tmp_path, f"m{i}", "1")
    repository, opener = opened(tmp_path, lazy=True)
    assert len(repository.names) == len(repository.index()) == 1000
    assert repository.get("m7").name == "m7"
    assert opener.opened == ["m7/1"]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "break", "remove", "load", "unload", "refresh", "ask", "label"]),
        st.sampled_from("ab"),
        st.sampled_from("123"),
    ),
    max_size=25,
)


@given(actions=ACTIONS, lazy=st.booleans(), most=st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_an_answer_is_of_a_version_that_was_there(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, str]], lazy: bool, most: int | None
) -> None:
    place = tmp_path_factory.mktemp("models")
    put(place, "a", "1")
    repository, _ = opened(place, lazy=lazy, bounds=Bounds(models=most))
    good = {("a", "1")}
    for action, name, version in actions:
        steps: dict[str, Callable[[], Any]] = {
            "put": lambda name=name, version=version: put(place, name, version),
            "break": lambda name=name, version=version: put(place, name, version, b"broken"),
            "remove": lambda name=name, version=version: shutil.rmtree(place / name / version, ignore_errors=True),
            "load": lambda name=name: repository.load(name).result(),
            "unload": lambda name=name: repository.unload(name).result(),
            "refresh": repository.refresh,
            "label": lambda name=name, version=version: repository.label(name, "stable", version),
            "ask": lambda: None,
        }
        good |= {(name, version)} if action == "put" else set()
        try:
            steps[action]()
        except (BundleError, NotFoundError):
            assert action in ("load", "unload", "label")
        for asked in (None, version, "latest", "stable"):
            try:
                model = repository.get(name, asked)
            except NotFoundError:
                continue
            assert (model.name, model.version) in good
            assert model.run({"x": X})["y"][0, 0] == float(model.version)
            assert asked in (None, "latest", "stable", model.version)
        if most is not None:
            assert len(repository.loaded) <= most
        assert set(repository.names) == {one.name for one in repository.index(ready=True)}


def test_a_retired_model_answers_what_it_took_and_is_let_go(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    service = InferenceService(repository)

    async def story() -> weakref.ref[ServedModel]:
        model = repository.get("m")
        asked = asyncio.create_task(service.batcher(model).infer({"x": X}, 1))
        await asyncio.sleep(0)
        put(tmp_path, "m", "1", b"other")
        await service.load_model("m")
        assert (await asked)["y"][0, 0] == 1
        late = await service.batcher(model).infer({"x": X}, 1)  # found its model just before the switch
        assert late["y"][0, 0] == 1
        await asyncio.sleep(0.01)
        assert not service.waiting()
        return weakref.ref(model)

    gone = asyncio.run(story())
    gc.collect()
    assert gone() is None


def test_who_waited_for_a_model_that_was_put_to_sleep_again_waits_once_more(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, opener = opened(tmp_path, lazy=True)
    service, opener.gate = InferenceService(repository), threading.Event()

    async def story() -> None:
        first = repository.waking("m")
        assert first is not None
        first.add_done_callback(lambda _: repository._drop(repository._kept["m"]))
        assert opener.gate is not None
        opener.gate.set()
        await service.wake("m")

    asyncio.run(story())
    assert repository.loaded == ("m",), "else whoever asks now loads it on the event loop"
    assert opener.opened == ["m/1"] * 2


def test_a_loop_that_has_ended_keeps_no_model(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    service = InferenceService(repository)

    async def ask() -> None:
        await service.batcher(repository.get("m")).infer({"x": X}, 1)

    asyncio.run(ask())
    repository.unload("m").result()
    gc.collect()  # what was begun for that loop and never run would be told of now
    assert not service._batchers


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, ModelRepository]]:
    put(tmp_path, "m", "1")
    put(tmp_path, "bad", "1", b"broken")
    repository, _ = opened(tmp_path)
    with background(InferenceService(repository, control=True)) as url:
        yield url, tmp_path, repository


def post(url: str, body: bytes = b"") -> tuple[int, Any]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_repository_is_controlled_over_http(served: tuple[str, Path, ModelRepository]) -> None:
    url, place, _ = served
    control = f"{url}/v2/repository"
    with urllib.request.urlopen(f"{url}/v2", timeout=20) as answer:
        assert "model_repository" in json.loads(answer.read())["extensions"]
    assert {one["name"]: one["state"] for one in post(f"{control}/index")[1]} == {"bad": "UNAVAILABLE", "m": "READY"}
    assert [one["name"] for one in post(f"{control}/index", b'{"ready": true}')[1]] == ["m"]
    put(place, "m", "2")
    assert post(f"{control}/models/m/load", b"{}") == (200, None)
    assert post(f"{url}/v2/models/m/infer", BODY)[1]["model_version"] == "2"
    assert post(f"{url}/v2/models/m/versions/1/infer", BODY)[1]["model_version"] == "1"
    assert post(f"{control}/models/m/unload", b'{"parameters": {"unload_dependents": true}}') == (200, None)
    assert post(f"{url}/v2/models/m/infer", BODY)[0] == 404
    assert post(f"{control}/models/m/load") == (200, None)
    assert post(f"{url}/v2/models/m/infer", BODY)[0] == 200
    refused = [post(f"{control}/models/{one}/load")[0] for one in ("bad", "nobody", "..%2f..%2fetc", "%00")]
    assert refused == [400, 404, 404, 404]
    assert post(f"{control}/index", b"{no")[0] == post(f"{control}/models/m/load", b"{no")[0] == 400
    status, told = post(f"{control}/models/m/load", b'{"parameters": {"file:1/model.onnx": "AAAA"}}')
    assert (status, "parameter 'file:1/model.onnx' is not taken" in told["error"]) == (400, True)
    assert post(f"{control}/models/m/load", b'{"parameters": {"config": 1}}')[0] == 400


def test_labels_are_set_and_taken_away_over_http(served: tuple[str, Path, ModelRepository]) -> None:
    url, place, _ = served
    labels = f"{url}/v2/repository/models/m/labels"
    put(place, "m", "2")
    assert post(f"{url}/v2/repository/models/m/load") == (200, None)
    assert post(labels, b'{"label": "stable", "version": 1}') == (200, {"latest": "2", "stable": "1"})
    assert post(f"{url}/v2/models/m/versions/stable/infer", BODY)[1]["model_version"] == "1"
    with urllib.request.urlopen(labels, timeout=20) as answer:
        assert json.loads(answer.read()) == {"latest": "2", "stable": "1"}
    assert [post(labels, body)[0] for body in (b'{"label": "latest"}', b'{"label": "s", "version": "9"}')] == [400, 404]
    assert post(labels, b'{"label": "stable"}') == (200, {"latest": "2"})
    with Client(url) as client:
        assert client.label("m", "stable", "2") == client.labels("m") == {"latest": "2", "stable": "2"}
        assert client.label("m", "stable", None) == {"latest": "2"}
        with pytest.raises(NotFoundError, match="has no version 9; versions: 1, 2"):
            client.label("m", "stable", "9")


def test_without_control_models_stay_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    repository, _ = opened(tmp_path)
    with background(InferenceService(repository)) as url:
        for what in ("load", "unload", "labels"):
            status, told = post(f"{url}/v2/repository/models/m/{what}")
            assert (status, "--control" in told["error"]) == (403, True)
        assert post(f"{url}/v2/models/m/infer", BODY)[0] == 200


def test_a_model_that_sleeps_is_loaded_by_the_question(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    put(tmp_path, "bad", "1", b"broken")
    repository, _ = opened(tmp_path, lazy=True)
    with background(InferenceService(repository)) as url:
        assert post(f"{url}/v2/models/m/infer", BODY)[1]["model_version"] == "1"
        assert post(f"{url}/v2/models/m/infer?slow", BODY)[0] == 200
        status, told = post(f"{url}/v2/models/bad/infer", BODY)
        assert (status, "is broken" in told["error"]) == (404, True)


def test_no_request_fails_while_versions_are_switched(served: tuple[str, Path, ModelRepository]) -> None:
    url, place, repository = served
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n"
    question = head + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    seen: list[tuple[bytes, str, float]] = []
    stop = False

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while not stop:
            writer.write(question)
            top = await reader.readuntil(b"\r\n\r\n")
            size = int(next(line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length"))[15:])
            answer = json.loads(await reader.readexactly(size))
            seen.append((top[9:12], answer.get("model_version", ""), answer["outputs"][0]["data"][0]))
        writer.close()
        await writer.wait_closed()

    async def story() -> None:
        nonlocal stop
        asking = [asyncio.create_task(ask()) for _ in range(64)]
        for version in range(2, 7):
            put(place, "m", str(version))
            await asyncio.wrap_future(repository.load("m"))
            shutil.rmtree(place / "m" / str(version - 1))
            count = len(seen)
            while len(seen) < count + 100:
                await asyncio.sleep(0.005)
        stop = True
        await asyncio.gather(*asking)

    asyncio.run(story())
    assert {status for status, _, _ in seen} == {b"200"}
    assert all(float(version) == number for _, version, number in seen)
    assert {version for _, version, _ in seen} >= {"2", "3", "4", "5", "6"}


def test_loading_and_unloading_does_not_grow(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "golden" / "bundle_v1" / "network"
    shutil.copytree(golden, tmp_path / "network")
    repository = open_repository(tmp_path)
    name = repository.names[0]

    def cycles(count: int) -> int:
        for _ in range(count):
            repository.unload(name).result()
            repository.load(name).result()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = cycles(50)
    assert (cycles(150) - before) / 150 < 20_000
