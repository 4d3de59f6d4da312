"""What is particular to torch: a user's module in its many forms, and the global generator."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mlaas4hep.backends.protocol import StreamingLearner, Task  # noqa: E402
from mlaas4hep.backends.registry import choose  # noqa: E402
from mlaas4hep.backends.torch import TorchLearner  # noqa: E402
from mlaas4hep.config import Model  # noqa: E402
from mlaas4hep.errors import ConfigError, ModelError  # noqa: E402
from mlaas4hep.testing_backends import make_events, make_spec, teach  # noqa: E402


def own(folder: Path, body: str, *, num_classes: int = 2, **dials: object) -> StreamingLearner:
    file = folder / "net.py"
    file.write_text(f"import torch\nnn = torch.nn\ndef model(idim):\n{indent(body, '    ')}\n", encoding="utf-8")
    learner = choose(Model(file=str(file), dials=dict(dials))).build(Task.of(make_spec(num_classes), seed=0))
    assert isinstance(learner, TorchLearner)
    return learner


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("return nn.Linear(idim, 1)", "logits"),
        ("return nn.Linear(idim, 2)", "logits"),
        ("return nn.Sequential(nn.Linear(idim, 1), nn.Flatten(0))", "logits"),
        ("return nn.Sequential(nn.Linear(idim, 1), nn.Sigmoid())", "probabilities"),
        ("return nn.Sequential(nn.Linear(idim, 2), nn.Softmax(dim=1))", "probabilities"),
        ("net = nn.Linear(idim, 1)\nnn.init.zeros_(net.weight)\nnn.init.zeros_(net.bias)\nreturn net", "logits"),
    ],
)
def test_what_a_module_returns_is_found_out(tmp_path: Path, body: str, output: str) -> None:
    learner = own(tmp_path, body)
    assert isinstance(learner, TorchLearner)
    assert learner.network.output == output
    events = make_events(50)
    scores = learner.predict(events.inputs)
    assert scores.shape == (50, 1)
    losses = [learner.learn(events.inputs, events.labels, events.weights) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_what_a_module_returns_can_be_said(tmp_path: Path) -> None:
    body = "return nn.Sequential(nn.Linear(idim, 1), nn.Sigmoid())"
    learner = own(tmp_path, body, output="logits")
    assert isinstance(learner, TorchLearner)
    assert learner.network.output == "logits"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return nn.Linear(idim, 3)", r"net.py: the module returns \['N', 3\] for 2 classes; wants \[N, 1\] or"),
        ("return nn.Linear(idim + 1, 1)", r"net.py: the module failed: RuntimeError"),
        ("return nn.Linear", r"net.py: model returned a"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        own(tmp_path, body)


def test_an_error_in_forward_is_told_with_its_line(tmp_path: Path) -> None:
    body = "class Net(nn.Module):\n    def forward(self, x):\n        return x.nonsense()\nreturn Net()"
    with pytest.raises(ModelError, match=r"net.py, line 6: the module failed: AttributeError"):
        own(tmp_path, body)


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    body = "class Net(nn.Module):\n    def forward(self, event, jets_masc):\n        return event[:, :1]\nreturn Net()"
    with pytest.raises(ModelError, match=r"forward asks for 'jets_masc', which is no input; did you mean 'jets_mask'"):
        own(tmp_path, body)


def test_an_unknown_dial_of_a_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.lerning_rate: .* did you mean 'learning_rate'"):
        own(tmp_path, "return nn.Linear(idim, 1)", lerning_rate=0.1)


def test_learning_leaves_the_global_generator_and_threads_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    learner = choose(Model(name="mlp", backend="torch", dials={"dropout": 0.5})).build(Task.of(make_spec(), seed=1))
    assert isinstance(learner, StreamingLearner)
    events = make_events(100)
    learner.learn(events.inputs, events.labels, events.weights)
    learner.predict(events.inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_dropout_is_drawn_from_the_seed_and_not_from_what_runs_beside() -> None:
    states = []
    for other in (0, 1):
        dials = {"dropout": 0.5, "hidden": [8]}
        learner = choose(Model(name="mlp", backend="torch", dials=dials)).build(Task.of(make_spec(), seed=1))
        assert isinstance(learner, StreamingLearner)
        for step in range(4):
            torch.manual_seed(100 * other + step)
            events = make_events(100, seed=step)
            learner.learn(events.inputs, events.labels, events.weights)
        states.append(learner.state())
    for name, values in states[0].items():
        np.testing.assert_array_equal(states[1][name], values, err_msg=name)


def test_a_training_that_diverges_says_so() -> None:
    dials = {"learning_rate": 1e30, "hidden": [8]}
    learner = choose(Model(name="mlp", backend="torch", dials=dials)).build(Task.of(make_spec(), seed=1))
    assert isinstance(learner, StreamingLearner)
    events = make_events(100)
    with pytest.raises(ModelError, match="diverged"):
        teach(learner, events, epochs=10)


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"width": 30, "heads": 4}, r"model.width: 30 is out of range; wants a multiple of heads, 4"),
        ({"heads": 0}, r"model.heads: 0 is out of range; wants above 0"),
        ({"layers": -1, "dropout": 2}, r"model.layers: -1 .*\n.*model.dropout: 2"),
        ({"hidden_event": []}, r"model.hidden_event: \[\] is out of range"),
    ],
)
def test_a_particle_transformer_of_no_sense_is_refused(dials: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(Model(name="attention", dials=dials))


@pytest.mark.parametrize("queries", [1, 7])
def test_attention_as_it_is_exported_equals_the_fused_kernel(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlaas4hep.backends.torch_attention import attend

    torch.manual_seed(0)
    query, key, value = (torch.randn(5, 2, 7, 4) for _ in range(3))
    there = torch.rand(5, 7) < 0.6
    there[:, 0] = True
    arguments = query[:, :, :queries], key, value, torch.where(there, 0.0, -1e9)[:, None, None, :]
    fused = attend(*arguments)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(attend(*arguments), fused, rtol=1e-5, atol=1e-6)
