"""The dial `device`: its words, what each backend makes of them, and what is said where it is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.backends import devices
from mlaas4hep.backends.devices import Asked, asked, cuda_devices, cuda_or_cpu, device_problems
from mlaas4hep.backends.keras_start import settle_framework
from mlaas4hep.backends.protocol import PlacedLearner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.errors import ConfigError, ModelError
from mlaas4hep.testing_backends import as_pages, fit, make_events, make_spec

settle_framework()

MODELS = [
    ("mlp", "sklearn"),
    ("bdt", "sklearn"),
    ("mlp", "torch"),
    ("mlp", "keras"),
    ("mlp", "jax"),
    ("xgboost", None),
    ("lightgbm", None),
]


def build(name: str, backend: str | None, device: str, **dials: object) -> Any:
    if backend or name != "mlp":
        pytest.importorskip(backend or name)
    model = Model(name=name, backend=backend, dials={"device": device, **dials})
    return choose(model).build(Task.of(make_spec(), seed=0))


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in ("devices", "lightgbm"):
        monkeypatch.setattr(f"mlaas4hep.backends.{module}.cuda_devices", lambda: count)


def test_words_have_parts() -> None:
    assert asked("cuda:3") == Asked("cuda", 3)
    assert [asked(word) for word in devices.WORDS] == [Asked(word) for word in devices.WORDS]
    assert cuda_devices() >= 0


@pytest.mark.parametrize("word", ["cudda", "cuda:", "cuda:x", "CPU", ""])
def test_what_is_no_device_is_refused(word: str) -> None:
    (problem,) = device_problems(word)
    assert problem.startswith(f"device: {word!r} is no device")


@pytest.mark.parametrize(("name", "backend"), MODELS)
def test_every_backend_takes_the_same_words(name: str, backend: str | None) -> None:
    for word in ("cpu", "auto"):
        learner = build(name, backend, word)
        assert not isinstance(learner, PlacedLearner) or isinstance(learner.device, str)
    with pytest.raises(ConfigError, match=r"model.device: 'cudda' is no device; did you mean 'cuda'"):
        build(name, backend, "cudda")


@pytest.mark.parametrize(("name", "instead"), [("mlp", "torch"), ("bdt", "xgboost")])
def test_scikit_learn_names_who_learns_on_a_gpu(name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf"'cuda' cannot be used: .* for a GPU take backend: {instead}"):
        build(name, "sklearn", "cuda")


@pytest.mark.parametrize(
    ("word", "count", "found"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("gpu", 1, "cuda"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_library_with_cuda_takes_what_is_there(
    word: str, count: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    assert cuda_or_cpu(word, built=True, install="") == (found, None)


@pytest.mark.parametrize(
    ("word", "count", "built", "words"),
    [
        ("cuda", 1, False, "has no CUDA; install that"),
        ("gpu", 0, True, "no CUDA GPU is there; give device: cpu"),
        ("cuda:2", 2, True, "there are 2 CUDA GPUs, from cuda:0 to cuda:1"),
        ("mps", 2, True, "no GPU of Apple's"),
    ],
)
def test_a_library_without_it_says_what_to_do(
    word: str, count: int, built: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    found, problem = cuda_or_cpu(word, built=built, install="install that")
    assert found == "cpu"
    assert problem is not None
    assert words in problem


def test_auto_is_the_cpu_where_the_library_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    assert cuda_or_cpu("auto", built=False, install="") == ("cpu", None)


def test_xgboost_without_cuda_names_the_package_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    gpus(monkeypatch, 1)
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": False})
    words = r"device: cuda cannot be used: this build has no CUDA; install 'xgboost' in the place of 'xgboost-cpu'"
    with pytest.raises(ModelError, match=rf"xgboost \(backend xgboost\): {words}"):
        build("xgboost", None, "cuda")
    file = tmp_path / "own.py"
    file.write_text("import xgboost\ndef model(idim):\n    return xgboost.XGBClassifier(device='cuda')\n")
    with pytest.raises(ModelError, match=rf"own.py: XGBClassifier: {words}"):
        choose(Model(file=str(file))).build(Task.of(make_spec(), seed=0))


def test_xgboost_with_cuda_is_told_where_to_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    gpus(monkeypatch, 2)
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": True})
    learner = build("xgboost", None, "cuda:1")
    assert (learner.parameters["device"], learner.device) == ("cuda:1", "cuda:1")
    assert learner.notes == ("model xgboost: learns on cuda:1, with the bins of all events in memory",)
    assert learner.disk_estimate(1000, 0) == 0
    on_cpu = build("xgboost", None, "cpu")
    assert learner.memory_estimate(10**7, 0) > on_cpu.memory_estimate(10**7, 0)


def test_xgboost_learns_the_same_trees_from_bins_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    events, found = make_events(500), []
    for place in ("cpu", "cuda"):
        learner = build("xgboost", None, "cpu", trees=3)
        learner.device = place  # the path of a GPU for the events; who learns is still the CPU
        (tmp_path / place).mkdir()
        learner.fit(as_pages(learner, events, tmp_path / place / "rows"), None, patience=5, folder=tmp_path / place)
        found.append(learner.predict(events.inputs))
    assert xgboost.__version__
    assert abs(found[0] - found[1]).max() < 1e-6


def test_lightgbm_without_cuda_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightgbm")
    gpus(monkeypatch, 1)
    monkeypatch.setattr("mlaas4hep.backends.lightgbm._has_cuda", lambda: False)
    with pytest.raises(ModelError, match=r"has no CUDA; build LightGBM with it \(pip install .*USE_CUDA=ON"):
        build("lightgbm", None, "cuda")
    assert "device_type" not in build("lightgbm", None, "auto").parameters


def test_lightgbm_with_cuda_is_told_where_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightgbm")
    gpus(monkeypatch, 2)
    monkeypatch.setattr("mlaas4hep.backends.lightgbm._has_cuda", lambda: True)
    learner = build("lightgbm", None, "cuda:1")
    assert (learner.device, learner.parameters["gpu_device_id"]) == ("cuda", 1)
    assert learner.notes == ("model lightgbm: learns on cuda",)


def test_the_probe_of_lightgbm_tells_a_build_without_cuda_from_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    from mlaas4hep.backends.lightgbm import _has_cuda

    def fails(*_: object) -> None:
        raise lightgbm.basic.LightGBMError(told)

    monkeypatch.setattr(lightgbm, "Booster", fails)
    told = "CUDA Tree Learner was not enabled in this build."
    assert not _has_cuda()
    told = "[CUDA] out of memory"
    with pytest.raises(ModelError, match=r"cannot learn on a CUDA GPU here.*out of memory.*device: cpu"):
        _has_cuda()


@pytest.mark.parametrize(
    ("framework", "found", "word", "words"),
    [
        ("torch", "cpu", "cuda", "for a GPU take backend: torch"),
        ("tensorflow", "cpu", "gpu", r"sees no GPU; pip install 'tensorflow\[and-cuda\]'"),
        ("tensorflow", "gpu", "cpu", "hide it, with CUDA_VISIBLE_DEVICES="),
        ("jax", "gpu", "cuda:1", "choose that, with CUDA_VISIBLE_DEVICES=1"),
    ],
)
def test_keras_is_where_its_framework_is_or_says_what_to_set(
    framework: str, found: str, word: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("keras")
    choose(Model(name="mlp", backend="keras"))
    from mlaas4hep.backends import keras_device

    monkeypatch.setattr("keras.config.backend", lambda: framework)
    monkeypatch.setattr(keras_device, "framework_device", lambda: found)
    assert keras_device.device_of("auto", "here") == found
    assert keras_device.device_of(found, "here") == found
    with pytest.raises(ModelError, match=rf"here: model.device: {word} cannot be used: .*{words}"):
        keras_device.device_of(word, "here")


def test_a_gpu_of_jax_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"model.device: cuda:7 is not there; JAX has"):
        build("mlp", "jax", "cuda:7")


def test_trees_that_were_told_a_device_are_learned_as_without(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    events = make_events(300)
    learners = [build("xgboost", None, word, trees=3) for word in ("cpu", "auto")]
    if learners[1].device != "cpu":
        pytest.skip("auto takes the GPU that is here")
    for learner in learners:
        fit(learner, events, None)
    assert learners[0].native() == learners[1].native()
