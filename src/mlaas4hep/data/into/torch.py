"""The stream as a dataset of PyTorch.

`TorchDataset` gives whole batches to a ``DataLoader`` that is told not to make its own (``batch_size=None``); workers
of the loader and ranks of ``torch.distributed`` take shares of the stream. Invariant: all workers of all ranks together
deliver every event once an epoch, and the order of each is a function of the stream, the rank and the number of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlaas4hep.arguments import whole
from mlaas4hep.data.asked import MOST_EPOCH
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.fields import Fields, require_stream
from mlaas4hep.data.into.orphans import end_with_parent
from mlaas4hep.data.states import require_keys
from mlaas4hep.errors import ConfigError, DataError, MissingExtraError
from mlaas4hep.spec.scaling import Scaler

try:
    import torch
    from torch import distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtraError("torch", "torch", "streaming into PyTorch") from error

T = TypeVar("T")


class TorchDataset(IterableDataset):
    """Batches as dictionaries of tensors, for ``DataLoader(TorchDataset(events), batch_size=None)``.

    ``inputs`` holds float32 tensors by group, [n, F] and [n, K, F], to be given to a module as ``module(**inputs)``;
    ``labels`` is int64 [n], ``weights`` float64 [n], and of a regression ``targets`` float32 [n, T]. Tensors share the
    memory of the stream's arrays.

    The stream has threads of its own that work outside Python's lock, so ``num_workers=0`` is usually fastest. With
    workers, each opens the files anew and takes its share of the entries and of ``max_memory``; the loader hands on
    their batches by turns. What workers could not read is noted in the workers, not here.

    Parameters
    ----------
    dataset
        The stream. Where it has ranks of its own, those count.
    epoch
        Number of the first one; `set_epoch` goes on. Each ``iter`` gives the epoch that is set.
    scaler
        Scales inputs, see `mlaas4hep.data.into.fields.Fields`; None hands raw values on, NaN where one is missing.
    masks
        Adds ``jets_mask`` to ``inputs`` for each collection ``jets``: bool [n, K].
    entries
        Adds ``entries``: int64 [n, 2], number of the file and entry in it.
    drop_last
        Leave out the last batch of each worker where it is smaller.
    rank, ranks
        Of this process among those that train together; None takes those of ``torch.distributed`` where it is
        initialised, when the dataset is first iterated or sent to a worker.

    Raises
    ------
    DataError
        Only one of ``rank`` and ``ranks`` is given.
    """

    def __init__(
        self,
        dataset: EventDataset,
        *,
        epoch: int = 0,
        scaler: Scaler | None = None,
        masks: bool = False,
        entries: bool = False,
        drop_last: bool = False,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        super().__init__()
        require_stream(dataset, epoch)
        if (rank is None) != (ranks is None):
            raise DataError(f"rank and ranks belong together, got rank {rank} of {ranks} ranks")
        self._dataset = dataset
        self._fields = Fields(dataset.preprocessor.features, scaler=scaler, masks=masks)
        self._entries = entries
        self._drop_last = drop_last
        self._world = None if rank is None or ranks is None else (rank, ranks)
        # Shared with workers, so that those that live on from epoch to epoch are told, too.
        self._epoch = torch.tensor(epoch).share_memory_()
        self._resume: dict[str, Any] | None = None
        self._state: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next ``iter`` gives."""
        return int(self._epoch)

    def set_epoch(self, number: int) -> None:
        """Go to an epoch, as with a ``DistributedSampler``: before each pass, or its order is that of the last one."""
        self._epoch.fill_(whole(number, "epoch", most=MOST_EPOCH, error=DataError))
        self._resume = self._state = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        dataset = self._mine()
        try:
            yield from self._batches(dataset)
        except ConfigError as error:
            # torch makes an error of a worker anew, of its text alone.
            raise DataError(str(error)) from error
        finally:
            if dataset is not self._dataset:
                dataset.close()

    def _batches(self, dataset: EventDataset) -> Iterator[dict[str, Any]]:
        with dataset.epoch(self.epoch) as batches:
            if self._resume is not None:
                batches.load_state_dict(self._resume)
                self._resume = None
            self._state = batches.state_dict()
            for batch in batches:
                self._state = batches.state_dict()
                if len(batch) == dataset.batch_size or not self._drop_last:
                    yield self._tensors(batch)
            self._state = batches.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands, after the last batch that was handed out: plain values, less than 1 kB.

        It is exact without workers. With them each worker has a state of its own, which torchdata's
        ``StatefulDataLoader`` collects.
        """
        return {"epoch": self.epoch, "stream": self._state or self._resume}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next ``iter`` gives the rest of that epoch.

        Raises
        ------
        DataError
            It is no state of such a dataset. When it is iterated: the state belongs to another stream, or to another
            number of workers or ranks.
        """
        require_keys(state, ("epoch", "stream"), "a state of a TorchDataset")
        stream = state["stream"]
        if stream is not None:
            require_keys(stream, ("version", "fingerprint"), "the stream of such a state")
        self.set_epoch(state["epoch"])
        self._resume = None if state["stream"] is None else dict(state["stream"])

    def __getstate__(self) -> dict[str, Any]:
        # What another process could not find out by itself.
        return self.__dict__ | {"_world": self._ranks()}

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        # One tensor of all groups, so that a worker sends one block of memory.
        inputs = self._fields.split(torch.from_numpy(self._fields.table(batch)))
        masks = {name: torch.from_numpy(mask) for name, mask in self._fields.masks(batch).items()}
        tensors: dict[str, Any] = {
            "inputs": inputs | masks,
            "labels": torch.from_numpy(batch.labels),
            "weights": torch.from_numpy(batch.weights),
        }
        if batch.targets is not None:
            tensors["targets"] = torch.from_numpy(batch.targets)
        if self._entries:
            both = [torch.from_numpy(batch.entries[name].astype("int64")) for name in ("file", "entry")]
            tensors["entries"] = torch.stack(both, dim=1)
        return tensors

    def _ranks(self) -> tuple[int, int]:
        if self._world is not None:
            return self._world
        if self._dataset.ranks > 1:
            return self._dataset.rank, self._dataset.ranks
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _mine(self) -> EventDataset:
        """The share of this worker of this rank."""
        rank, ranks = self._ranks()
        worker = get_worker_info()
        if worker is None:
            same = (rank, ranks) == (self._dataset.rank, self._dataset.ranks)
            return self._dataset if same else self._dataset.share(rank, ranks)
        end_with_parent()
        workers, memory = worker.num_workers, self._dataset.max_memory
        share = self._dataset.share(
            rank * workers + worker.id, ranks * workers, max_memory=None if memory is None else memory // workers
        )
        if self.epoch > 0 and share.lacks_rows:
            raise DataError(
                f"shuffle: exact with {workers} workers needs a filled cache, since one process alone writes each file "
                "of it: call fill_cache() of the EventDataset before"
            )
        return share


def even_batches(loader: Iterable[T], *, group: Any = None) -> Iterator[T]:
    """As many batches on every rank as on the one that has fewest, so that none waits for another in vain.

    Shares have equally many entries, but not equally many events after a selection. All ranks agree on each batch
    before it is used; what is left over on the others, few batches an epoch, is dropped.

    Parameters
    ----------
    loader
        Of this rank.
    group
        Process group of ``torch.distributed``; None takes the default one. Batches come through unchanged where it is
        not initialised.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        yield from loader
        return
    device = torch.device("cuda") if distributed.get_backend(group) == "nccl" else torch.device("cpu")
    rest = iter(loader)
    agreed = _ask(rest, group, device)
    while True:
        batch, found, answer = agreed
        answer.wait()
        if not int(found):
            return
        # The next one is agreed upon while this one is learned from.
        agreed = _ask(rest, group, device)
        yield batch


def _ask(rest: Iterator[T], group: Any, device: torch.device) -> tuple[Any, torch.Tensor, Any]:
    """The next batch, and whether all ranks have one: known after waiting."""
    nothing = object()
    batch = next(rest, nothing)
    found = torch.tensor(int(batch is not nothing), device=device)
    return batch, found, distributed.all_reduce(found, distributed.ReduceOp.MIN, group=group, async_op=True)
