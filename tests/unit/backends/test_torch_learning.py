"""How torch learns: optimisers and schedules as JAX has them, clipping, resuming, precision and devices."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mlaas4hep.backends.average import Average  # noqa: E402
from mlaas4hep.backends.learning import LearningDials, Schedule  # noqa: E402
from mlaas4hep.backends.protocol import MovedLearner, Task, reference_of  # noqa: E402
from mlaas4hep.backends.registry import choose  # noqa: E402
from mlaas4hep.backends.torch import TorchLearner  # noqa: E402
from mlaas4hep.backends.torch_checkpoint import blend  # noqa: E402
from mlaas4hep.backends.torch_device import Placement, _full_precision, placement  # noqa: E402
from mlaas4hep.backends.torch_models import MlpDials  # noqa: E402
from mlaas4hep.backends.torch_optimiser import Optimiser, shorten  # noqa: E402
from mlaas4hep.config import Model  # noqa: E402
from mlaas4hep.errors import ConfigError, ModelError  # noqa: E402
from mlaas4hep.graph.merge import merge  # noqa: E402
from mlaas4hep.graph.parity import check_parity  # noqa: E402
from mlaas4hep.testing_backends import make_events, make_spec, teach  # noqa: E402
from mlaas4hep.testing_resume import assert_learner_resumable  # noqa: E402

SCHEDULES: list[dict[str, Any]] = [
    {},
    {"warmup_steps": 4},
    {"schedule": "cosine", "decay_steps": 9, "warmup_steps": 3},
    {"schedule": "exponential", "decay_steps": 5},
]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")


def build(model: str = "mlp", **dials: object) -> TorchLearner:
    learner = choose(Model(name=model, backend="torch", dials=dict(dials))).build(Task.of(make_spec(), seed=1))
    assert isinstance(learner, TorchLearner)
    return learner


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_steps_are_those_of_jax(optimiser: str, schedule: dict[str, Any]) -> None:
    jnp = pytest.importorskip("jax.numpy")
    from mlaas4hep.backends.jax_models import MlpDials as JaxDials

    dials = {"optimiser": optimiser, "learning_rate": 0.01, "weight_decay": 0.1, "clip_norm": 3.0, **schedule}
    random = np.random.default_rng(0)
    start, slopes = random.normal(size=20).astype(np.float32), random.normal(size=(15, 20)).astype(np.float32)
    parameters = [torch.nn.Parameter(torch.from_numpy(part.copy())) for part in (start[:5], start[5:])]
    ours, theirs = Optimiser(parameters, MlpDials(**dials)), JaxDials(**dials).build()
    values, moments = jnp.array(start), theirs.start(jnp.array(start))
    for place, slope in enumerate(slopes):
        for one, part in zip(parameters, (slope[:5], slope[5:]), strict=True):
            one.grad = torch.from_numpy(part.copy())
        ours.step()
        values, moments = theirs.update(values, jnp.array(slope), moments, jnp.int32(place + 1))
    found = np.concatenate([one.detach().numpy() for one in parameters])
    np.testing.assert_allclose(found, np.asarray(values), atol=2e-6)
    assert ours.steps == 15


def test_backends_share_the_dials_of_learning() -> None:
    pytest.importorskip("jax")
    from mlaas4hep.backends.jax_models import MlpDials as JaxDials

    shared = set(LearningDials.__struct_fields__)
    assert shared <= set(MlpDials.__struct_fields__) & set(JaxDials.__struct_fields__)
    ours, theirs = (msgspec.structs.asdict(kind()) for kind in (MlpDials, JaxDials))
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_a_schedule_is_a_function_of_the_step_alone() -> None:
    cosine = Schedule("cosine", 1.0, warmup_steps=0, decay_steps=10)
    assert [round(float(cosine.rate(done)), 4) for done in (0, 5, 10, 99)] == [1.0, 0.505, 0.01, 0.01]
    halved = Schedule("exponential", 1.0, warmup_steps=0, decay_steps=10)
    assert [float(halved.rate(done)) for done in (0, 10, 20)] == [1.0, 0.5, 0.25]
    assert Schedule("constant", 0.1, warmup_steps=0, decay_steps=0).constant


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"optimiser": "adamm"}, "model.optimiser"),
        ({"schedule": "cosine"}, "model.schedule: 'cosine' wants decay_steps above 0"),
        ({"decay_steps": 5}, "model.schedule: 'constant' takes no decay_steps"),
        ({"clip_norm": 0}, "model.clip_norm: 0.0 is out of range; wants above 0"),
        ({"momentum": 1}, "model.momentum: 1.0 is out of range"),
        ({"warmup_steps": -1, "precision": "fp8"}, "model.precision"),
    ],
)
def test_dials_of_no_sense_are_refused(dials: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(**dials)


def test_long_gradients_are_shortened_all_together_and_short_ones_left() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for one, slope in zip(parameters, ([3.0, 0.0], [0.0, 4.0], None), strict=True):
        one.grad = None if slope is None else torch.tensor(slope)
    shorten(parameters, 10.0)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    shorten(parameters, 1.0)
    np.testing.assert_allclose(parameters[0].grad, [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(parameters[1].grad, [0.0, 0.8], rtol=1e-6)
    shorten(parameters[2:], 1.0)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", SCHEDULES[2:])
def test_stopped_under_a_schedule_and_resumed_it_takes_the_same_steps(optimiser: str, schedule: dict[str, Any]) -> None:
    events = make_events(640)
    steps = [(one.inputs, one.labels, one.weights) for one in events.batches()]
    dials = {"hidden": [8], "optimiser": optimiser, "clip_norm": 0.5, "device": "cpu", **schedule}
    assert_learner_resumable(lambda: build(**dials), steps, stops=(0, 1, len(steps) - 1))


def test_a_schedule_changes_what_is_learned() -> None:
    found = []
    for schedule in SCHEDULES[:2]:
        learner = build(hidden=[8], device="cpu", **schedule)
        teach(learner, make_events(300), epochs=1)
        found.append(learner.state())
    assert any(not np.array_equal(values, found[1][name]) for name, values in found[0].items())


def test_the_average_of_tensors_is_that_of_arrays_to_the_bit() -> None:
    random = np.random.default_rng(0)
    average, latest = ({"w": random.normal(size=99).astype(np.float32), "n": np.array(3)} for _ in range(2))
    tensors = {name: torch.from_numpy(values.copy()) for name, values in average.items()}
    arrays = Average(0.998)
    for _ in range(5):
        blend(tensors, {name: torch.from_numpy(values) for name, values in latest.items()}, arrays.next_share())
        arrays.steps -= 1
        arrays.update(average, latest)
    for name, values in average.items():
        np.testing.assert_array_equal(tensors[name].numpy(), values)


def test_on_the_cpu_tensors_share_memory_and_generators_are_left_alone() -> None:
    here, array = Placement(), np.arange(3.0)
    assert here.put(array).data_ptr() == array.ctypes.data
    before = torch.get_rng_state()
    torch.manual_seed(5)
    of_five = torch.get_rng_state()
    np.testing.assert_array_equal(here.random_at(5)["random"], of_five.numpy())
    here.set_random({"random": before.numpy()})
    assert torch.equal(torch.get_rng_state(), before)
    # What a training on a GPU drew does not hinder going on here.
    here.set_random({"random": of_five.numpy(), "random_of_device": np.zeros(16, np.uint8)})
    assert torch.equal(torch.get_rng_state(), of_five)


def test_mixed_precision_rounds_the_module_and_neither_loss_nor_scores() -> None:
    learner = build(hidden=[16], dropout=0.0, averaging=0.0, device="cpu")
    events = make_events(256)
    truth = torch.from_numpy(events.labels)
    exact = learner.network.losses(learner.network.prepare(events.inputs), truth)
    scores = learner.predict(events.inputs)
    # A CPU rounds like a GPU; the dial refuses it there, since nothing is gained.
    learner.network.place(Placement(precision="bf16"))
    rounded = learner.network.losses(learner.network.prepare(events.inputs), truth)
    assert rounded.dtype == torch.float32
    assert 1e-6 < float((rounded - exact).detach().abs().max()) < 0.1
    np.testing.assert_array_equal(learner.predict(events.inputs), scores)
    assert np.isfinite(learner.learn(events.inputs, events.labels, events.weights))


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert build(device="auto").device == "cpu"
    for word in ("gpu", "cuda", "cuda:1", "mps"):
        with pytest.raises(
            ModelError, match=rf"mlp \(backend torch\): model.device: {word} is not there; torch has cpu"
        ):
            build(device=word)
    with pytest.raises(ModelError, match=r"model.precision: bf16 .* runs on cpu; give float32"):
        build(device="auto", precision="bf16")


@pytest.mark.parametrize(
    ("word", "found"), [("auto", "cuda:1"), ("gpu", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_with_gpus_each_word_has_its_device(word: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert str(placement(word, "float32", "here").device) == found
    with pytest.raises(
        ModelError, match=r"here: model.device: cuda:2 is not there; torch has cpu, cuda:0, cuda:1 here"
    ):
        placement("cuda:2", "float32", "here")


def test_a_gpu_without_bfloat16_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ModelError, match=r"bf16 .* runs on cuda:0; give float32"):
        placement("cuda:0", "bf16", "here")


def test_full_precision_is_set_and_given_back() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with _full_precision():
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


NEWER_NAMES = """
import torch
from mlaas4hep.backends.torch_device import _full_precision

cudnn = torch.backends.cudnn
cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "ieee", "tf32"
with _full_precision():
    assert cudnn.rnn.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has one name for it")
def test_full_precision_is_set_by_the_newer_names_where_somebody_took_those() -> None:
    # In a process of its own: torch does not go back to the older ones.
    done = subprocess.run([sys.executable, "-c", NEWER_NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_weights_that_were_learned_elsewhere_are_read_on_the_cpu() -> None:
    learner = build(hidden=[8], device="cpu")
    files = learner.native()
    (name,) = [name for name in files if name.endswith(".json")]
    files[name] = files[name].replace(b'"device": "cpu"', b'"device": "cuda:9"')
    assert b"cuda:9" in files[name]
    backend = choose(Model(name="mlp", backend="torch")).backend
    assert backend is not None
    rows = make_events(20).inputs
    read = backend.load(files, Task.of(make_spec(), seed=1))
    np.testing.assert_array_equal(read.predict(rows), learner.predict(rows))


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_graphs_are_held_against_scores_of_the_cpu(backend: str) -> None:
    pytest.importorskip(backend)
    learner = choose(Model(name="mlp", backend=backend, dials={"hidden": [8]})).build(Task.of(make_spec(), seed=1))
    rows = make_events(50).inputs
    assert isinstance(learner, MovedLearner)
    assert reference_of(learner) == learner.predict_on_cpu
    np.testing.assert_allclose(reference_of(learner)(rows), learner.predict(rows), atol=1e-5)


@on_a_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("model", ["mlp", "deepsets", "attention"])
def test_on_a_gpu_it_learns_resumes_and_serves_what_it_scores(model: str, precision: str) -> None:
    events, rows = make_events(2000), make_events(500, seed=2).inputs
    dials = {"device": "cuda", "precision": precision, "warmup_steps": 3, "clip_norm": 1.0}
    before = torch.cuda.get_rng_state()
    learner = build(model, **dials)
    teach(learner, events, epochs=5)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert learner.device.startswith("cuda")
    assert learner.capabilities.resume == "statistical"
    spec, core = make_spec(), learner.export()
    check_parity(merge(spec, core), spec=spec, core=core, reference=reference_of(learner), rows=events.inputs)
    np.testing.assert_allclose(learner.predict_on_cpu(rows), learner.predict(rows), atol=1e-5)
    for device in ("cuda", "cpu"):
        settings = dials | {"device": device, "precision": "float32"}
        other = build(model, **settings)
        other.recover(learner.checkpoint())
        np.testing.assert_allclose(other.predict(rows), learner.predict(rows), atol=1e-5)
        teach(other, events, epochs=1)
