"""What is asked of a stream in Python, checked before anything is opened.

Invariant: of what comes through here, every number is one and in range, and every object is of its kind.
"""

from __future__ import annotations

from typing import Any

from mlaas4hep.arguments import require, text_path, whole
from mlaas4hep.config import Cache
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics

MOST_EPOCH = 2**63 - 1
MOST_SEED = 2**64 - 1
"""Seeds are words of 64 bits: larger ones would be others in disguise."""


def require_catalogue(catalogue: Any, preprocessor: Any) -> None:
    """Refuse what is no catalogue with its preprocessor."""
    hint = "one is opened by Catalogue.open(read_config('config.yaml')), of mlaas4hep.data.catalogue"
    require(catalogue, Catalogue, "catalogue", hint=hint, error=DataError)
    hint = "one is Preprocessor(config.features, catalogue.types), of mlaas4hep.spec.preprocess"
    require(preprocessor, Preprocessor, "preprocessor", hint=hint, error=DataError)


def require_inputs(catalogue: Any, preprocessor: Any, statistics: Any, cache: Any) -> None:
    """Refuse what a stream cannot be made of."""
    require_catalogue(catalogue, preprocessor)
    if statistics is not None:
        hint = "scan(catalogue, preprocessor) finds them"
        require(statistics, Statistics, "statistics", hint=hint, error=DataError)
    if cache is None:
        return
    if not isinstance(cache, Cache):
        raise DataError(f"cache={cache!r} is no Cache; write cache=Cache({str(cache)!r}), of mlaas4hep.config")
    text_path(cache.path, "path of the cache", error=DataError)


def rank_of(rank: Any, ranks: Any) -> tuple[int, int]:
    """One of several processes, and how many there are."""
    ranks = whole(ranks, "ranks", least=1, error=DataError)
    if not 0 <= (number := whole(rank, "rank", least=-MOST_EPOCH, error=DataError)) < ranks:
        raise DataError(f"rank must be from 0 to {ranks - 1}, got {number}")
    return number, ranks
