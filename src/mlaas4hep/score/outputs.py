"""Where outputs lie and what they are called: one for each input, by a template.

Invariant: no two inputs share an output, and no output is an input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlaas4hep.config.addresses import is_address, shown
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.locate import file_key
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.score.names import check_template

NAME = "{stem}_scores"
"""Of an output, before its ending."""
FIELDS = ("stem", "folder", "tree", "number")
_SUFFIXES = (".root", ".parquet")
_ENDINGS = re.compile(r"\.(root|parquet|avro|csv|tsv|json|jsonl|ndjson|gz|zst|bz2|xz)\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Output:
    """One output and its input."""

    path: str
    input: FileEntry

    @property
    def is_remote(self) -> bool:
        """Whether it is written here and then put elsewhere."""
        return is_address(self.path)

    @property
    def shown(self) -> str:
        """Its name without credentials."""
        return shown(self.path)


def outputs_of(
    files: Sequence[FileEntry], where: str, *, name: str = NAME, suffix: Callable[[FileEntry], str]
) -> tuple[Output, ...]:
    """An output for each input.

    Parameters
    ----------
    files
        The inputs.
    where
        A folder, or an address that stands for one; of one input also the output itself, told by its ending.
    name
        Template: ``{stem}`` of the input without its ending, ``{folder}`` that it lies in, ``{tree}``, ``{number}``.
    suffix
        How the name of the output of an input ends.

    Raises
    ------
    UserError
        Two inputs would have one output, an output would be an input, or ``where`` ends as no output does.
    """
    check_template(name, FIELDS, where="--name")
    where = where.removeprefix("file://")
    if _is_file(where):
        found: tuple[Output, ...] = (_only_output(files, where, suffix),)
    else:
        found = tuple(Output(_joined(where, _name(one, name) + suffix(one)), one) for one in files)
    _require_apart(found)
    return found


def _is_file(where: str) -> bool:
    """Whether a file is meant, by its ending, and no folder."""
    return base_of(where).endswith(_SUFFIXES) and not os.path.isdir(where)


def _only_output(files: Sequence[FileEntry], where: str, suffix: Callable[[FileEntry], str]) -> Output:
    if len(files) > 1:
        raise UserError(f"-o {where}: {len(files)} inputs have {len(files)} outputs; give a folder")
    [file] = files
    if not base_of(where).endswith(suffix(file)):
        asked = "--format parquet" if suffix(file) == ".root" else "--format ttree, rntuple or copy"
        raise UserError(f"-o {where}: the output is a {suffix(file)} file; {asked} would make it, or give a folder")
    return Output(where, file)


def friends_of(templates: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Friends of an input by templates: ``{stem}`` of its name, ``{folder}`` that it lies in.

    Raises
    ------
    UserError
        A template has another field.
    """
    for one in templates:
        check_template(one, ("folder", "stem"), where="--friend")

    def of(path: str) -> tuple[str, ...]:
        return tuple(one.format(stem=stem_of(path), folder=_folder(path)) for one in templates)

    return of


def _folder(path: str) -> str:
    """The folder that a file lies in, as a path or address."""
    return path.partition("?")[0].rpartition("/")[0] if is_address(path) else os.path.dirname(os.path.abspath(path))


def base_of(path: str) -> str:
    """Name of a file without folder, and without what follows the path in an address.

    Examples
    --------
    >>> base_of("https://host/a.root?token=x"), base_of("data/b?.root")
    ('a.root', 'b?.root')
    """
    return (path.partition("?")[0].rstrip("/") if is_address(path) else path).rpartition("/")[2]


def stem_of(path: str) -> str:
    """Name of a file without folder and endings.

    Examples
    --------
    >>> stem_of("root://host//store/ttH_1.root"), stem_of("a/b.v2.csv.gz")
    ('ttH_1', 'b.v2')
    """
    stem = base_of(path)
    while _ENDINGS.search(stem):
        stem = _ENDINGS.sub("", stem)
    return stem


def _name(file: FileEntry, template: str) -> str:
    folder = os.path.basename(_folder(file.path))
    tree = file.tree.replace("/", "_")
    made = template.format(stem=stem_of(file.path), folder=folder, tree=tree, number=file.number)
    if not made.strip("./") or ".." in made.split("/") or made.startswith("/"):
        raise UserError(f"--name '{template}': gives '{made}', which is no name of a file")
    return made


def _joined(where: str, name: str) -> str:
    if not is_address(where):
        return os.path.join(where, name)
    # What says who we are stands behind the path; keys of S3 may hold any letter.
    folder, mark, query = (where, "", "") if where.startswith("s3://") else where.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def _require_apart(outputs: Sequence[Output]) -> None:
    inputs = {file_key(one.input.path, one.input.replicas): one.input.path for one in outputs}
    friends = [path for one in outputs if one.input.opening is not None for path in one.input.opening.friends]
    inputs |= {file_key(one): one for one in friends}
    seen: dict[object, Output] = {}
    for one, key in _keys(outputs):
        if key in inputs:
            raise UserError(f"{one.shown}: would be written over the input {inputs[key]}; choose another -o or --name")
        other = seen.setdefault(key, one)
        if other is not one:
            raise UserError(
                f"{other.input.path} and {one.input.path} would both be written to {one.shown}; give --name with what "
                "tells them apart, as '{folder}_{stem}' or '{stem}_{number}'"
            )


def _keys(outputs: Sequence[Output]) -> Iterator[tuple[Output, object]]:
    for one in outputs:
        try:
            yield one, file_key(one.path)
        except DataError:
            yield one, one.path
