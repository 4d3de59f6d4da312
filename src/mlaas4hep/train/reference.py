"""What default boosting reaches on the same rows and columns: the figure that ours is read against.

Invariant: it learns from the training part alone and is judged on the test part with physics weights, like every run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import require
from mlaas4hep.backends.protocol import Truth
from mlaas4hep.backends.reference import default_boosting_scores, default_boosting_targets
from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.split import Part
from mlaas4hep.errors import ConfigError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, Scaler
from mlaas4hep.train.metrics import Auc, weighted_auc
from mlaas4hep.train.residuals import TargetFigures, target_figures

Rows = tuple[NDArray[np.float32], Truth, NDArray[np.float64]]


def reference_auc(config: Config) -> Auc:
    """AUC of `HistGradientBoostingClassifier(random_state=0)` with its defaults, of two classes.

    Holds the training and the test part in memory.
    """
    require(config, Config, "config", hint="read_config('config.yaml') reads one")
    if len(config.classes) != 2:
        raise ConfigError([f"the reference is for two classes, not {len(config.classes)}"], where=config.path)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    x, labels, _ = part_in_memory(catalogue, preprocessor, "train")
    x_test, labels_test, weights = part_in_memory(catalogue, preprocessor, "test")
    scores = default_boosting_scores(x, labels, x_test)
    return weighted_auc(scores[:, 1], labels_test == 1, weights)


def reference_targets(config: Config) -> dict[str, TargetFigures]:
    """Figures of `HistGradientBoostingRegressor(random_state=0)` with its defaults, one model a target, by target.

    Holds the training and the test part in memory.
    """
    names = tuple(config.features.target_texts)
    if not names:
        raise ConfigError(["the reference of targets is for regressions; this config has none"], where=config.path)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    x, targets, _ = part_in_memory(catalogue, preprocessor, "train")
    x_test, true, weights = part_in_memory(catalogue, preprocessor, "test")
    predicted = default_boosting_targets(x, targets, x_test)
    return {name: target_figures(predicted[:, n], true[:, n], weights) for n, name in enumerate(names)}


def part_in_memory(catalogue: Catalogue, preprocessor: Preprocessor, part: Part) -> Rows:
    """Raw flat view [N, W], labels or targets, and physics weights [N] of a part of the split, in catalogue order."""
    view = Scaler(
        [
            GroupScaling(
                group.name,
                tuple(variable.name for variable in group.variables),
                (FeatureScaling("none"),) * len(group.variables),
                group.length,
            )
            for group in preprocessor.features.inputs
        ]
    )
    with EventDataset(catalogue, preprocessor, part=part, batch_size=4096) as dataset:
        batches = list(dataset)
    return (
        np.concatenate([view.native(batch.inputs) for batch in batches]),
        np.concatenate([batch.labels if batch.targets is None else batch.targets for batch in batches]),
        np.concatenate([batch.weights for batch in batches]),
    )
