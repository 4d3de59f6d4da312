"""Fixtures that several folders of tests share: real files, and small files of our own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.report import style
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import FORMATS, Format, ending, make_events, supports_jagged, write_events
from mlaas4hep.testing_tables import text_clusters
from tests import pictures
from tests.required import pytest_make_collect_report, pytest_runtest_makereport

# Run by ROOT's own Python: nothing that this one could import.
collect_ignore = ["root_friends.py"]
# Hooks of pytest, which looks for them here.
__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# Slow, shared machines: a time limit a case would only measure them.
settings.register_profile("mlaas4hep", deadline=None)
settings.load_profile("mlaas4hep")

# Threads of OpenMP that wait sleep, here and in all processes that tests start: two tests at a time on two cores would
# else spend most of them on turning in a circle, and one beside other work minutes instead of seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in the background has them ignore SIGINT, and whatever they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SIZES = {"signal": (350, 85), "background": (223,)}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for later runs stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain_pictures() -> Iterator[None]:
    """Pictures that nobody looks at: painting them in the field's style would be most of a short training.

    For tests of runs, which ask what a picture is called and not how it looks.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "_figure", pictures.plain)
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real files of other projects; tests on them are skipped where it is not given."""
    folder = os.environ.get("MLAAS4HEP_TEST_DATA")
    if not folder:
        pytest.skip("real files: set MLAAS4HEP_TEST_DATA to their folder (tests/real_files.txt lists them)")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"MLAAS4HEP_TEST_DATA={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Format, Path]:
    """By format, a folder with ``signal0``, ``signal1`` and ``background0``, in clusters of 50 events.

    Formats without lists have the flat columns alone.
    """
    folders = {}
    for format in FORMATS:
        folders[format] = tmp_path_factory.mktemp(format)
        for place, (label, sizes) in enumerate(SIZES.items()):
            for number, size in enumerate(sizes):
                columns = make_events(size, seed=10 * place + number)
                if not supports_jagged(format):
                    columns = {name: one for name, one in columns.items() if not isinstance(one, Jagged)}
                path = folders[format] / f"{label}{number}{ending(format)}"
                write_events(path, columns, format=format, cluster=50)
    return folders


@pytest.fixture(scope="session")
def small_config(small_files: dict[Format, Path]) -> Callable[..., Config]:
    """Config for `small_files`: ``small_config("ttree", more="split: {test: 0.5}")``; ``flat`` goes without lists."""

    def make(format: Format = "ttree", *, flat: bool = False, more: str = "") -> Config:
        folder, ends = small_files[format], ending(format)
        flat = flat or not supports_jagged(format)
        jets = "" if flat else "jets: {vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}"
        return parse_config(
            f"""
            samples:
              signal: {{files: '{folder}/signal*{ends}'}}
              background: {{files: '{folder}/background*{ends}'}}
            preselection: MET_pt > 10
            inputs:
              event: [MET_pt]
              {jets}
            weights: {{event: genWeight}}
            """.replace("\n            ", "\n")
            + more
        )

    return make


@pytest.fixture(scope="session")
def small_stream(small_config: Callable[..., Config]) -> Callable[..., EventDataset]:
    """Stream over `small_files`: ``small_stream("rntuple", shuffle=True, threads=2)``."""
    opened = {}

    def make(format: Format = "ttree", *, flat: bool = False, **settings: object) -> EventDataset:
        if (format, flat) not in opened:
            config = small_config(format, flat=flat)
            with text_clusters(50):
                catalogue = Catalogue.open(config)
            opened[format, flat] = (catalogue, Preprocessor(config.features, catalogue.types))
        return EventDataset(*opened[format, flat], **settings)  # type: ignore[arg-type]

    return make
