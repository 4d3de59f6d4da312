"""Learning with a function of JAX, batch by batch: one compiled step for all batches of about a size.

Used by `mlaas4hep.backends.jax`. Invariant: with one seed and one number of threads the parameters after any number of
steps are the same bits on a CPU, also where the training was interrupted; JAX's settings change for nobody else.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends import devices
from mlaas4hep.backends.arrays import below, pack, under
from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.jax_network import Form, Leaves, Network
from mlaas4hep.backends.jax_optimiser import Optimiser
from mlaas4hep.backends.losses import Loss
from mlaas4hep.backends.protocol import Arrays, Capabilities, EventWeights, Scores, Truth
from mlaas4hep.backends.weights import require_finite
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.spec.scaling import Tensors

JAX = Capabilities(streams=True, negative_weights=True, masks=True, regression=True, resume="exact", gpu=True)

_State = dict[str, Any]
_SMALL = (16, 64, 256)


def device_of(asked: str, where: str) -> Any:
    """The device of a dial ``device``."""
    kind, number = devices.asked(asked)
    try:
        return jax.devices()[0] if kind == "auto" else jax.devices(kind)[number or 0]
    except (RuntimeError, IndexError) as error:
        kinds = sorted({one.platform for one in jax.devices()})
        raise ModelError(f"{where}: model.device: {asked} is not there; JAX has {', '.join(kinds)} here") from error


@contextlib.contextmanager
def settled(device: Any) -> Iterator[None]:
    """Float32 in full precision on one device, whatever is set elsewhere in the process."""
    with jax.enable_x64(False), jax.default_matmul_precision("highest"), jax.default_device(device):
        yield


@functools.cache
def _compiled(function: Callable[..., Any], single: bool) -> Callable[..., Any]:
    """A function compiled by its first argument; on one thread, or on as many as XLA has."""
    options = {"xla_cpu_multi_thread_eigen": False} if single else None
    compiled: Callable[..., Any] = jax.jit(function, static_argnums=0, compiler_options=options)
    return compiled


@dataclass(frozen=True, slots=True)
class _Way:
    """What a step is compiled by."""

    form: Form
    shapes: tuple[tuple[int, ...], ...]
    optimiser: Optimiser
    loss: Loss
    averaging: float


def _step(
    way: _Way,
    state: _State,
    fixed: Leaves,
    tensors: Sequence[jax.Array],
    truth: jax.Array,
    shares: jax.Array,
    seed: Any,
) -> tuple[_State, jax.Array]:
    count = state["steps"] + 1
    key = jax.random.fold_in(jax.random.key(seed), count) if way.form.draws else None

    def loss_of(learned: Leaves) -> jax.Array:
        found = way.form.raw(learned, fixed, tensors, key)
        return (shares * way.form.losses(found, truth, way.loss)).sum()

    loss, slopes = jax.value_and_grad(loss_of)(_split(state["learned"], way.shapes))
    learned, moments = way.optimiser.update(state["learned"], _joined(slopes), state["moments"], count)
    after = {"steps": count, "learned": learned, "moments": moments}
    if way.averaging:
        # As `mlaas4hep.backends.average.Average` has it.
        steps = count.astype(jnp.float32)
        kept = jnp.minimum(way.averaging, (1 + steps) / (10 + steps))
        after["average"] = kept * state["average"] + (1 - kept) * learned
    return after, loss


def _joined(leaves: Sequence[Any]) -> jax.Array:
    """All learned parameters as one array [P]: an optimiser of one array is compiled in a third of the time."""
    return jnp.concatenate([one.ravel() for one in leaves])


def _split(values: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Parameters back in their shapes."""
    found, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        found.append(values[start : start + size].reshape(shape))
        start += size
    return found


def _scores(way: _Way, learned: jax.Array, fixed: Leaves, tensors: Sequence[jax.Array]) -> jax.Array:
    return way.form.scores(_split(learned, way.shapes), fixed, tensors)


def rounded_up(rows: int) -> int:
    """A number of rows that JAX compiles for, so that it need not for every last batch: few small ones, and above 256
    at most a quarter more than are there.

    Examples
    --------
    >>> [rounded_up(rows) for rows in (1, 20, 100, 1000, 3000)]
    [16, 64, 256, 1024, 3072]
    """
    if rows <= _SMALL[-1]:
        return next(size for size in _SMALL if rows <= size)
    grain = 1 << (rows - 1).bit_length() - 3
    return (rows + grain - 1) // grain * grain


def _filled(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """So many rows: the first again and again, since its gradient is as good as that of any event."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


class JaxLearner:
    """A function of JAX with parameters.

    Parameters
    ----------
    network
        With first parameters.
    optimiser
        Makes the loss small.
    loss
        Of a regression.
    averaging
        Share of the past in the average of the parameters.
    device
        Where it is computed.
    settings
        Written beside the parameters.
    """

    def __init__(
        self,
        network: Network,
        optimiser: Optimiser,
        *,
        loss: Loss,
        averaging: float,
        device: Any,
        settings: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.task = network.task
        self.where = network.where
        self.loss = loss
        on_cpu = device.platform == "cpu"
        # Sums on a GPU come in any order.
        self.capabilities = JAX if on_cpu else msgspec.structs.replace(JAX, resume="statistical")
        self.device = "cpu" if on_cpu else f"{device.platform}:{device.id}"
        self.notes = () if on_cpu else (f"{network.where}: learns on {device.device_kind}",)
        self._device = device
        self._settings = settings
        self._single = self.task.threads == 1
        with settled(device):
            leaves, self._fixed = network.apart(network.leaves)
            learned = _joined(leaves)
            self._state: _State = {"steps": jnp.int32(0), "learned": learned, "moments": optimiser.start(learned)}
            if averaging:
                self._state["average"] = learned
        self._way = _Way(network.form, tuple(one.shape for one in leaves), optimiser, loss, averaging)

    def learn(self, inputs: Tensors, truth: Truth, weights: EventWeights) -> float:
        """One step on the sum of weight times loss over the sum of ``|weight|``.

        With positive weights that is the weighted mean; with some negative ones it stays bounded where the sum of
        weights comes close to zero.
        """
        require_finite(weights)
        total = float(np.abs(weights).sum())
        if total == 0.0:
            return 0.0
        rows = rounded_up(len(truth))
        shares = np.zeros(rows, np.float32)
        shares[: len(truth)] = weights / total
        tensors = [_filled(one, rows) for one in self.network.prepare(inputs)]
        wanted = _filled(truth if self.task.kind == "regression" else truth.astype(np.int32), rows)
        with told_with(self.where, "a step failed"), settled(self._device):
            step = _compiled(_step, self._single)
            seed = np.uint32(self.task.seed % 2**32)
            self._state, loss = step(self._way, self._state, self._fixed, tensors, wanted, shares, seed)
            value = float(loss)
        if not np.isfinite(value):
            raise ModelError(f"{self.where}: the loss is {value}: the training diverged; lower model.learning_rate")
        return value

    @property
    def _shown(self) -> jax.Array:
        found: jax.Array = self._state["average" if "average" in self._state else "learned"]
        return found

    def _leaves(self) -> list[Any]:
        """All parameters that the scores hang on, as numpy arrays."""
        return self.network.together(_split(np.asarray(self._shown), self._way.shapes), self._fixed)

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float32."""
        return self._scores(inputs, self._device)

    def predict_on_cpu(self, inputs: Tensors) -> Scores:
        """The same, by the CPU, where JAX has not been told to leave it alone (``JAX_PLATFORMS``)."""
        try:
            device = jax.devices("cpu")[0]
        except RuntimeError:
            device = self._device
        return self._scores(inputs, device)

    def _scores(self, inputs: Tensors, device: Any) -> Scores:
        prepared = self.network.prepare(inputs)
        count = len(prepared[0])
        if count == 0:
            return np.zeros((0, self.task.outputs), np.float32)
        tensors = [_filled(one, rounded_up(count)) for one in prepared]
        with told_with(self.where, "apply failed"), settled(device):
            held = self._shown, self._fixed
            held = held if device == self._device else jax.device_put(held, device)
            found = _compiled(_scores, self._single)(self._way, *held, tensors)
        return np.asarray(found)[:count]

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all parameters."""
        return {name: np.array(one) for name, one in zip(self.network.names, self._leaves(), strict=True)}

    def restore(self, state: Arrays) -> None:
        """Write all parameters back."""
        with settled(self._device):
            learned, self._fixed = self.network.apart([jnp.array(state[name]) for name in self.network.names])
            self._state["learned"] = _joined(learned)
        if "average" in self._state:
            self._state["average"] = self._state["learned"]

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Parameters [P], their average, the optimiser's moments, and the number of steps, which dropout hangs on."""
        arrays = {name: np.array(one) for name, one in self._state.items() if name != "moments"}
        return arrays | under("moments", {name: np.array(one) for name, one in self._state["moments"].items()})

    def recover(self, arrays: Arrays) -> None:
        """Make a fresh learner one that goes on from what `checkpoint` gave."""
        with settled(self._device):
            moments = {name: jnp.array(one) for name, one in below("moments", arrays).items()}
            rest = {name: jnp.array(arrays[name]) for name in self._state if name != "moments"}
            self._state = {**rest, "moments": moments}

    def export(self) -> Core:
        """The function as a graph, with its parameters inside."""
        with told_with(self.where, "cannot be written as a graph"), settled(self._device):
            return self.network.export(self._leaves())

    def native(self) -> dict[str, bytes]:
        """Parameters and settings."""
        return pack(self._settings, self.state())
