"""ttH, ttbar and QCD told apart by every model: the paper's comparison of networks with boosted trees, as one table.

On the events of ``examples/tth``, one class a sample, with the variables of the event alone (``flat``) and with the
collections of jets too; a model that takes one vector sees a collection slot by slot. Events weigh what the generator
gave them; cross-sections play no role. The seed is that of the split, of the order and of the first weights.

``python -m benchmarks.tth [--seeds 0 1 2]`` prints one JSON line a run, then the table in Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from msgspec.structs import replace

from benchmarks.judging import trained
from mlaas4hep.config import Config, Model, read_config
from mlaas4hep.spec.features import EVENT
from mlaas4hep.train.metrics import mean_auc, weighted_auc

EXAMPLE = Path(__file__).parents[1] / "examples" / "tth" / "config.yaml"
CLASSES = ("QCD", "ttbar", "ttH")
MODELS = {
    "mlp": Model(name="mlp"),
    "deepsets": Model(name="deepsets"),
    "attention": Model(name="attention"),
    "bdt": Model(name="bdt"),
    "xgboost": Model(name="xgboost"),
    "lightgbm": Model(name="lightgbm"),
}
INPUTS = ("flat", "collections")


def main() -> None:
    """Print the runs and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    asked = parser.parse_args()
    runs = []
    for inputs in INPUTS:
        for model in asked.models:
            if inputs != "flat" or model not in ("deepsets", "attention"):  # which learn from collections
                for seed in asked.seeds:
                    runs.append(one_run(model, inputs, seed))
                    print(json.dumps(runs[-1]), flush=True)
    print(f"\n{markdown(runs)}")


def one_run(model: str, inputs: str, seed: int) -> dict[str, Any]:
    """Areas on the test part: the mean of one class against the rest, and each class."""
    config = make_config(model, inputs, seed)
    result, found = trained(config)
    mean = mean_auc(found.scores, found.labels, found.weights)
    classes = [
        weighted_auc(found.scores[:, label], found.labels == label, found.weights) for label in range(len(CLASSES))
    ]
    return {
        "inputs": inputs,
        "model": model,
        "seed": seed,
        "auc": round(mean.value, 5),
        "auc_err": round(mean.error, 5),
        **{f"auc_{name}": round(one.value, 5) for name, one in zip(CLASSES, classes, strict=True)},
        **{f"auc_{name}_err": round(one.error, 5) for name, one in zip(CLASSES, classes, strict=True)},
        "seconds": round(result.metrics["seconds"]["total"], 1),
        "events_test": len(found.labels),
    }


def make_config(model: str, inputs: str, seed: int) -> Config:
    """The example's config with one class a sample and without cross-sections."""
    config = read_config(EXAMPLE, overrides=[f"training.seed={seed}", f"split.seed={seed}"])
    groups = tuple(one for one in config.features.inputs if inputs == "collections" or one.name == EVENT)
    return replace(
        config,
        samples={
            name: replace(one, label=name, xsec_pb=None, sum_of_weights=None) for name, one in config.samples.items()
        },
        features=replace(config.features, inputs=groups, classes=CLASSES),
        model=MODELS[model],
    )


def markdown(runs: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds with the statistical error of one test part; in brackets the spread from seed to seed."""
    lines = [
        "| inputs | model | mean AUC | " + " | ".join(f"{name} against the rest" for name in CLASSES) + " | seconds |",
        "|---|---|---|" + "---|" * (len(CLASSES) + 1),
    ]
    for inputs, model in dict.fromkeys((one["inputs"], one["model"]) for one in runs):
        own = [one for one in runs if (one["inputs"], one["model"]) == (inputs, model)]
        cells = [_cell(own, key) for key in ("auc", *(f"auc_{name}" for name in CLASSES))]
        seconds = fmean(one["seconds"] for one in own)
        lines.append(f"| {inputs} | `{model}` | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def _cell(runs: Sequence[dict[str, Any]], key: str) -> str:
    values = [one[key] for one in runs]
    spread = f" ({stdev(values):.4f})" if len(values) > 1 else ""
    return f"{fmean(values):.4f} ± {fmean(one[f'{key}_err'] for one in runs):.4f}{spread}"


if __name__ == "__main__":
    main()
