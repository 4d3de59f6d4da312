"""Whether a cache can be used, asked before anything is read that takes time.

Invariant: nothing is refused here that could have worked; what is only known after the scan the stream refuses then.
"""

from __future__ import annotations

from mlaas4hep.backends.registry import Choice
from mlaas4hep.config import Config
from mlaas4hep.data import cache
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor


def require_folder(config: Config) -> None:
    """Refuse a cache whose folder cannot be made or written; raises `DataError` with the reason."""
    if config.cache is not None:
        cache.require_folder(config.cache.path)


def refuse_without_room(config: Config, choice: Choice, catalogue: Catalogue, preprocessor: Preprocessor) -> None:
    """Refuse an exact order of a catalogue that cannot fit, where that is known before its events are counted.

    Raises
    ------
    DataError
        With what is needed and what there is; or no rows are kept behind a function of the user's own.
    """
    if config.training.shuffle != "exact" or choice.backend is None:
        return  # what a model file of the user's own does is known when it is built
    if choice.backend.capabilities(choice.model).streams:
        EventDataset(catalogue, preprocessor, shuffle="exact", shuffle_window=1, cache=config.cache).close()
