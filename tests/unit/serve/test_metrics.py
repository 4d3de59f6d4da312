"""Counts and their text, read by Prometheus' own parser."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.serve.exposition import Totals
from mlaas4hep.serve.hooks import Seen, SeenTogether
from mlaas4hep.serve.metrics import BOUNDS_S, Metrics, statistics
from mlaas4hep.serve.model import ServedModel, TensorSpec
from mlaas4hep.serve.operation import Operation
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def model(name: str = "tth", version: str = "1") -> ServedModel:
    return ServedModel(name, version, (), (), None, True, 256, 1e-4, 1e-6, lambda tensors: {})


def seen(status: int = 200, *, who: ServedModel | None = None, seconds: float = 0.004, rows: int = 3) -> Seen:
    return Seen("POST", "/v2/models/tth/infer", status, "127.0.0.1", "infer", who, rows, 100, 50, seconds,
                queue_s=0.001, run_s=0.002, headers={}, read_s=0.0005)  # fmt: skip


def read(text: str) -> Samples:
    """What a scraper gets; each family in one piece, each sample once, all of a type that was said before."""
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    found: Samples = {}
    for family in families:
        assert family.type != "unknown", family.name
        assert family.documentation
        for sample in family.samples:
            key = (_plain(sample.name), tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[_plain(name), tuple(sorted(labels.items()))]


def _plain(name: str) -> str:
    """The parser gives all counters an end that Triton's do not have."""
    return name.removesuffix("_total")


TTH = {"model": "tth", "version": "1"}


def test_counts_have_tritons_names_and_meaning() -> None:
    metrics, who = Metrics(pending=lambda: {"tth/1": 5}), model()
    for seconds in (0.004, 0.0002, 20.0):
        metrics.seen(seen(who=who, seconds=seconds))
    metrics.ran(who, questions=2, rows=6, seconds=0.002)
    metrics.ran(who, questions=1, rows=3, seconds=0.001)
    for status in (503, 503, 499, 500, 400):
        metrics.seen(seen(status, who=who))
    metrics.seen(seen(404))
    found = read(metrics.text())
    assert 'nv_inference_request_success{model="tth",version="1"} 3\n' in metrics.text()
    assert value(found, "nv_inference_request_success", **TTH) == 3
    reasons = {"REJECTED": 2, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
    assert {one: value(found, "nv_inference_request_failure", reason=one, **TTH) for one in reasons} == reasons
    assert value(found, "nv_inference_count", **TTH) == 9
    assert value(found, "nv_inference_exec_count", **TTH) == 2
    assert value(found, "nv_inference_request_duration_us", **TTH) == 20_004_200
    assert value(found, "nv_inference_queue_duration_us", **TTH) == 3000
    assert value(found, "nv_inference_compute_input_duration_us", **TTH) == 1500
    assert value(found, "nv_inference_compute_infer_duration_us", **TTH) == 5000, "each of two questions took the run"
    assert value(found, "nv_inference_pending_request_count", **TTH) == 5
    assert value(found, "mlaas4hep_http_responses_total", code="404") == 1
    assert value(found, "process_resident_memory_bytes", worker="0") > 1e6
    assert value(found, "process_cpu_seconds_total", worker="0") > 0


def test_the_histogram_adds_up() -> None:
    metrics, who = Metrics(), model()
    for seconds in (*BOUNDS_S, 99.0):
        metrics.seen(seen(who=who, seconds=seconds))
    found = read(metrics.text())
    name = "mlaas4hep_inference_duration_seconds"
    counts = [value(found, f"{name}_bucket", le=repr(bound), **TTH) for bound in BOUNDS_S]
    assert counts == list(range(1, len(BOUNDS_S) + 1)), "a bound belongs to its own bucket"
    assert value(found, f"{name}_bucket", le="+Inf", **TTH) == value(found, f"{name}_count", **TTH) == 17
    assert value(found, f"{name}_sum", **TTH) == pytest.approx(sum(BOUNDS_S) + 99)


def test_a_scrape_is_the_sum_over_workers_and_a_successor_goes_on(tmp_path: Path) -> None:
    metrics = [Metrics(folder=tmp_path, worker=number, pending=lambda: {"tth/1": 2}) for number in range(3)]
    for number, one in enumerate(metrics):
        for _ in range(number + 1):
            one.seen(seen(who=model()))
            one.ran(model(), 1, 3, 0.001)
        one.close()
    found = read(metrics[0].text())
    assert value(found, "nv_inference_request_success", **TTH) == 6
    assert value(found, "nv_inference_count", **TTH) == 18
    assert value(found, "nv_inference_pending_request_count", **TTH) == 6
    assert value(found, "mlaas4hep_http_responses_total", code="200") == 6
    assert {value(found, "process_open_fds", worker=str(number)) > 0 for number in range(3)} == {True}
    successor = Metrics(folder=tmp_path, worker=1)
    successor.seen(seen(who=model()))
    again = read(successor.text())
    assert value(again, "nv_inference_request_success", **TTH) == 7
    assert value(again, "mlaas4hep_worker_restarts_total", worker="1") == 1
    assert [one.rows for one in successor.totals("tth")] == [18]
    successor.close()
    assert value(read(metrics[2].text()), "nv_inference_request_success", **TTH) == 7
    assert sorted(os.listdir(tmp_path)) == ["worker-0", "worker-1", "worker-2"]


def test_names_of_any_kind_are_told_and_never_end_a_line() -> None:
    strange = 'a"b\\c\nd{}=,#'
    metrics = Metrics()
    metrics.seen(seen(who=model(strange)))
    assert value(read(metrics.text()), "nv_inference_request_success", model=strange, version="1") == 1


def test_ever_new_models_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.serve.metrics.MAX_MODELS", 4)
    metrics = Metrics()
    for number in range(100):
        metrics.seen(seen(who=model(f"m{number}")))
        metrics.ran(model("m0"), 1, number + 1, 0.001)
    totals = {one.model: one for one in metrics.totals()}
    assert sorted(totals) == ["m0", "m1", "m2", "m3", "other"]
    assert sum(one.succeeded for one in totals.values()) == 100
    assert sum(runs for runs, _ in totals["m0"].batches.values()) == 100
    assert len(totals["m0"].batches) <= 5


def test_statistics_are_those_of_the_metrics() -> None:
    metrics, who = Metrics(), model()
    metrics.seen(seen(who=who))
    metrics.seen(seen(400, who=who, seconds=0.5))
    metrics.ran(who, 1, 3, 0.002)
    metrics.ran(who, 1, 3, 0.002)
    metrics.seen(seen(who=model("other", "7")))
    totals: list[Totals] = metrics.totals("tth", "1")
    found: dict[str, Any] = json.loads(json.dumps(statistics(totals)))
    (one,) = found["model_stats"]
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("tth", "1", 6, 2)
    assert one["last_inference"] > 1.7e12
    assert one["inference_stats"]["success"] == {"count": 1, "ns": 4_000_000}
    assert one["inference_stats"]["fail"] == {"count": 1, "ns": 500_000_000}
    assert one["inference_stats"]["queue"] == {"count": 1, "ns": 1_000_000}
    assert [(batch["batch_size"], batch["compute_infer"]) for batch in one["batch_stats"]] == [
        (3, {"count": 2, "ns": 4_000_000})
    ]
    assert len(metrics.totals()) == 2


def test_a_question_that_nobody_waits_for_any_more_counts_as_cancelled() -> None:
    began, goes_on = threading.Event(), threading.Event()

    def execute(tensors: Any) -> dict[str, Any]:
        began.set()
        goes_on.wait(20)
        return {"y": np.zeros((1, 1), np.float32)}

    ends = (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),)
    slow = ServedModel("tth", "1", *ends, None, True, 256, 1.0, 0.0, execute)
    service = InferenceService(ModelRepository([slow]))
    operation = Operation(service)
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}'
    with background(service, operation=operation) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request("POST", "/v2/models/tth/infer", body, {"Content-Type": "application/json"})
        assert began.wait(20)
        connection.close()
        ends_s = time.monotonic() + 20
        while not any(one.failures["CANCELED"] for one in operation.metrics.totals()):
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        goes_on.set()
    operation.close()
    assert operation.metrics.totals()[0].succeeded == 0


def test_requests_that_one_run_answered_count_as_each_would() -> None:
    who, each, together = model(), Metrics(), Metrics()
    for began in ([1.0, 1.5, 1.9], [1.51, 1.5, 1.52]):
        for start in began:
            each.seen(seen(who=who, seconds=2.5 - start)._replace(queue_s=2.0 - start, read_s=0.125, run_s=0.25))
        together.seen_together(SeenTogether(who, began, 2.0, 2.125, 2.375, 2.5))
    (one,), (other,) = each.totals(), together.totals()
    assert other.succeeded == one.succeeded == 6
    assert other.buckets == one.buckets
    for name in ("total_s", "queue_s", "read_s", "run_s", "write_s"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-9)
    assert value(read(together.text()), "mlaas4hep_http_responses_total", code="200") == 6


def test_who_was_not_asked_yet_has_statistics_of_zeros_also_by_label() -> None:
    models = [model("tth", "1"), model("tth", "2"), model("ttz")]
    repository = ModelRepository(models)
    operation = Operation(InferenceService(repository))
    operation.metrics.ran(models[1], 1, 3, 0.002)

    def told(name: str | None = None, version: str | None = None) -> list[tuple[str, str, int]]:
        found = operation.statistics(name, version)["model_stats"]
        return [(one["name"], one["version"], one["inference_count"]) for one in found]

    assert told() == [("tth", "1", 0), ("tth", "2", 3), ("ttz", "1", 0)]
    assert told("ttz") == [("ttz", "1", 0)]
    assert told("tth", "1") == [("tth", "1", 0)]
    assert told("tth", "latest") == [("tth", "2", 3)]
    operation.close()
