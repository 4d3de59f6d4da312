"""Sizes of the networks that PyTorch and JAX both have, and what their dials may be: `mlp` and `deepsets`.

Each is the dials of learning with those of the network. Invariant: a config means the same network whoever learns it,
but for what a backend adds by a dial of its own.
"""

from __future__ import annotations

from typing import Literal

from mlaas4hep.backends.dials import bad_sizes, out_of_range
from mlaas4hep.backends.learning import LearningDials

Activation = Literal["relu", "tanh", "gelu", "silu"]


class MlpSizes(LearningDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network on the flat view; those of the training are shared by all networks.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers.
    activation
        Between the layers.
    dropout
        Share of the hidden values that is set to 0 in a step.
    """

    hidden: tuple[int, ...] = (128, 64)
    activation: Activation = "relu"
    dropout: float = 0.2

    def problems(self) -> list[str]:
        """What is out of range."""
        return bad_sizes("hidden", self.hidden) + ranges_of(self)


class DeepSetsSizes(LearningDials, frozen=True, forbid_unknown_fields=True):
    """Dials of the network on collections (Zaheer et al. 2017; energy flow networks, Komiske et al. 2019).

    Those of the training are shared by all networks.

    Parameters
    ----------
    hidden_object
        Sizes of the hidden layers that see one object at a time; each collection has its own.
    latent
        How many numbers an object becomes; a collection is the mean and the maximum of each over its objects.
    hidden_event
        Sizes of the hidden layers that see all collections together with the variables of the event.
    activation
        Between the layers.
    dropout
        Share of the hidden values of the event that is set to 0 in a step.
    """

    hidden_object: tuple[int, ...] = (64, 64)
    latent: int = 32
    hidden_event: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"
    dropout: float = 0.1
    learning_rate: float = 3e-3

    def problems(self) -> list[str]:
        """What is out of range."""
        sizes = bad_sizes("hidden_object", self.hidden_object) + bad_sizes("hidden_event", self.hidden_event)
        return sizes + out_of_range(self, above_zero=("latent",)) + ranges_of(self)


def ranges_of(dials: LearningDials) -> list[str]:
    """What is out of range among the dials that all networks share."""
    return out_of_range(dials, between={"dropout": (0, 0.95)}) + LearningDials.problems(dials)
