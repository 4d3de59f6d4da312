"""Every framework gets the events of the stream: the same, in the same order, with the same bits; and lets them go."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.config import parse_config
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan
from mlaas4hep.errors import DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import Scaler, flatten
from mlaas4hep.spec.scaling import flat_names as spec_flat_names
from mlaas4hep.testing import same_bits

Stream = Callable[..., EventDataset]


@dataclass(frozen=True)
class Seen:
    """A batch as numpy arrays again, whatever framework it went through."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[Any]
    weights: NDArray[Any]


def through_torch(dataset: EventDataset, epoch: int, **settings: Any) -> Iterator[Seen]:
    torch = pytest.importorskip("torch")
    into = pytest.importorskip("mlaas4hep.data.into.torch")
    batches = iter(torch.utils.data.DataLoader(into.TorchDataset(dataset, epoch=epoch, **settings), batch_size=None))
    for batch in batches:
        inputs = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
        yield Seen(inputs, batch["labels"].numpy(), batch["weights"].numpy())


def through_jax(dataset: EventDataset, epoch: int, **settings: Any) -> Iterator[Seen]:
    pytest.importorskip("jax")
    from mlaas4hep.data.into.jax import to_jax

    with to_jax(dataset, epoch, **settings) as batches:
        for batch in batches:
            valid = np.asarray(batch["valid"])
            assert len(valid) == dataset.batch_size, "jit wants one shape"
            assert not np.asarray(batch["weights"])[~valid].any()
            inputs = {name: np.asarray(array)[valid] for name, array in batch["inputs"].items()}
            yield Seen(inputs, np.asarray(batch["labels"])[valid], np.asarray(batch["weights"])[valid])


def through_tensorflow(dataset: EventDataset, epoch: int, **settings: Any) -> Iterator[Seen]:
    pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not one of 'all'")
    from mlaas4hep.data.into.tensorflow import to_tensorflow

    for inputs, labels, weights in to_tensorflow(dataset, epoch, **settings):
        yield Seen({name: one.numpy() for name, one in inputs.items()}, labels.numpy(), weights.numpy())


def through_awkward(dataset: EventDataset, epoch: int) -> Iterator[Seen]:
    """Lists are padded by awkward's own functions, so that they can be compared."""
    import awkward as ak

    from mlaas4hep.data.into.awkward import to_awkward

    with to_awkward(dataset, epoch) as batches:
        for batch in batches:
            inputs = {}
            for group in dataset.preprocessor.features.inputs:
                names = [one.name for one in group.variables]
                found = batch.events if group.length is None else batch.events[group.name]
                columns = [found[name] for name in names]
                if group.length is not None:
                    padded = [ak.pad_none(one, group.length, clip=True) for one in columns]
                    columns = [ak.fill_none(one, np.float32(np.nan)) for one in padded]
                inputs[group.name] = np.stack([ak.to_numpy(one) for one in columns], axis=-1)
            yield Seen(inputs, batch.labels, batch.weights)


THROUGH = {
    "torch": through_torch,
    "jax": through_jax,
    "tensorflow": through_tensorflow,
    "awkward": through_awkward,
}
NETWORKS = ["torch", "jax", "tensorflow"]
every_framework = pytest.mark.parametrize("framework", THROUGH)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No thread of ours that was not there before, of another test that is; no open file more."""
    gc.collect()
    threads, files = _threads(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert _threads() <= threads
    assert len(os.listdir("/proc/self/fd")) <= files


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("mlaas4hep")}


@every_framework
@pytest.mark.parametrize("format", ["ttree", "parquet"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_framework_sees_the_bits_of_the_stream_in_its_order(
    small_stream: Stream, framework: str, format: str, shuffle: bool
) -> None:
    """Law 5, to the last batch, which is smaller."""
    dataset = small_stream(format, shuffle=shuffle, shuffle_window=120, part="train", batch_size=64, seed=3)
    seen = list(THROUGH[framework](dataset, 2))
    with dataset.epoch(2) as batches:
        expected = list(batches)
    assert len(seen) == len(expected) > 3
    for one, other in zip(seen, expected, strict=True):
        assert list(one.inputs) == list(other.inputs)
        assert all(same_bits(np.ascontiguousarray(one.inputs[name]), other.inputs[name]) for name in one.inputs)
        assert np.array_equal(one.labels, other.labels)
        assert same_bits(one.weights, other.weights.astype(one.weights.dtype))


@pytest.mark.parametrize("framework", NETWORKS)
def test_a_network_may_have_scaled_inputs_and_masks(small_stream: Stream, framework: str) -> None:
    """What a module is trained on elsewhere is what the served graph computes."""
    dataset = small_stream(shuffle=True, part="train", batch_size=100)
    statistics = scan(dataset.catalogue, dataset.preprocessor)
    scaler = Scaler(ModelSpec.seal("x", preprocessor=dataset.preprocessor, statistics=statistics).scaling)
    seen = list(THROUGH[framework](dataset, 0, scaler=scaler, masks=True))
    for one, other in zip(seen, dataset, strict=True):
        expected = {**scaler.tensors(other.inputs), "jets_mask": scaler.masks(other.inputs)["jets"]}
        assert set(one.inputs) == set(expected)
        assert all(same_bits(np.ascontiguousarray(one.inputs[name]), expected[name]) for name in expected)


@every_framework
def test_who_stops_in_the_middle_leaves_no_thread_and_no_file(small_stream: Stream, framework: str) -> None:
    with nothing_left_behind():
        dataset = small_stream(shuffle=True, shuffle_window=50, batch_size=16, threads=3)
        with closing(THROUGH[framework](dataset, 0)) as seen:
            assert len(list(islice(seen, 3))) == 3
        dataset.close()


@pytest.mark.parametrize("framework", ["jax", "awkward"])
def test_an_iterator_stops_and_resumes(small_stream: Stream, framework: str) -> None:
    """Law 3, through a framework."""
    pytest.importorskip(framework)
    from mlaas4hep.data.into.awkward import to_awkward
    from mlaas4hep.data.into.jax import to_jax

    dataset = small_stream(shuffle=True, shuffle_window=90, batch_size=40)
    with {"jax": to_jax, "awkward": to_awkward}[framework](dataset, 1) as one:  # type: ignore[operator]
        for _ in range(4):
            next(one)
        state = one.state_dict()
        rest = [np.asarray(_labels(batch)).tolist() for batch in one]
    with {"jax": to_jax, "awkward": to_awkward}[framework](dataset) as other:  # type: ignore[operator]
        other.load_state_dict(state)
        assert other.epoch == 1
        assert [np.asarray(_labels(batch)).tolist() for batch in other] == rest


def _labels(batch: Any) -> Any:
    return batch["labels"] if isinstance(batch, dict) else batch.labels


def test_xgboost_sees_the_flat_view_in_each_of_its_passes(small_stream: Stream) -> None:
    """Law 5: what it learns is what it learns from the same pages held in memory."""
    xgboost = pytest.importorskip("xgboost")
    from mlaas4hep.data.into.xgboost import XGBoostIter, flat_names

    class Held(xgboost.DataIter):  # type: ignore[misc, name-defined]
        """The pages of a list."""

        def __init__(self, batches: list[Batch]) -> None:
            self.batches, self.at = batches, 0
            super().__init__()

        def next(self, input_data: Callable[..., Any]) -> bool:
            if self.at == len(self.batches):
                return False
            batch, self.at = self.batches[self.at], self.at + 1
            rows = flatten(groups, batch.inputs)
            input_data(data=rows, label=batch.labels, weight=batch.weights, feature_names=flat_names(dataset))
            return True

        def reset(self) -> None:
            self.at = 0

    dataset = small_stream(shuffle=True, shuffle_window=200, part="train", batch_size=100)
    groups, batches = _scaling(dataset), list(dataset)
    assert all(same_bits(one.flat, flatten(groups, one.inputs)) for one in batches)
    dataset.close()
    with nothing_left_behind():
        pages = XGBoostIter(dataset)
        streamed = xgboost.QuantileDMatrix(pages, max_bin=32)
        pages.close()
        dataset.close()
    held = xgboost.QuantileDMatrix(Held(batches), max_bin=32)
    assert np.array_equal(streamed.get_label(), np.concatenate([one.labels for one in batches]))
    assert streamed.feature_names == list(spec_flat_names(groups)) == list(flat_names(dataset))
    assert streamed.num_nonmissing() < streamed.num_row() * streamed.num_col(), "NaN is missing"
    settings = {"max_depth": 3, "max_bin": 32, "nthread": 1}
    one, other = (xgboost.train(settings, matrix, 5).get_dump(with_stats=True) for matrix in (streamed, held))
    assert one == other


def _scaling(dataset: EventDataset) -> Any:
    statistics = scan(dataset.catalogue, dataset.preprocessor)
    return ModelSpec.seal("x", preprocessor=dataset.preprocessor, statistics=statistics).scaling


def test_xgboost_may_keep_its_pages_on_disk(small_stream: Stream, tmp_path: Any) -> None:
    xgboost = pytest.importorskip("xgboost")
    from mlaas4hep.data.into.xgboost import XGBoostIter

    dataset = small_stream(part="train", batch_size=100)
    matrix = xgboost.ExtMemQuantileDMatrix(XGBoostIter(dataset, cache_prefix=tmp_path / "pages"))
    assert list(tmp_path.iterdir())
    booster = xgboost.train({"max_depth": 3, "nthread": 1}, matrix, 5)
    assert booster.num_boosted_rounds() == 5
    assert matrix.num_row() == sum(map(len, dataset))


def test_jax_spreads_a_batch_over_its_devices_or_says_why_not(small_stream: Stream) -> None:
    jax = pytest.importorskip("jax")
    from mlaas4hep.data.into.jax import to_jax

    dataset = small_stream(batch_size=65)
    with to_jax(dataset, devices=jax.local_devices()[:1]) as batches:
        array = next(batches)["inputs"]["jets"]
    assert array.shape == (65, 3, 2)
    assert array.sharding.spec == jax.sharding.PartitionSpec("events")
    with pytest.raises(DataError, match="batch_size 65 is not a multiple of 2 devices; the nearest that is: 64"):
        to_jax(dataset, devices=jax.local_devices()[:1] * 2)


def test_every_pass_of_tensorflow_may_be_the_next_epoch(small_stream: Stream) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not one of 'all'")
    from mlaas4hep.data.into.tensorflow import to_tensorflow

    dataset = small_stream(shuffle=True, shuffle_window=200, batch_size=100)
    stream = to_tensorflow(dataset, 1, advance=True)
    assert stream.element_spec[0]["jets"] == tensorflow.TensorSpec((None, 3, 2), tensorflow.float32)
    for epoch in (1, 2):
        found = np.concatenate([labels.numpy() for _, labels, _ in stream])
        assert np.array_equal(found, np.concatenate([batch.labels for batch in dataset.epoch(epoch)]))


@pytest.fixture(scope="module")
def regression(small_files: dict[str, Any]) -> Callable[..., EventDataset]:
    """A stream with two targets, and collections behind them."""
    folder = small_files["ttree"]
    config = parse_config(
        f"samples:\n  all: {{files: '{folder}/signal*.root'}}\n"
        "inputs: {event: [MET_pt], jets: {vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}}\n"
        "targets: {double: 2 * MET_pt, jets: len(Jet_pt)}\n"
    )
    catalogue = Catalogue.open(config)
    return lambda **settings: EventDataset(catalogue, Preprocessor(config.features, catalogue.types), **settings)


def targets_of(framework: str, dataset: EventDataset) -> Iterator[tuple[Any, Any]]:
    """Targets and the tensor of jets, batch by batch."""
    if framework == "torch":
        into = pytest.importorskip("mlaas4hep.data.into.torch")
        yield from ((one["targets"].numpy(), one["inputs"]["jets"].numpy()) for one in into.TorchDataset(dataset))
    elif framework == "jax":
        jax = pytest.importorskip("mlaas4hep.data.into.jax")
        for one in jax.to_jax(dataset):
            valid = np.asarray(one["valid"])
            yield np.asarray(one["targets"])[valid], np.asarray(one["inputs"]["jets"])[valid]
    elif framework == "tensorflow":
        pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not one of 'all'")
        from mlaas4hep.data.into.tensorflow import to_tensorflow

        yield from ((targets.numpy(), inputs["jets"].numpy()) for inputs, targets, _ in to_tensorflow(dataset))
    else:
        from mlaas4hep.data.into.awkward import to_awkward

        padded = (one.collections["jets"].padded(3) for one in dataset.ragged(0))
        yield from ((one.targets, jets) for one, jets in zip(to_awkward(dataset), padded, strict=True))


@every_framework
def test_targets_of_a_regression_come_with_their_events(
    regression: Callable[..., EventDataset], framework: str
) -> None:
    dataset = regression(shuffle=True, shuffle_window=100, batch_size=60)
    seen = list(targets_of(framework, dataset))
    assert len(seen) > 3
    for (targets, jets), batch in zip(seen, dataset, strict=True):
        assert batch.targets is not None
        assert same_bits(np.ascontiguousarray(targets), np.ascontiguousarray(batch.targets))
        assert np.array_equal(targets[:, 0], 2 * batch.inputs["event"][:, 0])
        assert same_bits(np.ascontiguousarray(jets), np.ascontiguousarray(batch.inputs["jets"]))


def test_xgboost_learns_the_targets_of_a_regression(regression: Callable[..., EventDataset]) -> None:
    xgboost = pytest.importorskip("xgboost")
    from mlaas4hep.data.into.xgboost import XGBoostIter

    dataset = regression(batch_size=100)
    matrix = xgboost.QuantileDMatrix(XGBoostIter(dataset))
    targets = np.concatenate([batch.targets for batch in dataset if batch.targets is not None])
    assert np.array_equal(matrix.get_label().reshape(targets.shape), targets)
    assert matrix.feature_names[:2] == ["MET_pt", "jets_0_Jet_pt"]
    assert matrix.num_col() == 7
