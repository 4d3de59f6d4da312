"""Where an output is written: under its name, or on this machine first where it lies elsewhere.

Invariant: an address gets the whole file or nothing; what is written here on its way is removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlaas4hep.data.places.put import has_file, put_file
from mlaas4hep.score.outputs import Output, base_of
from mlaas4hep.score.part import PartFile


@contextmanager
def destination(output: Output) -> Iterator[PartFile]:
    """A part that is the output once it is published, and the block is left without an error."""
    if not output.is_remote:
        with PartFile(Path(output.path)) as part:
            yield part
        return
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-score-") as folder:
        here = Path(folder) / base_of(output.path)
        with PartFile(here) as part:
            yield part
        put_file(here, output.path)


def exists(output: Output) -> bool:
    """Whether it is there already."""
    return has_file(output.path) if output.is_remote else Path(output.path).exists()
