"""A dataset of torch: its place, its epochs, its shares, its memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest

from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError

torch = pytest.importorskip("torch")
from mlaas4hep.data.into.torch import TorchDataset, even_batches  # noqa: E402

Stream = Callable[..., EventDataset]


def loader(dataset: TorchDataset) -> Any:
    return torch.utils.data.DataLoader(dataset, batch_size=None)


def entries(batches: Any) -> list[Any]:
    return [batch["entries"].tolist() for batch in batches]


@pytest.mark.parametrize("stop", [0, 1, 6, 99])
def test_a_dataset_stops_and_resumes_where_its_last_batch_was_used(small_stream: Stream, stop: int) -> None:
    """Law 3, through a loader; after the last batch nothing comes any more."""
    stream = small_stream(shuffle=True, shuffle_window=90, batch_size=40)
    one = TorchDataset(stream, entries=True, epoch=2)
    batches = iter(loader(one))
    done = entries(islice(batches, stop))
    state = pickle.loads(pickle.dumps(one.state_dict()))
    rest = entries(batches)
    other = TorchDataset(stream, entries=True)
    other.load_state_dict(state)
    assert other.epoch == 2
    assert entries(loader(other)) == rest
    assert entries(loader(other)) == done + rest, "the pass after it is whole"


def test_a_state_of_other_ranks_is_refused(small_stream: Stream) -> None:
    one = TorchDataset(small_stream(shuffle=True), rank=0, ranks=2)
    next(iter(loader(one)))
    other = TorchDataset(small_stream(shuffle=True))
    other.load_state_dict(one.state_dict())
    with pytest.raises(DataError, match="number of processes that share it"):
        next(iter(loader(other)))


def test_each_epoch_has_its_order_and_all_its_events(small_stream: Stream) -> None:
    dataset = TorchDataset(small_stream(shuffle=True, batch_size=1000), entries=True)
    orders = []
    for epoch in (0, 1, 1):
        dataset.set_epoch(epoch)
        orders.append(entries(loader(dataset))[0])
    assert orders[0] != orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(orders[1])


def test_ranks_are_those_that_are_given_then_those_of_the_stream(small_stream: Stream) -> None:
    every = entries(TorchDataset(small_stream(batch_size=1000), entries=True))[0]
    given = [TorchDataset(small_stream(batch_size=1000), entries=True, rank=rank, ranks=3) for rank in range(3)]
    own = [TorchDataset(small_stream(batch_size=1000, rank=rank, ranks=3), entries=True) for rank in range(3)]
    for shares in (given, own):
        assert [one for share in shares for one in entries(share)[0]] == every
    with pytest.raises(DataError, match="rank and ranks belong together"):
        TorchDataset(small_stream(), rank=1)


def test_the_last_batch_may_be_left_out(small_stream: Stream) -> None:
    sizes = [len(batch["labels"]) for batch in TorchDataset(small_stream(batch_size=100), drop_last=True)]
    whole = [len(batch["labels"]) for batch in TorchDataset(small_stream(batch_size=100))]
    assert sizes == whole[:-1] == [100] * len(sizes)


def test_tensors_share_the_memory_of_the_batch_and_may_be_written_to(small_stream: Stream) -> None:
    batch = next(iter(TorchDataset(small_stream(batch_size=10))))
    event, jets = (batch["inputs"][name] for name in ("event", "jets"))
    assert event.untyped_storage().data_ptr() == jets.untyped_storage().data_ptr(), "one table of rows"
    event.fill_(1)
    assert torch.equal(event, torch.ones(10, 1))


def test_a_worker_has_its_part_of_the_memory(small_stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 4 counts all processes together."""
    dataset = TorchDataset(small_stream(shuffle=True, shuffle_window=100, max_memory=200_000))

    class Worker:
        id, num_workers = 1, 4

    monkeypatch.setattr("mlaas4hep.data.into.torch.get_worker_info", Worker)
    share = dataset._mine()
    assert (share.rank, share.ranks, share.max_memory) == (1, 4, 50_000)
    Worker.num_workers = 40
    with pytest.raises(DataError, match=r"no window fits; max_memory 29\.2 kB is enough"):
        dataset._mine()


def test_batches_of_one_process_are_even_already(small_stream: Stream) -> None:
    dataset = TorchDataset(small_stream(batch_size=100), entries=True)
    assert entries(even_batches(loader(dataset))) == entries(dataset)


def test_a_module_of_a_user_takes_the_inputs_by_name(small_stream: Stream) -> None:
    """``module(**inputs)`` is what the project's own training does."""

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, event: Any, jets: Any, jets_mask: Any) -> Any:
            return torch.where(jets_mask, jets[..., 0], 0.0).sum(dim=1) + event[:, 0]

    batch = next(iter(TorchDataset(small_stream(batch_size=64), masks=True)))
    inputs = {name: tensor.numpy() for name, tensor in batch["inputs"].items()}
    expected = np.nansum(inputs["jets"][..., 0], axis=1, dtype=np.float32) + inputs["event"][:, 0]
    assert np.allclose(Module()(**batch["inputs"]).numpy(), expected)
