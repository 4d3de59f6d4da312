"""Errors inside a user's own model file, told with the file and the line where they arose.

Invariant: what a user's code raises reaches the user as one `ModelError`, with the original as its cause.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas4hep.errors import ModelError


@contextmanager
def told_with(where: str, action: str) -> Iterator[None]:
    """Turn any exception into a `ModelError` that starts with ``where`` and, if it passed through that file, the line.

    Parameters
    ----------
    where
        Path of the user's file, or another name for what runs.
    action
        What was being done, such as ``model(idim) failed``.
    """
    try:
        yield
    except ModelError as error:
        if str(error).startswith(where):
            raise
        raise ModelError(f"{where}: {error}") from error
    except Exception as error:  # whatever a user's code raises
        text = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{place(where, error)}: {action}: {type(error).__name__}: {text}") from error


def place(where: str, error: BaseException) -> str:
    """The file with the last of its lines that the exception passed through."""
    if isinstance(error, SyntaxError) and error.filename == where:
        return f"{where}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
    return f"{where}, line {lines[-1]}" if lines else where
