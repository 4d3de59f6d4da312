"""What only the transport decides: failures of our own, and where an answer is computed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from mlaas4hep.client import Client
from mlaas4hep.errors import ServerError, UserError
from mlaas4hep.serve.events import Prediction
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background, bind, url_of
from mlaas4hep.serve.service import InferenceService, Question
from tests.small_bundle import write_small_bundle


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
