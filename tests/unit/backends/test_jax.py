"""What is particular to JAX: a user's functions in their forms, refusals before anything is learned, the optimisers."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import msgspec
import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from mlaas4hep.backends.jax_learner import JaxLearner  # noqa: E402
from mlaas4hep.backends.jax_models import MlpDials  # noqa: E402
from mlaas4hep.backends.jax_optimiser import Optimiser  # noqa: E402
from mlaas4hep.backends.protocol import Task  # noqa: E402
from mlaas4hep.backends.registry import choose  # noqa: E402
from mlaas4hep.config import Model  # noqa: E402
from mlaas4hep.errors import ConfigError, ModelError  # noqa: E402
from mlaas4hep.graph.merge import merge  # noqa: E402
from mlaas4hep.graph.parity import check_parity  # noqa: E402
from mlaas4hep.testing_backends import make_events, make_spec, teach  # noqa: E402

HEAD = """
import jax
import jax.numpy as jnp
import numpy as np
"""
LINEAR = """
def init(key, idim):
    return {"w": np.full((idim, 1), 0.01, np.float32), "b": np.zeros(1, np.float32)}
"""


def own(folder: Path, text: str, *, num_classes: int = 2, threads: int = 1, **dials: object) -> JaxLearner:
    """A learner of a file with this text."""
    file = folder / "net.py"
    file.write_text(HEAD + dedent(text), encoding="utf-8")
    task = Task.of(make_spec(num_classes), seed=0, threads=threads)
    learner = choose(Model(file=str(file), dials=dict(dials))).build(task)
    assert isinstance(learner, JaxLearner)
    return learner


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        ("(x @ params['w'] + params['b'])[:, 0]", "logits"),
        ("x @ params['w'] + params['b']", "logits"),
        ("jax.nn.sigmoid(x @ params['w'])", "probabilities"),
        ("jax.nn.softmax(x @ params['w'] * jnp.array([0.0, 1.0]))", "probabilities"),
        ("x @ params['w'] * jnp.array([0.0, 1.0])", "logits"),
        ("0 * x @ params['w']", "logits"),
    ],
)
def test_what_a_function_returns_is_found_out(tmp_path: Path, returned: str, output: str) -> None:
    learner = own(tmp_path, f"{LINEAR}\ndef apply(params, x):\n    return {returned}\n")
    assert learner.network.form.output == output
    assert learner.predict(make_events(3).inputs).shape == (3, 1)


def test_functions_may_come_from_model_and_know_the_contract(tmp_path: Path) -> None:
    learner = own(
        tmp_path,
        """
        def model(spec):
            classes = len(spec.classes)

            def init(key):
                return [np.eye(spec.width, classes, dtype=np.float32), np.arange(3, dtype=np.int32)]

            def apply(params, x):
                return x @ params[0] * 0.1

            return init, apply
        """,
        num_classes=3,
        learning_rate=0.01,
    )
    fixed = learner.state()["1"]
    teach(learner, make_events(600, num_classes=3), epochs=2)
    assert learner.predict(make_events(5).inputs).shape == (5, 3)
    np.testing.assert_array_equal(learner.state()["1"], fixed)
    assert {name.partition("/")[0] for name in learner.checkpoint()} == {"learned", "moments", "steps"}


NET = """
def init(key, spec):
    random = np.random.default_rng(0)
    return {"jets": random.normal(size=(2, 8)).astype("f"), "event": random.normal(size=(12, 1)).astype("f")}

def apply(params, jets, event, jets_mask):
    scores = jnp.where(jets_mask, jnp.einsum("nkf,nlf->nkl", jets, jets).sum(2), -1e9)
    shares = jax.nn.softmax(scores, axis=1) * jets_mask
    pooled = jnp.einsum("nk,nkh->nh", shares, jax.vmap(jax.vmap(lambda one: jnp.tanh(one @ params["jets"])))(jets))
    return jnp.concatenate([event, pooled], axis=1) @ params["event"]
"""


def test_groups_and_masks_come_by_name_and_the_graph_gives_the_scores(tmp_path: Path) -> None:
    learner = own(tmp_path, NET, learning_rate=0.01)
    assert learner.network.form.inputs == ("jets", "event", "jets_mask")
    teach(learner, make_events(1000), epochs=2)
    spec, core = learner.task.spec, learner.export()
    assert spec is not None
    rows = make_events(4000, seed=4).inputs
    check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=rows)


def test_random_numbers_come_from_the_seed_and_the_step(tmp_path: Path) -> None:
    drawing = (
        "def apply(params, x, key=None):\n    x = x if key is None else x * jax.random.bernoulli(key, shape=x.shape)\n"
    )
    learners = [own(tmp_path, f"{LINEAR}\n{drawing}    return x @ params['w']") for _ in range(2)]
    events = make_events(200)
    losses = [[one.learn(events.inputs, events.labels, events.weights) for _ in range(3)] for one in learners]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    scores = learners[0].predict(events.inputs)
    np.testing.assert_array_equal(learners[0].predict(events.inputs), scores)


APPLY = "def apply(params, x):\n    return x @ params['w']\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def init(key): return {}\n" + APPLY, "net.py: init gave no float32 parameter"),
        (
            "def init(key): return {'w': np.ones(3, np.float16)}\n" + APPLY,
            "parameter 'w' is float16; wants an array of",
        ),
        ("def init(key): return {'w': 'x'}\n" + APPLY, "parameter 'w' is str; wants an array of float32"),
        ("def init(a, b, c): return {}\n" + APPLY, r"init\(a, b, c\) wants 3 arguments; write init\(key, idim\)"),
        ("def init(key): return {}[0]\n" + APPLY, "net.py, line 5: init failed: KeyError"),
        (
            LINEAR + "def apply(params): return 1\n",
            r"apply takes nothing after its parameters; write apply\(params, x\)",
        ),
        (
            LINEAR + "def apply(params, jet, event): return 1\n",
            "apply asks for 'jet', which is no input; did you mean 'jets'",
        ),
        (
            LINEAR + "def apply(params, x): return x\n",
            r"apply returns \[N, 10\] for 2 classes; wants \[N, 1\] or \[N, 2\]",
        ),
        (LINEAR + "def apply(params, x): return 3\n", "apply returned a int; wants one array"),
        (LINEAR + "def apply(params, x): return x @ x\n", "net.py, line 8: apply failed: TypeError"),
        (
            LINEAR + "def apply(params, x):\n    return jnp.sort(x) @ params['w']\n",
            "net.py, line 9: cannot be written as a graph: primitive 'sort' has no word in the graph",
        ),
        (
            LINEAR + "def apply(params, x):\n    return (x - x.mean(axis=0)) @ params['w']\n",
            "net.py, line 9: cannot be written as a graph: it .*in a batch",
        ),
        (
            LINEAR + "def apply(params, x):\n    return x.reshape(len(x), -1) @ params['w']\n",
            r"net.py, line 9: cannot be written as a graph: .*write x.shape\[0\]",
        ),
        ("def model(idim): return (1, 2)", "returned a builtins.tuple"),
    ],
)
def test_functions_that_do_not_fit_are_refused_before_they_learn(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        own(tmp_path, text)


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"schedule": "cosine"}, "schedule: 'cosine' wants decay_steps above 0"),
        ({"decay_steps": 10}, "schedule: 'constant' takes no decay_steps"),
        ({"clip_norm": 0}, "clip_norm: 0.0 is out of range; wants above 0"),
        ({"optimiser": "adamm"}, "did you mean 'adam'"),
    ],
)
def test_dials_of_no_sense_are_refused(dials: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(Model(name="mlp", backend="jax", dials=dials))


def test_a_device_that_is_not_there_is_named() -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=r"model.device: gpu is not there; JAX has cpu here"):
        choose(Model(name="mlp", backend="jax", dials={"device": "gpu"})).build(Task.of(make_spec(), seed=0))


def test_collections_are_needed_for_deepsets() -> None:
    spec = make_spec()
    flat = msgspec.structs.replace(spec, scaling=spec.scaling[:1])
    with pytest.raises(ModelError, match=r"deepsets .*learns from collections, and the inputs hold none"):
        choose(Model(name="deepsets", backend="jax")).build(Task.of(flat, seed=0))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_an_optimiser_takes_the_steps_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    start, slopes = random.normal(size=20).astype(np.float32), random.normal(size=(30, 20)).astype(np.float32)
    dials = MlpDials(optimiser=name, learning_rate=0.01, weight_decay=0.1, clip_norm=3.0)
    ours = dials.build()
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    further = {"momentum": 0.9} if name == "sgd" else {}
    optimiser = kinds[name]([theirs], lr=0.01, weight_decay=0.1, **further)
    values, moments = jnp.array(start), ours.start(jnp.array(start))
    step = jax.jit(ours.update)
    for place, slope in enumerate(slopes):
        values, moments = step(values, slope, moments, jnp.int32(place + 1))
        theirs.grad = torch.from_numpy(slope.copy())
        torch.nn.utils.clip_grad_norm_([theirs], 3.0)
        optimiser.step()
    np.testing.assert_allclose(values, theirs.detach().numpy(), atol=2e-6)


def test_schedules_warm_up_and_fall() -> None:
    def rates(steps: list[int], **dials: object) -> list[float]:
        optimiser: Optimiser = MlpDials(learning_rate=1.0, **dials).build()
        return [round(float(optimiser.rate(jnp.int32(step))), 4) for step in steps]

    assert rates([1, 100]) == [1.0, 1.0]
    assert rates([1, 5, 10, 50], warmup_steps=10) == [0.1, 0.5, 1.0, 1.0]
    assert rates([1, 11, 21], schedule="exponential", decay_steps=10) == [1.0, 0.5, 0.25]
    assert rates([1, 6, 11, 99], schedule="cosine", decay_steps=10) == [1.0, 0.505, 0.01, 0.01]


def test_a_network_learns_like_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    dials = {"hidden": [16, 8], "dropout": 0.0, "activation": "gelu"}
    ours, theirs = (
        choose(Model(name="mlp", backend=name, dials=dials)).build(Task.of(make_spec(3), seed=1))
        for name in ("jax", "torch")
    )
    assert isinstance(ours, JaxLearner)
    state = ours.state()
    places = {"0": 0, "1": 2, "2": 4}
    told = {
        f"module.{places[layer]}.{kind}": torch.from_numpy(values.T.copy())
        for name, values in state.items()
        for layer, kind in [name.split("/")]
    }
    theirs.restore({name.removeprefix("module."): value.numpy() for name, value in told.items()})
    for batch in make_events(2560, num_classes=3).batches():
        losses = [one.learn(batch.inputs, batch.labels, batch.weights) for one in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    rows = make_events(500, seed=2).inputs
    np.testing.assert_allclose(ours.predict(rows), theirs.predict(rows), atol=1e-5)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    learner = own(tmp_path, LINEAR + APPLY, optimiser="sgd", learning_rate=3e38)
    events = make_events(100)
    learner.learn(events.inputs, events.labels, events.weights)
    with pytest.raises(ModelError, match=r"the training diverged; lower model\.learning_rate"):
        learner.learn(events.inputs, events.labels, events.weights)


def test_settings_of_jax_are_left_as_they_were(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        learner = own(tmp_path, LINEAR + APPLY)
        teach(learner, make_events(300), epochs=1)
        assert jnp.ones(1).dtype == np.float64
    assert {str(values.dtype) for values in learner.state().values()} == {"float32"}


def test_on_two_threads_the_steps_are_the_same_from_run_to_run(tmp_path: Path) -> None:
    events = make_events(3000)
    files = []
    for _ in range(2):
        learner = own(tmp_path, LINEAR + APPLY, threads=2)
        for _ in range(3):
            learner.learn(events.inputs, events.labels, events.weights)
        files.append(learner.native())
    assert files[0] == files[1]
