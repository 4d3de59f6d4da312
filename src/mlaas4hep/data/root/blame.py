"""Whose fault it is that a ROOT file cannot be read.

Invariant: what damaged bytes provoke in a library below becomes one `DataError` with the path; a mistake of this
project's own lines does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlaas4hep.errors import DataError, MLaaSError


class DamageError(ValueError):
    """Bytes that cannot be what they say they are; whoever knows the place makes it a `DataError` that names it."""


@contextmanager
def blamed(path: str, what: str = "") -> Iterator[None]:
    """Turn whatever a damaged file provokes below into one `DataError` that names the file.

    The list of what uproot, awkward and the decompressors raise on damaged bytes has no end, so all of it is caught,
    but not what says nothing of the file: no memory, or a mistake in this project's own lines.
    """
    try:
        yield
    except (MLaaSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make uproot fail in ways that share no base class
        if isinstance(error, _OWN_MISTAKES) and _is_raised_here(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        kind = "" if isinstance(error, DamageError) else f" ({type(error).__name__})"
        raise DataError(f"{path}{what}: cannot be read: {reason}{kind}") from error


_OWN_MISTAKES = (AssertionError, NameError, AttributeError, NotImplementedError)


def _is_raised_here(error: BaseException) -> bool:
    """Whether the line that raised is one of this package, not of a library below."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("mlaas4hep.")
