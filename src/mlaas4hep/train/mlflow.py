"""A run on an MLflow server, by its REST interface; what cannot be sent waits, and the training never does.

A thread of its own sends, in order, and asks again where nobody answers. Tokens come from the environment
(``MLFLOW_TRACKING_TOKEN``, or ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``) and go into requests
alone. Invariant: nothing that a server does or leaves undone raises in the thread that learns.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_CONNECT_S = 5.0
_ANSWER = urllib3.Timeout(connect=_CONNECT_S, read=30.0)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 900, 100, 5_900
_TOLD = 300


class Unreachable(Exception):
    """Nobody answered, or said to come later: asked again."""


class Refused(Exception):
    """The server answered, and will answer the same again."""


class MlflowRun:
    """One run on a server.

    Parameters
    ----------
    address
        Of the server, ``http://host:port``.
    experiment
        Found by this name, or made.
    name
        Of the run.
    params, tags
        Known when it begins.
    environment
        Where tokens are looked for.
    """

    def __init__(
        self,
        address: str,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self._pool = urllib3.PoolManager(num_pools=1, retries=False, timeout=_ANSWER)
        self._headers = _credentials(os.environ if environment is None else environment)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._run_id, self._artifacts, self._failing, self._refused, self.unsent = "", "", False, False, 0
        begun = _now()
        self._jobs.put(lambda: self._begin(experiment, name, tags, begun))
        for part in _parts(_pairs({key: value[:_LONGEST_PARAM] for key, value in params.items()}), _MOST_PARAMS):
            self._jobs.put(lambda part=part: self._batch(params=part))  # type: ignore[misc]
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Figures at a step."""
        now = _now()
        told = [{"key": key, "value": value, "timestamp": now, "step": step} for key, value in values.items()]
        for part in _parts(told, _MOST_METRICS):
            self._jobs.put(lambda part=part: self._batch(metrics=part))  # type: ignore[misc]

    def tags(self, values: Mapping[str, str]) -> None:
        """Words beside the figures."""
        self._jobs.put(lambda: self._batch(tags=_pairs(values)))

    def file(self, path: Path, name: str) -> None:
        """A file, read when it is sent."""
        self._jobs.put(lambda: self._upload(path, name))

    def end(self, status: str, *, wait_s: float) -> None:
        """Send what waits, at most so long; ``status`` is MLflow's: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        ended = _now()
        self._jobs.put(lambda: self._update(status, ended))
        self._jobs.put(None)
        self._thread.join(min(wait_s, _CONNECT_S) if self._failing else wait_s)
        if self._thread.is_alive():
            self._hurry.set()
            self._thread.join(_CONNECT_S)
        if left := self._left():
            self._notes.put(f"tracking: {self.address} was not told all: {left} requests were given up")
        self._pool.clear()

    def _left(self) -> int:
        """Requests that were given up."""
        return self.unsent + (self._jobs.qsize() if self._thread.is_alive() else 0)

    def notes(self) -> Iterator[str]:
        """What there is to tell since the last time."""
        while not self._notes.empty():
            yield self._notes.get()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._insist(job)

    def _insist(self, job: Callable[[], None]) -> None:
        """Do one thing, again and again until the server has answered or there is no time left."""
        wait = _FIRST_WAIT_S
        while not self._hurry.is_set():
            try:
                job()
            except Refused as error:
                self.unsent += 1
                if self._run_id or not self._refused:
                    self._notes.put(f"tracking: {self.address} refuses: {error}; the training goes on")
                self._refused = True
                return
            except Unreachable as error:
                if not self._failing:
                    self._notes.put(
                        f"tracking: {self.address} does not answer ({error}); the training goes on, figures wait"
                    )
                self._failing = True
                self._hurry.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            else:
                if self._failing:
                    self._notes.put(f"tracking: {self.address} answers again")
                self._failing = False
                return
        self.unsent += 1

    def _begin(self, experiment: str, name: str, tags: Mapping[str, str], started: int) -> None:
        asked = {"experiment_id": self._experiment(experiment), "run_name": name, "start_time": started}
        info = self._ask("POST", f"{_API}/runs/create", {**asked, "tags": _pairs(tags)})["run"]["info"]
        self._run_id, self._artifacts = info["run_id"], info.get("artifact_uri", "")

    def _experiment(self, name: str) -> str:
        try:
            found = self._ask("GET", f"{_API}/experiments/get-by-name?{urlencode({'experiment_name': name})}")
            return str(found["experiment"]["experiment_id"])
        except Refused as error:
            if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                raise
        return str(self._ask("POST", f"{_API}/experiments/create", {"name": name})["experiment_id"])

    def _batch(self, **kinds: Any) -> None:
        self._ask("POST", f"{_API}/runs/log-batch", {"run_id": self._known(), **kinds})

    def _update(self, status: str, ended: int) -> None:
        self._ask("POST", f"{_API}/runs/update", {"run_id": self._known(), "status": status, "end_time": ended})

    def _upload(self, path: Path, name: str) -> None:
        self._known()
        scheme, _, rest = self._artifacts.partition(":")
        if scheme != "mlflow-artifacts":
            raise Refused(f"{name} is not sent: the server keeps files at {scheme}: itself and takes none")
        below = rest.lstrip("/") if not rest.startswith("//") else rest.lstrip("/").partition("/")[2]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Refused(f"{name} cannot be read: {error.strerror}") from error
        self._ask("PUT", f"{_ARTIFACTS}/{quote(f'{below}/{name}')}", data)

    def _known(self) -> str:
        if not self._run_id:
            raise Refused("there is no run to write to")
        return self._run_id

    def _ask(self, method: str, route: str, body: Any = None) -> dict[str, Any]:
        plain = isinstance(body, bytes) or body is None
        kind = {} if plain else {"Content-Type": "application/json"}
        data = body if plain else json.dumps(body).encode()
        try:
            answer = self._pool.request(
                method, self.address + route, body=data, headers={**self._headers, **kind}, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(type(error).__name__) from error
        text = answer.data.decode("utf-8", "replace")
        if answer.status in (408, 429) or answer.status >= 500:
            raise Unreachable(f"status {answer.status}")
        if answer.status >= 300:
            raise Refused(f"status {answer.status}: {text[:_TOLD]}{_hint(answer.status)}")
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise Refused("it is no MLflow server: its answer is not JSON") from error
        if not isinstance(found, dict):
            raise Refused("it is no MLflow server: its answer is not an object")
        return found


def _hint(status: int) -> str:
    return "; is MLFLOW_TRACKING_TOKEN set and good?" if status in (401, 403) else ""


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The header that says who we are; MLflow's own names of the variables."""
    if token := environment.get("MLFLOW_TRACKING_TOKEN", "").strip():
        return {"Authorization": f"Bearer {token}"}
    user, word = (environment.get(f"MLFLOW_TRACKING_{one}", "") for one in ("USERNAME", "PASSWORD"))
    return dict(urllib3.make_headers(basic_auth=f"{user}:{word}")) if user and word else {}


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _parts(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + most] for start in range(0, len(values), most))


def _now() -> int:
    return int(time.time() * 1000)
