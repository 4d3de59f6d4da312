"""The pages in a real browser: the form by keyboard, what it draws, and that markup in a model does nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mlaas4hep.client import Client
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.browser import Tab, browser
from tests.unit.serve.test_pages import EVIL, EVIL_CLASS, write_models


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("models")
    write_models(folder)
    with background(InferenceService(open_repository(folder))) as url:
        yield url


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as tab:
        yield tab


def answered(tab: Tab) -> str:
    """What stands above the bars, once there is an answer."""
    tab.until(
        "!document.getElementById('answer').hidden && document.getElementById('verdict').textContent !== 'Asking'"
    )
    return str(tab.run("document.getElementById('verdict').textContent"))


def texts(tab: Tab, selector: str) -> list[str]:
    found: list[str] = tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")
    return found


def test_the_form_is_filled_asked_and_answered_without_a_mouse(tab: Tab, url: str) -> None:
    tab.open(f"{url}/pages/models/tth")
    tab.run("document.querySelector('[data-name=MET_pt]').focus()")
    tab.press("Tab")  # the slider of it
    before = tab.run("document.querySelector('[data-name=MET_pt]').value")
    tab.press("ArrowRight")
    moved = tab.run("document.querySelector('[data-name=MET_pt]').value")
    assert float(moved) > float(before)
    tab.run("document.querySelector('[data-name=Jet_pt]').focus()")
    tab.press("Enter")
    assert answered(tab).startswith("Most like ")
    sent = json.loads(texts(tab, "#sent")[0].partition("\n\n")[2])
    assert sent["instances"][0]["MET_pt"] == float(moved)
    with Client(url) as client:
        (scores,) = client.predict("tth", sent["instances"])
    assert scores is not None
    shown = dict(zip(texts(tab, ".bar .name"), texts(tab, ".bar .value"), strict=True))
    assert float(shown["signal"]) == pytest.approx(scores["signal"], rel=1e-4)
    assert float(shown["background"]) == pytest.approx(1 - scores["signal"], rel=1e-4)
    widths = tab.run("[...document.querySelectorAll('.fill')].map((one) => parseFloat(one.style.width))")
    assert widths[1] == pytest.approx(100 * scores["signal"], rel=1e-3)
    assert tab.messages == []


def test_missing_values_all_digits_and_infinities_travel_as_they_were_typed(tab: Tab, url: str) -> None:
    tab.open(f"{url}/pages/models/tth")
    typed = {"MET_pt": "", "nJet": "9007199254740993", "Jet_pt": "88.10000000000001, nan, -inf", "Jet_id": "1, 2, 3",
             "Jet_btag": "0.5, null, 1"}  # fmt: skip
    for name, value in typed.items():
        tab.run(f"document.querySelector('[data-name={name}]').value = {json.dumps(value)}")
    tab.run("document.querySelector('button[type=submit]').click()")
    assert answered(tab).startswith("Most like ")
    sent = texts(tab, "#sent")[0]
    for part in ('"MET_pt": null', '"nJet": 9007199254740993', '[88.10000000000001, null, "-Infinity"]'):
        assert part in sent


@pytest.mark.parametrize(
    ("name", "typed", "told"),
    [
        ("nJet", "", "nJet: a whole number is never missing"),
        ("MET_pt", "alert(1)", "MET_pt: asked for a number, found 'alert(1)'"),
        ("Jet_pt", "1, ]", "Jet_pt: asked for values with commas between"),
    ],
)
def test_what_cannot_be_asked_is_told_at_its_field(tab: Tab, url: str, name: str, typed: str, told: str) -> None:
    tab.open(f"{url}/pages/models/tth")
    tab.run(f"document.querySelector('[data-name={name}]').value = {json.dumps(typed)}")
    tab.run("document.querySelector('button[type=submit]').click()")
    assert answered(tab) == "This cannot be asked"
    assert texts(tab, "#told")[0].startswith(told)
    assert tab.run("document.activeElement.dataset.name") == name
    assert tab.run("document.activeElement.getAttribute('aria-invalid')") == "true"


def test_a_refusal_and_an_event_that_is_not_selected_are_told_in_the_words_of_the_server(tab: Tab, url: str) -> None:
    tab.open(f"{url}/pages/models/tth")
    tab.run("document.querySelector('[data-name=HLT]').click()")
    tab.run("document.querySelector('button[type=submit]').click()")
    assert answered(tab) == "Not selected"
    assert "HLT and nJet > 0" in texts(tab, "#told")[0]
    tab.open(f"{url}/pages/models/tth")
    tab.run("document.querySelector('[data-name=nJet]').value = '1.5'")
    tab.run("document.querySelector('button[type=submit]').click()")
    assert answered(tab) == "Refused"
    assert "asked for an integer, found 1.5" in texts(tab, "#told")[0]


@pytest.mark.parametrize("name", ["evil", EVIL], ids=["class", "name"])
def test_markup_in_a_model_does_nothing_in_a_browser(tab: Tab, url: str, name: str) -> None:
    tab.open(f"{url}/pages/models/{quote(name, safe='')}")
    tab.run("document.querySelector('button[type=submit]').click()")
    answered(tab)
    assert (EVIL_CLASS if name == "evil" else EVIL) in texts(tab, ".bar .name")
    assert tab.run("document.querySelectorAll('img, script:not([src])').length") == 0
    assert "hacked" not in tab.run("document.title").replace(EVIL, "")
    assert tab.messages == []


def test_a_token_is_entered_once_and_goes_with_every_question_of_the_tab(
    tab: Tab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    from tests.issuer import running_issuer
    from tests.unit.serve.test_guard import server

    folder = tmp_path_factory.mktemp("guarded")
    write_models(folder)

    def enter(token: bytes) -> None:
        tab.until("document.getElementById('token') !== null")
        tab.run(f"document.getElementById('token').value = {json.dumps(token.decode().removeprefix('Bearer '))}")
        tab.run("document.querySelector('button[type=submit]').click()")

    with running_issuer() as issuer, server(folder, issuer) as url:
        tab.open(url)
        assert texts(tab, "h1") == ["A token is needed"]
        enter(issuer.header(exp=1))
        tab.until("document.getElementById('why').textContent.includes('the token has expired')")
        enter(issuer.header())
        tab.until("document.querySelector('h1').textContent === 'Models'")
        tab.run("[...document.querySelectorAll('a')].find((one) => one.textContent === 'tth').click()")
        tab.until("document.getElementById('question') !== null")
        assert tab.run("document.getElementById('token').value !== ''")
        tab.run("document.querySelector('button[type=submit]').click()")
        assert answered(tab).startswith("Most like ")


@pytest.mark.parametrize("path", ["", "/models/tth", "/models/plain", "/models/broken", "/routes"])
def test_no_page_is_wider_than_a_phone(tab: Tab, url: str, path: str) -> None:
    tab.open(f"{url}/pages{path}", width=360)
    assert tab.run("document.documentElement.scrollWidth") == 360
    assert tab.messages == []
