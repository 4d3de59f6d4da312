"""`deepsets` on the constituents of jets: what streaming gives against a plain loop in memory, seed by seed.

The peer is written out here with torch alone: padded tensors in memory, the same network, settings, rows and stopping
rule, no averaging. ``python -m benchmarks.jets [--seeds 0 1 2]`` prints one JSON line that compares a short training
from TTrees with one from RNTuples of the same jets, then one a seed: ``auc``, ``auc_in_memory``, their ``difference``.
"""

# mypy: allow-subclassing-any

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.judging import real_files, trained
from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import same_batch
from mlaas4hep.train.metrics import weighted_auc
from mlaas4hep.train.reference import part_in_memory

LENGTH = 100
HIDDEN_OBJECT, LATENT, HIDDEN_EVENT, DROPOUT = (64, 64), 32, (64, 64), 0.1
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.01
LOG_COLUMNS = [2, 3]

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
training: {{seed: {seed}}}
model: {{name: deepsets, hidden_object: {hidden_object}, latent: {latent}, hidden_event: {hidden_event},
         dropout: {dropout}, learning_rate: {learning_rate}, weight_decay: {weight_decay}}}
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
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    asked = parser.parse_args()
    print(json.dumps(compare_formats()), flush=True)
    for seed in asked.seeds:
        print(json.dumps(compare(seed)), flush=True)


def compare(seed: int) -> dict[str, Any]:
    """AUC on one test part, learned from the stream and in memory."""
    config = parse_config(
        CONFIG.format(
            folder=real_files("jets"),
            length=LENGTH,
            seed=seed,
            hidden_object=list(HIDDEN_OBJECT),
            latent=LATENT,
            hidden_event=list(HIDDEN_EVENT),
            dropout=DROPOUT,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
        )
    )
    result, found = trained(config)
    ours = weighted_auc(found.scores[:, 0], found.labels == 1, found.weights)
    started = time.perf_counter()
    reference, epochs = in_memory_auc(config, seed)
    return {
        "model": "deepsets",
        "seed": seed,
        "auc": round(ours.value, 5),
        "auc_err": round(ours.error, 5),
        "auc_in_memory": round(reference, 5),
        "difference": round(ours.value - reference, 5),
        "epochs": len(result.history.records),
        "epochs_in_memory": epochs,
        "seconds": round(result.metrics["seconds"]["until_learned"], 1),
        "seconds_in_memory": round(time.perf_counter() - started, 1),
        "events_test": len(found.labels),
    }


class PlainDeepSets(torch.nn.Module):
    """The same architecture, written again: per-object network, masked mean and maximum, event network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, *HIDDEN_OBJECT, LATENT]
        layers = [(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.phi = torch.nn.Sequential(*itertools.chain(*layers))
        sizes = [2 * LATENT, *HIDDEN_EVENT]
        hidden = [
            (torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Dropout(DROPOUT)) for a, b in itertools.pairwise(sizes)
        ]
        self.rho = torch.nn.Sequential(*itertools.chain(*hidden), torch.nn.Linear(sizes[-1], 1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [N] of [N, K, F] and bool [N, K]."""
        # After a rectifier all values are at least zero, so a product with the mask serves sum and maximum.
        values = self.phi(x) * mask.unsqueeze(-1)
        mean = values.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        margin: torch.Tensor = self.rho(torch.cat([mean, values.amax(dim=1)], dim=1))[:, 0]
        return margin


def in_memory_auc(config: Config, seed: int) -> tuple[float, int]:
    """Plain AdamW on plain tensors, stopped by the validation part; also the number of epochs."""
    train, validation, test = _tensors(config)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    network = PlainDeepSets(train[0].shape[2])
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    shuffle = np.random.default_rng(seed)
    best, best_epoch, epoch, kept = np.inf, 0, 0, network.state_dict()
    for epoch in range(1, config.training.epochs + 1):
        network.train()
        order = torch.from_numpy(shuffle.permutation(len(train[2])))
        for batch in order.split(config.training.batch_size):
            optimiser.zero_grad()
            loss_of(network(train[0][batch], train[1][batch]), train[2][batch]).backward()
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            loss = float(loss_of(network(*validation[:2]), validation[2]))
        if loss < best:
            best, best_epoch, kept = loss, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= config.training.patience:
            break
    network.load_state_dict(kept)
    network.eval()
    with torch.inference_mode():
        scores: NDArray[np.float32] = network(*test[:2]).numpy()
    return weighted_auc(scores, test[2].numpy() == 1).value, epoch


def _tensors(config: Config) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The three parts as padded tensors, masks and labels; scaled by the training part's own mean and width."""
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    parts = []
    for part in ("train", "validation", "test"):
        flat, labels, _ = part_in_memory(catalogue, preprocessor, part)
        x = flat.reshape(len(flat), LENGTH, -1)
        x[..., LOG_COLUMNS] = np.log1p(x[..., LOG_COLUMNS])
        parts.append((x, ~np.isnan(x).all(axis=-1), labels))
    mean, std = (figure(parts[0][0], axis=(0, 1)) for figure in (np.nanmean, np.nanstd))
    return [
        (torch.from_numpy(np.nan_to_num((x - mean) / std)), torch.from_numpy(mask), torch.from_numpy(labels).float())
        for x, mask, labels in parts
    ]


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
