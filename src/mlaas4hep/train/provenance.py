"""Where a model comes from: files, settings, packages, machine and time; enough to train it again (`replay`).

Invariant: nothing in it names a folder or a host of this machine.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.backends.registry import Choice
from mlaas4hep.config import Config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.progress import Progress
from mlaas4hep.train.document import dump, to_plain
from mlaas4hep.train.machine import machine
from mlaas4hep.train.origins import Origin, origins_of

MODEL_SOURCE, HOOK_SOURCE = "model.py", "preprocessing.py"
"""Files of a bundle's native folder: the user's own code."""
_PACKAGE = Path(__file__).parents[1]
_FRAMEWORKS = (
    *("jax", "keras", "lightgbm", "scikit-learn", "tensorflow", "tensorflow-cpu"),
    *("torch", "xgboost", "xgboost-cpu"),
)
_PACKAGES = ("mlaas4hep", "numpy", "onnx", "onnxruntime", *_FRAMEWORKS, "uproot")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what comes out, those that are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return found


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """SHA-256 over this package's own modules: its version says little between two releases."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known when a training begins.

    Parameters
    ----------
    config, choice
        What is trained.
    origins
        All files of the config.
    max_events
        Entries that were asked for in all.
    started
        When.
    """

    config: Config
    choice: Choice
    origins: tuple[Origin, ...]
    max_events: int | None
    started: datetime

    @classmethod
    def now(
        cls, config: Config, choice: Choice, catalogue: Catalogue, *, max_events: int | None, progress: Progress
    ) -> Begun:
        """Look at every file of a catalogue once."""
        started = datetime.now(UTC)
        progress.start("telling files apart", total=len(catalogue.files), unit="files")
        origins = origins_of(catalogue, progress=progress.update)
        progress.close()
        return cls(config, choice, origins, max_events, started)

    def told(self, catalogue: Catalogue, counts: Sequence[Counts]) -> dict[str, Any]:
        """What the contract tells beside what it fixes.

        Parameters
        ----------
        catalogue, counts
            The files that were read, and what became of their entries.
        """
        config, file = self.config, self.choice.file
        return {
            "model": self.choice.model,
            "files": files_told(catalogue, self.origins, counts),
            "skipped": [one.as_plain() for one in catalogue.quarantine.records],
            "split_by": str(catalogue.identity),
            **({} if catalogue.hook is None else {"preprocessing_sha256": catalogue.hook.sha256}),
            **({} if file is None else {"model_source_sha256": file.sha256}),
            "seed": config.training.seed,
            "max_events": self.max_events,
            "training": msgspec.to_builtins(config.training),
            "config": travelling(config),
            "versions": versions(),
            "code_sha256": code_sha256(),
            "machine": machine(),
            "time": time_since(self.started),
        }


def time_since(started: datetime) -> dict[str, Any]:
    """Begin and end in UTC, and the seconds between."""
    now = datetime.now(UTC)
    words = (one.isoformat(timespec="seconds") for one in (started, now))
    return dict(zip(("started", "ended"), words, strict=True)) | {"seconds": round((now - started).total_seconds(), 3)}


def files_told(catalogue: Catalogue, origins: Sequence[Origin], counts: Sequence[Counts]) -> list[dict[str, Any]]:
    """Each file with its identity and what became of its entries; ``read = selected + cut + unlabelled + skipped``."""
    read = {
        (catalogue.samples[file.sample].name, file.index): count
        for file, count in zip(catalogue.files, counts, strict=True)
    }
    return [
        {
            **msgspec.to_builtins(origin),
            "file": Path(origin.path).name,
            **_fates(read.get((origin.sample, origin.index), Counts())),
        }
        for origin in origins
    ]


def _fates(count: Counts) -> dict[str, int]:
    return {
        "read": count.read,
        "selected": count.delivered,
        "cut": count.cut,
        "unlabelled": count.unlabelled,
        "skipped": count.quarantined,
    }


def travelling(config: Config) -> str:
    """The config as YAML without places: its files stand under ``files``, the user's own code in the bundle.

    As text, since the order of its keys counts, and the keys of a contract are sorted.
    """
    plain = to_plain(config)
    for key in ("cache", "redirector", "tracking"):
        plain.pop(key, None)
    plain["samples"] = {
        name: {key: value for key, value in sample.items() if key not in ("files", "friends", "redirector")}
        for name, sample in plain["samples"].items()
    }
    if config.model.file is not None:
        plain["model"] = {**plain["model"], "file": Path(config.model.file).name}
    if config.preproc is not None:
        plain["preproc"] = Path(config.preproc).name
    return dump(plain)


def own_sources(catalogue: Catalogue) -> Mapping[str, bytes]:
    """The user's function on events, for the bundle's native folder; that of the model is `Choice.native`'s."""
    return {} if catalogue.hook is None else {HOOK_SOURCE: catalogue.hook.source}
