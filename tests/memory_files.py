"""Files in memory, to look at what is read of them and to change single bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlaas4hep.data.places import Buffer
from mlaas4hep.data.root.layout import TTreeTable
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import open_source


class BytesPlace:
    """A file in memory that says what was read of it."""

    def __init__(self, data: bytes, url: str = "memory.root") -> None:
        self.data = bytearray(data)
        self.url, self.size, self.identity = url, len(data), url
        self.reads: list[list[tuple[int, int]]] = []

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        self.reads.append(list(ranges))
        return [bytes(self.data[start:stop]) for start, stop in ranges]

    def close(self) -> None:
        pass


def table_of(path: Path) -> TTreeTable:
    with open_source(str(path)) as source:
        assert isinstance(source, TTreeSource)
        return source.table


def in_memory(path: Path) -> tuple[BytesPlace, TTreeTable]:
    return BytesPlace(path.read_bytes()), table_of(path)
