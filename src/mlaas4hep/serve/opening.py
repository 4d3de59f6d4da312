"""A path to a repository of models, as ``mlaas4hep serve`` is given it: a folder, a bundle, a version, several as one.

Invariant: what comes back has something to serve, or may be empty because who asks said so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mlaas4hep.arguments import path_of, whole
from mlaas4hep.errors import BundleError
from mlaas4hep.graph.session import providers_of
from mlaas4hep.serve.entries import check_folder, nothing_in
from mlaas4hep.serve.following import open_named
from mlaas4hep.serve.model import load_model
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.served import Bounds


def open_repository(
    path: Path | str,
    *,
    threads: int = 1,
    device: str = "cpu",
    lazy: bool = False,
    bounds: Bounds | None = None,
    empty: bool = False,
) -> ModelRepository:
    """Verify and load all models under a path.

    Parameters
    ----------
    path
        A folder of bundles and plain ONNX entries, one of them (``NAME``, with all versions), or one version
        (``NAME/1``); or ``NAME=FILE`` and ``NAME=RUN``, several models as one: an ``ensemble.yaml``, or a run that was
        trained in folds.
    threads
        Threads that one call of a graph may use.
    device
        Where graphs run; see `mlaas4hep.graph.session.Session`.
    lazy, bounds
        Load when asked, and how much at a time; a bound makes it lazy.
    empty
        Whether there may be nothing to serve yet.

    Raises
    ------
    BundleError
        Nothing to serve. Where some entries can be served, the others are logged, and stand in the index.
    """
    whole(threads, "threads", least=1)
    providers_of(device)  # told once, not of every model
    place = path_of(path, "path")
    load = partial(load_model, threads=threads, device=device)
    if not place.exists() and "=" in str(place):
        return ModelRepository([open_named(str(place), load)])
    check_folder(place)
    repository = ModelRepository(path=place, load=load, lazy=lazy, bounds=bounds)
    repository.refresh()
    if not repository.names and not empty:
        problems = list(repository.problems.values())
        raise BundleError("\n".join(problems)) if problems else nothing_in(place)
    return repository
