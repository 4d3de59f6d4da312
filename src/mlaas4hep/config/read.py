"""Read a config: text to plain values, to a typed document, checked as a whole, put together.

Invariant: either the whole file is understood, or one `ConfigError` lists every problem with its path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.arguments import names_of, path_of, require
from mlaas4hep.config.checks import MODEL_NAME, check
from mlaas4hep.config.document import Document, spell_out, take_misplaced
from mlaas4hep.config.labels import Labels
from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.config.on_error import OnError
from mlaas4hep.config.preproc import merge_preproc, read_preproc
from mlaas4hep.config.search import find_dials
from mlaas4hep.config.text import load_yaml, override_key
from mlaas4hep.config.values import Cache, Config, Model
from mlaas4hep.errors import ConfigError
from mlaas4hep.spec.features import FeatureSpec, canonical_groups, order_classes
from mlaas4hep.typed import INVALID, convert


def read_config(path: str | Path, *, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config.

    Parameters
    ----------
    path
        The file. Relative paths in it are taken from its folder; ``~`` and ``$NAME`` are filled in.
    overrides
        ``key=value`` pairs with dotted keys, such as ``training.epochs=5``; the value is read as YAML.

    Raises
    ------
    ConfigError
        With all problems at once.
    """
    return parse_config(_text(path), where=str(path), folder=Path(path).parent, overrides=overrides)


def read_document(path: str | Path, *, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """The plain values of a config with `overrides`, whatever they mean; parameters and errors as of `read_config`."""
    document = load_yaml(_text(path), str(path))
    for override in names_of(overrides, "overrides"):
        override_key(document, override, str(path))
    return document


def _text(path: str | Path) -> str:
    path = path_of(path, "config")
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError([f"does not exist{nearest_file(Path(path))}"], where=str(path)) from error
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"is not a text file: {error.reason} at byte {error.start}"], where=str(path)) from error


def parse_config(
    text: str, *, where: str = "config", folder: Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Like `read_config`, from text; ``folder`` is where relative paths start (default: the working directory)."""
    require(text, str, "text", hint="parse_document takes plain values, read_config a file")
    document = load_yaml(text, where)
    for override in names_of(overrides, "overrides"):
        override_key(document, override, where)
    return parse_document(document, where=where, folder=folder)


def parse_document(document: Mapping[Any, Any], *, where: str = "config", folder: Path | None = None) -> Config:
    """Like `parse_config`, from plain values."""
    written, problems = _with_preproc(spell_out(document), folder or Path())
    _refuse_search(written, problems, where)
    problems.extend(take_misplaced(written))
    typed = convert(written, Document, "", problems)
    if typed is not INVALID:
        problems.extend(check(typed, written))
    if problems:
        raise ConfigError([problem.replace(".event.vars", ".event") for problem in problems], where=where)
    return _assemble(typed, where, folder or Path())


def _refuse_search(written: Mapping[Any, Any], problems: list[str], where: str) -> None:
    """Ranges of a search are no values: each is told, and none is a second mistake of its type."""
    dials = find_dials(written, problems)
    if not dials:
        return
    lines = [f"{name}: {dial} is a range to be searched: it stands for no single value" for name, dial in dials.items()]
    hint = f"search it with 'mlaas4hep tune {where}', or give one value, as in --set {next(iter(dials))}=VALUE"
    raise ConfigError([*problems, *lines[:-1], f"{lines[-1]}; {hint}"], where=where)


def _assemble(document: Document, where: str, folder: Path) -> Config:
    samples = {
        name: msgspec.structs.replace(
            sample,
            files=tuple(_files_from(one, folder) for one in sample.files),
            friends=tuple(_from_folder(file, folder) for file in sample.friends),
        )
        for name, sample in document.samples.items()
    }
    features = FeatureSpec(
        inputs=canonical_groups(document.groups()),
        preselection=document.preselection,
        new_variables=document.new_variables,
        classes=_classes(document),
        weights=document.weights,
        split=document.split,
        variations=document.variations,
        observers=document.observers,
        missing=document.missing,
        targets=document.targets,
    )
    return Config(
        name=document.name or (Path(where).stem if MODEL_NAME.match(Path(where).stem) else "model"),
        samples=samples,
        features=features,
        model=_model(document.model, folder),
        training=document.training,
        tree=document.tree,
        eras=document.eras,
        on_error=OnError.parse(document.on_error),
        cache=None if document.cache is None else _cache(document.cache, folder),
        path=where,
        preproc=_hook(document.preproc, folder),
        redirector=document.redirector,
        labels=_labels(document.labels, features.classes),
        tracking=document.tracking,
        duplicates=document.duplicates,
    )


def _with_preproc(written: dict[Any, Any], folder: Path) -> tuple[dict[Any, Any], list[str]]:
    """The config with what its ``preproc.json`` says, and what is wrong with that."""
    named = written.get("preproc")
    if not isinstance(named, str) or named.endswith(".py"):
        return written, []
    path = Path(_from_folder(named, folder))
    if not named.endswith(".json"):
        wanted = "a .json file (new_branch, flat_cut, jagged_cut) or a .py file with preprocessing(rec)"
        close = "" if path.exists() else nearest_file(path, any_ending=True)
        return written, [f"preproc: wants {wanted}; found '{named}'{close}"]
    try:
        return merge_preproc(written, read_preproc(path), f"preproc '{named}'")
    except ConfigError as error:
        return written, [f"preproc: {error.where}: {problem}" for problem in error.problems]


def _hook(named: str | None, folder: Path) -> str | None:
    """Path of the user's Python file; a ``preproc.json`` has been merged already."""
    return _from_folder(named, folder) if named is not None and named.endswith(".py") else None


def _from_folder(file: str, folder: Path) -> str:
    file = os.path.expandvars(file)
    return file if "://" in file else str(folder / Path(file).expanduser())


def _files_from(one: str | tuple[str, ...], folder: Path) -> str | tuple[str, ...]:
    """A path, or replicas."""
    return _from_folder(one, folder) if isinstance(one, str) else tuple(_from_folder(file, folder) for file in one)


def _cache(cache: Cache, folder: Path) -> Cache:
    return msgspec.structs.replace(cache, path=_from_folder(cache.path, folder))


def _classes(document: Document) -> tuple[str, ...]:
    named = document.labels.classes
    if named and not isinstance(named, Mapping):
        return named
    labels = document.labels_of_samples()
    ordered = order_classes(labels)
    signal = document.labels.signal
    return ordered if signal is None else (*(label for label in ordered if label != signal), signal)


def _labels(labels: Labels, classes: tuple[str, ...]) -> Labels:
    """With the order of the classes spelled out, where they are not given by values."""
    if isinstance(labels.classes, Mapping):
        return labels
    return msgspec.structs.replace(labels, classes=classes, signal=None)


def _model(model: Any, folder: Path) -> Model:
    if isinstance(model, str):
        return Model(name=model)
    own = {key: model[key] for key in ("name", "backend") if key in model}
    file = _from_folder(model["file"], folder) if "file" in model else None
    dials = {str(key): value for key, value in model.items() if key not in ("name", "backend", "file")}
    return Model(**own, file=file, dials=dials)
