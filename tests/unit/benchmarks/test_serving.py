"""What the benchmark of serving reads off its load generators, and the names of its figures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.__main__ import read_off
from benchmarks.serving.cells import CELLS, OURS, RATIOS, Figures, key
from benchmarks.serving.load import PACKAGES, Load, lua_script, program, read_h2load, read_wrk
from benchmarks.serving.networks import Network
from benchmarks.serving.processes import cpu_s, pss_mb, tree
from benchmarks.serving.questions import check, question
from benchmarks.turns import Unavailable

WRK = """Running 1s test @ http://127.0.0.1:8000/v2/models/mlp/infer
  1 threads and 64 connections
  27801 requests in 1.10s, 6.31MB read
load {"requests": 27801, "microseconds": 1100000, "failed": 0, "p50_us": 2150, "p99_us": 4210}
"""
H2LOAD = """finished in 2.00s, 1467.50 req/s, 118.23KB/s
requests: 2935 total, 2999 started, 2935 done, 2935 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2935 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 236.46KB (242140) total, 31.52KB (32280) headers (space savings 90.00%), 186.30KB (190775) data
"""


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path / "mlp", "event", "scores", (3,))


def test_wrk_tells_requests_and_times() -> None:
    load = read_wrk(WRK)
    assert (load.requests, load.seconds, load.p50_us, load.p99_us) == (27801, 1.1, 2150, 4210)


def test_h2load_tells_calls_and_the_bytes_of_their_answers() -> None:
    load = read_h2load(H2LOAD)
    assert (load.rps, load.body_bytes, load.p50_us) == (1467.5, 190775, None)


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (read_wrk, WRK.replace('"failed": 0', '"failed": 3'), "3 of 27801 requests failed"),
        (read_wrk, "unable to connect", "unable to connect"),
        (read_h2load, H2LOAD.replace("2935 succeeded, 0 failed", "2930 succeeded, 5 failed"), "5 of 2935 calls failed"),
        (read_h2load, "could not connect", "could not connect"),
    ],
)
def test_a_load_with_a_lost_request_gives_no_figure(read: object, text: str, reason: str) -> None:
    assert callable(read)
    with pytest.raises(Unavailable, match=reason):
        read(text)


def test_a_program_that_is_missing_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name, package in PACKAGES.items():
        with pytest.raises(Unavailable, match=f"{name} is not installed; Debian has it: apt-get install {package}"):
            program(name)


def test_figures_have_the_plain_names_for_us_and_the_name_of_a_peer_in_front() -> None:
    cell = CELLS["json1_c64"]
    seen = read_off(cell, Load(1000, 0.5, 2000.0, 4000.0), cpu_s=0.02, pss_mb=64.0)
    assert seen == {"json1_c64_rps": 2000, "json1_c64_p99_ms": 4, "cpu_us_c64": 20, "pss_mb": 64}
    assert [key(OURS, one) for one in seen] == list(seen)
    assert key("fastapi", "json1_c64_rps") == "fastapi_json1_c64_rps"


def test_medians_are_of_blocks_and_what_failed_once_is_null() -> None:
    figures = Figures()
    for ours, theirs in ((26000, 1900), (24000, 2000), (12000, 2100)):
        figures.add("json1_c64_rps", ours)
        figures.add("fastapi_json1_c64_rps", theirs)
    figures.add("mosec_json1_c64_rps", 9.0)
    figures.without(["mosec_json1_c64_rps"], "a wrong answer")
    assert figures.medians() == {
        "json1_c64_rps": 24000,
        "fastapi_json1_c64_rps": 2000,
        "mosec_json1_c64_rps": None,
    }
    assert figures.ratios() == {"json1_c64_fastapi": 12.0, "json1_c64_mosec": None}


def test_every_ratio_is_of_figures_that_are_measured() -> None:
    ours = {name for cell in CELLS.values() for name in cell.figures.values()} | {"resnet64_inprocess_ms"}
    peers = {key(peer, name) for peer in ("fastapi", "mosec", "mlserver", "pytriton") for name in ours}
    assert {one for pair in RATIOS.values() for one in pair} <= ours | peers


def test_all_forms_of_a_question_hold_the_same_bits(network: Network) -> None:
    rows = network.rows(5)
    tensor = json.loads(question(network, "json", rows).body)["inputs"][0]
    assert np.array(tensor["data"], np.float32).reshape(tensor["shape"]).tobytes() == rows.tobytes()
    binary = question(network, "bin", rows)
    head = int(binary.headers["Inference-Header-Content-Length"])
    assert binary.body[head:] == rows.tobytes()
    assert json.loads(binary.body[:head])["inputs"][0]["parameters"] == {"binary_data_size": rows.nbytes}


def test_a_wrong_answer_is_not_timed() -> None:
    check(np.float32([0.5, 0.25]), np.float32([[0.5], [0.25]]))
    with pytest.raises(Unavailable, match="a wrong answer"):
        check(np.float32([0.5, 0.25]), np.float32([[0.5], [0.26]]))


def test_the_script_of_wrk_names_body_and_headers(tmp_path: Path) -> None:
    script = lua_script(tmp_path / "a.body", {"Content-Type": "application/json"})
    assert f'io.open("{tmp_path / "a.body"}", "rb")' in script
    assert 'wrk.headers["Content-Type"] = "application/json"' in script


def test_a_process_that_a_server_started_counts_with_it() -> None:
    child = "import time; print('up', flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        every = tree(process.pid)
        assert len(every) == 2
        assert cpu_s(process.pid) > 0
        assert pss_mb(process.pid) > pss_mb(next(one for one in every if one != process.pid)) > 1
        process.kill()
        subprocess.run(["kill", *(str(one) for one in every if one != process.pid)], check=True)
