"""Servers as they are operated: several workers that die under load, certificates that change, an end without haste."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.cli import run
from tests.small_bundle import write_small_bundle
from tests.unit.serve.test_metrics import read, value

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
# No claim of speed: longer than that is a hang.
LIMIT_S = 30.0
TTH = {"model": "tth", "version": "1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundles"))


@contextmanager
def server(bundle: Bundle, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its URL; whatever is left of it at the end is killed."""
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(bundle.path.parent), "--port", "0", "--json", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    try:
        yield process, json.loads(line)["url"]
    finally:
        process.terminate()
        try:
            process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, text.split()))


def until(true: Callable[[], Any]) -> Any:
    """What it gives once it is true."""
    ends_s = time.monotonic() + LIMIT_S
    while not (found := true()):
        assert time.monotonic() < ends_s, "that did not come true"
        time.sleep(0.02)
    return found


def ask(url: str, path: str, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    made = (
        http.client.HTTPSConnection(parts.netloc, timeout=LIMIT_S, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc, timeout=LIMIT_S)
    )
    with contextlib.closing(made) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_worker_that_is_killed_under_load_comes_back_and_no_answer_is_wrong(bundle: Bundle) -> None:
    with server(bundle, "--workers", "2") as (process, url):
        example = json.loads(ask(url, "/v1/models/tth")[1])["example"]
        body = json.dumps({"instances": [example]})
        answers: list[bytes] = []
        broken: list[Exception] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
                try:
                    for _ in range(20):
                        connection.request("POST", "/v1/models/tth:predict", body, {"Content-Type": "application/json"})
                        answers.append(connection.getresponse().read())
                except (OSError, http.client.HTTPException) as error:
                    broken.append(error)
                finally:
                    connection.close()

        threads = [threading.Thread(target=load) for _ in range(4)]
        for one in threads:
            one.start()
        until(lambda: len(answers) > 50)
        first = workers_of(process)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        at = len(answers)
        until(lambda: len(answers) > at + 100)
        second = until(lambda: found if len(found := workers_of(process)) == 2 else None)
        assert first[1] in second
        assert first[0] not in second
        stop.set()
        for one in threads:
            one.join()
        assert len(set(answers)) == 1
        assert json.loads(answers[0])["predictions"][0]["signal"] > 0
        # With the worker, and where it still stood in that one's queue once more.
        assert len(broken) <= 2 * len(threads)
        # Both counted: the sum is all but what was under way or not laid down yet when the worker was killed.
        time.sleep(0.6)
        counted = value(read(ask(url, "/metrics")[1].decode()), "nv_inference_request_success", **TTH)
        assert 0 < counted <= len(answers) + len(broken)
        until(lambda: value(read(ask(url, "/metrics")[1].decode()), "mlaas4hep_worker_restarts_total", worker="0") == 1)
        process.terminate()
        assert process.wait(timeout=LIMIT_S) == 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in second))
        assert process.stderr is not None
        assert "ended by signal 9; it starts again in 0.1 s" in process.stderr.read()


def test_workers_end_with_who_watches_them(bundle: Bundle) -> None:
    with server(bundle, "--workers", "2") as (process, _):
        found = workers_of(process)
        process.kill()
        until(lambda: not any(_runs(pid) for pid in found))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_that_cannot_start_say_why_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(tmp_path), "--workers", "2", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stdout) == (2, "")
    assert 1 <= done.stderr.count("asked for NAME/1/model.onnx") <= 2
    assert "Traceback" not in done.stderr


def test_a_port_is_shared_with_ones_own_workers_only(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with server(bundle, "--workers", "2") as (_, url):
        for workers in ("1", "2"):
            assert run(["serve", str(bundle.path.parent), "--port", str(urlsplit(url).port), "--workers", workers]) == 2
            assert "is taken by another program" in capsys.readouterr().err


@pytest.mark.parametrize(("workers", "terminal"), [("1", False), ("2", False), ("2", True)])
def test_a_server_that_is_to_end_says_so_and_answers_for_a_while(bundle: Bundle, workers: str, terminal: bool) -> None:
    """A terminal sends its signal to all processes at once, and who watches the workers tells them to end as well."""
    with server(bundle, "--drain", "2" if terminal else "1", "--workers", workers) as (process, url):
        assert ask(url, "/v2/health/ready")[0] == 200
        if terminal:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        until(lambda: ask(url, "/v2/health/ready")[0] == 503)
        time.sleep(0.4 if terminal else 0.0)  # more than an end at once takes
        assert ask(url, "/v2/health/live")[0] == 200
        assert ask(url, "/v1/models/tth")[0] == 200
        assert process.wait(timeout=LIMIT_S) == 0


def certificate(folder: Path, name: str) -> None:
    """``server.pem`` and ``server.key`` for localhost, signed by themselves."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", folder / "server.key", "-out", folder / "server.pem", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]  # fmt: skip
    subprocess.run([str(word) for word in made], check=True, capture_output=True)


def name_of(url: str) -> str:
    """Of the certificate that a server shows to a new connection."""
    parts = urlsplit(url)
    text = ssl.get_server_certificate((str(parts.hostname), parts.port or 0))
    done = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=text, capture_output=True, text=True)
    return done.stdout.strip().rpartition("= ")[2]


def test_new_certificates_and_a_new_log_are_taken_without_an_end(bundle: Bundle, tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    log = tmp_path / "access.jsonl"
    options = ["--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key")]
    with server(bundle, *options, "--workers", "2", "--access-log", str(log)) as (process, url):
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        assert ask(url, "/v2/health/live", context=context)[0] == 200
        assert name_of(url) == "first"
        certificate(tmp_path, "second")
        until(log.exists)
        log.rename(tmp_path / "moved")
        process.send_signal(signal.SIGHUP)
        until(lambda: {name_of(url) for _ in range(6)} == {"second"})
        until(log.exists)
        (tmp_path / "server.pem").write_text("broken")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert name_of(url) == "second", "files that are of no use change nothing"


def test_a_certificate_of_the_client_is_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    certificate(tmp_path, "both")
    pem, key = str(tmp_path / "server.pem"), str(tmp_path / "server.key")
    with server(bundle, "--tls-cert", pem, "--tls-key", key, "--tls-client-ca", pem) as (_, url):
        context = ssl.create_default_context(cafile=pem)
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            ask(url, "/v2/health/live", context=context)
        context.load_cert_chain(pem, key)
        assert ask(url, "/v2/health/live", context=context)[0] == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", __file__], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", __file__], "--tls-client-ca needs --tls-cert"),
        (["--tls-cert", __file__, "--tls-key", __file__], "cannot be used"),
        (["--auth", __file__], "problem"),
        (["--access-log", "/no/such/folder"], "--access-log /no/such/folder: cannot be written"),
        (["--device", "tpu"], "device 'tpu' is none that a graph runs on; known: auto, cpu"),
        (["--device", "cuda:7"], "device 'cuda:7'"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_at_the_start(
    bundle: Bundle, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["serve", str(bundle.path.parent), "--port", "0", *options])
    out, error = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in error
    assert "Traceback" not in error


def post(url: str, path: str, body: object = None) -> int:
    """The status, over a connection of its own: whichever worker gets it."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)) as connection:
        data = b"" if body is None else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        return connection.getresponse().status


def test_models_are_loaded_and_unloaded_in_all_workers_also_in_those_that_come_later(bundle: Bundle) -> None:
    def statuses() -> set[int]:
        return {ask(url, "/v2/models/tth/ready")[0] for _ in range(12)}

    with server(bundle, "--workers", "2", "--control") as (process, url):
        assert post(url, "/v2/repository/models/tth/unload") == 200
        assert statuses() == {404}
        first = workers_of(process)
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(found := workers_of(process)) == 2 and first[0] not in found)
        until(lambda: value(read(ask(url, "/metrics")[1].decode()), "mlaas4hep_worker_restarts_total", worker="0") == 1)
        assert statuses() == {404}
        assert post(url, "/v2/repository/models/tth/load") == 200
        assert statuses() == {200}
        assert post(url, "/v2/repository/models/tth/labels", {"label": "stable", "version": 1}) == 200
        assert {ask(url, "/v2/models/tth/versions/stable")[0] for _ in range(12)} == {200}
        assert post(url, "/v2/repository/models/other/load") == 404
