"""What a server can be asked, without a word about how the question arrives.

A transport such as HTTP sits in front of it, the models behind it. Invariant: tensors and events end in the same call
of the same graph, so that both ways of asking give the same bits.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

from mlaas4hep.errors import BusyError
from mlaas4hep.serve.backlog import Backlog
from mlaas4hep.serve.batcher import Batcher
from mlaas4hep.serve.bulk import read_bulk
from mlaas4hep.serve.describing import (
    ModelContract,
    contract_of,
    describe_columns,
    describe_config,
    describe_tensors,
)
from mlaas4hep.serve.events import Prediction
from mlaas4hep.serve.intake import Intake
from mlaas4hep.serve.limits import Limits as Limits
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.peers import Change
from mlaas4hep.serve.protocol import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
)
from mlaas4hep.serve.question import Outputs as Outputs
from mlaas4hep.serve.question import Question as Question
from mlaas4hep.serve.question import T, column_question, picture_question, tensor_question
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.served import IndexEntry
from mlaas4hep.serve.uploads import Uploads
from mlaas4hep.spec.columns import Columns


class InferenceService:
    """Answers about the models of a repository. Safe from several threads, but for what says that it lives on a loop.

    A transport reads a question (`ask_tensors`, `ask_events`) and has it answered together with others (`answer`).

    Parameters
    ----------
    repository
        The models.
    version
        Version of this program, given in the server's metadata.
    control
        Whether whoever can ask may load and unload models.
    uploads
        Who takes new models; None takes none.

    Attributes
    ----------
    default_model
        Who is asked where a question may name nobody, and does not.
    """

    def __init__(
        self,
        repository: ModelRepository,
        *,
        limits: Limits | None = None,
        version: str = "0",
        control: bool = False,
        uploads: Uploads | None = None,
    ) -> None:
        self.repository = repository
        self.control = control
        self.uploads = uploads
        self.default_model = ""
        self.limits = limits or Limits()
        self.intake = Intake(self.limits.wire.body_bytes)
        self._version = version
        self.draining = False  # told to end: what comes is answered, but no more should come
        control_words = ("model_repository",) if control else ()
        words = ("binary_tensor_data", "classification", "model_configuration")
        self.extensions: tuple[str, ...] = (*words, *control_words)
        self.everywhere: Callable[[Change], Awaitable[None]] | None = None  # where there are other workers
        self.on_run: Callable[[ServedModel, int, int, float], None] | None = None
        threads = max(4, os.cpu_count() or 1)
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="mlaas4hep-run")
        self.backlog = Backlog(threads, self.limits.wait_s)
        self._batchers: dict[tuple[ServedModel, asyncio.AbstractEventLoop], Batcher] = {}
        self._batchers_lock = threading.Lock()
        self._retired: WeakSet[ServedModel] = WeakSet()
        repository.on_retired(self._retire_everywhere)

    def live(self) -> bool:
        """Whether the server answers at all."""
        return True

    def ready(self) -> bool:
        """Whether questions should come here: there are models, or may be some soon, and it is not to end."""
        return (bool(self.repository.names) or self.uploads is not None) and not self.draining

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether a model can be asked; raises `NotFoundError` where it is not served. One that sleeps is."""
        return name in self.repository.asleep or bool(self.repository.get(name, version).name)

    def model_names(self) -> tuple[str, ...]:
        """Names of all models, sorted."""
        return self.repository.names

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        return ServerMetadata("mlaas4hep", self._version, self.extensions)

    def repository_index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """All models that the repository knows of, with state and reason."""
        return self.repository.index(ready=ready)

    async def load_model(self, name: str, *, config: str | None = None) -> None:
        """Load what the repository's folder holds of a model now; its new versions answer when this returns.

        Raises
        ------
        NotFoundError
            No such entry.
        BundleError
            It cannot be served, or a version of it; what was served before still is.
        """
        if self.everywhere is not None:
            await self.everywhere(Change("load", name, config=config))
            return
        await asyncio.wrap_future(self.repository.load(name, config=config))

    async def unload_model(self, name: str) -> None:
        """Take a model away; what was asked of it is answered.

        Raises
        ------
        NotFoundError
            No such entry.
        """
        if self.everywhere is not None:
            await self.everywhere(Change("unload", name))
            return
        await asyncio.wrap_future(self.repository.unload(name))

    async def label_model(self, name: str, label: str, version: str | None) -> None:
        """Set a label of a version, or take it away (None); raises as `ModelRepository.label`."""
        if self.everywhere is not None:
            await self.everywhere(Change("label", name, label=label, version=version))
            return
        # Held up as long as the model is being loaded, so not on the loop.
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.executor, self.repository.label, name, label, version)

    async def wake(self, name: str) -> None:
        """Return when a model can be asked without waiting for its load.

        Raises
        ------
        NotFoundError
            No such model, or it is unloaded or broken.
        """
        while (waking := self.repository.waking(name)) is not None:  # it may be put to sleep again before this goes on
            await asyncio.wrap_future(waking)

    def model_metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """Tensors of a model in and out."""
        model = self.repository.get(name, version)
        return describe_tensors(model, self.repository.versions(name) if version is None else (model.version,))

    def model_config(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Triton's model configuration of a model."""
        return describe_config(self.repository.get(name, version))

    def model_contract(self, name: str, version: str | None = None) -> ModelContract:
        """Columns that a model is asked with, by name."""
        return describe_columns(self.repository.get(name, version))

    def infer(self, name: str, request: InferRequest, *, version: str | None = None) -> InferResponse:
        """Scores of padded tensors.

        Raises
        ------
        NotFoundError
            No such model or version.
        RequestError
            An input that is missing, unknown or of another shape, or an output that the model does not have.
        """
        return self.ask_tensors(name, request, version=version).run()

    def predict_events(self, name: str, body: bytes, *, version: str | None = None) -> Prediction:
        """Scores of events by name, from JSON in the form of `mlaas4hep.serve.events`.

        Raises
        ------
        NotFoundError
            No such model or version.
        RequestError, DataError
            Events that do not fit the model's columns, or a model without a contract.
        """
        return self.ask_events(name, body, version=version).run()

    def predict_columns(
        self, name: str, columns: Columns, *, num_entries: int, version: str | None = None
    ) -> Prediction:
        """Scores of events that are columns already; what `predict_events` does after reading."""
        return self.ask_columns(name, columns, num_entries=num_entries, version=version).run()

    def ask_tensors(self, name: str, request: InferRequest, *, version: str | None = None) -> Question[InferResponse]:
        """What `infer` does before and after the run."""
        return tensor_question(self.repository.get(name, version), request)

    def ask_image(self, name: str, data: bytes, *, version: str | None = None) -> Question[InferResponse]:
        """All outputs for one picture, PNG or JPEG.

        Raises
        ------
        NotFoundError
            No such model or version.
        RequestError
            The model takes no pictures. What is wrong with this one is said by `Question.ready`.
        """
        return picture_question(self.repository.get(name, version), data)

    def ask_events(self, name: str, body: bytes, *, version: str | None = None) -> Question[Prediction]:
        """What `predict_events` does before and after the run."""
        model = self.repository.get(name, version)
        columns, count = contract_of(model).reader.read(body, max_instances=self.limits.max_instances)
        return column_question(model, columns, count)

    def ask_bulk(self, name: str, body: bytes, media_type: str, *, version: str | None = None) -> Question[Prediction]:
        """As `ask_events`, of events in the form of `mlaas4hep.serve.bulk`."""
        model = self.repository.get(name, version)
        types = contract_of(model).reader.types
        return column_question(model, *read_bulk(body, media_type, types, max_instances=self.limits.max_instances))

    def ask_columns(
        self, name: str, columns: Columns, *, num_entries: int, version: str | None = None
    ) -> Question[Prediction]:
        """What `predict_columns` does before and after the run."""
        return column_question(self.repository.get(name, version), columns, num_entries)

    async def answer(self, question: Question[T], *, deadline: float | None = None) -> T:
        """Answer on the running loop, joined with what others ask of the model.

        Raises
        ------
        BusyError
            Too much waits, or the deadline (by `time.monotonic`) cannot be met.
        RequestError
            The tensors do not fit.
        """
        if question.prepare is not None:
            question = await self.read_in_thread(question.ready)
        batcher = self.batcher(question.model)
        return question.finish(await batcher.infer(question.inputs, question.rows, deadline=deadline, checked=True))

    async def read_in_thread(self, read: Callable[[], Question[T]]) -> Question[T]:
        """What takes long to read; `BusyError` where too much waits for that already."""
        backlog = self.backlog

        def run() -> Question[T]:
            began_s = time.monotonic()
            try:
                return read()
            finally:
                backlog.leave(time.monotonic() - began_s)

        backlog.enter()
        return await asyncio.get_running_loop().run_in_executor(self.executor, run)

    def batcher(self, model: ServedModel) -> Batcher:
        """Who joins questions to a model on the running loop."""
        key = (model, asyncio.get_running_loop())
        return self._batchers.get(key) or self._new_batcher(key)

    def refusal(
        self, name: str | None = None, version: str | None = None, *, deadline: float | None = None
    ) -> BusyError | None:
        """Why a question has no chance now, asked before its body is there; None where it may have."""
        model = self.repository.peek(name, version)
        batcher = None if model is None else self._batchers.get((model, asyncio.get_running_loop()))
        return None if batcher is None else batcher.refusal(1, 0, deadline)

    def _new_batcher(self, key: tuple[ServedModel, asyncio.AbstractEventLoop]) -> Batcher:
        batcher = Batcher(key[0], self.executor, limits=self.limits.queue_of(key[0].name), on_run=self._ran)
        with self._batchers_lock:
            # A closed loop leaves its batchers behind. A question that found its model just before that was retired
            # is the last one: it is answered, and nothing is kept of it.
            kept = {one: batcher for one, batcher in self._batchers.items() if not one[1].is_closed()}
            self._batchers = kept if key[0] in self._retired else {**kept, key: batcher}
        return batcher

    async def retire(self, model: ServedModel) -> None:
        """Return when all that was asked of a model is answered, and forget it; for what is no longer served."""
        found = self._batchers.get((model, asyncio.get_running_loop()))
        if found is not None:
            await found.drain()
            self._forget(model, asyncio.get_running_loop())

    def _forget(self, model: ServedModel, loop: asyncio.AbstractEventLoop) -> None:
        with self._batchers_lock:
            self._batchers = {key: one for key, one in self._batchers.items() if key != (model, loop)}

    def _retire_everywhere(self, model: ServedModel) -> None:
        """On every loop that has answered for a model that nobody finds any more."""
        with self._batchers_lock:
            self._retired.add(model)
            loops = [loop for one, loop in self._batchers if one is model]
        for loop in loops:
            retiring = self.retire(model)
            try:
                asyncio.run_coroutine_threadsafe(retiring, loop)
            except RuntimeError:  # closed, so that nothing waits there
                retiring.close()
                self._forget(model, loop)

    def waiting(self) -> dict[str, int]:
        """Questions that wait for a run now, by ``NAME/VERSION``."""
        found: dict[str, int] = {}
        for (model, _), batcher in list(self._batchers.items()):
            label = f"{model.name}/{model.version}"
            found[label] = found.get(label, 0) + batcher.waiting
        return found

    def _ran(self, model: ServedModel, questions: int, rows: int, seconds: float) -> None:
        if self.on_run is not None:
            self.on_run(model, questions, rows, seconds)
