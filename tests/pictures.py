"""Pictures that are made but not painted: painting them is most of the time of a short training.

Invariant: what is drawn is made of the same artists from the same figures; only the file has no points in it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.examples import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# One white point.
_HEAD, _POINT = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\xff")
BLANK = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", _HEAD) + _chunk(b"IDAT", _POINT) + _chunk(b"IEND", b"")


@contextmanager
def plain(path: Path, size: tuple[float, float], *_: object, **__: object) -> Iterator[Figure]:
    """In place of `mlaas4hep.report.style._figure`; under `make check` the picture is painted, small and plainly."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    yield figure
    if ALL:
        figure.savefig(path, dpi=20)
    else:
        path.write_bytes(BLANK)
