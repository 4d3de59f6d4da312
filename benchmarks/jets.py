"""`deepsets` and `attention` on the constituents of jets: streamed against a plain loop in memory, seed by seed.

The peers are written out in `benchmarks.jets_plain` with torch alone: padded tensors in memory, the same network,
settings, rows and stopping rule, no averaging. ``python -m benchmarks.jets [--models attention] [--seeds 0 1 2]``
prints one JSON line that compares a short training from TTrees with one from RNTuples of the same jets, then one a
model and seed: ``auc``, ``auc_in_memory``, their ``difference``; CPU seconds of an epoch with its validation (the
median) both ways; microseconds of CPU that the served graph takes for one jet, and for each of 256.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.jets_plain import NETWORKS
from benchmarks.judging import real_files, trained
from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.split import Part
from mlaas4hep.progress import Silent
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import same_batch
from mlaas4hep.train.metrics import weighted_auc
from mlaas4hep.train.reference import part_in_memory

LOG_COLUMNS = [2, 3]

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

CONFIG = """
name: jets
samples:
  top: {{files: {folder}/jets_top.root, label: signal}}
  qcd: {{files: {folder}/jets_qcd.root, label: background}}
new_variables:
  part_deta: part_eta - jet_eta
  part_dphi: (part_phi - jet_phi + 9.42477796076938) % 6.283185307179586 - 3.141592653589793
  part_share: part_pt / jet_pt
inputs:
  parts:
    vars: [part_deta, part_dphi, {{name: part_pt, scale: log}}, {{name: part_energy, scale: log}}, part_share]
    length: {length}
    sort: -part_pt
split: {{by: [jet_pt, jet_eta, jet_phi], seed: {seed}}}
training: {{seed: {seed}, epochs: {epochs}}}
model: {model}
"""
# Members of a record have names with dots in an RNTuple; they stand in no expression here.
TWINS = """
name: jets
samples:
  top: {{files: {folder}/jets_top{suffix}.root, label: signal}}
  qcd: {{files: {folder}/jets_qcd{suffix}.root, label: background}}
inputs:
  event: [jet_pt, jet_eta]
  parts: {{vars: [part{dot}pt, part{dot}eta, part{dot}phi, part{dot}energy], length: 50}}
training: {{epochs: 2, seed: 0}}
model: {{name: deepsets, hidden_object: [16], latent: 16, hidden_event: [16]}}
"""


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--length", type=int, default=100, help="hardest constituents that a network sees")
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--no-formats", action="store_true", help="leave out the comparison of formats")
    asked = parser.parse_args()
    if not asked.no_formats:
        print(json.dumps(compare_formats()), flush=True)
    for seed in asked.seeds:
        for model in asked.models:
            print(json.dumps(compare(model, seed, length=asked.length, epochs=asked.epochs)), flush=True)


def compare(model: str, seed: int, *, length: int, epochs: int) -> dict[str, Any]:
    """AUC on one test part, learned from the stream and in memory, and what that took."""
    given = {"folder": real_files("jets"), "length": length, "epochs": epochs, "seed": seed, "model": model}
    config = parse_config(CONFIG.format(**given))
    clock = Clock()
    result, found = trained(config, progress=clock)
    ours = weighted_auc(found.scores[:, 0], found.labels == 1, found.weights)
    parts = [_rows(config, part) for part in ("train", "validation", "test")]
    reference, seconds = in_memory_auc(model, config, seed, _tensors(parts))
    return {
        "model": model,
        "seed": seed,
        "length": length,
        "auc": round(ours.value, 5),
        "auc_err": round(ours.error, 5),
        "auc_in_memory": round(reference, 5),
        "difference": round(ours.value - reference, 5),
        "epochs": len(result.history.records),
        "epochs_in_memory": len(seconds),
        "epoch_s": round(median(np.diff(clock.times)), 2),
        "epoch_in_memory_s": round(median(seconds), 2),
        "one_jet_us": round(_serving_us(result.bundle, parts[2][0], 1, 200)),
        "of_256_us": round(_serving_us(result.bundle, parts[2][0], 256, 5)),
        "worst_difference_to_torch": result.bundle.manifest.parity.worst,
        "events_test": len(found.labels),
    }


class Clock(Silent):
    """CPU time at the end of each epoch, all threads of the process together."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self, text: str) -> None:
        if text.startswith("epoch"):
            self.times.append(time.process_time())


def _serving_us(bundle: Bundle, rows: NDArray[np.float32], size: int, times: int) -> float:
    """Microseconds of CPU an event of the served graph, the median over so many batches."""
    seconds = []
    for start in range(times + 1):
        batch = {"parts": rows[start : start + size]}
        began = time.process_time()
        bundle.predict(batch)
        seconds.append(time.process_time() - began)
    return 1e6 * median(seconds[1:]) / size


def in_memory_auc(model: str, config: Config, seed: int, parts: list[Tensors]) -> tuple[float, list[float]]:
    """Plain AdamW on plain tensors, stopped by the validation part; also the seconds of each epoch."""
    train, validation, test = parts
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    plain = NETWORKS[model]
    network = plain.build(0, [train[0].shape[2]], 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=plain.learning_rate, weight_decay=plain.weight_decay)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    shuffle = np.random.default_rng(seed)
    best, best_epoch, kept, seconds = np.inf, 0, network.state_dict(), list[float]()
    for epoch in range(1, config.training.epochs + 1):
        began = time.process_time()
        network.train()
        order = torch.from_numpy(shuffle.permutation(len(train[2])))
        for batch in order.split(config.training.batch_size):
            optimiser.zero_grad()
            loss_of(_margin(network, train[0][batch], train[1][batch]), train[2][batch]).backward()
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            loss = float(loss_of(_margin(network, *validation[:2]), validation[2]))
        seconds.append(time.process_time() - began)
        if loss < best:
            best, best_epoch, kept = loss, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= config.training.patience:
            break
    network.load_state_dict(kept)
    network.eval()
    with torch.inference_mode():
        scores: NDArray[np.float32] = _margin(network, *test[:2]).numpy()
    return weighted_auc(scores, test[2].numpy() == 1).value, seconds


def _margin(network: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    margin: torch.Tensor = network(None, [x], [mask])[:, 0]
    return margin


def _rows(config: Config, part: Part) -> Rows:
    """Raw padded constituents [N, length, variables] of one part, and labels."""
    catalogue = Catalogue.open(config)
    flat, labels, _ = part_in_memory(catalogue, Preprocessor(config.features, catalogue.types), part)
    return flat.reshape(len(flat), -1, len(config.features.inputs[0].variables)), labels


def _tensors(parts: list[Rows]) -> list[Tensors]:
    """The parts as padded tensors, masks and labels; scaled by the training part's own mean and width."""
    logarithmic = [_with_logarithms(x) for x, _ in parts]
    mean, std = (figure(logarithmic[0], axis=(0, 1)) for figure in (np.nanmean, np.nanstd))
    return [
        (
            torch.from_numpy(np.nan_to_num((x - mean) / std)),
            torch.from_numpy(~np.isnan(x).all(axis=-1)),
            torch.from_numpy(labels).float(),
        )
        for x, (_, labels) in zip(logarithmic, parts, strict=True)
    ]


def _with_logarithms(x: NDArray[np.float32]) -> NDArray[np.float32]:
    x = x.copy()
    x[..., LOG_COLUMNS] = np.log1p(x[..., LOG_COLUMNS])
    return x


def compare_formats() -> dict[str, Any]:
    """Batches, contract and graph of a short training from TTrees and from RNTuples of the same jets."""
    tree, ntuple = (
        parse_config(TWINS.format(folder=real_files("jets"), suffix=suffix, dot=dot))
        for suffix, dot in (("", "_"), ("_rntuple", "."))
    )
    clusters = [[file.clusters.tolist() for file in Catalogue.open(one).files] for one in (tree, ntuple)]
    streams = [_shuffled(one) for one in (tree, ntuple)]
    bundles = [trained(one)[0].bundle for one in (tree, ntuple)]
    return {
        "formats": ["TTree", "RNTuple"],
        "clusters": clusters,
        "clusters_equal": clusters[0] == clusters[1],
        "shuffled_batches_equal": all(same_batch(a, b) for a, b in zip(*streams, strict=True)),
        "model_sha256_equal": bundles[0].model_sha256 == bundles[1].model_sha256,
        "spec_sha256_equal_but_for_names": bundles[0].spec_sha256 == _with_plain_names(bundles[1]),
    }


def _shuffled(config: Config) -> list[Any]:
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    with EventDataset(catalogue, preprocessor, part="train", shuffle=True, seed=1) as dataset, dataset.epoch(2) as all_:
        return list(all_)


def _with_plain_names(bundle: Bundle) -> str:
    """Hash of the contract with ``part.pt`` called ``part_pt``."""
    return ModelSpec.from_json(bundle.spec.to_json().replace(b'"part.', b'"part_')).sha256


if __name__ == "__main__":
    main()
