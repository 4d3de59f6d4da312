"""Reconstruction: jets with their substructure, event variables, and the boosted all-hadronic selection.

Third step of ``generate.py``: from smeared particles to the columns of ``Events``, for selected events only.
All energies, momenta and masses are in GeV.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import awkward as ak
import detector
import fastjet
import numpy as np
import processes
import vector

vector.register_awkward()

CARTESIAN = ("px", "py", "pz", "E")

Columns = dict[str, "np.ndarray | ak.Array | dict[str, ak.Array]"]


@dataclass(frozen=True)
class Selection:
    """What an event must have; recorded in every file."""

    jet_pt_min: float = 30.0
    jet_abs_eta_max: float = 2.4
    fatjet_pt_min: float = 200.0
    leading_fatjet_pt_min: float = 300.0
    ht_min: float = 450.0
    jets_min: int = 5
    medium_btags_min: int = 1

    def as_dict(self) -> dict[str, float]:
        """The cuts by name."""
        return asdict(self)


SELECTION = Selection()


def reconstruct(batch: ak.Array, rng: np.random.Generator) -> tuple[np.ndarray, Columns]:
    """Which events of a Pythia batch are selected [N], and the physics columns of those that are."""
    particles = detector.smear_particles(processes.visible_particles(batch), rng)
    b_hadrons = processes.heavy_hadrons(batch, processes.WEAK_B_HADRONS)
    c_hadrons = processes.heavy_hadrons(batch, processes.WEAK_C_HADRONS)
    jets = small_jets(particles, b_hadrons, c_hadrons, rng)
    fat_jets, constituents = large_jets(particles, b_hadrons, rng)
    met = missing_momentum(particles, rng)

    selected = select(jets, fat_jets)
    jets = jets[selected]
    columns: Columns = event_variables(jets) | {name: values[selected] for name, values in met.items()}
    columns["Jet"] = _with_mass(jets, ("pt", "eta", "phi", "btagDeepFlavB", "hadronFlavour"))
    columns["Jet"] |= energy_scale_variations(jets)
    columns["FatJet"] = _with_mass(fat_jets[selected], ("pt", "eta", "phi", "btagHbb", "nBHadrons"))
    columns["FatJet"] |= substructure(constituents[selected])
    return ak.to_numpy(selected), columns


def select(jets: ak.Array, fat_jets: ak.Array) -> ak.Array:
    """The selection of ``SELECTION``, one boolean an event. Leptons are absent by the forced decays."""
    leading = ak.fill_none(ak.max(fat_jets.pt, axis=1), 0.0)
    return (
        (leading > SELECTION.leading_fatjet_pt_min)
        & (ak.sum(jets.pt, axis=1) > SELECTION.ht_min)
        & (ak.num(jets) >= SELECTION.jets_min)
        & (ak.sum(_is_medium(jets), axis=1) >= SELECTION.medium_btags_min)
    )


def small_jets(
    particles: ak.Array,
    b_hadrons: ak.Array,
    c_hadrons: ak.Array,
    rng: np.random.Generator,
) -> ak.Array:
    """Anti-kT jets with R = 0.4, hardest first, with their flavour and an emulated b tag."""
    jets, _ = _cluster(particles, 0.4, SELECTION.jet_pt_min)
    has_b = _count_matches(jets, b_hadrons, 0.4) > 0
    has_c = _count_matches(jets, c_hadrons, 0.4) > 0
    jets["hadronFlavour"] = ak.where(has_b, 5, ak.where(has_c, 4, 0))
    jets["btagDeepFlavB"] = detector.draw_btag(jets, rng)
    return jets


def large_jets(
    particles: ak.Array,
    b_hadrons: ak.Array,
    rng: np.random.Generator,
) -> tuple[ak.Array, ak.Array]:
    """Anti-kT jets with R = 0.8, hardest first, with an emulated double-b tag; and their constituents."""
    jets, constituents = _cluster(particles, 0.8, SELECTION.fatjet_pt_min)
    jets["nBHadrons"] = _count_matches(jets, b_hadrons, 0.8)
    jets["btagHbb"] = detector.draw_hbb_tag(jets, rng)
    return jets, constituents


def substructure(constituents: ak.Array) -> dict[str, ak.Array]:
    """Soft-drop mass and N-subjettiness of each large jet.

    Soft drop with z_cut = 0.1, beta = 0 (arXiv:1402.2657) on the Cambridge/Aachen tree; N-subjettiness with
    beta = 1 and one-pass kT axes (arXiv:1108.2701). ``tauN`` is NaN where a jet has fewer than N particles.
    """
    counts = ak.num(constituents)
    jets = ak.flatten(constituents)
    # FastJet's wrapper wants one plain list of particles a jet, nothing nested or indexed.
    jets = ak.to_packed(ak.zip({name: jets[name] for name in CARTESIAN}, with_name="Momentum4D"))
    # A radius past the size of any jet, so that all constituents end in one tree.
    sequence = fastjet.ClusterSequence(jets, fastjet.JetDefinition(fastjet.cambridge_algorithm, 2.0))
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=0.1, R0=0.8)
    taus = ak.to_numpy(sequence.njettiness(njets=[1, 2, 3], beta=1.0, R0=0.8))
    taus = np.where(ak.to_numpy(ak.num(jets))[:, np.newaxis] >= [1, 2, 3], taus, np.nan)
    # Rounding can give the groomed mass of a lone particle a tiny negative value.
    columns = {"msoftdrop": np.maximum(ak.to_numpy(groomed.msoftdrop), 0.0)}
    columns |= {f"tau{n}": np.maximum(taus[:, n - 1], 0.0) for n in (1, 2, 3)}
    return {name: ak.unflatten(values, counts) for name, values in columns.items()}


def missing_momentum(particles: ak.Array, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Missing transverse momentum, with 8 GeV a component added for the pile-up that is not there."""
    px = -ak.to_numpy(ak.sum(particles.px, axis=1)) + rng.normal(0.0, 8.0, len(particles))
    py = -ak.to_numpy(ak.sum(particles.py, axis=1)) + rng.normal(0.0, 8.0, len(particles))
    return {"PuppiMET_pt": np.hypot(px, py), "PuppiMET_phi": np.arctan2(py, px)}


def energy_scale_variations(jets: ak.Array) -> dict[str, ak.Array]:
    """Jet transverse momenta with the energy scale one standard deviation up and down."""
    shift = detector.jet_energy_uncertainty(jets)
    return {"pt_jesTotalUp": jets.pt * (1.0 + shift), "pt_jesTotalDown": jets.pt * (1.0 - shift)}


def event_variables(jets: ak.Array) -> Columns:
    """Scalars of the whole event, all from the R = 0.4 jets."""
    total = ak.zip({name: ak.sum(jets[name], axis=1) for name in CARTESIAN}, with_name="Momentum4D")
    scalar_pt = ak.sum(jets.pt, axis=1)
    sphericity, aplanarity = event_shape(jets)
    pair_mass, pair_distance = closest_tagged_pair(jets)
    columns = {
        "HT": scalar_pt,
        "nBTagMedium": ak.sum(_is_medium(jets), axis=1),
        "mJets": total.mass,
        "centrality": scalar_pt / total.E,
        "sphericity": sphericity,
        "aplanarity": aplanarity,
        "mbb_closest": pair_mass,
        "dRbb_min": pair_distance,
    }
    return {name: ak.to_numpy(values) for name, values in columns.items()}


def event_shape(jets: ak.Array) -> tuple[np.ndarray, np.ndarray]:
    """Sphericity and aplanarity from the momentum tensor of the jets (doi:10.1103/PhysRevD.1.1416)."""
    axes = [jets.px, jets.py, jets.pz]
    tensor = np.array([[ak.to_numpy(ak.sum(a * b, axis=1)) for b in axes] for a in axes])
    eigenvalues = np.linalg.eigvalsh(np.moveaxis(tensor / np.trace(tensor), -1, 0))
    smallest = np.maximum(eigenvalues[:, 0], 0.0)
    return 1.5 * (smallest + eigenvalues[:, 1]), 1.5 * smallest


def closest_tagged_pair(jets: ak.Array) -> tuple[np.ndarray, np.ndarray]:
    """Mass and distance of the two b-tagged jets nearest to each other; NaN with fewer than two tags."""
    first, second = ak.unzip(ak.combinations(jets[_is_medium(jets)], 2))
    distance = first.deltaR(second)
    nearest = ak.argmin(distance, axis=1, keepdims=True)
    mass = (first + second).mass
    return _first_or_nan(mass[nearest]), _first_or_nan(distance[nearest])


def _cluster(particles: ak.Array, radius: float, pt_min: float) -> tuple[ak.Array, ak.Array]:
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    momenta = sequence.inclusive_jets(pt_min)
    constituents = sequence.constituents(pt_min)
    order = ak.argsort(momenta.pt, axis=1, ascending=False)
    momenta, constituents = momenta[order], constituents[order]
    central = abs(momenta.eta) < SELECTION.jet_abs_eta_max
    momenta = momenta[central]
    jets = ak.zip({name: momenta[name] for name in CARTESIAN}, with_name="Momentum4D")
    return jets, constituents[central]


def _count_matches(jets: ak.Array, hadrons: ak.Array, radius: float) -> ak.Array:
    """How many hadrons have each jet as their nearest one within ``radius``."""
    pairs = ak.cartesian({"hadron": hadrons, "jet": jets}, nested=True)
    distance = pairs.hadron.deltaR(pairs.jet)
    nearest = ak.argmin(distance, axis=2)
    matched = nearest[ak.fill_none(ak.min(distance, axis=2) < radius, False)]
    own_index = ak.local_index(jets)
    return ak.sum(own_index[:, :, np.newaxis] == matched[:, np.newaxis, :], axis=2)


def _is_medium(jets: ak.Array) -> ak.Array:
    return jets.btagDeepFlavB > detector.MEDIUM_BTAG


def _first_or_nan(values: ak.Array) -> np.ndarray:
    return ak.to_numpy(ak.fill_none(ak.firsts(values), np.nan))


def _with_mass(jets: ak.Array, names: tuple[str, ...]) -> dict[str, ak.Array]:
    fields = {name: getattr(jets, name) for name in names}
    # A jet of one particle can have a mass squared just below zero.
    return fields | {"mass": np.maximum(jets.mass, 0.0)}
