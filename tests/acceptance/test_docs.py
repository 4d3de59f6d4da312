"""Every code block of README and documentation is executed, and the pages build without a warning."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlaas4hep.backends.keras_start import settle_framework
from mlaas4hep.config import parse_config
from mlaas4hep.config.search import find_dials, placed
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.spec.preprocess import Preprocessor
from tests import warm
from tests.compiler import require_compiler
from tests.doc_blocks import LANGUAGES, Session, blocks_of, matches, setups_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "tth"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# A page of many trainings says of itself that it takes long.
FOLLOWED = [
    pytest.param(page, marks=[pytest.mark.slow] if "long" in setups_of(page) else [], id=name_of(page))
    for page in PAGES
    if blocks_of(page)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for the pages that begin with a trained model: two epochs, since they are about what comes after."""
    run = tmp_path_factory.mktemp("trained") / "tth"
    command = [*warm.command(), "train", EXAMPLE / "config.yaml", "-o", run]
    subprocess.run([*map(str, command), "--set", "training.epochs=2"], check=True, capture_output=True)
    return run


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A folder with the example's events and config, and a page that is followed in it."""
    (tmp_path / "data").symlink_to(EXAMPLE / "data")
    shutil.copy(EXAMPLE / "config.yaml", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))  # what other pages kept is not there
    before = set(sys.modules)
    session = Session(tmp_path, check_config=check_config, scripts=warm.scripts())
    yield session
    session.close()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(page: Path, session: Session, request: pytest.FixtureRequest) -> None:
    blocks = blocks_of(page)
    needs = setups_of(page)
    if "run" in needs:
        shutil.copytree(request.getfixturevalue("trained"), session.folder / "runs" / "tth")
    if "two-epochs" in needs:  # the page is about other things than the figures of its training
        session.train_options = "--set training.epochs=2"
    if "cpp" in needs:
        require_compiler()
        shutil.copytree(ROOT / "examples" / "cpp", session.folder / "examples" / "cpp")
    if "own-files" in needs:
        session.check_config = check_config_by_its_files
    settle_framework()
    for package in {"torch", "jax", "keras", "coffea"} & set(needs):
        pytest.importorskip(package)
    if "installed" in needs:
        install(next(block.text for block in blocks if block.language == "toml"), session.folder)
    session.follow(blocks)


@pytest.mark.parametrize("page", [page for page in PAGES if "long" in setups_of(page)], ids=name_of)
def test_a_long_page_can_be_read_at_least(page: Path, session: Session) -> None:
    """Its configs fit, its files and its Python parse; `make check` follows it."""
    if "own-files" in setups_of(page):
        session.check_config = lambda text, place: yaml.safe_load(text)
    for block in blocks_of(page):
        if block.file is not None:
            (session.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        if block.file is not None or block.language in ("yaml", "json", "toml"):
            session.execute(block)
        if block.language == "python":
            compile(block.text, block.place, "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    unknown = {block.place: block.language for block in blocks_of(page) if block.language not in LANGUAGES}
    assert not unknown


def test_output_is_compared_but_for_the_last_digits() -> None:
    assert matches("AUC 0.95 +- 4e-3 on 2,560 events\n", "AUC 0.961 +-  3.9e-03 on 2,560 events")
    assert not matches("on 2,560 events", "on 2,561 events")
    assert matches("first\n...\nlast (x)", "first\nsecond\nlast (x)\n")
    assert not matches("first ... last", "first, second")


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the extra 'docs' is not installed")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]
    done = subprocess.run([*map(str, build), ROOT / "docs", tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").exists()


@cache
def example_types() -> Any:
    config = parse_config((EXAMPLE / "config.yaml").read_text(), folder=EXAMPLE)
    return Catalogue.open(config).types


def check_config(text: str, place: str) -> None:
    """A whole config stands for itself, a part is put into the example's; both must fit the example's columns."""
    given = yaml.safe_load(text)
    if dials := find_dials(given, []):  # a search: its default config
        given = placed(given, {name: dial.start() for name, dial in dials.items()})
        text = yaml.safe_dump(given, sort_keys=False)
    if not {"samples", "inputs"} <= set(given):
        example = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
        new = example["new_variables"] | given.get("new_variables", {})
        text = yaml.safe_dump(example | given | {"new_variables": new}, sort_keys=False)
    config = parse_config(text, where=place)
    Preprocessor(config.features, example_types())


def check_config_by_its_files(text: str, place: str) -> None:
    """A config of a page that makes its own files fits those."""
    config = parse_config(text, where=place)
    Preprocessor(config.features, Catalogue.open(config).types)


def install(project: str, folder: Path) -> None:
    """Entry points of a page's ``pyproject.toml``, as ``pip install`` would leave them."""
    told = tomllib.loads(project)["project"]
    record = folder / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    lines = [
        line
        for group, points in told["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in points.items()))
    ]
    (record / "entry_points.txt").write_text("\n".join(lines) + "\n")
