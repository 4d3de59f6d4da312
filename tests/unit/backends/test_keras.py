"""What is particular to Keras: a user's model in its many forms, as it was compiled, and layer by layer as a graph."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import numpy as np
import pytest

from mlaas4hep.backends.keras_start import settle_framework

settle_framework()
keras = pytest.importorskip("keras")

from mlaas4hep.backends import keras_learner  # noqa: E402
from mlaas4hep.backends.keras_graph import NotCovered  # noqa: E402
from mlaas4hep.backends.keras_learner import KerasLearner  # noqa: E402
from mlaas4hep.backends.protocol import Task  # noqa: E402
from mlaas4hep.backends.registry import choose  # noqa: E402
from mlaas4hep.config import Model  # noqa: E402
from mlaas4hep.errors import ConfigError, ModelError  # noqa: E402
from mlaas4hep.graph.merge import merge  # noqa: E402
from mlaas4hep.graph.parity import check_parity  # noqa: E402
from mlaas4hep.testing_backends import make_events, make_spec, teach  # noqa: E402
from mlaas4hep.testing_resume import assert_learner_resumable  # noqa: E402

HEAD = """
import keras
from keras import layers, ops
"""


def own(folder: Path, body: str, *, num_classes: int = 2, argument: str = "idim", **dials: object) -> KerasLearner:
    """A learner of a file with this body of ``model``, below classes that the body may bring."""
    file = folder / "net.py"
    text = f"{HEAD}\ndef model({argument}):\n{indent(dedent(body).strip(), '    ')}\n"
    file.write_text(text, encoding="utf-8")
    learner = choose(Model(file=str(file), dials=dict(dials))).build(Task.of(make_spec(num_classes), seed=0))
    assert isinstance(learner, KerasLearner)
    return learner


def assert_served_alike(learner: KerasLearner, number: int = 10_000) -> None:
    """The graph gives the framework's scores on many events and on awkward ones."""
    spec, core = learner.task.spec, learner.export()
    assert spec is not None
    rows = make_events(number, seed=4).inputs
    check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=rows)


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("return keras.Sequential([layers.Dense(1)])", "logits"),
        ("return keras.Sequential([layers.Dense(2)])", "logits"),
        ("return keras.Sequential([layers.Dense(1), layers.Flatten(), layers.Reshape(())])", "logits"),
        ("return keras.Sequential([layers.Dense(1, activation='sigmoid')])", "probabilities"),
        ("return keras.Sequential([layers.Dense(2, activation='softmax')])", "probabilities"),
        ("return keras.Sequential([keras.Input((idim,)), layers.Dense(1, kernel_initializer='zeros')])", "logits"),
    ],
)
def test_what_a_model_returns_is_found_out(tmp_path: Path, body: str, output: str) -> None:
    learner = own(tmp_path, body, learning_rate=1e-2)
    assert learner.network.output == output
    events = make_events(50)
    assert learner.predict(events.inputs).shape == (50, 1)
    losses = [learner.learn(events.inputs, events.labels, events.weights) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert_served_alike(learner, 500)


@pytest.mark.filterwarnings("ignore:Do not pass an .input_shape")
def test_the_original_example_with_two_outputs_is_learned_as_it_was_compiled(tmp_path: Path) -> None:
    learner = own(
        tmp_path,
        """
        from keras.models import Sequential
        from keras.layers import Dense, Activation
        ml_model = Sequential([
            Dense(32, input_shape=(idim,)),
            Activation('relu'),
            Dense(2),
            Activation('softmax'),
        ])
        ml_model.compile(optimizer='adam', loss='categorical_crossentropy', metrics=['accuracy'])
        return ml_model
        """,
    )
    assert len(learner.notes) == 1
    assert "by Adam (learning rate 0.001) with loss categorical_crossentropy" in learner.notes[0]
    events = make_events(3000)
    teach(learner, events, epochs=3)
    assert np.corrcoef(learner.predict(events.inputs)[:, 0], events.labels)[0, 1] > 0.4
    assert_served_alike(learner)


def test_the_documented_network_of_the_original_is_learned(tmp_path: Path) -> None:
    learner = own(
        tmp_path,
        """
        net = keras.Sequential([
            keras.Input((idim,)),
            layers.Dense(128, activation='relu'), layers.Dropout(0.5),
            layers.Dense(64, activation='relu'), layers.Dropout(0.5),
            layers.Dense(1, activation='sigmoid'),
        ])
        net.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.BinaryCrossentropy(),
                    metrics=[keras.metrics.BinaryAccuracy(name='accuracy'), keras.metrics.AUC(name='auc')])
        return net
        """,
    )
    teach(learner, make_events(2000), epochs=2)
    assert_served_alike(learner)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return keras.Sequential([layers.Dense(3)])", r"net.py: the model returns \[N, 3\] for 2 classes; wants"),
        ("return keras.Sequential([keras.Input((3,)), layers.Dense(1)])", r"takes \[N, 3\], the flat view is \[N, 10"),
        ("return layers.Dense(1)", r"net.py: returned a Dense; backend keras learns a keras.Model"),
        (
            "i = keras.Input((3, 2), name='jet'); j = keras.Input((4,), name='event')\n"
            "return keras.Model([i, j], layers.Dense(1)(j))",
            r"has an input 'jet', which is none; did you mean 'jets'",
        ),
        (
            "i = keras.Input((5, 2), name='jets')\nreturn keras.Model(i, layers.Dense(1)(layers.Flatten()(i)))",
            r"input 'jets' is \[N, 5, 2\], the contract's is \[N, 3, 2\]",
        ),
        (
            "net = keras.Sequential([layers.Dense(1)])\nnet.compile('adam', 'binary_crossentropy')\nreturn net",
            r"loss binary_crossentropy takes probabilities, and the model gives numbers from -.* end it with a sigmoid",
        ),
        (
            "net = keras.Sequential([layers.Dense(1)])\nnet.compile('adam', 'mse')\nreturn net",
            r"loss mse does not say what that means; end it with a sigmoid or softmax, or say output: logits",
        ),
        (
            "net = keras.Sequential([layers.Dense(1)])\n"
            "net.compile(keras.optimizers.Adam(use_ema=True), keras.losses.BinaryCrossentropy(from_logits=True))\n"
            "return net",
            r"use_ema of the optimiser is not followed; take the dial averaging",
        ),
        ("return keras.Sequential([layers.Dense(8, dtype='float64'), layers.Dense(1)])", r"computes in float64"),
        (
            "i = keras.Input((idim,))\nx = ops.sum(i, axis=0, keepdims=True)\n"
            "return keras.Model(i, layers.Dense(1)(i - x))",
            r"reduces over the events of a batch",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, body: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_learner, "falls_back", lambda: False)
    with pytest.raises(ModelError, match=words):
        own(tmp_path, body)


def test_dials_that_would_change_nothing_are_refused(tmp_path: Path) -> None:
    body = "net = keras.Sequential([layers.Dense(1, activation='sigmoid')])\nnet.compile('sgd', 'mse')\nreturn net"
    with pytest.raises(ModelError, match=r"model.learning_rate would change nothing: the model is compiled"):
        own(tmp_path, body, learning_rate=0.1)
    with pytest.raises(ConfigError, match=r"model.lerning_rate: .* did you mean 'learning_rate'"):
        own(tmp_path, body, lerning_rate=0.1)


LAYERS = {
    **{
        name: f"x = layers.Dense(16, activation='{name}')(x)"
        for name in (
            *("relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "softplus", "softsign", "leaky_relu"),
            *("relu6", "hard_sigmoid", "log_softmax", "softmax", "exponential", "linear"),
        )
    },
    "approximate gelu": "x = keras.activations.gelu(layers.Dense(16)(x), approximate=True)",
    "relu with settings": "x = layers.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2)(layers.Dense(16)(x))",
    "relu with a slope": "x = layers.ReLU(negative_slope=0.1)(layers.Dense(16)(x))",
    "leaky relu": "x = layers.LeakyReLU(negative_slope=0.3)(x)",
    "elu": "x = layers.ELU(alpha=0.7)(x)",
    "parametric relu": "x = layers.PReLU(alpha_initializer='uniform')(x)",
    "batch normalisation": "x = layers.BatchNormalization()(layers.Dense(16)(x))",
    "batch normalisation without scale": "x = layers.BatchNormalization(scale=False, center=False)(x)",
    "layer normalisation": "x = layers.LayerNormalization()(layers.Dense(16)(x))",
    "layer normalisation without scale": "x = layers.LayerNormalization(scale=False, center=False)(x)",
    "normalisation": "x = layers.Normalization(mean=[0.3] * 10, variance=[2.0] * 10)(x)",
    "rescaling": "x = layers.Rescaling(0.5, offset=-1.0)(x)",
    "noise and dropout": "x = layers.GaussianNoise(0.1)(layers.AlphaDropout(0.1)(layers.Dropout(0.3)(x)))",
    "reshape": "x = layers.Flatten()(layers.Permute((2, 1))(layers.Reshape((5, -1))(x)))",
    "sums": "y = layers.Dense(10)(x)\nx = layers.Concatenate()([layers.Add()([x, y]), layers.Subtract()([x, y])])",
    "means": "y = layers.Dense(10)(x)\nx = layers.Concatenate()([layers.Average()([x, y]), layers.Multiply()([x, y])])",
    "extremes": "y = layers.Dense(10)(x)\n"
    "x = layers.Concatenate()([layers.Maximum()([x, y]), layers.Minimum()([x, y])])",
    "pooling": "y = layers.Reshape((5, 2))(x)\n"
    "x = layers.Concatenate()([layers.GlobalAveragePooling1D()(y), layers.GlobalMaxPooling1D()(y)])",
    "a mask of Keras": "y = layers.Masking(0.0)(layers.Reshape((5, 2))(x))\nx = layers.GlobalAveragePooling1D()(y)",
    "a model in a model": "x = keras.Sequential([layers.Dense(7, activation='tanh'), layers.Dropout(0.1)])(x)",
    "einsum": "x = layers.EinsumDense('ab,bc->ac', output_shape=12, bias_axes='c', activation='relu')(x)",
    "attention": "y = layers.Reshape((5, 2))(x)\nx = layers.Flatten()(layers.MultiHeadAttention(2, 4)(y, y))",
    "attention with dropout": "y = layers.Reshape((5, 2))(x)\n"
    "x = layers.Flatten()(layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y))",
    "operations": "x = ops.concatenate([ops.abs(x), ops.square(x)[:, 1:4], ops.exp(-ops.abs(x))[:, -1:]], axis=1)",
    "more operations": "x = ops.where(x > 0.5, ops.log1p(ops.maximum(x, 0)), x / (1 + ops.sqrt(ops.abs(x))))",
    "indices": "y = ops.reshape(x, (-1, 5, 2))\n"
    "x = ops.concatenate([y[:, 0], y[:, -1, :], y[..., 1], y[:, ::2, 0]], axis=-1)",
    "clip and power": "x = ops.clip(x, -2.0, 2.0) ** 2 - 1.0 / (2.0 + ops.minimum(ops.abs(x), 5.0))",
    "stack and transpose": "y = ops.stack([x, ops.tanh(x)], axis=1)\n"
    "x = ops.matmul(y, ops.transpose(y, (0, 2, 1)))[:, :, 0] / 10.0",
    "a function as a layer": "x = layers.Lambda(lambda t: ops.sign(t) * ops.sqrt(ops.abs(t)))(x)",
}


@pytest.mark.parametrize("body", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_becomes_the_same_graph(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_learner, "falls_back", lambda: False)
    start = "i = keras.Input((idim,))\nx = layers.Dense(10, activation='tanh')(i)\n"
    learner = own(tmp_path, f"{start}{body}\nreturn keras.Model(i, layers.Dense(1)(x))", learning_rate=1e-2)
    teach(learner, make_events(512), epochs=2)
    assert_served_alike(learner)


def test_a_layer_without_a_word_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_learner, "falls_back", lambda: False)
    body = """
    i = keras.Input((idim,))
    x = layers.LSTM(4, name="memory")(layers.Reshape((5, -1))(i))
    return keras.Model(i, layers.Dense(1)(x))
    """
    with pytest.raises(ModelError, match=r"net.py: .* as a graph: layer memory \(LSTM\) in .* \(Functional\)"):
        own(tmp_path, body)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only PyTorch's exporter can stand in")
def test_on_pytorch_its_exporter_stands_in_for_a_word_that_is_missing(tmp_path: Path) -> None:
    body = """
    i = keras.Input((idim,))
    x = layers.Flatten()(layers.Conv1D(4, 2, activation="relu")(layers.Reshape((5, -1))(i)))
    return keras.Model(i, layers.Dense(1)(x))
    """
    learner = own(tmp_path, body)
    with pytest.raises(NotCovered, match="Conv"):
        learner.network.lower()
    teach(learner, make_events(256), epochs=1)
    assert_served_alike(learner)


SETS = """
shapes = {one.name: one.shape for one in spec.signature}
event, jets = (keras.Input(shapes[name], name=name) for name in ("event", "jets"))
mask = keras.Input(shapes["jets"][:1], name="jets_mask", dtype="MASK")
each = layers.Dense(16, activation="relu")(jets)
shown = ops.expand_dims(ops.cast(mask, "float32"), -1)
pooled = ops.sum(each * shown, axis=1)
seen = ops.expand_dims(ops.cast(mask, "bool"), 1)
near = layers.MultiHeadAttention(2, 8)(each, each, attention_mask=seen)
pooled = ops.concatenate([pooled, ops.max(ops.where(shown > 0, near, -1e9), axis=1)], axis=-1)
x = layers.Concatenate()([event, ops.maximum(pooled, -10.0)])
"""


@pytest.mark.parametrize("kind", ["bool", "float32"])
@pytest.mark.parametrize(
    "nesting", ["[event, jets, mask]", "{'jets': jets, 'jets_mask': mask, 'event': event}", "[mask, jets, event]"]
)
def test_inputs_are_given_by_the_names_of_groups(tmp_path: Path, nesting: str, kind: str) -> None:
    body = f"{SETS.replace('MASK', kind)}\nreturn keras.Model({nesting}, layers.Dense(1)(x))"
    learner = own(tmp_path, body, argument="spec", learning_rate=5e-3)
    assert set(learner.network.names) == {"event", "jets", "jets_mask"}
    events = make_events(1000)
    teach(learner, events, epochs=2)
    assert_served_alike(learner, 2000)


SUBCLASS = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.each, self.last = layers.Dense(16, activation="relu"), layers.Dense(1)
        self.drop = layers.Dropout(0.2)

    def call(self, inputs, training=None):
        shown = ops.expand_dims(ops.cast(inputs["jets_mask"], "float32"), -1)
        pooled = ops.sum(self.each(inputs["jets"]) * shown, axis=1)
        return self.last(self.drop(ops.concatenate([inputs["event"], pooled], axis=1), training=training))

return Net()
"""


def test_a_subclass_may_ask_for_all_groups(tmp_path: Path) -> None:
    learner = own(tmp_path, SUBCLASS, inputs="groups", learning_rate=5e-3)
    teach(learner, make_events(1000), epochs=2)
    assert_served_alike(learner, 2000)


OWN_STEP = """
class Net(keras.Sequential):
    def train_step(self, *args):
        data = args[-1]
        UNPACK
        return super().train_step(*args[:-1], DATA)

net = Net([keras.Input((idim,)), layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(1)])
net.compile(keras.optimizers.RMSprop(1e-2), keras.losses.BinaryCrossentropy(from_logits=True))
return net
"""


def _own_step(*, weighs: bool) -> str:
    given = "(x, y, w)" if weighs else "(x, y)"
    unpack = "x, y, w = keras.utils.unpack_x_y_sample_weight(data)"
    return OWN_STEP.replace("UNPACK", unpack).replace("DATA", given)


def test_a_train_step_of_its_own_is_used(tmp_path: Path) -> None:
    learner = own(tmp_path, _own_step(weighs=True))
    assert "by RMSprop" in learner.notes[0]
    assert "by its own train_step" in learner.notes[0]
    events = make_events(1000)
    losses = [learner.learn(events.inputs, events.labels, events.weights) for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]
    assert_served_alike(learner, 500)


def test_a_train_step_that_looks_at_no_weights_learns_only_from_equal_ones(tmp_path: Path) -> None:
    learner = own(tmp_path, _own_step(weighs=False))
    events = make_events(100)
    assert np.isfinite(learner.learn(events.inputs, events.labels, np.full(100, 0.3)))
    with pytest.raises(ModelError, match="own train_step does not look at sample weights, and the events have"):
        learner.learn(events.inputs, events.labels, events.weights)


OWN_FIT = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(16, activation="relu"), layers.Dense(1, activation="sigmoid")

    def call(self, x):
        return self.last(self.first(x))

    def fit(self, x_train, y_train, **kwds):
        return super().fit(x_train, y_train, **kwds)

net = Net()
net.compile(optimizer="adam", loss="binary_crossentropy")
return net
"""


def test_a_fit_of_its_own_is_called_once_a_batch(tmp_path: Path) -> None:
    learner = own(tmp_path, OWN_FIT)
    assert "by its own fit, once a batch" in learner.notes[0]
    events = make_events(512)
    losses = [learner.learn(events.inputs, events.labels, events.weights) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert_served_alike(learner, 500)


DROPOUT = """
net = keras.Sequential([
    keras.Input((idim,)), layers.Dense(16), layers.BatchNormalization(), layers.Activation("relu"), layers.Dropout(0.4),
    layers.GaussianNoise(0.1), layers.Dense(1, activation="sigmoid"),
])
rate = keras.optimizers.schedules.CosineDecay(1e-2, 20)
net.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, clipnorm=1.0), "binary_crossentropy")
return net
"""


@pytest.mark.parametrize(
    ("body", "dials"),
    [(DROPOUT, {}), (DROPOUT, {"averaging": 0.9}), (_own_step(weighs=True), {}), (OWN_FIT, {}), (SUBCLASS, None)],
    ids=["schedule", "average", "train step", "fit", "subclass"],
)
def test_stopped_and_resumed_it_takes_the_same_steps(
    tmp_path: Path, body: str, dials: dict[str, object] | None
) -> None:
    given = {"inputs": "groups"} if dials is None else dials
    events = make_events(1000)
    steps = [(one.inputs, one.labels, one.weights) for one in events.batches()]
    assert_learner_resumable(lambda: own(tmp_path, body, **given), steps, stops=[0, 1, 3])


def test_what_runs_beside_changes_nothing(tmp_path: Path) -> None:
    states = []
    for other in (0, 1):
        learner = own(tmp_path, DROPOUT)
        for step in range(4):
            keras.utils.set_random_seed(100 * other + step)
            events = make_events(100, seed=step)
            learner.learn(events.inputs, events.labels, events.weights)
        states.append(learner.state())
    for name, values in states[0].items():
        np.testing.assert_array_equal(states[1][name], values, err_msg=name)


def test_scores_are_those_of_the_average_and_the_last_weights_go_on(tmp_path: Path) -> None:
    body = "return keras.Sequential([keras.Input((idim,)), layers.Dense(1)])"
    shown, plain = (own(tmp_path, body, learning_rate=0.05, averaging=share) for share in (0.99, 0.0))
    events = make_events(300)
    for learner in (shown, plain):
        for _ in range(20):
            learner.learn(events.inputs, events.labels, events.weights)
            learner.predict(events.inputs)
    assert np.abs(shown.predict(events.inputs) - plain.predict(events.inputs)).max() > 1e-3
    ours, theirs = (one.checkpoint() for one in (shown, plain))
    for name in (one for one in theirs if one.startswith("model/")):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert_served_alike(shown, 500)


def test_three_classes_are_learned_with_labels_in_the_form_of_the_loss(tmp_path: Path) -> None:
    scores = []
    for loss in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        body = (
            "net = keras.Sequential([keras.Input((idim,)), layers.Dense(3, activation='softmax')])\n"
            f"net.compile(keras.optimizers.Adam(0.01), '{loss}')\nreturn net"
        )
        learner = own(tmp_path, body, num_classes=3)
        teach(learner, make_events(1000, num_classes=3), epochs=2)
        scores.append(learner.predict(make_events(200, num_classes=3).inputs))
        assert_served_alike(learner, 500)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
