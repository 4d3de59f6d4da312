"""A framework that is not installed is an error that names the extra; a stream that does not fit one is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.awkward import to_awkward
from mlaas4hep.data.into.jax import to_jax
from mlaas4hep.data.into.tensorflow import to_tensorflow
from mlaas4hep.errors import DataError, MissingExtraError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events

Stream = Callable[..., EventDataset]


@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch", "xgboost"])
def test_a_framework_that_is_not_installed_is_named_with_its_extra(
    small_stream: Stream, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"mlaas4hep.data.into.{framework}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'mlaas4hep\[{framework}\]'"):
        {
            "jax": lambda: to_jax(small_stream()),
            "tensorflow": lambda: to_tensorflow(small_stream()),
        }.get(framework, lambda: importlib.import_module(f"mlaas4hep.data.into.{framework}"))()


def test_no_framework_is_imported_before_it_is_used() -> None:
    modules = "jax tensorflow fields converted"
    script = f"import sys\nfor one in {modules.split()}: __import__('mlaas4hep.data.into.' + one)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "jax", "tensorflow", "xgboost"} & set(done.stdout.split())


def test_lists_have_no_exact_order(small_stream: Stream, tmp_path: Path) -> None:
    dataset = small_stream(shuffle="exact", cache=Cache(str(tmp_path), "1 GB"))
    with pytest.raises(DataError, match="shuffle lists by windows"):
        to_awkward(dataset)


def test_a_name_that_would_mean_two_things_is_refused(tmp_path: Path) -> None:
    columns = make_events(30)
    columns["jets"] = columns["MET_pt"]
    for name in "sb":
        write_events(tmp_path / f"{name}.root", columns)
    config = parse_config(
        f"samples:\n  signal: {{files: {tmp_path}/s.root}}\n  background: {{files: {tmp_path}/b.root}}\n"
        "inputs: {event: [jets], jets: {vars: [Jet_pt], length: 2}}\n"
    )
    catalogue = Catalogue.open(config)
    dataset = EventDataset(catalogue, Preprocessor(config.features, catalogue.types))
    with pytest.raises(DataError, match="'jets' is both a variable and a collection"):
        to_awkward(dataset)
