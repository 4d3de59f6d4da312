"""What is searched and how, as ``search.json`` keeps it: all that another process needs to take part.

Invariant: values of dials make an ordinary config, read and checked like any other; every value at the end of a range
was checked before the first trial began.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from mlaas4hep.backends.dials import Dials
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Cache, Config, parse_document, read_document
from mlaas4hep.config.search import KINDS, Dial, find_dials, placed, without
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.train.tuning.workers import machine

SETUP_FILE = "search.json"
Metric = Literal["auc", "loss"]
Values = Mapping[str, Any]


class Setup(msgspec.Struct, frozen=True):
    """A search.

    Parameters
    ----------
    config
        The file that it came from, for messages.
    folder
        Where relative paths of the config start.
    document
        The config as plain values, with ranges where values would stand.
    trials
        How many were asked for at the beginning.
    seed
        Of what is tried.
    max_events
        Entries to read in all.
    prune
        Whether trials that fall behind are ended.
    metric
        What is made best: ``auc``, upwards, or the ``loss`` of a regression, downwards.
    cached
        Whether the search keeps rows in a folder of its own.
    """

    config: str
    folder: str
    document: dict[str, Any]
    trials: int
    seed: int
    max_events: int | None
    prune: bool
    metric: Metric
    cached: bool

    @property
    def dials(self) -> dict[str, Dial]:
        """What is searched, by path."""
        return find_dials(self.document, [])

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.metric == "auc" else -1

    def ordinary(self, values: Values) -> Config:
        """The config with values in it, ready for ``train``."""
        return parse_document(placed(self.document, values), where=self.config, folder=Path(self.folder))

    def for_trial(self, values: Values, search: Path) -> Config:
        """The same as a trial uses it: with kept rows, which all trials on a machine share."""
        config = self.ordinary(values)
        if not self.cached:
            return config
        return msgspec.structs.replace(config, cache=Cache(str(cache_folder(search))))

    def start(self) -> dict[str, Any]:
        """Values of the first trial: the default config, as near as the ranges allow."""
        dials = self.dials
        middle = {name: dial.start() for name, dial in dials.items()}
        return {name: dial.start(self._usual(name, middle)) for name, dial in dials.items()}

    def _usual(self, name: str, others: Values) -> Any:
        """What a key would be if the config did not mention it; None where nobody can say."""
        section, _, key = name.partition(".")
        document = without(self.document, name)
        if document is None or section not in ("model", "training"):
            return None
        try:
            config = parse_document(placed(document, others), where=self.config, folder=Path(self.folder))
            if section == "training":
                return getattr(config.training, key, None)
            dials = choose(config.model, where=self.config).dials
        except UserError:
            return None  # without it there is no config: nothing is usual
        return getattr(dials, key, None) if isinstance(dials, Dials) else dials.get(key)

    def check(self, start: Values) -> None:
        """Every end of every range beside the first values of the others.

        Raises
        ------
        ConfigError
            With all that no config could be made of.
        """
        problems = []
        for name, dial in self.dials.items():
            for end in dial.ends:
                try:
                    choose(self.ordinary({**start, name: end}).model, where=self.config)
                except UserError as error:
                    lines = error.problems if isinstance(error, ConfigError) else (str(error),)
                    problems += [f"{name}: {dial} with {end!r}: {line}" for line in lines]
        if problems:
            raise ConfigError(problems, where=self.config)

    def write(self, search: Path) -> None:
        """Keep it in a folder, where it appears whole."""
        draft = search / f".{SETUP_FILE}.part"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        draft.rename(search / SETUP_FILE)


def read_setup(search: Path) -> Setup:
    """What a folder keeps; `UserError` where it is none of a search."""
    try:
        return msgspec.json.decode((search / SETUP_FILE).read_bytes(), type=Setup)
    except FileNotFoundError:
        raise UserError(f"{search}: is no search: lacks {SETUP_FILE}, which 'mlaas4hep tune CONFIG' writes") from None
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{search / SETUP_FILE}: is damaged: {error}") from error


def setup_of(
    path: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    trials: int,
    seed: int | None = None,
    max_events: int | None = None,
    prune: bool = True,
) -> Setup:
    """Read a config that has something to be searched in it.

    Raises
    ------
    ConfigError
        It has nothing, or says something wrong.
    """
    if seed is not None:
        overrides = (*overrides, f"training.seed={seed}")
    document = read_document(path, overrides=overrides)
    problems: list[str] = []
    dials = find_dials(document, problems)
    if not dials and not problems:
        kinds = "; ".join(KINDS.values())
        problems.append(
            "nothing is to be searched: write a range where a value would stand, as in "
            f"model.learning_rate: log(1e-4, 1e-2), or --set model.learning_rate='log(1e-4, 1e-2)'. There are {kinds}"
        )
    if problems:
        raise ConfigError(problems, where=str(path))
    setup = Setup(
        config=str(path),
        folder=os.path.abspath(Path(path).parent),
        document=document,
        trials=trials,
        seed=0,
        max_events=max_events,
        prune=prune,
        metric="auc",
        cached=False,
    )
    config = setup.ordinary(setup.start())
    if not config.features.split.validation > 0:
        problem = "split.validation: is 0: trials are compared on the validation part; give it a share such as 0.1"
        raise ConfigError([problem], where=str(path))
    return msgspec.structs.replace(
        setup,
        seed=config.training.seed,
        metric="loss" if config.features.target_texts else "auc",
        cached=config.cache is None and config.preproc is None,
    )


def cache_folder(search: Path) -> Path:
    """Rows of this machine: a cache is no place for two."""
    return search.absolute() / "cache" / machine()[:12]
