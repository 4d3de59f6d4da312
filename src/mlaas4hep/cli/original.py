"""``mlaas4hep train --files ...``: the original's workflow, its options and files, turned into a config and told.

Invariant: what the files say reaches the training through a config alone, the one that ``--show-config`` prints, and
``--max-events``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlaas4hep.errors import ConfigError, UserError, nearest

if TYPE_CHECKING:
    from mlaas4hep.config import Config
    from mlaas4hep.config.original import Params
    from mlaas4hep.data.original import Workflow

WHERE = "the original's workflow"
_PARAMS = Path("params.json")
_SPECS = Path("global-specs.json")
_FRAMEWORK_FILES = (".h5", ".keras", ".pt", ".pth", ".pkl", ".joblib")
_NEEDED = {
    "files": "a text file with a path a line, or paths between commas",
    "labels": "a text file with a label a line, labels between commas, or the name of a column",
    "model": "a Python file with model(idim)",
}


@dataclass(frozen=True)
class Options:
    """The original's options, as they were given."""

    files: str | None = None
    labels: str | None = None
    model: str | None = None
    params: Path | None = None
    preproc: str | None = None
    specs: Path | None = None
    dtype: str | None = None
    fout: Path | None = None

    def given(self) -> list[str]:
        """Those that are not left out, as they stand on the command line."""
        return [f"--{name}={value}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Asked:
    """What is to be trained.

    Parameters
    ----------
    config
        Read from a file, or made from a workflow of the original.
    max_events
        The limit that ``nevts`` sets; None where there is none.
    progress
        What ``verbose`` says of bars; None where nothing is said.
    fout
        Where the model goes beside the run.
    """

    config: Config
    max_events: int | None = None
    progress: bool | None = None
    fout: Path | None = None


def read_asked(
    config: Path | None, options: Options, overrides: Sequence[str], *, show_config: bool = False
) -> Asked | None:
    """A config as it stands, or one made from the original's files; None where that was only to be shown.

    Raises
    ------
    UserError
        Whatever is wrong with the files.
    click.UsageError
        There is neither a config nor a whole workflow, or both.
    """
    from mlaas4hep.config import parse_config, read_config

    _require_one(config, options, show_config=show_config)
    if config is not None:
        return Asked(read_config(config, overrides=overrides))
    _require_place(options.fout)
    workflow, text, lines = _in_our_words(options, overrides)
    read = parse_config(text, where=WHERE, folder=Path.cwd())
    if show_config:
        click.echo(text, nl=False)
        return None
    click.echo("\n".join(lines), err=True)
    params = workflow.params
    bars = False if params.verbose == 0 else None
    return Asked(read, None if params.nevts == -1 else params.nevts, bars, options.fout)


def write_model(bundle: Path, target: Path) -> None:
    """Where ``--fout`` says: the graph as ``.onnx``, or the folder of the bundle.

    Raises
    ------
    UserError
        It cannot be written; the model is in the run all the same.
    """
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".onnx":
            shutil.copyfile(bundle / "model.onnx", target)
        else:
            shutil.copytree(bundle.parent, target)
    except OSError as error:
        raise UserError(f"--fout {target}: cannot be written: {error.strerror}; the model is in {bundle}") from error
    click.echo(f"written: {target}", err=True)


def _require_place(target: Path | None) -> None:
    """Before hours of training: that the model can be written where it is asked for."""
    if target is None:
        return
    if os.path.lexists(target):
        raise UserError(f"--fout {target}: is there already; nothing is written over. Remove it, or give another")
    if target.suffix in _FRAMEWORK_FILES:
        raise UserError(
            f"--fout {target}: files of one framework are not written; give a name without {target.suffix} for the "
            "bundle, which holds the weights too (native/), or one with .onnx for the graph"
        )


def _require_one(config: Path | None, options: Options, *, show_config: bool) -> None:
    given = options.given()
    if config is not None and (given or show_config):
        raise click.UsageError(
            f"{config} and {', '.join(given) or '--show-config'}: give a config, or the files of the original; a "
            "config says with keys of its own what those options say, and --show-config prints one"
        )
    if config is not None:
        return
    if not given:
        raise click.UsageError("Missing argument 'CONFIG' (or, as in the original, --files, --labels and --model)")
    for name, what in _NEEDED.items():
        if not getattr(options, name):
            raise click.UsageError(f"{', '.join(given)}: wants --{name} as well, {what}")


def _in_our_words(options: Options, overrides: Sequence[str]) -> tuple[Workflow, str, tuple[str, ...]]:
    """The workflow, the text of its config, and what became of its keys."""
    import yaml

    from mlaas4hep.config.text import override_key
    from mlaas4hep.data.original import translate

    workflow, keys = _workflow(options)
    found = translate(workflow)
    for one in overrides:
        override_key(found.document, one, WHERE)
    plain = yaml.safe_dump(found.document, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    lines = (*_became(workflow.params, keys), *found.notes, *_of_specs(options))
    head = "".join(f"# {line}\n" for line in (f"Made from {' '.join(options.given())} of the original.", *lines))
    return workflow, f"{head}{plain}", lines


def _workflow(options: Options) -> tuple[Workflow, tuple[str, ...]]:
    from mlaas4hep.config.original import DTYPES, Params, read_params, read_specs
    from mlaas4hep.data.original import Workflow

    assert options.files is not None
    assert options.labels is not None
    assert options.model is not None
    there = options.params is not None or _PARAMS.exists()
    params, keys = read_params(options.params or _PARAMS) if there else (Params(), ())
    if options.dtype is not None and options.dtype not in DTYPES:
        raise ConfigError([f"'{options.dtype}' is none of {', '.join(DTYPES)}"], where="--dtype")
    files = _files(options.files)
    labels = _labels(options.labels)
    if not isinstance(labels, str) and len(labels) != len(files):
        raise ConfigError([f"{len(labels)} labels for {len(files)} files; wants one a file"], where="--labels")
    model = _module(options.model, "--model")
    preproc = None if options.preproc is None else _preproc(options.preproc)
    return (
        Workflow(
            files=files,
            labels=labels,
            model=model,
            params=params,
            preproc=preproc,
            preprocessing=None if preproc is None else _preprocessing(preproc),
            specs=None if options.specs is None else read_specs(options.specs),
            dtype=options.dtype,
            name=_name(options.fout or model),
        ),
        keys,
    )


def _files(given: str) -> tuple[str, ...]:
    """Lines of a text file, or what stands between commas; a file of events is itself."""
    from mlaas4hep.config.original import read_lines
    from mlaas4hep.data.places.endings import has_known_ending

    if os.path.isfile(given) and not has_known_ending(given):
        return read_lines(Path(given), "--files")
    if "," not in given and not has_known_ending(given) and "://" not in given:
        beside = [one.name for one in (Path(given).parent).glob("*.txt")]
        raise ConfigError([f"'{given}' does not exist{nearest(Path(given).name, beside)}"], where="--files")
    return tuple(one.strip() for one in given.split(",") if one.strip())


def _labels(given: str) -> tuple[str, ...] | str:
    """Lines of a text file, what stands between commas, or the name of a column."""
    from mlaas4hep.config.original import read_lines

    if os.path.isfile(given):
        return read_lines(Path(given), "--labels")
    if "," in given:
        return tuple(one.strip() for one in given.split(","))
    return given


def _module(given: str, option: str) -> Path:
    """A Python file by path, or as a module on Python's path, which is how the original finds it."""
    name = given if given.endswith(".py") else f"{given.replace('.', '/')}.py"
    folders = [Path(), *(Path(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one)]
    for folder in [*folders, *(Path(one) for one in sys.path)]:
        if (folder / name).is_file():
            return folder / name
    beside = [one.name for one in (Path(name).parent).glob("*.py")]
    raise ConfigError(
        [f"'{given}' does not exist, here or on PYTHONPATH{nearest(Path(name).name, beside)}"], where=option
    )


def _preproc(given: str) -> Path:
    if not given.endswith(".json"):
        return _module(given, "--preproc")
    if not Path(given).is_file():
        beside = [one.name for one in Path(given).parent.glob("*.json")]
        raise ConfigError([f"'{given}' does not exist{nearest(Path(given).name, beside)}"], where="--preproc")
    return Path(given)


def _preprocessing(path: Path) -> Any:
    from mlaas4hep.config.preproc import read_preproc
    from mlaas4hep.data.hook import RecordHook

    return read_preproc(path) if path.suffix == ".json" else RecordHook.load(str(path))


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.name.partition(".")[0]).lstrip("_.-") or "model"


def _became(params: Params, keys: Sequence[str]) -> Iterator[str]:
    """Each key that was given, and its word here; those that were not given have the original's values."""
    words = {
        "nevts": f"--max-events {params.nevts}" if params.nevts != -1 else "all events, as without --max-events",
        "chunk_size": "training.shuffle_window"
        if params.chunk_size != -1
        else "training.shuffle_window, left as it is: all at once is shuffle: exact, with cache:",
        "batch_size": "training.batch_size",
        "epochs": "training.epochs, over all events; there over each chunk. Each event is learned from as often",
        "shuffle": "training.shuffle: window",
        "branch": "tree",
        "identifier": "is left out of the inputs",
        "selected_branches": "inputs" if params.selected_branches else "inputs: all",
        "exclude_branches": "is left out of the inputs",
        "redirector": "redirector" if params.redirector else "redirector: none",
        "verbose": "--no-progress" if params.verbose == 0 else "bars on a terminal, as without it",
        "split": "changes nothing, as there: 64 % train, 16 % validate, 20 % test (split.test, split.validation)",
        "nan": "changes nothing, as there: padded values are 0 once scaled, and told by masks",
        "hist": "changes nothing, as there: pictures are in report.html, of all columns by 'inspect --stats -o x.html'",
        "training": "epochs over all events",
        "metrics": "'mlaas4hep evaluate', or --evaluate",
    }
    yield from (f"{key}: {_shown(getattr(params, key))} -> {words[key]}" for key in keys)
    absent = [key for key in ("epochs", "batch_size") if key not in keys]
    yield from (f"{key}: not given -> {getattr(params, key)}, as in the original" for key in absent)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value[:6]) + (", ..." if len(value) > 6 else "") or "none"
    return json.dumps(value)


def _of_specs(options: Options) -> Iterator[str]:
    if options.specs is not None:
        yield (
            f"--specs {options.specs}: its branches and dimensions are taken; minv and maxv are not: scales come from "
            "the training part, and go with the model"
        )
    elif _SPECS.exists():
        yield f"{_SPECS}: is not read unless --specs names it; the files are looked into anew"
