"""What every place keeps; far ones that need a server are in ``tests/integration/test_places.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mlaas4hep.testing import PlaceContract
from tests.fault_server import FaultServer, fault_server

CONTENT = np.random.default_rng(1).bytes(900_001)


class Local(PlaceContract):
    @pytest.fixture
    def content(self) -> bytes:
        return CONTENT

    @pytest.fixture
    def file(self, tmp_path: Path, content: bytes) -> Path:
        (tmp_path / "a.root").write_bytes(content)
        return tmp_path / "a.root"

    @pytest.fixture
    def rewrite(self, file: Path) -> Callable[[bytes], object]:
        return file.write_bytes


class TestLocalFile(Local):
    @pytest.fixture
    def address(self, file: Path) -> str:
        return str(file)


class TestFsspecMemory(Local):
    @pytest.fixture
    def address(self, content: bytes) -> str:
        fsspec.filesystem("memory").pipe_file("/folder/a.root", content)
        return "memory://folder/a.root"

    @pytest.fixture
    def rewrite(self) -> Callable[[bytes], object]:
        return lambda data: fsspec.filesystem("memory").pipe_file("/folder/a.root", data)


class TestOwnHttpServer(Local):
    @pytest.fixture
    def server(self, file: Path) -> Iterator[FaultServer]:
        with fault_server(file.parent) as server:
            yield server

    @pytest.fixture
    def address(self, server: FaultServer) -> str:
        return f"{server.url}/a.root"

    @pytest.fixture
    def rewrite(self, file: Path, server: FaultServer) -> Callable[[bytes], object]:
        def put(data: bytes) -> None:
            file.write_bytes(data)
            server.forget()

        return put


class TestReplicasOfWhichOneIsMissing(Local):
    """A local copy that is not there, then one that is."""

    @pytest.fixture
    def address(self, file: Path) -> str:
        return str(file)

    def place(self, address: str):  # type: ignore[no-untyped-def]
        from mlaas4hep.data.places import open_place

        return open_place(address, replicas=[f"{address}-elsewhere", address])
