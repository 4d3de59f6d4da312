"""uproot reads through a `Place`, like everything else here.

Invariant: what uproot asks for together is asked of the place together, so that a far place can answer it at once.
"""

from __future__ import annotations

from queue import Queue
from types import TracebackType
from typing import Any, Self

import numpy as np
import uproot
from uproot.source.chunk import Chunk, Source
from uproot.source.cursor import Cursor
from uproot.source.futures import TrivialFuture

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.codecs import inflate


class PlaceSource(Source):
    """uproot's view of a place, which outlives it."""

    def __init__(self, file_path: str, *, place: Place, **options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self._place = place
        self._num_bytes = place.size
        self._closed = False

    def chunk(self, start: int, stop: int) -> Chunk:
        """One range; shorter where the file ends, as uproot expects of its first read."""
        return self._chunks([(start, min(stop, self._place.size))])[0]

    def chunks(self, ranges: list[tuple[int, int]], notifications: Queue[Chunk]) -> list[Chunk]:
        """Several ranges at once."""
        chunks = self._chunks(ranges)
        for one in chunks:
            notifications.put(one)
        return chunks

    @property
    def closed(self) -> bool:
        """Whether it was left."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True

    def _chunks(self, ranges: list[tuple[int, int]]) -> list[Chunk]:
        self._num_requests += 1
        self._num_requested_chunks += len(ranges)
        self._num_requested_bytes += sum(stop - start for start, stop in ranges)
        filled = zip(ranges, self._place.read(ranges), strict=True)
        return [Chunk(self, start, stop, TrivialFuture(data)) for (start, stop), data in filled]


def open_root(place: Place) -> Any:
    """uproot's file over a place, without threads or caches of its own."""
    return uproot.open(
        {place.url: None}, handler=PlaceSource, place=place, use_threads=False, object_cache=None, array_cache=None
    )


def open_object(file: Any, name: str, place: Place) -> Any:
    """uproot's object of a name, inflated by our own code.

    uproot believes the length that a key announces: a damaged one costs it gigabytes and half a minute.

    Raises
    ------
    DamageError
        The key lies about its length or place, or the compressed bytes are damaged.
    """
    key = file.key(name)
    start, stored, size = int(key.data_cursor.index), int(key.data_compressed_bytes), int(key.data_uncompressed_bytes)
    if not 0 < start <= start + stored <= place.size:
        raise DamageError(f"it is announced at the bytes {start} to {start + stored}, but the file has {place.size}")
    if stored != size:
        data = np.frombuffer(inflate(place.read([(start, start + stored)])[0], size), np.uint8)
        found = Chunk.wrap(key.file.source, data), Cursor(0, origin=-int(key.fKeylen))
        key.get_uncompressed_chunk_cursor = lambda: (found[0], found[1].copy())
    return key.get()


def give_envelopes(ntuple: Any, place: Place) -> None:
    """Header and footer of an RNTuple, inflated by our own code; uproot parses them.

    Raises
    ------
    DamageError
        One is not in the file, or does not have the length that the anchor announces.
    """
    for name in ("Header", "Footer"):
        start, stored, size = (int(ntuple.member(f"f{what}{name}")) for what in ("Seek", "NBytes", "Len"))
        if not 0 < start <= start + stored <= place.size:
            what = f"its {name.lower()} is announced at the bytes {start} to {start + stored}"
            raise DamageError(f"{what}, but the file has {place.size}")
        if stored != size:
            data = np.frombuffer(inflate(place.read([(start, start + stored)])[0], size), np.uint8)
            setattr(ntuple, f"_{name.lower()}_chunk", Chunk.wrap(ntuple.file.source, data))
            setattr(ntuple, f"_{name.lower()}_cursor", Cursor(0))
            setattr(ntuple, f"_{name.lower()}_chunk_ready", True)
