"""What the kinds of ``mlaas4hep inspect`` share: the files that are meant, and what is told of those left out.

Invariant: a file that was named and cannot be read is told on standard error, and ends in an exit status that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click

from mlaas4hep.cli import EXIT_USER
from mlaas4hep.errors import told_once


def located(files: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Files behind names and wild cards, and why nothing is found behind the others.

    Raises
    ------
    DataError
        Nothing is found at all.
    """
    from mlaas4hep.data.locate import search
    from mlaas4hep.errors import DataError

    found, problems = search(files)
    if problems and not found:
        raise DataError("\n".join(problems))
    refused = dict(line.partition(": ")[::2] for line in problems)
    return tuple(one.path for one in found), refused


def tell(lines: Iterable[str], *, words: str = "left out, cannot be read") -> None:
    """What was left out, on standard error."""
    for line in lines:
        click.echo(f"{words}: {line}", err=True)


def tell_others(left_out: Mapping[str, str]) -> None:
    """Good files that have not the tree that is looked at, on standard error; no mistake."""
    tell(told_once((path, f": {why}") for path, why in left_out.items()), words="left out")


def end(refused: Mapping[str, str], *others: str) -> None:
    """Tell of files that were named and give nothing; the exit status is that of a mistake, if there are any."""
    from mlaas4hep.data.inspect import is_empty, refusals

    tell([*refusals({path: why for path, why in refused.items() if not is_empty(why)}), *others])
    tell(refusals({path: why for path, why in refused.items() if is_empty(why)}), words="left out, empty")
    if refused or others:
        raise click.exceptions.Exit(EXIT_USER)
