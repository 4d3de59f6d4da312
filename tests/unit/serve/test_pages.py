"""Pages for people: what they show, what they must never do, and who may see them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import onnx
import pytest
from onnx import TensorProto, helper

from mlaas4hep.bundle.layout import FileRecord, Manifest
from mlaas4hep.client import Client
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.operation import Operation, Options
from mlaas4hep.serve.pages import fields
from mlaas4hep.serve.pages.fields import figures_of, typical_event
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.plain_graph import write_plain_graph
from tests.small_bundle import CONFIG, write_small_bundle
from tests.unit.serve.test_guard import ask

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
EVIL = "\"'><img src=x onerror=alert(1)><script>document.title='hacked'<"
# As a name of a class it goes through YAML.
EVIL_CLASS = "zz<img src=x onerror=alert(1)>"


def write_report(folder: Path, files: dict[str, bytes]) -> None:
    """Put files into a version of a bundle, and seal it again."""
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes(), where="manifest")
    sealed = dict(manifest.files)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        sealed[name] = FileRecord.of(folder / name)
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"files": sealed}
    (folder / "manifest.json").write_bytes(Manifest(**fields).sealed().to_json())


def write_evil_graph(folder: Path) -> None:
    """A graph whose name, tensors and labels are markup."""
    ends = [helper.make_tensor_value_info(f"{head}{EVIL}", TensorProto.FLOAT, ["n", 2]) for head in ("", "out")]
    nodes = [helper.make_node("Identity", [EVIL], [f"out{EVIL}"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    entry = folder / EVIL
    (entry / "1").mkdir(parents=True)
    onnx.save(model, entry / "1" / "model.onnx")
    quoted = EVIL.replace("\\", "\\\\").replace('"', '\\"')
    (entry / "config.pbtxt").write_text(
        f'max_batch_size: 4\noutput [ {{ name: "out{quoted}" data_type: TYPE_FP32 dims: [ 2 ] '
        'label_filename: "labels.txt" } ]\n'
    )
    (entry / "labels.txt").write_text(f"{EVIL}\nplain")
    (entry / "1" / "conversion.json").write_text(json.dumps({"found": EVIL, "converter": EVIL, "notes": [EVIL]}))


def write_models(folder: Path) -> None:
    """Entries of every kind: versions and labels, markup for names, a graph without a contract, a broken one."""
    for seed in (0, 1):
        bundle = write_small_bundle(folder, seed=seed)
    metrics = {
        "model": f"mlp{EVIL}",
        "auc": 0.91,
        "auc_err": 0.02,
        "auc_part": "validation",
        "missing_inputs": "impute",
        "parts": {"train": {"events": 12345, "auc": 0.92, "auc_err": 0.01, "loss": 0.3}},
    }
    report = b"<style>p{color:red}</style><p>figures</p><img src=pictures/roc.png><script>alert(1)</script>"
    files = {"metrics.json": json.dumps(metrics).encode(), "report.html": report, "pictures/roc.png": b"png"}
    write_report(bundle.path, {f"report/{name}": content for name, content in files.items()})
    (folder / "tth" / "labels.json").write_text('{"stable": "1"}')
    evil = CONFIG.replace("label: signal", f"label: '{EVIL_CLASS}'") + f"labels: {{signal: '{EVIL_CLASS}'}}\n"
    write_small_bundle(folder, name="evil", config=evil)
    write_plain_graph(folder)
    write_evil_graph(folder)
    broken = write_small_bundle(folder, name="broken").path
    (broken / "spec.json").write_bytes(b"{}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def repository(models: Path) -> ModelRepository:
    return open_repository(models)


@pytest.fixture(scope="module")
def url(repository: ModelRepository) -> Iterator[str]:
    with background(InferenceService(repository)) as url:
        yield url


def page(url: str, path: str) -> str:
    status, text, headers = ask(url, "GET", path, BROWSER)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8"), text
    return str(text)


def words(html: str) -> str:
    """What a reader sees, in one line."""

    class Text(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += f" {data}"

    reader = Text()
    reader.feed(html)
    return re.sub(r"\s+", " ", reader.found)


def test_a_browser_is_led_to_the_pages_and_a_program_to_the_routes(url: str) -> None:
    status, _, headers = ask(url, "GET", "/", BROWSER)
    assert (status, headers["location"], headers["vary"]) == (307, "pages", "Accept")
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        status, answer, _ = ask(url, "GET", "/", {"Accept": accept})
        assert (status, answer["name"]) == (200, "mlaas4hep")
    assert ask(url, "POST", "/", BROWSER)[0] == 405


def test_the_list_shows_every_entry_with_its_state_labels_figure_and_requests(url: str) -> None:
    with Client(url) as client:
        client.predict("tth", [client.contract("tth")["example"]] * 3)
    told = words(page(url, "/pages"))
    assert "5 names on mlaas4hep" in told
    assert re.search(r"tth 2 latest 1 stable ready mlp.* AUC 0.910 ± 0.020 1 ", told)
    assert re.search(r"broken 1 not available .*spec.json: was changed", told)
    assert re.search(r"plain 1 latest ready ONNX 0", told)


def test_the_page_of_a_model_shows_its_contract_its_training_and_how_to_ask(url: str) -> None:
    html = page(url, "/pages/models/tth")
    told = words(html)
    for part in (
        "binary: background, signal; mlp",
        "version 2 latest",
        "on the validation part of its training",
        "Scored are events with HLT and nJet > 0",
        "ht sum(Jet_pt)",
        "A collection: the first 3 objects, sorted by Jet_pt , largest first",
        "train 12,345 0.3000 0.920 ± 0.010",
        "event FP32 [N, 3]",
        "spec_sha256",
    ):
        assert part in told, part
    assert re.search(r"MET_pt [\d. e-]+ \d\.\d % taken as \d+", told)
    assert 'href="../../pages/models/tth/versions/2/report/report.html"' in html
    assert "The form asks" not in told


def test_an_old_version_has_a_page_and_one_that_is_not_there_has_none(url: str) -> None:
    told = words(page(url, "/pages/models/tth/versions/stable"))
    assert "version 1 stable" in told
    assert "Events by name are answered by the newest version" in told
    for path, text in [
        ("/pages/models/tt", "no model 'tt' is served here; did you mean 'tth'?"),
        ("/pages/models/tth/versions/7", "model 'tth' has no version 7; versions: 1, 2"),
        ("/pages/models/tth/versions/2/report/none.html", "has no file 'none.html'"),
        ("/pages/static/none.js", "no file 'none.js'"),
    ]:
        status, found, _ = ask(url, "GET", path, BROWSER)
        assert status == 404
        assert text in words(str(found))


def test_a_graph_without_a_contract_and_a_broken_entry_have_pages(url: str) -> None:
    told = words(page(url, "/pages/models/plain"))
    assert "A graph without a contract: it takes tensors" in told
    assert "same_FP32 FP32 [N, 2] background, signal" in told
    told = words(page(url, "/pages/models/broken"))
    assert "Nothing of this model is in memory now" in told
    assert "spec.json: was changed" in told


def test_markup_in_names_classes_labels_and_figures_is_text(url: str) -> None:
    for path in ("/pages", "/pages/models/tth", "/pages/models/evil", f"/pages/models/{quote(EVIL, safe='')}"):
        html = page(url, path)
        assert "<img" not in html
        assert re.findall(r"<script[^>]*>[^<]", html) == []
        assert len(re.findall("<script", html)) == (path != "/pages")
        assert "onerror" in words(html)

        class Attributes(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                assert not [name for name, _ in attrs if name.startswith("on")], attrs

        Attributes().feed(html)
    status, text, _ = ask(url, "GET", f"/pages/models/{quote('<b>?x', safe='')}", BROWSER)
    assert status == 404
    assert "&lt;b&gt;?x" in str(text)
    assert 'href="../../pages"' in str(text)


@pytest.mark.parametrize("name", ["tth", "evil", "plain", EVIL], ids=["events", "class", "tensors", "name"])
def test_the_lines_for_the_shell_and_for_python_ask_the_model(
    url: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    html = page(url, f"/pages/models/{quote(name, safe='')}").partition('id="ask"')[2]
    found = re.findall(r"<h3>(.*?)</h3>\s*<pre[^>]*><code>(.*?)</code>", html, re.DOTALL)
    lines = {title: unescape(text) for title, text in found}
    done = subprocess.run(["sh", "-c", lines["curl"]], capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["model_name"] == name
    exec(lines["Python"], {})
    told = capsys.readouterr().out
    if "predictions" in answer:
        assert told == f"{answer['predictions']}\n"
        assert 'R"json({"instances": [' in lines["C++, with the class Server of examples/cpp"]
    else:
        assert all(repr(one["name"]) in told for one in answer["outputs"])


def test_pages_say_what_a_browser_may_run_and_load_nothing_from_elsewhere(url: str) -> None:
    _, html, headers = ask(url, "GET", "/pages/models/tth", BROWSER)
    policy = headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    linked = re.findall(r'(?:src|href)="([^"#]+)"', str(html))
    assert linked
    assert all(one.startswith("../../pages") for one in linked)
    for one in linked:
        if "static" in one:
            assert ask(url, "GET", one.removeprefix("../.."))[0] == 200


def test_a_report_is_shown_as_it_was_sealed_and_runs_nothing(url: str, models: Path) -> None:
    place = "/pages/models/tth/versions/2/report"
    status, html, headers = ask(url, "GET", f"{place}/report.html", BROWSER)
    assert status == 200
    assert "figures" in html
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "sandbox allow-same-origin" in headers["content-security-policy"]
    assert "script-src" not in headers["content-security-policy"]
    assert ask(url, "GET", f"{place}/pictures/roc.png")[2]["content-type"] == "image/png"
    for outside in (
        "../manifest.json",
        "%2e%2e/manifest.json",
        "..%2fspec.json",
        "/etc/passwd",
        "pictures/../../spec.json",
    ):
        assert ask(url, "GET", f"{place}/{outside}")[0] == 404
    file = models / "tth" / "2" / "report" / "report.html"
    before = file.read_bytes()
    file.write_bytes(b"<p>another")
    assert ask(url, "GET", f"{place}/report.html")[0] == 404
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert ask(url, "GET", f"{place}/report.html")[0] == 404
    file.unlink()
    file.write_bytes(before)
    assert ask(url, "GET", f"{place}/report.html")[0] == 200


def test_figures_of_another_form_are_left_out(models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models / "tth", tmp_path / "tth")) / "2"
    write_report(folder, {"report/metrics.json": b'{"model": ["no text"]}'})
    with background(InferenceService(open_repository(tmp_path))) as url:
        assert "AUC" not in words(page(url, "/pages/models/tth")).partition("Where it comes from")[0]


def test_the_first_event_of_a_form_is_typical_and_passes_the_preselection(repository: ModelRepository) -> None:
    contract = repository.get("tth").contract
    assert contract is not None
    event = typical_event(contract)
    assert event["MET_pt"] == float(f"{figures_of(contract)['MET_pt'].quantile(0.5):.4g}")
    assert event["Jet_pt"] == sorted(event["Jet_pt"], reverse=True)
    assert len({len(value) for value in event.values() if isinstance(value, list)}) == 1
    (answer,) = InferenceService(repository).predict_events("tth", json.dumps({"instances": [event]}).encode()).scores
    assert 0 < answer[0] < 1


def test_what_takes_too_much_for_a_form_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_bundle(tmp_path)
    write_plain_graph(tmp_path)
    monkeypatch.setattr(fields, "MAX_FIELDS", 3)
    with background(InferenceService(open_repository(tmp_path))) as url:
        for name, way in (("tth", "Python"), ("plain", "np.zeros")):
            html = page(url, f"/pages/models/{name}")
            assert "It takes too much to be filled in by hand" in words(html)
            assert "<form" not in html
            assert way in html


def test_a_model_that_sleeps_is_not_woken_by_looks(models: Path) -> None:
    repository = open_repository(models, lazy=True)
    with background(InferenceService(repository)) as url:
        assert re.search(r"tth - ready loads when it is asked", words(page(url, "/pages")))
        assert "It is loaded when it is first asked" in words(page(url, "/pages/models/tth"))
        assert repository.loaded == ()
        assert "version 2" in words(page(url, "/pages/models/tth?wake=1"))
        assert repository.loaded == ("tth",)
        assert ask(url, "GET", "/pages/models/nothing?wake=1", BROWSER)[0] == 404


def test_a_server_without_pages_has_none(repository: ModelRepository) -> None:
    service = InferenceService(repository)
    with background(service, operation=Operation(service, Options(pages=False))) as url:
        assert ask(url, "GET", "/pages", BROWSER)[0] == 404
        status, answer, _ = ask(url, "GET", "/", BROWSER)
        assert status == 200
        assert "GET /openapi.json" in answer["routes"]
        assert not [one for one in answer["routes"] if "pages" in one]
        assert "/pages" not in ask(url, "GET", "/openapi.json")[1]["paths"]


def test_pages_ask_for_the_scope_that_seeing_needs(models: Path) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    from tests.issuer import running_issuer
    from tests.unit.serve.test_guard import bearer, server

    with running_issuer() as issuer, server(models, issuer, see="storage.read:/models/{model}") as url:
        for path in (
            "/",
            "/pages",
            "/pages/models/tth",
            "/pages/models/tth/versions/2/report/report.html",
            "/pages/routes",
        ):
            status, text, headers = ask(url, "GET", path, BROWSER)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="mlaas4hep"')
            assert "mlp" not in str(text)
            assert ("A token is needed" in str(text)) == ("report" not in path)
            assert "this needs a token" in ask(url, "GET", path)[1]["error"]
        assert ask(url, "GET", "/pages/static/style.css")[0] == 200
        mine = bearer(issuer, scope="storage.read:/models/tth")
        html = ask(url, "GET", "/pages/models/tth", BROWSER | mine)
        assert html[0] == 200
        assert 'id="token"' in html[1]
        assert "Authorization: Bearer" in html[1]
        for path in ("/pages/models/plain", "/pages"):
            status, text, _ = ask(url, "GET", path, BROWSER | mine)
            assert status == 403
            assert "the token does not grant" in words(str(text))
        assert ask(url, "GET", "/pages/models/tth%2F..%2Fplain", BROWSER | mine)[0] == 404


def attributes(html: str, tag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
            if name == tag:
                found.append(dict(attrs))

    Reader().feed(html)
    return found


def test_every_field_has_a_label_and_every_page_a_heading_and_a_language(url: str) -> None:
    html = page(url, "/pages/models/tth")
    labelled = {one["for"] for one in attributes(html, "label")}
    fields = attributes(html, "input") + attributes(html, "textarea")
    assert fields
    for one in fields:
        assert one.get("id") in labelled or one.get("aria-label")
    for path in ("/pages", "/pages/models/tth", "/pages/models/plain", "/pages/routes"):
        html = page(url, path)
        assert len(attributes(html, "h1")) == 1
        assert attributes(html, "html")[0]["lang"] == "en"
        assert all("scope" in one for one in attributes(html, "th"))
