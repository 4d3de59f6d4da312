"""The original's ``params.json``, specs and lists of files and labels, read and checked.

Which columns the files hold is not known here: `mlaas4hep.data.original` looks at them and makes the config. Invariant:
every key of ``params.json`` is honoured, or refused by name with the word that says the same here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.errors import ConfigError
from mlaas4hep.typed import INVALID, convert

IDENTIFIER = ("run", "event", "luminosityBlock")
"""Branches that tell events apart and are no inputs, where the original is told none."""
REDIRECTOR = "root://cms-xrd-global.cern.ch"
"""Where the original looks for what is not on this machine, where it is told nothing else."""
DTYPES = ("json", "csv", "parquet", "avro", "root")
_MAX_BYTES = 1 << 24


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a ``params.json`` says, with the original's defaults.

    Parameters
    ----------
    nevts
        Events to use in all, shared between the files; -1 takes all.
    chunk_size
        Events that are learned from together; -1 takes all at once.
    batch_size, epochs
        Of the training.
    shuffle
        Whether events are mixed; they always are.
    branch
        Name of the tree.
    identifier
        Branches that tell events apart; no inputs.
    selected_branches, exclude_branches
        Which branches are inputs, or are not; the first wins.
    redirector
        Where files are looked for that are not on this machine; None is the original's default.
    verbose
        0 draws no bars.
    split, nan, hist
        Read by the original, or documented, and never used; they change nothing here either.
    training, metrics
        Of a fork: epochs over all events, and figures on the test part; what happens here anyway.
    """

    nevts: int = -1
    chunk_size: int | None = None
    batch_size: int = 50
    epochs: int = 10
    shuffle: bool = True
    branch: str | None = None
    identifier: tuple[str, ...] = IDENTIFIER
    selected_branches: tuple[str, ...] = ()
    exclude_branches: tuple[str, ...] = ()
    redirector: str | None = None
    verbose: int | None = None
    split: Any = None
    nan: Any = None
    hist: Any = None
    training: str | None = None
    metrics: bool | dict[str, Any] | None = None


def read_params(path: Path) -> tuple[Params, tuple[str, ...]]:
    """Read and check a ``params.json``.

    Returns
    -------
    What it says, and the keys that stand in it.

    Raises
    ------
    ConfigError
        It cannot be read, or a key is unknown, of a wrong type, or cannot be honoured; every problem at once.
    """
    written = read_json(path)
    if not isinstance(written, Mapping):
        raise ConfigError([f"wants a mapping of keys such as epochs; found {_short(written)}"], where=str(path))
    problems: list[str] = []
    params = convert(_spelled_out(written, path.parent, problems), Params, "", problems)
    if params is not INVALID:
        problems.extend(_refusals(params))
    if problems:
        raise ConfigError(problems, where=str(path))
    return params, tuple(written)


def _spelled_out(written: Mapping[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """Lists of branches from what the original takes for one; nothing for what says nothing."""
    plain = {key: value for key, value in written.items() if value is not None}
    for key in ("identifier", "selected_branches", "exclude_branches"):
        if isinstance(plain.get(key), str):
            plain[key] = _names(plain[key], key, folder, problems)
    if not plain.get("identifier", True):
        del plain["identifier"]
    return plain


def _names(text: str, key: str, folder: Path, problems: list[str]) -> list[str]:
    """Names in a text file, one a line, or between commas."""
    file = next((one for one in (Path(text), folder / text) if text and one.is_file()), None)
    if file is None:
        names = text.split(",")
    else:
        try:
            names = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{key}: {file} cannot be read: {error}")
            return []
    return [name.strip() for name in names if name.strip() and not name.startswith("#")]


def _refusals(params: Params) -> Iterator[str]:
    if params.nevts != -1 and params.nevts < 1:
        yield f"nevts: {params.nevts} is no number of events; wants -1 for all, or 1 and more"
    if params.chunk_size is not None and params.chunk_size != -1 and params.chunk_size < 1:
        yield f"chunk_size: {params.chunk_size} is no number of events; wants -1 for all, or 1 and more"
    for key in ("batch_size", "epochs"):
        if getattr(params, key) < 1:
            yield f"{key}: {getattr(params, key)} is below 1"
    if not params.shuffle:
        yield (
            "shuffle: false cannot be had: events are always mixed, so that nothing is learned from one file after the "
            "other; write true, or leave it out (here: training.shuffle: window, over training.shuffle_window events)"
        )
    if params.verbose is not None and params.verbose not in (0, 1, 2):
        yield f"verbose: {params.verbose} is none of 0, 1, 2 (here: --no-progress, --progress)"
    if params.training not in (None, "standard"):
        yield (
            f"training: '{params.training}' cannot be had; every epoch goes over all events, which is 'standard' "
            "(here: training.epochs)"
        )
    if isinstance(params.metrics, dict):
        known = set(params.metrics) - {"threshold"}
        told = f"metrics.{sorted(known)[0]}: unknown key" if known else "metrics.threshold: cannot be set"
        yield f"{told}; write true: 'mlaas4hep evaluate' gives figures at all thresholds (ROC, significance)"


def read_json(path: Path) -> Any:
    """A JSON file of the user.

    Raises
    ------
    ConfigError
        It cannot be read, or is not JSON; with the place.
    """
    try:
        data = path.read_bytes()
        if len(data) > _MAX_BYTES:
            raise ConfigError([f"has {len(data)} bytes; at most {_MAX_BYTES} are read"], where=str(path))
        return json.loads(data)
    except FileNotFoundError as error:
        raise ConfigError([f"does not exist{nearest_file(path)}"], where=str(path)) from error
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"is not JSON: {error}"], where=str(path)) from error


class Specs(msgspec.Struct, frozen=True):
    """What is used of a specs file: dimensions of jagged branches, and which branches there are."""

    jdim: dict[str, int] = {}
    fkeys: tuple[str, ...] = ()
    jkeys: tuple[str, ...] = ()


def read_specs(path: Path) -> Specs:
    """Read a specs file of the original, such as ``global-specs.json``.

    Raises
    ------
    ConfigError
        It cannot be read, or is none.
    """
    written = read_json(path)
    wanted = ("jdim", "fkeys", "jkeys")
    if not isinstance(written, Mapping) or any(key not in written for key in wanted):
        found = ", ".join(map(str, written)) if isinstance(written, Mapping) else _short(written)
        raise ConfigError([f"is no specs file: wants jdim, fkeys, jkeys; found {found or 'nothing'}"], where=str(path))
    problems: list[str] = []
    specs = convert({key: written[key] for key in wanted}, Specs, "", problems)
    if specs is not INVALID:
        problems += [f"jdim.{name}: {dim} is no length" for name, dim in specs.jdim.items() if dim < 0]
        problems += [f"jdim: has no '{name}', which is among jkeys" for name in specs.jkeys if name not in specs.jdim]
    if problems:
        raise ConfigError(problems, where=str(path))
    assert isinstance(specs, Specs)
    return specs


def read_lines(path: Path, option: str) -> tuple[str, ...]:
    """Lines of a text file; empty ones and those that begin with # are left out.

    Raises
    ------
    ConfigError
        It cannot be read, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError([f"{option}: does not exist{nearest_file(path)}"], where=str(path)) from error
    except OSError as error:
        raise ConfigError([f"{option}: cannot be read: {error.strerror}"], where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{option}: is not a text file: {error.reason}"], where=str(path)) from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not lines:
        raise ConfigError([f"{option}: has no line in it"], where=str(path))
    return lines


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
