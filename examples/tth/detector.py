"""Detector emulation: smeared particles, b-tag discriminants, jet energy scale uncertainty.

Second step of ``generate.py``. Nothing here simulates a detector: each function draws from a parametrisation
with round numbers of the size that the CMS experiment publishes. All randomness comes from the generator that
the caller hands in.
"""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import numpy as np

TRACKER_ETA = 2.5
ECAL_ETA = 3.0
CALORIMETER_ETA = 5.0
CHARGED_PION_MASS = 0.13957

CHARGED_SPECIES = (11, 13, 211, 321, 2212, 3112, 3222, 3312, 3334)
PHOTON = 22


@dataclass(frozen=True)
class Subdetector:
    """How one part of the detector blurs energies (stochastic, noise, constant terms) and directions."""

    stochastic: float
    noise: float
    constant: float
    angle: float
    threshold: float

    def relative_resolution(self, energy: np.ndarray) -> np.ndarray:
        """Sigma(E) / E at ``energy`` in GeV."""
        return np.sqrt(self.stochastic**2 / energy + (self.noise / energy) ** 2 + self.constant**2)


ECAL = Subdetector(stochastic=0.028, noise=0.12, constant=0.003, angle=0.005, threshold=0.5)
HCAL = Subdetector(stochastic=1.1, noise=0.0, constant=0.09, angle=0.025, threshold=1.0)


@dataclass(frozen=True)
class Tagger:
    """A discriminant between 0 and 1, given by the efficiency of a cut at each of some values.

    ``efficiencies`` has one row a flavour. Between the values both are interpolated in the logit, which keeps
    the drawn discriminants smooth.
    """

    values: tuple[float, ...]
    efficiencies: dict[int, tuple[float, ...]]

    def draw(self, flavour: int, hardness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One discriminant an object of this flavour.

        ``hardness`` is an exponent on all efficiencies of that object: above 1 they fall, below 1 they rise.
        """
        survival = rng.uniform(1e-9, 1.0 - 1e-9, len(hardness)) ** (1.0 / hardness)
        # np.interp wants rising abscissae, and efficiencies fall with the value of the cut.
        known = _logit(np.array(self.efficiencies[flavour]))[::-1]
        return _expit(np.interp(_logit(survival), known, _logit(np.array(self.values))[::-1]))


# Loose, medium and tight are 0.0490, 0.2783 and 0.7100, the values that CMS uses for DeepJet in 2018.
MEDIUM_BTAG = 0.2783
JET_BTAG = Tagger(
    values=(0.001, 0.01, 0.0490, 0.2783, 0.7100, 0.95, 0.999),
    efficiencies={
        5: (0.9999, 0.985, 0.93, 0.80, 0.63, 0.35, 0.001),
        4: (0.9990, 0.85, 0.42, 0.155, 0.035, 0.006, 0.0001),
        0: (0.9900, 0.45, 0.10, 0.011, 0.0013, 0.0001, 0.00001),
    },
)

# The key is the number of b hadrons in the large jet, 2 meaning two or more.
FATJET_HBB_TAG = Tagger(
    values=(0.001, 0.1, 0.5, 0.8, 0.95, 0.99, 0.9999),
    efficiencies={
        2: (0.9990, 0.90, 0.75, 0.60, 0.38, 0.20, 0.001),
        1: (0.9900, 0.45, 0.18, 0.08, 0.022, 0.006, 0.0001),
        0: (0.9500, 0.15, 0.035, 0.012, 0.0025, 0.0005, 0.00001),
    },
)


def smear_particles(particles: ak.Array, rng: np.random.Generator) -> ak.Array:
    """Particles as a detector would report them: some lost, the others with blurred energy and direction.

    Charged particles inside ``TRACKER_ETA`` are tracks, photons go to the electromagnetic calorimeter, and
    all the rest, forward particles included, to the hadronic one.
    """
    particles = particles[abs(particles.eta) < CALORIMETER_ETA]
    counts = ak.num(particles)
    flat = ak.flatten(particles)
    pt, eta, phi = (ak.to_numpy(values) for values in (flat.pt, flat.eta, flat.phi))
    species = np.abs(ak.to_numpy(flat.id))
    track = np.isin(species, CHARGED_SPECIES) & (np.abs(eta) < TRACKER_ETA)
    photon = (species == PHOTON) & (np.abs(eta) < ECAL_ETA)

    smeared_pt = np.where(track, _smear_track_pt(pt, rng), pt)
    seen = np.where(track, rng.uniform(size=len(pt)) < _track_efficiency(pt), True)
    for subdetector, here in ((ECAL, photon), (HCAL, ~track & ~photon)):
        smeared_pt[here], eta[here], phi[here], above = _smear_deposits(
            pt[here], eta[here], phi[here], subdetector, rng
        )
        seen[here] &= above
    mass = np.where(track, CHARGED_PION_MASS, 0.0)
    smeared = ak.zip(_cartesian(smeared_pt, eta, phi, mass), with_name="Momentum4D")
    return ak.unflatten(smeared, counts)[ak.unflatten(seen, counts)]


def draw_btag(jets: ak.Array, rng: np.random.Generator) -> ak.Array:
    """A discriminant for each jet from its ``hadronFlavour`` (5, 4 or 0) and transverse momentum."""
    counts = ak.num(jets)
    pt = ak.to_numpy(ak.flatten(jets.pt))
    flavour = ak.to_numpy(ak.flatten(jets.hadronFlavour))
    excess = np.maximum(pt - 120.0, 0.0)
    # Tagging is best near 120 GeV: soft jets lose b efficiency, hard ones lose it and gain mistags.
    heavy = 1.0 + excess / 1000.0 + np.maximum(50.0 - pt, 0.0) / 60.0
    hardness = np.where(flavour == 0, 1.0 / (1.0 + excess / 1500.0), heavy)
    return ak.unflatten(_draw_by_class(JET_BTAG, flavour, hardness, rng), counts)


def draw_hbb_tag(fat_jets: ak.Array, rng: np.random.Generator) -> ak.Array:
    """A double-b discriminant for each large jet from the number of b hadrons in it."""
    counts = ak.num(fat_jets)
    hadrons = np.minimum(ak.to_numpy(ak.flatten(fat_jets.nBHadrons)), 2)
    return ak.unflatten(_draw_by_class(FATJET_HBB_TAG, hadrons, np.ones(len(hadrons)), rng), counts)


def jet_energy_uncertainty(jets: ak.Array) -> ak.Array:
    """Relative uncertainty of the jet energy scale: 1 % for hard central jets, 3 to 5 % at 30 GeV."""
    return np.hypot(0.01, 1.0 / jets.pt) * (1.0 + 0.1 * jets.eta**2)


def _draw_by_class(
    tagger: Tagger,
    classes: np.ndarray,
    hardness: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    values = np.empty(len(classes))
    for name in tagger.efficiencies:
        here = classes == name
        values[here] = tagger.draw(name, hardness[here], rng)
    return values


def _track_efficiency(pt: np.ndarray) -> np.ndarray:
    return np.select([pt < 0.5, pt < 1.0], [0.0, 0.90], default=0.95)


def _smear_track_pt(pt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # 1 % from multiple scattering, and a momentum-dependent part from the sagitta.
    return np.abs(pt * (1.0 + np.hypot(0.01, 1.5e-4 * pt) * rng.normal(size=len(pt))))


def _smear_deposits(
    pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, subdetector: Subdetector, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    energy = pt * np.cosh(eta)
    smeared = energy * (1.0 + subdetector.relative_resolution(energy) * rng.normal(size=len(pt)))
    above = smeared > subdetector.threshold
    new_eta = eta + subdetector.angle * rng.normal(size=len(pt))
    new_phi = phi + subdetector.angle * rng.normal(size=len(pt))
    return np.abs(smeared) / np.cosh(new_eta), new_eta, new_phi, above


def _cartesian(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, mass: np.ndarray) -> dict[str, np.ndarray]:
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return {"px": px, "py": py, "pz": pz, "E": np.sqrt(px**2 + py**2 + pz**2 + mass**2)}


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1.0 - probability))


def _expit(value: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-value))
