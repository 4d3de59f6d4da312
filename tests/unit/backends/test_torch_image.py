"""Images of a collection: what lands in which pixel, what a served graph makes of it, weights in a normalisation."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from mlaas4hep.backends.protocol import Task  # noqa: E402
from mlaas4hep.backends.registry import choose  # noqa: E402
from mlaas4hep.backends.torch import TorchLearner  # noqa: E402
from mlaas4hep.backends.torch_image import Image, ImageDials  # noqa: E402
from mlaas4hep.backends.torch_norm import EventNorm, weigh_events  # noqa: E402
from mlaas4hep.config import Model  # noqa: E402
from mlaas4hep.errors import ConfigError, ModelError  # noqa: E402
from mlaas4hep.graph.core import Core  # noqa: E402
from mlaas4hep.graph.merge import merge  # noqa: E402
from mlaas4hep.graph.parity import check_parity  # noqa: E402
from mlaas4hep.graph.session import Session  # noqa: E402
from mlaas4hep.spec.contract import ModelSpec  # noqa: E402
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, Scaler  # noqa: E402
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics  # noqa: E402
from mlaas4hep.testing_backends import make_spec  # noqa: E402
from tests.examples import examples  # noqa: E402

NAMES = ("deta", "dphi", "pt", "charge")
FEATURES = (
    FeatureScaling("standard", offset=0.03125, scale=5.7),
    FeatureScaling("minmax", offset=-1.0, scale=0.5),
    FeatureScaling("log", offset=1.5, scale=0.8),
    FeatureScaling("none"),
)
DIALS = {"x": "deta", "y": "dphi", "bins": [8, 4], "range": [[-0.8, 0.8], [-0.4, 0.4]]}
MORE = 5


def parts(length: int = 20) -> GroupScaling:
    return GroupScaling("parts", NAMES, FEATURES, length)


def contract(length: int = 20, **figures: FeatureStatistics) -> ModelSpec:
    """Jets as a collection of constituents, with two variables of the event."""
    event = GroupScaling("event", ("mass", "ht"), (FeatureScaling("none"), FeatureScaling("none")))
    statistics = Statistics(groups={"parts": tuple(figures.get(name, FeatureStatistics()) for name in NAMES)})
    return msgspec.structs.replace(make_spec(), scaling=(event, parts(length)), statistics=statistics)


def jets(count: int, seed: int, length: int = 20) -> dict[str, NDArray[np.float32]]:
    """Constituents around an axis, some beyond the image, 0 to ``length`` of them."""
    random = np.random.default_rng(seed)
    objects = np.stack(
        [
            random.normal(0, 0.4, (count, length)),
            random.normal(0, 0.2, (count, length)),
            random.exponential(10, (count, length)),
            random.integers(-1, 2, (count, length)),
        ],
        axis=-1,
    ).astype(np.float32)
    objects[np.arange(length) >= random.integers(0, length + 1, count)[:, np.newaxis]] = np.nan
    return {"event": random.normal(size=(count, 2)).astype(np.float32), "parts": objects}


def pixels(rows: dict[str, NDArray[np.float32]], **dials: Any) -> NDArray[np.float32]:
    """What the first layer draws."""
    group = parts(rows["parts"].shape[1])
    given = msgspec.convert({**DIALS, **dials}, ImageDials)
    scaler = Scaler([group])
    alone = {"parts": rows["parts"]}
    scaled, mask = scaler.tensors(alone)["parts"], scaler.masks(alone)["parts"]
    drawn: NDArray[np.float32] = Image(group, given)(torch.from_numpy(scaled), torch.from_numpy(mask)).numpy()
    return drawn


def test_an_image_is_the_histogram_of_its_objects() -> None:
    rows = jets(30, 0)
    drawn = pixels(rows, value=["pt", "charge"])
    assert drawn.shape == (30, 2, 8, 4)
    units = np.expm1(1.5), 1.0
    for event, image in zip(rows["parts"], drawn, strict=True):
        deta, dphi, *values = event[~np.isnan(event[:, 0])].astype(np.float64).T
        for channel, value, unit in zip(image, values, units, strict=True):
            sums, _, _ = np.histogram2d(deta, dphi, [8, 4], range=[(-0.8, 0.8), (-0.4, 0.4)], weights=value)
            wanted = np.sign(sums) * np.log1p(np.abs(sums) / unit)
            np.testing.assert_allclose(channel, wanted, atol=2e-5)


def test_without_a_value_objects_are_counted() -> None:
    rows = jets(30, 1)
    counts = np.expm1(pixels(rows)).sum(axis=(1, 2, 3))
    deta, dphi = rows["parts"][..., 0], rows["parts"][..., 1]
    np.testing.assert_allclose(counts, ((np.abs(deta) < 0.8) & (np.abs(dphi) < 0.4)).sum(axis=1), rtol=1e-5)


def test_an_object_on_an_edge_belongs_to_the_pixel_above() -> None:
    edges = np.linspace(-0.8, 0.8, 9).astype(np.float32)
    rows = jets(9, 2, length=1)
    rows["parts"][:] = 0
    rows["parts"][:, 0, 0] = edges
    drawn = pixels(rows).sum(axis=(1, 3))
    assert drawn[:8].argmax(axis=1).tolist() == list(range(8))
    assert not drawn[8].any()  # the last edge is beyond the image


@settings(max_examples=examples(30), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_objects_changes_nothing_but_the_last_bits(seed: int) -> None:
    rows = jets(5, seed)
    order = np.random.default_rng(seed).permutation(20)
    other = {**rows, "parts": rows["parts"][:, order]}
    np.testing.assert_allclose(pixels(other, value=["pt"]), pixels(rows, value=["pt"]), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def learned() -> TorchLearner:
    """A small network that has taken a few steps."""
    learner = build({"value": ["pt", "charge"], "channels": [6], "depth": 2, "hidden_event": [8]})
    random = np.random.default_rng(1)
    for seed in range(10):
        learner.learn(jets(64, seed), random.integers(0, 2, 64), np.ones(64))
    return learner


@pytest.fixture(scope="module")
def core(learned: TorchLearner) -> Core:
    """Exported once: that takes seconds."""
    return learned.export()


@pytest.fixture(scope="module")
def sessions(learned: TorchLearner, core: Core) -> tuple[Session, Session]:
    """The same weights, served with 20 objects and with 25."""
    longer = build({"value": ["pt", "charge"], "channels": [6], "depth": 2, "hidden_event": [8]}, length=20 + MORE)
    longer.restore(learned.state())
    return Session(merge(contract(), core)), Session(merge(contract(20 + MORE), longer.export()))


def build(dials: dict[str, Any], *, length: int = 20, model: str = "cnn") -> TorchLearner:
    learner = choose(Model(name=model, dials={**DIALS, **dials})).build(Task.of(contract(length), seed=4))
    assert isinstance(learner, TorchLearner)
    return learner


def test_a_served_image_gives_the_score_of_pytorch(learned: TorchLearner, core: Core) -> None:
    spec = contract()
    rows = jets(1000, 3)
    rows["parts"][:8, 0, 0] = np.linspace(-0.8, 0.8, 9)[:8]
    rows["parts"][8:10, 0, 2] = np.inf, -np.inf
    check_parity(merge(spec, core), spec=spec, core=core, reference=learned.predict, rows=rows)


@settings(max_examples=examples(20), deadline=None)
@given(count=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_more_padding_changes_no_bit_of_a_served_score(
    sessions: tuple[Session, Session], count: int, seed: int
) -> None:
    rows = jets(count, seed)
    padded = {**rows, "parts": np.pad(rows["parts"], ((0, 0), (0, MORE), (0, 0)), constant_values=np.nan)}
    np.testing.assert_array_equal(sessions[1].run(padded), sessions[0].run(rows))


def test_objects_beyond_the_image_are_counted_but_not_drawn(sessions: tuple[Session, Session]) -> None:
    rows = jets(40, 5)
    rows["parts"][:, 0] = [[3.0, 0.0, 50.0, 1.0]]
    other, without = ({name: one.copy() for name, one in rows.items()} for _ in range(2))
    other["parts"][:, 0] = [[-4.0, 0.1, 5.0, -1.0]]
    without["parts"][:, 0] = np.nan
    np.testing.assert_array_equal(sessions[0].run(other), sessions[0].run(rows))
    assert (sessions[0].run(without) != sessions[0].run(rows)).mean() > 0.9


@pytest.mark.parametrize(
    ("model", "dials", "words"),
    [
        ("cnn", {"x": None}, r"model.x: is missing; wants a variable of the collection"),
        ("cnn", {"bins": [30, 32]}, r"model.bins: \[30, 32\] is out of range; wants multiples of 8"),
        ("cnn", {"bins": [1, 1000]}, r"model.bins: \[1, 1000\] is out of range; wants 2 to 256"),
        ("cnn", {"range": [[0.8, -0.8], [0, 1]]}, r"model.range: \[\[0.8, -0.8\], \[0.0, 1.0\]\].*lower end first"),
        ("cnn", {"depth": 0, "latent": 0}, r"model.latent: 0 .*\n.*model.depth: 0"),
        ("resnet50", {"width": 0}, r"model.width: 0 is out of range"),
        ("resnet50", {"value": "pt"}, r"model.value: wants a list"),
    ],
)
def test_an_image_of_no_sense_is_refused(model: str, dials: dict[str, object], words: str) -> None:
    given = {key: value for key, value in {**DIALS, **dials}.items() if value is not None}
    with pytest.raises(ConfigError, match=words):
        choose(Model(name=model, dials=given))


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"x": "dete"}, r"model.x: 'dete' is no variable of inputs.parts; did you mean 'deta'"),
        ({"value": ["pt", "energy"]}, r"model.value: 'energy' is no variable .*there are deta, dphi, pt, charge"),
        ({"collection": "part"}, r"model.collection: 'part' is no collection of the inputs; did you mean 'parts'"),
    ],
)
def test_a_variable_that_is_not_there_is_named(dials: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build({"bins": [8, 8], **dials})


def test_a_second_collection_is_refused_rather_than_left_out() -> None:
    spec = contract()
    both = msgspec.structs.replace(
        spec, scaling=(*spec.scaling, msgspec.structs.replace(parts(), name="muons", length=2))
    )
    choice = choose(Model(name="cnn", dials={**DIALS, "bins": [8, 8]}))
    with pytest.raises(ModelError, match="draws one collection, and the inputs hold parts, muons"):
        choice.build(Task.of(both, seed=1))


def test_what_an_image_leaves_out_is_told() -> None:
    wide = FeatureStatistics(count=10, minimum=-3, maximum=3, quantiles={"0.005": -1.25, "0.995": 0.5})
    narrow = FeatureStatistics(count=10, minimum=-3, maximum=3, quantiles={"0.005": -0.3, "0.995": 0.3})
    choice = choose(Model(name="cnn", dials={**DIALS, "bins": [8, 8], "value": ["pt"]}))
    learner = choice.build(Task.of(contract(deta=wide, dphi=narrow), seed=1))
    assert isinstance(learner, TorchLearner)
    unseen, beyond = learner.notes
    assert unseen == "cnn (backend torch): does not see charge of parts: neither x, y nor value"
    assert "99 % of parts have deta from -1.25 to 0.5; the image shows -0.8 to 0.8 along x" in beyond


def test_the_deep_network_learns_scores_and_goes_on_from_its_running_figures() -> None:
    learner = build({"value": ["pt"], "width": 1, "latent": 4}, model="resnet50")
    rows, random = jets(64, 1), np.random.default_rng(0)
    labels = random.integers(0, 2, 64)
    losses = [learner.learn(rows, labels, np.ones(64)) for _ in range(12)]
    assert losses[-1] < losses[0]
    kept = learner.checkpoint()
    running = [name for name in kept if name.endswith(".variance")]
    assert len(running) == 2 * (1 + 3 * 16 + 4)  # the stem, 16 bottlenecks, 4 of them with a way beside; averaged too
    again = build({"value": ["pt"], "width": 1, "latent": 4}, model="resnet50")
    again.recover(kept)
    np.testing.assert_array_equal(again.predict(rows), learner.predict(rows))
    alone = {name: values[:1] for name, values in rows.items()}
    np.testing.assert_allclose(learner.predict(alone), learner.predict(rows)[:1], atol=1e-6)


def test_a_row_of_weight_two_is_normalised_like_two_rows_and_one_of_zero_not_at_all() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 5, 5)
    weighted, repeated = EventNorm(3), EventNorm(3)
    weigh_events(weighted, torch.tensor([0.0, 2.0, -1.0, 1.0]) / 4)
    shown = weighted(images)
    weigh_events(repeated, torch.full((4,), 0.25))
    doubled = repeated(images[[1, 1, 2, 3]])
    torch.testing.assert_close(shown[1:], doubled[1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.variance, repeated.variance)


def test_with_equal_weights_it_is_the_batch_normalisation_of_pytorch() -> None:
    torch.manual_seed(1)
    images = torch.randn(16, 3, 5, 5) * 3 + 1
    ours, theirs = EventNorm(3), torch.nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    # The running variance of PyTorch is that of a sample, with one row fewer.
    torch.testing.assert_close((ours.variance - 0.9) * 400 / 399, theirs.running_var - 0.9)


def test_pixels_and_running_figures_stay_float32_in_mixed_precision() -> None:
    rows = jets(30, 7)
    exact = pixels(rows, value=["pt"])
    images = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(2)) + 9
    plain, mixed = EventNorm(3), EventNorm(3)
    plain(images.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = pixels(rows, value=["pt"])
        assert mixed(images.bfloat16()).dtype == torch.float32
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16  # so it is on
    np.testing.assert_array_equal(drawn, exact)
    assert torch.equal(mixed.mean, plain.mean)
    assert torch.equal(mixed.variance, plain.variance)
