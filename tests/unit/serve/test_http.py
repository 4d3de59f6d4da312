"""What only the transport decides: failures of our own, and where an answer is computed."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.client import Client, ExternalWork
from mlaas4hep.errors import NotFoundError, ServerError, UserError
from mlaas4hep.serve.events import Prediction
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background, bind, url_of
from mlaas4hep.serve.service import InferenceService, Question
from tests.small_bundle import as_instances, make_events, write_small_bundle


def ask(url: str, body: bytes) -> Any:
    """The answer to a question in JSON."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder: Path = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    return open_repository(folder)


class Broken(InferenceService):
    def ask_events(self, name: str, body: bytes, *, version: str | None = None) -> Question[Prediction]:
        raise ValueError("a secret of the server")


def test_a_failure_of_ours_is_logged_and_its_text_stays_here(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        background(Broken(repository)) as url,
        Client(url, retries=0) as client,
    ):
        with pytest.raises(ServerError, match="500: the server failed on this request") as failed:
            client.predict("tth", [])
        assert "secret" not in str(failed.value)
        assert client.live()
    assert "a secret of the server" in caplog.text


def test_a_long_address_is_told_in_few_letters_and_not_kept(repository: ModelRepository) -> None:
    with (
        background(InferenceService(repository)) as url,
        closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)) as connection,
    ):
        before = urllib.parse.urlsplit.cache_info().currsize
        for method, path, status in (("GET", "/no", 404), ("PUT", "/v2/models/", 405)):
            connection.request(method, path + "x" * 60_000)
            answer = connection.getresponse()
            assert (answer.status, len(answer.read()) < 1000) == (status, True)
        assert urllib.parse.urlsplit.cache_info().currsize == before


class Witness(InferenceService):
    """Remembers in which thread a question was read."""

    threads: set[str]

    def ask_events(self, name: str, body: bytes, *, version: str | None = None) -> Question[Prediction]:
        self.threads.add(threading.current_thread().name)
        return super().ask_events(name, body, version=version)


def test_only_large_questions_are_read_off_the_event_loop(repository: ModelRepository) -> None:
    service = Witness(repository)

    def threads_of(count: int) -> int:
        service.threads = set()
        client.predict("tth", [client.contract("tth")["example"]] * count)
        (name,) = service.threads
        return "mlaas4hep-run" in name

    with background(service) as url, Client(url) as client:
        assert not threads_of(1)
        assert threads_of(5000)


def test_events_are_asked_of_a_version_or_a_label_whichever_way(tmp_path: Path) -> None:
    bundles = [write_small_bundle(tmp_path, seed=seed) for seed in (0, 1)]
    (tmp_path / "tth" / "labels.json").write_text('{"stable": "1"}')
    columns = make_events(20, seed=3)
    events = as_instances(columns)
    of_old, of_new = (
        InferenceService(ModelRepository([ServedModel.of(one)]))
        .predict_columns("tth", columns, num_entries=20)
        .scores[:, 0]
        for one in bundles
    )
    assert (of_old != of_new).any()

    def scores(predictions: list[Any]) -> Any:
        return np.array([one["signal"] for one in predictions if one is not None], np.float32)

    with background(InferenceService(open_repository(tmp_path))) as url, Client(url) as client:
        for version, expected in ((None, of_new), ("2", of_new), ("1", of_old), ("stable", of_old)):
            assert (scores(client.predict("tth", events, version=version)) == expected).all()
            table = client.predict_table("tth", columns, version=version)
            assert (table.scores["signal"][table.selected] == expected).all()
            assert client.contract("tth", version)["version"] == ("2" if expected is of_new else "1")
            with ExternalWork(url, "tth", version=version) as work:
                assert (scores(work.acquire_events(events).produce()) == expected).all()
        body = json.dumps({"instances": events[:1]}).encode()
        answers = [ask(f"{url}/v1/models/tth/versions/stable:predict{way}", body) for way in ("", "?slow")]
        assert answers[0] == answers[1]
        assert answers[0]["model_version"] == "1"
        with pytest.raises(NotFoundError, match="no version 7; versions: 1, 2"):
            client.predict("tth", events, version="7")


def test_a_port_is_free_taken_or_impossible() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        first.listen()
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is taken"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen on"):
        bind("no.such.host.invalid", 8000)
    with pytest.raises(UserError, match=r"cannot listen on port 8000 of 192\.0\.2\.1"):
        bind("192.0.2.1", 8000)


def test_all_addresses_are_shown_as_one_that_can_be_asked() -> None:
    with bind("0.0.0.0", 0) as everywhere:
        assert url_of(everywhere).startswith("http://localhost:")
