"""Weighted events with missing values: the ATLAS Higgs challenge, every model beside default boosting, seed by seed.

The CSV files below ``MLAAS4HEP_TEST_DATA`` are written as TTrees first; -999 stands for what is missing, and the config
says so. ``python -m benchmarks.atlas [--seeds 0 1 2]`` prints one JSON line a model and seed: the weighted AUC, that of
scikit-learn's default boosting on the same rows (``auc_reference``), and their distance in standard errors.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from benchmarks.judging import real_files, trained
from mlaas4hep.config import Config, Model, parse_config
from mlaas4hep.testing import write_events
from mlaas4hep.train.metrics import Auc, weighted_auc
from mlaas4hep.train.reference import reference_auc

MODELS = {
    "bdt": Model(name="bdt"),
    "xgboost": Model(name="xgboost"),
    "lightgbm": Model(name="lightgbm"),
    "mlp": Model(name="mlp"),
    "mlp_torch": Model(name="mlp", backend="torch"),
}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tree(folder, "background")
        inputs = write_tree(folder, "signal")
        for seed in asked.seeds:
            config = make_config(folder, inputs, seed)
            reference = reference_auc(config)
            for model in asked.models:
                print(json.dumps(one_run(model, config, seed, reference)), flush=True)


def write_tree(folder: Path, name: str) -> list[str]:
    """One CSV file as a TTree; the names of its features."""
    with (real_files("atlas-htautau") / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    table = dict(zip(header, zip(*rows, strict=True), strict=True))
    features = [one for one in header if one.startswith(("DER_", "PRI_"))]
    columns: dict[str, Any] = {"EventId": np.array(table["EventId"], np.int64)}
    columns |= {one: np.array(table[one], np.float32) for one in features if one != "PRI_jet_num"}
    columns |= {"PRI_jet_num": np.array(table["PRI_jet_num"], np.int32), "Weight": np.array(table["Weight"], float)}
    write_events(folder / f"{name}.root", columns, cluster=1000)
    return features


def make_config(folder: Path, inputs: list[str], seed: int) -> Config:
    """All thirty variables, weights of the challenge, -999 missing."""
    return parse_config(
        f"""
samples: {{signal: {{files: signal.root}}, background: {{files: background.root}}}}
inputs: {{event: [{", ".join(inputs)}]}}
missing: [-999]
weights: {{event: Weight}}
split: {{by: [EventId], seed: {seed}}}
training: {{seed: {seed}}}
""",
        folder=folder,
    )


def one_run(name: str, config: Config, seed: int, reference: Auc) -> dict[str, Any]:
    """Weighted area of one model beside that of the reference on the same test part."""
    config = replace(config, model=MODELS[name])
    result, found = trained(config)
    auc = weighted_auc(found.scores[:, 0], found.labels == 1, found.weights)
    features = result.bundle.spec.statistics.groups["event"]
    missing = sum(one.missing for one in features)
    return {
        "model": name,
        "seed": seed,
        "auc": round(auc.value, 5),
        "auc_err": round(auc.error, 5),
        "auc_reference": round(reference.value, 5),
        "difference_in_errors": round((auc.value - reference.value) / auc.error, 2),
        "missing_share": round(missing / (missing + sum(one.count for one in features)), 4),
        "events_test": len(found.labels),
    }


if __name__ == "__main__":
    main()
