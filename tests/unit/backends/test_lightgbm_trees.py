"""LightGBM's trees as a graph: its text, its zero, its missing values, at every threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.forest import leaves
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.data.source import open_source
from mlaas4hep.errors import BundleError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.columns import slice_columns
from mlaas4hep.testing_backends import fit, make_events, make_spec
from tests.small_lightgbm import SMALL, build, on_rows

lightgbm = pytest.importorskip("lightgbm")

# Within 1e-35 everything is zero to LightGBM; one beyond, and the neighbours of that.
TINY = np.float32(1e-35)
EDGES = np.array(
    [
        *(np.nan, np.inf, -np.inf, np.finfo(np.float32).max, -np.finfo(np.float32).max),
        *(0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, TINY, -TINY),
        *(np.nextafter(side * TINY, np.float32(to)) for side in (1, -1) for to in (-1, 1)),
    ],
    np.float32,
)


def assert_exact(learner: Any, rows: NDArray[np.float32]) -> None:
    """Every row ends in LightGBM's leaf of every tree; margins are equal to the bit, served scores to 3e-7."""
    booster = lightgbm.Booster(model_str=learner.native()["lightgbm.txt"].decode())
    seen = learner.view({"event": rows})
    forest = learner.learned.forest
    wanted = booster.predict(seen, pred_leaf=True).reshape(len(rows), len(forest.trees))
    margins = np.zeros((len(rows), forest.outputs))
    for index, tree in enumerate(forest.trees):
        found = leaves(tree, seen.astype(np.float64))
        np.testing.assert_array_equal(found - int((~tree.is_leaf).sum()), wanted[:, index])
        margins[:, tree.output] += tree.value[found]
    np.testing.assert_array_equal(margins, booster.predict(seen, raw_score=True).reshape(margins.shape))
    served = Session(merge(learner.task.spec, learner.export())).run({"event": rows})
    np.testing.assert_allclose(served, learner.predict({"event": rows}), rtol=0, atol=3e-7)


def around_thresholds(learner: Any, base: NDArray[np.float32]) -> NDArray[np.float32]:
    """Three rows a threshold of the model: at it, and one float32 off on either side."""
    thresholds = learner.export().thresholds
    columns, nearest = thresholds[:, 0].astype(int), thresholds[:, 1].astype(np.float32)
    sides = [nearest, *(np.nextafter(nearest, np.float32(to)) for to in (-np.inf, np.inf))]
    rows = np.resize(base, (3 * len(nearest), base.shape[1]))
    rows[np.arange(len(rows)), np.tile(columns, 3)] = np.concatenate(sides)
    return rows


def at_edges(base: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row for each column and edge value."""
    width = base.shape[1]
    rows = np.resize(base, (len(EDGES) * width, width))
    rows[np.arange(len(rows)), np.tile(np.arange(width), len(EDGES))] = np.repeat(EDGES, width)
    return rows


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_real_events_end_in_the_leaves_of_lightgbm(test_data: Path, classes: int) -> None:
    path = str(test_data / "higgs" / "Higgs_data.root")
    tables = []
    for tree in ("sig_tree", "bkg_tree"):
        with open_source(path, tree) as source:
            names = sorted(source.columns)
            columns = slice_columns(source.read(names, 0, 10_000), 0, 10_000)
        tables.append(np.stack([np.asarray(columns[name], np.float32) for name in names], axis=1))
    random = np.random.default_rng(0)
    order = random.permutation(20_000)
    x = np.concatenate(tables)[order]
    labels = np.repeat([1, 0], 10_000)[order] * (1 + (x[:, 3] > np.median(x[:, 3])) * (classes - 2))
    # The first five columns have no missing value in the training part, but some later.
    x[:10_000, 5:][random.random((10_000, x.shape[1] - 5)) < 0.02] = np.nan
    x[10_000:][random.random((10_000, x.shape[1])) < 0.02] = np.nan
    learner = on_rows(x[:10_000], labels[:10_000], classes=classes, num_iterations=150)
    rows = np.concatenate([x[10_000:], at_edges(x[10_000:]), around_thresholds(learner, x[10_000:])])
    assert len(rows) > 12_000
    assert_exact(learner, rows)


def test_values_next_to_zero_go_where_lightgbm_sends_them() -> None:
    random = np.random.default_rng(1)
    x = random.choice(np.float32([-1, -1e-30, -TINY, 0, TINY, 1e-30, 1]), (4000, 3))
    x[:500, 1] = np.nan
    labels = (x[:, 0] < 0) ^ (x[:, 1] > 0) ^ (x[:, 2] > 0)
    learner = on_rows(x, labels, min_data_in_leaf=1)
    zeros = np.float64([-TINY, TINY])
    assert (np.abs(np.float64(learner.export().thresholds[:, 1])) < 2 * zeros[1]).any()
    assert_exact(learner, np.concatenate([x, at_edges(x), around_thresholds(learner, x)]))


def test_a_split_between_present_and_missing_is_exact() -> None:
    x = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    labels = np.arange(2000) % 3 == 0
    x[labels, 0] = np.nan
    x[~labels, 0] = 5.0
    learner = on_rows(x, labels)
    assert learner.predict({"event": x})[labels].min() > 0.9
    assert_exact(learner, np.concatenate([x, at_edges(x)]))


def test_a_missing_value_that_training_never_saw_counts_as_zero() -> None:
    x = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    learner = on_rows(x, x[:, 0] > 0.5)
    rows = np.float32([[np.nan, 1], [0, 1], [np.nan, -1], [0, -1]])
    scores = learner.predict({"event": rows})
    np.testing.assert_array_equal(scores[::2], scores[1::2])
    assert_exact(learner, rows)


@pytest.mark.parametrize(("classes", "trees"), [(2, 700), (3, 150), (2, 1)])
def test_graph_and_framework_agree_next_to_every_threshold(classes: int, trees: int) -> None:
    dials = {"num_iterations": trees, "learning_rate": 0.3, "num_leaves": 8}
    learner, spec = build(dials, classes=classes), make_spec(classes)
    fit(learner, make_events(1500, num_classes=classes), None)
    core = learner.export()
    rows = make_events(1000, seed=5).inputs
    report = check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=rows)
    assert report.worst < 3e-7
    assert report.rows["next to a tree threshold"] >= 3


def test_missing_values_that_the_sample_does_not_show_are_learned_as_missing(tmp_path: Path) -> None:
    # All of the few events with a gap are signal, at zero they are background; LightGBM samples a part of the rows.
    random = np.random.default_rng(5)
    x = random.normal(size=(120_000, 2)).astype(np.float32)
    labels = x[:, 0] > 0.8
    parameters = {**SMALL, "bin_construct_sample_cnt": 100_000, "min_data_in_leaf": 1}
    taken = set(sampled(100_000, 120_000))
    rest = [row for row in range(120_000) if row not in taken][:30]
    x[rest, 0], labels[rest] = np.nan, True
    learner = on_rows(x, labels, **parameters)
    assert learner.predict({"event": x[rest]}).min() > 0.9
    assert_exact(learner, np.concatenate([x[:2000], x[rest], at_edges(x[:1000])]))


def sampled(count: int, rows: int) -> NDArray[np.int64]:
    """Rows that LightGBM makes its bins from, with the seed of `task_of`."""

    class Seen(lightgbm.Sequence):  # type: ignore[misc, name-defined]
        batch_size = 10_000
        asked: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return rows

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                return np.zeros((index.stop - index.start, 1))
            self.asked.append(index)
            return np.array([float(index)])

    seen = Seen()
    parameters = {**build().parameters, "seed": 1, "bin_construct_sample_cnt": count}
    lightgbm.Dataset(seen, np.arange(rows) % 2, params=parameters).construct()
    assert len(seen.asked) == count
    return np.array(seen.asked)


def test_infinities_in_the_training_part_are_learned_as_the_largest_numbers() -> None:
    events = make_events(2000)
    events.inputs["event"][:300, 0] = np.inf
    events.inputs["event"][300:600, 0] = -np.inf
    events.inputs["event"][:, 1] = np.nan
    learner, spec = build(), make_spec()
    fit(learner, events, None)
    core = learner.export()
    check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=events.inputs)


@pytest.mark.parametrize("classes", [2, 3])
def test_where_nothing_can_be_split_every_event_has_the_share_of_its_class(classes: int) -> None:
    x = np.ones((600, 2), np.float32)
    labels = np.arange(600) % 4 % classes
    learner = on_rows(x, labels, classes=classes)
    shares = np.bincount(labels) / 600
    assert learner.predict({"event": x[:1]})[0] == pytest.approx(shares[1:] if classes == 2 else shares, abs=1e-6)
    assert_exact(learner, x[:10])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "lightgbm.txt is not among no files"),
        ({"lightgbm.txt": b"\x80\x04"}, "no model in LightGBM's text"),
        ({"lightgbm.txt": b"tree\n\n"}, "no model in LightGBM's text"),
    ],
)
def test_native_files_that_are_no_model_are_refused(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        load(files)


def load(files: Mapping[str, bytes], *, classes: int = 2) -> Any:
    backend = choose(Model(name="lightgbm")).backend
    assert backend is not None
    return backend.load(files, Task.of(make_spec(classes), seed=0))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"objective=binary sigmoid:1", b"objective=binary sigmoid:2", "objective binary sigmoid:2 cannot be written"),
        (b"objective=binary", b"objective=lambdarank", "objective lambdarank"),
        (b"objective=", b"average_output\nobjective=", "random forests cannot be written"),
        (b"num_cat=0", b"num_cat=1", "categorical splits cannot be written"),
        (b"is_linear=0", b"is_linear=1", "linear trees cannot be written"),
        (b"decision_type=", b"decision_type=1 ", "categorical splits|instead of|different lengths"),
        (b"left_child=", b"left_child=0 ", "form no tree|different lengths"),
        (b"split_feature=", b"split_feature=77 ", "looks at feature|different lengths"),
        (b"num_leaves=", b"num_leaves=9", "no model in LightGBM's text"),
        (b"end of trees", b"", "the end of the trees is missing"),
        (b"max_feature_idx=9", b"max_feature_idx=19", "1 scores of 20 inputs; the task has 1 of 10"),
    ],
)
def test_what_cannot_be_written_as_a_graph_is_refused_by_name(
    before: bytes, after: bytes, words: str, taught_text: bytes
) -> None:
    assert before in taught_text
    with pytest.raises(BundleError, match=words):
        load({"lightgbm.txt": taught_text.replace(before, after, 1)})


@pytest.fixture(scope="module")
def taught_text() -> bytes:
    """A small model in LightGBM's text."""
    learner = build({**SMALL, "num_iterations": 2})
    fit(learner, make_events(500), None)
    return bytes(learner.native()["lightgbm.txt"])


def test_zero_taken_for_missing_is_refused(taught_text: bytes) -> None:
    line = next(one for one in taught_text.splitlines() if one.startswith(b"decision_type="))
    changed = b"decision_type=" + b" ".join(b"4" for _ in line.split(b"=")[1].split())
    with pytest.raises(BundleError, match="zero_as_missing cannot be written"):
        load({"lightgbm.txt": taught_text.replace(line, changed)})


def test_a_model_of_two_classes_is_none_of_three(taught_text: bytes) -> None:
    with pytest.raises(BundleError, match="1 scores of 10 inputs; the task has 3 of 10"):
        load({"lightgbm.txt": taught_text}, classes=3)
