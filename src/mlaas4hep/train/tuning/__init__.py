"""Search over the dials of a config: trials by several processes, on one machine or many, in one folder.

::

    SEARCH/search.json    what is searched, and how: all that another process needs to join
    SEARCH/study.jsonl    every step of every trial, a line each
    SEARCH/workers/       who is at work, and what they had to say
    SEARCH/runs/          run directories: of the default config and of the best so far

Invariant: trials see the training and the validation part alone; the test part of no run is opened here.
"""

from __future__ import annotations

from importlib.util import find_spec

from mlaas4hep.errors import MissingExtraError


def require_optuna() -> None:
    """`MissingExtraError` where what a search needs is not installed; asked before its modules are imported."""
    if find_spec("optuna") is None:
        raise MissingExtraError("optuna", "tune", "a search")
