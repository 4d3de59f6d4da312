"""Does streaming cost anything in what is learned? Every model beside its own kind trained in memory, seed by seed.

The references are written out here with the frameworks alone: plain arrays, a plain loop, the same network, settings,
rows and stopping rule. ``python -m benchmarks.learning --json CONFIG [--seeds 0 1 2]`` prints one JSON line a model and
seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from benchmarks.judging import trained
from mlaas4hep.config import Config, Model, read_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.metrics import log_loss, weighted_auc
from mlaas4hep.train.reference import Rows, part_in_memory, reference_auc

MODELS = {
    "bdt": Model(name="bdt"),
    "mlp_sklearn": Model(name="mlp", backend="sklearn"),
    "mlp_torch": Model(name="mlp", backend="torch"),
    "lightgbm": Model(name="lightgbm"),
    "mlp_jax": Model(name="mlp", backend="jax"),
}
Scores = NDArray[Any]
Step = Callable[[NDArray[np.float32], NDArray[np.int64]], None]
Score = Callable[[NDArray[np.float32]], Scores]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--json", action="store_true", help="one JSON line a model and seed (always so)")
    asked = parser.parse_args()
    for seed in asked.seeds:
        seeds = [f"training.seed={seed}", f"split.seed={seed}"]
        config = read_config(asked.config, overrides=seeds)
        for name in asked.models:
            print(json.dumps(compare(name, config, seed)), flush=True)


def compare(name: str, config: Config, seed: int) -> dict[str, Any]:
    """AUC of one model, streamed by us and in memory by its framework, on the same test part."""
    config = replace(config, model=MODELS[name])
    result, found = trained(config)
    ours = weighted_auc(found.scores[:, 0], found.labels == 1, found.weights)
    reference = reference_auc(config).value if name == "bdt" else in_memory_auc(name, config, seed)
    return {
        "model": name,
        "seed": seed,
        "auc": round(ours.value, 5),
        "auc_err": round(ours.error, 5),
        "auc_in_memory": round(reference, 5),
        "difference": round(ours.value - reference, 5),
        "best_epoch": result.history.best_epoch,
        "events_test": len(found.labels),
    }


def in_memory_auc(name: str, config: Config, seed: int) -> float:
    """The same network on plain arrays, standard-scaled by the training part, stopped by the validation part."""
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    parts = [part_in_memory(catalogue, preprocessor, part) for part in ("train", "validation", "test")]
    if name == "lightgbm":
        return _plain_lightgbm(parts, seed)
    mean, std = parts[0][0].mean(axis=0), parts[0][0].std(axis=0)
    scaled = [((x - mean) / std, labels, weights) for x, labels, weights in parts]
    build = {"mlp_sklearn": _sklearn_network, "mlp_torch": _torch_network, "mlp_jax": _jax_network}[name]
    score = _learn(build, scaled[0], scaled[1], config, seed)
    x, labels, weights = scaled[2]
    return weighted_auc(score(x), labels == 1, weights).value


def _learn(build: Callable[..., Any], train_part: Rows, validation: Rows, config: Config, seed: int) -> Score:
    x, labels, _ = train_part
    step, score, save, load = build(x.shape[1], config.training.batch_size, seed)
    shuffle = np.random.default_rng(seed)
    best, best_epoch, kept = np.inf, 0, None
    for epoch in range(config.training.epochs):
        order = shuffle.permutation(len(x))
        for start in range(0, len(x), config.training.batch_size):
            batch = order[start : start + config.training.batch_size]
            step(x[batch], labels[batch])
        loss = log_loss(score(validation[0])[:, np.newaxis], validation[1], np.ones(len(validation[1])))
        if loss < best:
            best, best_epoch, kept = loss, epoch, save()
        elif epoch - best_epoch >= config.training.patience:
            break
    load(kept)
    found: Score = score
    return found


def _plain_lightgbm(parts: Sequence[Rows], seed: int) -> float:
    """AUC of `lightgbm.train` on arrays of raw values, with the settings of our dials and LightGBM's own otherwise."""
    import lightgbm

    from mlaas4hep.backends.lightgbm import BoostingDials

    settings: dict[str, Any] = {**asdict(BoostingDials()), "objective": "binary", "bagging_freq": 1, "seed": seed}
    train_part, validation, (x, labels, weights) = parts
    data = lightgbm.Dataset(*train_part[:2], params={"verbosity": -1})
    check = lightgbm.Dataset(*validation[:2], reference=data, params={"verbosity": -1})
    booster = lightgbm.train({**settings, "metric": "binary_logloss", "verbosity": -1}, data, valid_sets=[check])
    return weighted_auc(booster.predict(x), labels == 1, weights).value


def _sklearn_network(width: int, batch_size: int, seed: int) -> tuple[Any, ...]:
    import copy

    from sklearn.neural_network import MLPClassifier

    from mlaas4hep.backends.sklearn import MlpDials

    del width
    dials = MlpDials()
    network = MLPClassifier(
        dials.hidden,
        learning_rate_init=dials.learning_rate,
        alpha=dials.l2 * batch_size,  # divided by the batch inside
        batch_size=batch_size,
        random_state=seed,
    )

    def step(x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        network.set_params(batch_size=len(x))
        network.partial_fit(x, labels, classes=np.array([0, 1]))

    def save() -> Any:
        return copy.deepcopy((network.coefs_, network.intercepts_))

    def load(state: Any) -> None:
        network.coefs_, network.intercepts_ = state

    return step, lambda x: network.predict_proba(x)[:, 1], save, load


def _torch_network(width: int, batch_size: int, seed: int) -> tuple[Any, ...]:
    import copy

    import torch

    from mlaas4hep.backends.torch_models import MlpDials

    del batch_size
    dials = MlpDials()
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for size, following in itertools.pairwise([width, *dials.hidden]):
        layers += [torch.nn.Linear(size, following), torch.nn.ReLU(), torch.nn.Dropout(dials.dropout)]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(dials.hidden[-1], 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=dials.learning_rate, weight_decay=dials.weight_decay)

    def step(x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        network.train()
        optimiser.zero_grad()
        margin = network(torch.from_numpy(x))[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(margin, torch.from_numpy(labels).float()).backward()
        optimiser.step()

    def score(x: NDArray[np.float32]) -> Scores:
        network.eval()
        with torch.inference_mode():
            found: Scores = torch.sigmoid(network(torch.from_numpy(x)))[:, 0].numpy()
        return found

    return step, score, lambda: copy.deepcopy(network.state_dict()), network.load_state_dict


def _jax_network(width: int, batch_size: int, seed: int) -> tuple[Any, ...]:
    """The network and AdamW written out here, with functions of JAX alone."""
    import jax
    import jax.numpy as jnp

    from mlaas4hep.backends.jax_models import MlpDials

    dials = MlpDials()
    sizes = [width, *dials.hidden, 1]
    random = np.random.default_rng(seed)
    start = [
        [random.uniform(-(size**-0.5), size**-0.5, shape).astype(np.float32) for shape in ((size, after), (after,))]
        for size, after in itertools.pairwise(sizes)
    ]

    def margin(params: Any, x: Any, key: Any) -> Any:
        for place, (weight, bias) in enumerate(params):
            if place:
                x = jnp.maximum(x, 0)
                if key is not None:
                    kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - dials.dropout, x.shape)
                    x = kept * x / (1 - dials.dropout)
            x = x @ weight + bias
        return x[:, 0]

    def loss_of(params: Any, x: Any, labels: Any, rows: Any, key: Any) -> Any:
        found = margin(params, x, key)
        return jnp.sum(jnp.where(rows, jnp.logaddexp(0, found) - labels * found, 0)) / jnp.sum(rows)

    def updated(state: Any, x: Any, labels: Any, rows: Any) -> Any:
        params, first, second, count = state
        slopes = jax.grad(loss_of)(params, x, labels, rows, jax.random.fold_in(jax.random.key(seed), count))
        count += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)

        def moved(p: Any, m: Any, v: Any) -> Any:
            way = m / (1 - 0.9**count) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            return p * (1 - dials.learning_rate * dials.weight_decay) - dials.learning_rate * way

        return jax.tree.map(moved, params, first, second), first, second, count

    zeros = jax.tree.map(np.zeros_like, start)
    state: list[Any] = [(start, zeros, zeros, 0.0)]
    step_of = jax.jit(updated)
    scores = jax.jit(lambda params, x: jax.nn.sigmoid(margin(params, x, None)))

    def step(x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        rows = np.arange(batch_size) < len(x)
        index = np.where(rows, np.arange(batch_size), 0)
        state[0] = step_of(state[0], x[index], labels[index].astype(np.float32), rows)

    def load(kept: Any) -> None:
        state[0] = kept

    return step, lambda x: np.asarray(scores(state[0][0], x)), lambda: state[0], load


if __name__ == "__main__":
    main()
