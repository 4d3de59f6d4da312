"""What reading is measured against: uproot itself, the bare inflating, and the bare copying of rows.

`InflateOnly` does the least that any reader must: read the bytes of exactly the wanted branches, check the checksum
where the codec has one, inflate, and forget. Invariant: all look at the same branches and events as the stream.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cramjam
import numpy as np
import uproot
import xxhash
from isal import isal_zlib
from numpy.typing import NDArray

from benchmarks.events import TREE, Layout

_KEY = struct.Struct(">ihiIh")  # bytes stored, version, bytes inflated, date, length of the key
_BLOCK_HEADER = 9
_XXHASH_BYTES = 8


class RawUproot:
    """uproot's own iteration as its documentation shows it: a cluster a step, awkward arrays, one thread.

    Opened once, outside the timed part, as the stream's catalogue is.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._file = uproot.open(path, array_cache=None)
        self._tree = self._file[TREE]

    def read(self, _: int = 0) -> int:
        """Every column once; gives the number of events."""
        steps = self._tree.iterate(list(self._layout.branches), step_size=self._layout.cluster, library="ak")
        return sum(len(arrays) for arrays in steps)


class RawUprootTwice:
    """The same in two processes at once, each the whole file: what a second core adds on this machine.

    Two virtual processors that share one core, or memory that one of them exhausts, give less than twice as much.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        context = multiprocessing.get_context("spawn")
        self._asks = []
        for _ in range(2):
            ours, theirs = context.Pipe()
            context.Process(target=_read_when_asked, args=(theirs, path, layout), daemon=True).start()
            theirs.close()
            self._asks.append(ours)

    def read(self, number: int = 0) -> int:
        """Every column once in each; gives the number of events of both."""
        for one in self._asks:
            one.send(number)
        return sum(one.recv() for one in self._asks)


def _read_when_asked(asks: Connection, path: Path, layout: Layout) -> None:
    raw = RawUproot(path, layout)
    with suppress(EOFError):  # who asked is gone
        while True:
            asks.send(raw.read(asks.recv()))


@dataclass(frozen=True)
class _Basket:
    start: int  # in the file
    stored: int  # bytes there, key included


class InflateOnly:
    """Read and inflate exactly the wanted branches with a number of threads, and nothing else."""

    def __init__(self, path: Path, layout: Layout, *, threads: int) -> None:
        self._layout = layout
        self._file = path.open("rb", buffering=0)
        self._work = _baskets(path, layout)
        self._pool = ThreadPoolExecutor(threads)
        self._local = threading.local()

    def read(self, _: int = 0) -> int:
        """All clusters once; gives the number of events."""
        self.inflated = sum(self._pool.map(self._cluster, self._work))
        return self._layout.events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        self._file.close()

    def _cluster(self, baskets: Sequence[_Basket]) -> int:
        """Inflate one cluster, which lies in one piece; gives the bytes."""
        start, stop = baskets[0].start, max(one.start + one.stored for one in baskets)
        stored = self._buffer("stored", stop - start)
        got = os.preadv(self._file.fileno(), [stored], start)
        if got != stop - start:
            raise OSError(f"{self._file.name}: {got} bytes of {stop - start} at {start}")
        return sum(self._inflate(stored[one.start - start :][: one.stored]) for one in baskets)

    def _inflate(self, basket: memoryview) -> int:
        _, _, size, _, key = _KEY.unpack_from(basket)
        if len(basket) - key == size:
            return int(size)  # stored as it is
        found = 0
        for kind, block, length in _blocks(basket[key:]):
            found += _INFLATE[kind](block, length, self._buffer("inflated", length))
        if found != size:
            raise OSError(f"{self._file.name}: a basket of {size} bytes inflates to {found}")
        return found

    def _buffer(self, name: str, size: int) -> memoryview:
        """A buffer of this thread, used again and again: fresh pages would cost as much as the inflating."""
        held: NDArray[np.uint8] | None = getattr(self._local, name, None)
        if held is None or len(held) < size:
            held = np.empty(size + size // 4, dtype=np.uint8)
            setattr(self._local, name, held)
        return held.data[:size]


def random_rows(rows: int, width: int, *, batch: int = 1024) -> Callable[[int], int]:
    """Rows of an array in RAM in random order, ``batch`` at a time into one array that is used again.

    The limit of any exact order: float32 [rows, width] copied once by `numpy.take`.
    """
    rng = np.random.default_rng(0)
    table = rng.random((rows, width), dtype=np.float32)
    order = rng.permutation(rows)
    taken = np.empty((batch, width), dtype=np.float32)

    def read(_: int) -> int:
        for start in range(0, rows, batch):
            wanted = order[start : start + batch]
            # "clip" skips the second copy that numpy makes to be able to raise; all numbers are in range.
            np.take(table, wanted, axis=0, out=taken[: len(wanted)], mode="clip")
        return rows

    return read


def _baskets(path: Path, layout: Layout) -> list[list[_Basket]]:
    """By cluster, the baskets of all wanted branches in file order."""
    with uproot.open(path) as file:
        tree = file[TREE]
        members = [tree[name].member for name in layout.branches]
        return [
            sorted((_basket(member, number) for member in members), key=lambda one: one.start)
            for number in range(layout.clusters)
        ]


def _basket(member: Any, number: int) -> _Basket:
    return _Basket(int(member("fBasketSeek")[number]), int(member("fBasketBytes")[number]))


def _blocks(content: memoryview) -> Iterator[tuple[bytes, memoryview, int]]:
    """Compressed blocks of a basket: kind, bytes, and how many they become."""
    while len(content):
        stored = int.from_bytes(content[3:6], "little")
        length = int.from_bytes(content[6:9], "little")
        yield bytes(content[:2]), content[_BLOCK_HEADER : _BLOCK_HEADER + stored], length
        content = content[_BLOCK_HEADER + stored :]


def _zlib(block: memoryview, length: int, _: memoryview) -> int:
    return len(isal_zlib.decompress(block, bufsize=length))  # verifies Adler-32


def _lz4(block: memoryview, length: int, into: memoryview) -> int:
    if xxhash.xxh64_digest(block[_XXHASH_BYTES:]) != block[:_XXHASH_BYTES]:
        raise OSError("an LZ4 block does not have its checksum")
    return cramjam.lz4.decompress_block_into(block[_XXHASH_BYTES:], into, output_len=length)


def _zstd(block: memoryview, _: int, into: memoryview) -> int:
    return cramjam.zstd.decompress_into(block, into)  # ROOT's zstd frames carry no checksum


_INFLATE: dict[bytes, Callable[[memoryview, int, memoryview], int]] = {b"ZL": _zlib, b"L4": _lz4, b"ZS": _zstd}
