"""Hard processes: what Pythia 8 is told, and the events that it gives back in batches.

First step of ``generate.py``. All processes share ``COMMON_SETTINGS``; only the hard process and its
phase-space cut differ, so that nothing but physics tells the samples apart. A batch is a pure function of
process, seed and the batches before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import awkward as ak
import numpy as np
import pythia8mc

# Pythia's own limit is 900,000,000; see Process.luminosity_block for why ours is lower.
MAX_SEED = 999_999

SHOWER_VARIATIONS = ("isrup", "fsrup", "isrdn", "fsrdn")

COMMON_SETTINGS = (
    "Beams:eCM = 13000.",
    "6:m0 = 172.5",
    "25:m0 = 125.",
    # Costs 30 to 90 % of the rate (it fills the small jets too); off for every process alike.
    "PartonLevel:MPI = off",
    # All-hadronic: W to quarks. Pythia's cross-sections include these branching fractions.
    "24:onMode = off",
    "24:onIfAny = 1 2 3 4 5",
    "25:onMode = off",
    "25:onIfMatch = 5 -5",
    # Factors sqrt(2) on the renormalisation scale; below 20 GeV^2 variations only add noise to the weights.
    "UncertaintyBands:doVariations = on",
    "UncertaintyBands:FSRpTmin2Fac = 20.",
    # Trial emissions on top of those needed: enough for factors as small as ours, and a quarter faster.
    "UncertaintyBands:overSampleFSR = 1.5",
    "UncertaintyBands:overSampleISR = 1.5",
    "UncertaintyBands:List = {isrup isr:muRfac=1.414, fsrup fsr:muRfac=1.414,"
    " isrdn isr:muRfac=0.707, fsrdn fsr:muRfac=0.707}",
)

# Species that decay weakly: the last hadrons of a decay chain that still carry the quark.
WEAK_B_HADRONS = (511, 521, 531, 541, 5122, 5132, 5232, 5332)
WEAK_C_HADRONS = (411, 421, 431, 4122, 4132, 4232, 4332)


@dataclass(frozen=True)
class Process:
    """A hard process: its name, a number that sets its events apart, and its Pythia settings."""

    name: str
    number: int
    settings: tuple[str, ...]

    def luminosity_block(self, seed: int) -> int:
        """The block of all events of one (process, seed), unique because a seed is below a million.

        It is Pythia's seed as well: the same ``seed`` for two processes still gives independent events.
        """
        return self.number * (MAX_SEED + 1) + seed


PROCESSES = {
    process.name: process
    for process in (
        Process("ttH", 1, ("HiggsSM:gg2Httbar = on", "HiggsSM:qqbar2Httbar = on")),
        Process("ttbar", 2, ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")),
        # The selection keeps 1 event in 90 above 200 GeV; those below would add 4 % to the selected ones.
        Process("qcd", 3, ("HardQCD:all = on", "PhaseSpace:pTHatMin = 200.")),
    )
}


class Generator:
    """Pythia set up for one process and seed.

    Parameters
    ----------
    process : Process
    seed : int
        0 to ``MAX_SEED``.

    Raises
    ------
    RuntimeError
        If Pythia refuses a setting or does not initialise.
    """

    def __init__(self, process: Process, seed: int) -> None:
        self.settings = (
            *COMMON_SETTINGS,
            *process.settings,
            "Random:setSeed = on",
            f"Random:seed = {process.luminosity_block(seed)}",
        )
        self._pythia = pythia8mc.Pythia("", False)
        for setting in (*self.settings, "Print:quiet = on"):
            if not self._pythia.readString(setting):
                raise RuntimeError(f"Pythia refused the setting {setting!r}")
        if not self._pythia.init():
            raise RuntimeError(f"Pythia did not initialise for {process.name} with seed {seed}")

    def batches(self, size: int) -> Iterator[ak.Array]:
        """Batches of ``size`` generated events, without end."""
        while True:
            yield self._pythia.nextBatch(size)

    def cross_section_pb(self) -> tuple[float, float]:
        """Pythia's leading-order cross-section so far and its statistical error, cuts and decays included."""
        info = self._pythia.infoPython()
        millibarn = 1e9
        return info.sigmaGen() * millibarn, info.sigmaErr() * millibarn

    def weights(self, batch: ak.Array) -> tuple[np.ndarray, np.ndarray]:
        """Nominal weights [N] and parton-shower variations relative to them [N, 4] of a batch."""
        names = list(self._pythia.infoPython().weightNameVector())
        weights = ak.to_numpy(batch.info.weights)
        nominal = weights[:, 0]
        return nominal, weights[:, [names.index(name) for name in SHOWER_VARIATIONS]] / nominal[:, np.newaxis]


def visible_particles(batch: ak.Array) -> ak.Array:
    """Stable particles that a detector may see, as four-vectors with their PDG ``id``."""
    particles = batch.prt
    particles = particles[particles.status > 0]
    particles = particles[~_is_one_of(particles.id, (12, 14, 16))]
    return _four_vectors(particles)


def heavy_hadrons(batch: ak.Array, species: tuple[int, ...], pt_min: float = 5.0) -> ak.Array:
    """Weakly decaying hadrons of the given species above ``pt_min`` GeV, each once, as four-vectors."""
    particles = batch.prt
    candidates = _is_one_of(particles.id, species)
    # A neutral B meson that oscillates is listed twice, as its own first daughter.
    first_daughters = particles.id[particles.daughter1]
    hadrons = _four_vectors(particles[candidates & (abs(first_daughters) != abs(particles.id))])
    return hadrons[hadrons.pt > pt_min]


def _four_vectors(particles: ak.Array) -> ak.Array:
    momentum = particles.p
    return ak.zip(
        {"px": momentum.px, "py": momentum.py, "pz": momentum.pz, "E": momentum.e, "id": particles.id},
        with_name="Momentum4D",
    )


def _is_one_of(pdg_ids: ak.Array, species: tuple[int, ...]) -> ak.Array:
    flat = np.isin(np.abs(ak.to_numpy(ak.flatten(pdg_ids))), species)
    return ak.unflatten(flat, ak.num(pdg_ids))
