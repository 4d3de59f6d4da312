"""Whoever is told of a training learns all of it; whoever cannot be told changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.progress import Silent
from mlaas4hep.train import mlflow, tracking
from mlaas4hep.train.callbacks import EpochRecord
from mlaas4hep.train.mlflow import MlflowRun
from mlaas4hep.train.tensorboard import EventFile, crc32c
from mlaas4hep.train.tracking import Tracks, final_figures, require_address
from tests.notes import Notes

SECRET = "a-very-secret-token"


class Server:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, statuses: list[int]) -> None:
        self.asked: list[tuple[str, str, Any, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size)
                status = statuses.pop(0) if statuses else 200
                plain = json.loads(body) if self.headers.get("Content-Type") == "application/json" else body
                if status == 200:
                    outer.asked.append((self.command, self.path, plain, self.headers.get("Authorization")))
                told = json.dumps(
                    {
                        "experiment": {"experiment_id": "7"},
                        "run": {"info": {"run_id": "r", "artifact_uri": "mlflow-artifacts:/7/r/artifacts"}},
                    }
                ).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def statuses() -> list[int]:
    return []


@pytest.fixture
def server(statuses: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(mlflow, "_FIRST_WAIT_S", 0.01)
    one = Server(statuses)
    yield one
    one.close()


def config(more: str) -> Config:
    return parse_config(
        "samples: {a: {files: /eos/me/a.root, label: signal}, b: {files: b.root}}\ninputs: {event: [x]}\n" + more
    )


def run_of(address: str, **environment: str) -> MlflowRun:
    return MlflowRun(address, experiment="e", name="n", params={"p": "1"}, tags={}, environment=environment)


def test_a_server_that_fails_at_first_is_told_everything_in_order(server: Server, statuses: list[int]) -> None:
    statuses += [503, 500, 200, 200, 503]
    run = run_of(server.address, MLFLOW_TRACKING_TOKEN=SECRET)
    for step in (1, 2):
        run.metrics({"loss": 0.5 / step}, step=step)
    run.end("FINISHED", wait_s=20)
    told = list(run.notes())
    assert [one.partition("; ")[0] for one in told[:2]] == [
        f"tracking: {server.address} does not answer (status 503)",
        f"tracking: {server.address} answers again",
    ]
    assert run.unsent == 0
    steps = [one["step"] for _, _, body, _ in server.asked if isinstance(body, dict) for one in body.get("metrics", ())]
    assert steps == [1, 2]
    assert server.asked[-1][2]["status"] == "FINISHED"
    assert {authorization for *_, authorization in server.asked} == {f"Bearer {SECRET}"}
    assert SECRET not in json.dumps(told)


def test_a_server_that_refuses_is_told_of_and_not_asked_again(server: Server, statuses: list[int]) -> None:
    statuses += [401]
    run = run_of(server.address)
    run.end("FINISHED", wait_s=20)
    told = list(run.notes())
    assert "refuses: status 401" in told[0]
    assert "MLFLOW_TRACKING_TOKEN" in told[0]
    assert "was not told all: 3 requests were given up" in told[-1]
    assert len(told) == 2


def test_a_dead_server_delays_the_end_by_little_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(mlflow, "_CONNECT_S", 0.3)
    run = run_of("http://127.0.0.1:9")
    run.metrics({"loss": 1.0}, step=1)
    run.end("FINISHED", wait_s=0.5)
    told = list(run.notes())
    assert sum("does not answer" in one for one in told) == 1
    assert "was not told all" in told[-1]


def test_files_are_read_when_they_are_sent(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"words")
    run = run_of(server.address)
    run.file(tmp_path / "a.txt", "below/a.txt")
    run.file(tmp_path / "gone", "gone")
    run.end("KILLED", wait_s=20)
    sent = {path: body for method, path, body, _ in server.asked if method == "PUT"}
    assert sent == {"/api/2.0/mlflow-artifacts/artifacts/7/r/artifacts/below/a.txt": b"words"}
    assert any("gone cannot be read" in one for one in run.notes())


def test_epochs_are_told_once_with_what_was_learned_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, Any]] = []

    class Someone:
        def epoch(self, step: int, values: Any) -> None:
            told.append((step, dict(values)))

        def result(self, *_: Any, **__: Any) -> None:
            """Nothing."""

        def end(self, status: str) -> None:
            told.append((-1, status))

        def notes(self) -> Iterator[str]:
            yield from ()

    monkeypatch.setattr(tracking, "_everyone", lambda *_, **__: iter([Someone()]))
    others: list[int] = []
    tracks = Tracks(config(""), tmp_path, resumed=False, progress=Silent())
    watch = tracks.watching(lambda record: others.append(record.epoch))
    for _ in range(2):
        watch(EpochRecord(2, 0.5, float("nan"), None, 10, 1.0))
    tracks.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert told == [(2, {"train_loss": 0.5, "events": 10.0, "seconds": 1.0}), (-1, "KILLED")]
    assert others == [2, 2]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file = EventFile(tmp_path / "run")
    for step in (1, 2, 300):
        file.scalars({"loss": 1 / step, "validation/auc": 0.5}, step=step, at=1e9 + step)
    file.text("config", "model: ü")
    file.close()
    found = loading.EventAccumulator(str(tmp_path / "run"))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss", "validation/auc"]
    assert [(one.step, one.wall_time - 1e9) for one in found.Scalars("loss")] == [(1, 1), (2, 2), (300, 300)]
    assert [one.value for one in found.Scalars("loss")] == pytest.approx([1, 0.5, 1 / 300])
    words = found.Tensors("config/text_summary" if "config/text_summary" in found.Tags()["tensors"] else "config")
    assert words[0].tensor_proto.string_val[0].decode() == "model: ü"


def test_a_disk_that_takes_no_event_files_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    notes = Notes()
    with Tracks(config("tracking: {tensorboard: true}"), tmp_path / "run", resumed=False, progress=notes) as tracks:
        tracks.epoch(EpochRecord(1, 0.5))
    assert len(notes.lines) == 1
    assert "cannot be written" in notes.lines[0]


def test_the_sum_of_records_is_castagnolis() -> None:
    assert crc32c(b"\0" * 32) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_an_address_with_a_password_or_none_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"written with a credential .*MLFLOW_TRACKING_TOKEN") as caught:
        config(f"tracking: {{mlflow: 'https://me:{SECRET}@host'}}")
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="is no address of a server; wants http://host:port, or env"):
        config("tracking: {mlflow: localhost}")
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        config("tracking: {tensorbord: true}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="takes the server from MLFLOW_TRACKING_URI, which is not set"):
        require_address(config("tracking: {mlflow: env}"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    require_address(config("tracking: {mlflow: env}"))


def test_only_finite_numbers_are_figures() -> None:
    metrics = {"auc": 0.9, "parts": {"validation": {"loss": 0.4, "curve": [1], "x": float("inf")}}, "name": "n"}
    assert final_figures(metrics) == {"auc": 0.9, "parts.validation.loss": 0.4}
