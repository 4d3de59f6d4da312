"""Whatever is handed over in Python that makes no sense is told: what was asked, what was given, and what is wanted.

Calls that a notebook makes in haste: another type, out of range, a word that is mistyped, an empty list.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlaas4hep.bundle import load_bundle, verify_bundle
from mlaas4hep.client import Client
from mlaas4hep.config import Cache, Config, parse_config, parse_size, read_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.inspect import survey
from mlaas4hep.data.into.awkward import to_awkward
from mlaas4hep.data.into.fields import Fields
from mlaas4hep.data.into.jax import to_jax
from mlaas4hep.data.into.tensorflow import to_tensorflow
from mlaas4hep.data.locate import locate
from mlaas4hep.data.scan import scan
from mlaas4hep.data.source import list_trees, open_source
from mlaas4hep.errors import UserError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import Scaler
from mlaas4hep.testing import Format
from mlaas4hep.train.calibration import calibration_of
from mlaas4hep.train.cross_validation import cross_validate
from mlaas4hep.train.dependence import jensen_shannon
from mlaas4hep.train.evaluate import evaluate
from mlaas4hep.train.metrics import log_loss, weighted_auc
from mlaas4hep.train.run import train
from tests.small_bundle import write_small_bundle

Stream = Callable[..., EventDataset]


@pytest.fixture(scope="module")
def here(
    small_stream: Stream,
    small_config: Callable[..., Config],
    small_files: dict[Format, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """What the calls below are made on."""
    stream = small_stream()
    return SimpleNamespace(
        stream=stream,
        make=small_stream,
        config=small_config(),
        catalogue=stream.catalogue,
        preprocessor=stream.preprocessor,
        file=small_files["ttree"] / "signal0.root",
        bundle=write_small_bundle(tmp_path_factory.mktemp("bundles")),
    )


def state(here: Any, **changed: object) -> dict[str, Any]:
    told: dict[str, Any] = here.stream.epoch(0).state_dict() | changed
    return {name: value for name, value in told.items() if value is not ...}


def load(here: Any, told: Any) -> None:
    here.stream.epoch(0).load_state_dict(told)


WRONG: Any = SimpleNamespace(three=3, text="x", none=None, path="config.yaml")

CALLS: list[tuple[Callable[[Any], object], str]] = [
    (lambda it: it.stream.epoch(-1), "epoch must be a whole number from 0 to .*, got -1"),
    (lambda it: it.stream.epoch("1"), "epoch must be .*, got '1'"),
    (lambda it: it.stream.epoch(True), "epoch must be .*, got True"),
    (lambda it: it.stream.ragged(None), "epoch must be .*, got None"),
    (lambda it: it.stream.plan(1.5), "epoch must be .*, got 1.5"),
    (lambda it: it.make(seed="x"), "seed must be a whole number from 0 to .*, got 'x'"),
    (lambda it: it.make(seed=-1), "seed must be .*, got -1"),
    (lambda it: it.make(batch_size=True), "batch_size must be a whole number of at least 1, got True"),
    (lambda it: it.make(threads=np.ones(2)), "threads must be .*, got a ndarray"),
    (lambda it: it.make(part="trian"), "part='trian' is none of .*; did you mean 'train'"),
    (lambda it: it.make(weights=np.ones(2)), "weights=a ndarray is none of 'training', 'physics'"),
    (lambda it: it.make(shuffle=1), "shuffle=1 is none of True, False, 'exact'"),
    (lambda it: it.make(max_memory="1 XB"), "max_memory: 1 problem\n.*'1 XB' is not a size; write it as '2 GB'"),
    (lambda it: it.make(max_memory=[]), "a list of 0 is not a size"),
    (lambda it: it.make(max_memory=float("nan")), "nan is not a size"),
    (lambda it: it.make(rank="0"), "rank must be .*, got '0'"),
    (lambda it: it.make(ranks=2.0), "ranks must be .*, got 2.0"),
    (lambda it: it.stream.share(2, 2), "rank must be from 0 to 1, got 2"),
    (lambda it: it.make(cache=Cache(WRONG.three)), "path of the cache must be a path, got 3"),
    (lambda it: it.make(weights="training", statistics={}), "statistics must be a Statistics, got a dict of 0; scan"),
    (
        lambda it: EventDataset(it.config, it.preprocessor),
        "catalogue must be a Catalogue, got a Config; .*Catalogue.op",
    ),
    (lambda it: EventDataset(it.catalogue, it.config.features), "must be a Preprocessor, got a FeatureSpec"),
    (lambda it: load(it, {"a": 1}), "not a state of a stream: it lacks version, fingerprint, .*, and holds a"),
    (lambda it: load(it, None), "a state of a stream is a mapping, .*; got None"),
    (lambda it: load(it, {"epoch": 0, "stream": None}), "looks like one of a TorchDataset: load it there"),
    (lambda it: load(it, state(it, gone=...)), "it lacks gone, and holds version"),
    (lambda it: load(it, state(it, gone="x")), "gone of a state must be .*, got 'x'"),
    (lambda it: load(it, state(it, epoch=-1)), "epoch of a state must be .*, got -1"),
    (lambda it: load(it, state(it, version=2)), "another version of the program: it says 2, and 3 is read"),
    (lambda it: to_awkward(WRONG.three), "dataset must be an EventDataset, got 3"),
    (lambda it: to_awkward(it.stream, -1), "epoch must be"),
    (lambda it: to_jax(it.catalogue), "dataset must be an EventDataset, got a Catalogue"),
    (lambda it: to_jax(it.stream.epoch(0)), "that is one epoch of it: give the stream itself"),
    (lambda it: to_tensorflow(WRONG.text), "dataset must be an EventDataset, got 'x'"),
    (lambda it: to_tensorflow(it.stream, WRONG.text), "epoch must be"),
    (lambda it: Fields(it.config.features, scaler=WRONG.three), "scaler must be a Scaler, got 3; .*spec.scaling"),
    (lambda it: Scaler(WRONG.three), "takes the groups of a contract, spec.scaling; got 3"),
    (lambda it: scan(it.config, it.preprocessor), "catalogue must be a Catalogue, got a Config"),
    (lambda it: scan(it.catalogue, it.preprocessor, threads=WRONG.text), "threads must be .*, got 'x'"),
    (lambda it: Catalogue.open(WRONG.path), "config must be a Config, got 'config.yaml'; read_config"),
    (lambda it: Catalogue.open(it.config, kind=WRONG.text), "kind='x' is none of 'mc', 'data'"),
    (lambda it: Preprocessor(it.config, {}), "features must be a FeatureSpec, got a Config"),
    (lambda it: Preprocessor(it.config.features, WRONG.none), "types must be .*; got None"),
    (lambda it: ModelSpec.seal("a", preprocessor=it.preprocessor, statistics=WRONG.none), "got None; scan"),
    (lambda it: open_source(WRONG.three), "path must be a path, got 3"),
    (lambda it: open_source(str(it.file), WRONG.three), "tree must be a str, got 3"),
    (lambda it: open_source(str(it.file)).read("MET_pt", 0, 1), r"a list of names, got 'MET_pt'; write \['MET_pt'\]"),
    (lambda it: open_source(str(it.file)).read(["MET_pt"], 0, WRONG.text), "an entry must be .*, got 'x'"),
    (lambda it: locate([WRONG.none]), "each of patterns must be a path, got None"),
    (lambda it: survey([str(it.file)], max_events=WRONG.text), "max_events must be .*, got 'x'"),
    (lambda it: read_config(WRONG.none), "config must be a path, got None"),
    (
        lambda it: parse_config("a: 1", overrides="a=1"),
        r"overrides must be a list of names, got 'a=1'; write \['a=1'\]",
    ),
    (lambda it: parse_config(WRONG.three), "text must be a str, got 3; parse_document"),
    (lambda it: parse_size(WRONG.three), "3 is not a size; write it as '2 GB'"),
    (lambda it: Expression.parse(WRONG.three), "an expression must be a str, got 3"),
    (lambda it: load_bundle(WRONG.none), "bundle must be a path, got None"),
    (lambda it: verify_bundle(WRONG.path), "bundle must be a Bundle, got 'config.yaml'; load_bundle"),
    (lambda it: verify_bundle(it.bundle, threads=[]), "threads must be at least one thread count, got none"),
    (lambda it: it.bundle.predict(3), "inputs must be a mapping .*, got 3"),
    (lambda it: it.bundle.score([], 3), "columns must be a mapping .*, got a list of 0"),
    (lambda it: it.bundle.score({}, "x"), "num_entries must be .*, got 'x'"),
    (lambda it: it.bundle.session(threads=0), "threads must be a whole number of at least 1, got 0"),
    (lambda it: Client(WRONG.three), "url must be a str, got 3; such as 'http://localhost:8000'"),
    (lambda it: Client("http://localhost:1", timeout_s=WRONG.none), "timeout_s must be a number .*, got None"),
    (lambda it: Client("http://localhost:1", retries=WRONG.text), "retries must be .*, got 'x'"),
    (lambda it: train(WRONG.path), "config must be a Config, got 'config.yaml'; read_config"),
    (lambda it: train(it.config, seed=-1), "seed must be a whole number from 0 to 4294967295, got -1"),
    (lambda it: train(it.config, unfinished=WRONG.text), "unfinished='x' is none of 'refuse', 'resume', 'restart'"),
    (lambda it: train(it.config, max_events=WRONG.text), "max_events must be .*, got 'x'"),
    (lambda it: train(it.config, output=WRONG.three), "output must be a path, got 3"),
    (lambda it: evaluate(WRONG.three), "run must be a path, got 3"),
    (lambda it: cross_validate(it.config, folds=1), "folds must be a whole number from 2 to 100, got 1"),
    (lambda it: weighted_auc([0.1, 0.2, 0.3], [1, 0]), r"is_signal must be one value an event, \[3\] as the scores"),
    (lambda it: weighted_auc([0.1, 0.2], [1, 0], [1.0]), "weights must be one value an event"),
    (lambda it: weighted_auc(["a", "b"], [1, 0]), "scores must be numbers"),
    (lambda it: log_loss(np.full((2, 2), 0.5), np.array([0, 5])), "labels must be from 0 to 1, got 0 to 5"),
    (lambda it: jensen_shannon([1, 2], [1, 2, 3]), "the histograms must have the same bins"),
    (lambda it: calibration_of([0.1], [1, 0]), "is_class must be one value an event"),
]


@pytest.mark.parametrize(("call", "words"), CALLS, ids=range(len(CALLS)))
def test_a_wrong_call_is_told_in_words(here: SimpleNamespace, call: Callable[[Any], object], words: str) -> None:
    with pytest.raises(UserError, match=f"(?s){words}"):
        call(here)


def test_what_needs_a_framework_tells_it_in_words_too(here: SimpleNamespace) -> None:
    torch = pytest.importorskip("mlaas4hep.data.into.torch")
    xgboost = pytest.importorskip("mlaas4hep.data.into.xgboost")
    pytest.importorskip("jax")
    dataset = torch.TorchDataset(here.stream)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: xgboost.XGBoostIter(3), "dataset must be an EventDataset, got 3"),
        (lambda: xgboost.XGBoostIter(here.stream, "x"), "epoch must be"),
        (lambda: torch.TorchDataset(3), "dataset must be an EventDataset, got 3"),
        (lambda: torch.TorchDataset(here.stream, epoch=-1), "epoch must be"),
        (lambda: dataset.set_epoch("x"), "epoch must be"),
        (lambda: dataset.load_state_dict({"a": 1}), "not a state of a TorchDataset: it lacks epoch, stream"),
        (lambda: dataset.load_state_dict(state(here)), "one of an EventDataset's epoch: load it there"),
        (lambda: dataset.load_state_dict({"epoch": 0, "stream": 3}), "is a mapping, as state_dict"),
        (lambda: to_jax(here.stream, devices=[]), "such as jax.local_devices"),
        (lambda: to_jax(here.stream, devices=WRONG.three), "such as jax.local_devices"),
    ]
    for call, words in calls:
        with pytest.raises(UserError, match=words):
            call()


def test_what_is_meant_is_taken(here: SimpleNamespace) -> None:
    assert here.make(max_memory="1 GB").max_memory == here.make(max_memory=1e9).max_memory == 10**9
    assert here.make(batch_size=np.int64(7), seed=np.uint32(3)).batch_size == 7
    with open_source(here.file) as one:
        assert list_trees(here.file)[0].name == one.tree
        assert survey(str(here.file)).entries == one.num_entries
    assert locate(str(here.file)) == locate([here.file]) == (str(here.file),)
