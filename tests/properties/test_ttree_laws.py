"""TTrees: whatever is written, in any codec and any cut, is read with its bits; damage is refused or harmless."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.testing import same_column
from tests.examples import examples

CODECS: dict[str, Any] = {
    "none": None,
    "zlib": uproot.ZLIB(1),
    "lz4": uproot.LZ4(1),
    "zstd": uproot.ZSTD(1),
    "lzma": uproot.LZMA(1),
}
NUMBERS = ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, Column], list[int]]:
    """Columns of any kind, and how many entries each basket has."""
    parts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 0))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    entries = sum(parts)
    columns: dict[str, Column] = {}
    for number, dtype in enumerate(draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=5))):
        columns[f"flat{number}"] = _numbers(rng, dtype, entries)
    for number, dtypes in enumerate(draw(st.lists(st.lists(st.sampled_from(NUMBERS), max_size=3), max_size=2))):
        counts = rng.integers(0, 5, entries)
        for member, dtype in enumerate(dtypes):
            columns[f"List{number}_{member}"] = Jagged.from_counts(counts, _numbers(rng, dtype, int(counts.sum())))
    return columns, parts


def _numbers(rng: np.random.Generator, dtype: str, length: int) -> Any:
    if dtype == "bool":
        return rng.integers(0, 2, length).astype(np.bool_)
    found = np.frombuffer(rng.bytes(length * np.dtype(dtype).itemsize), dtype)
    return np.where(rng.random(length) < 0.5, found, found[:1] if length else found)  # some repeat, so codecs compress


def _write(path: Path, columns: dict[str, Column], parts: list[int], codec: Any) -> None:
    import awkward as ak

    types = {name: f"var * {one.dtype.name}" if isinstance(one, Jagged) else one.dtype for name, one in columns.items()}
    with uproot.recreate(path, compression=codec) as file:
        tree = file.mktree("t", types, counter_name=lambda name: f"n{name.partition('_')[0]}")
        start = 0
        for entries in parts:
            written: dict[str, Any] = {}
            for name, column in columns.items():
                part = column[start : start + entries]
                if isinstance(part, Jagged):
                    values = ak.contents.NumpyArray(part.values)
                    written[name] = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(part.offsets), values))
                    written[f"n{name.partition('_')[0]}"] = part.counts.astype(np.int32)
                else:
                    written[name] = part
            tree.extend(written)
            start += entries


@pytest.mark.parametrize("codec", CODECS)
@given(tree=trees(), data=st.data())
@settings(max_examples=examples(15), deadline=None)
def test_what_was_written_is_read_by_our_code_and_by_uproot(
    codec: str, tree: tuple[dict[str, Column], list[int]], data: st.DataObject
) -> None:
    columns, parts = tree
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.root")
        _write(path, columns, parts, CODECS[codec])
        with open_source(str(path)) as source:
            assert isinstance(source, TTreeSource)
            assert source.num_entries == sum(parts)
            for _ in range(3):
                start = data.draw(st.integers(0, sum(parts)))
                stop = data.draw(st.integers(start, sum(parts)))
                own, others = (
                    source.read(list(columns), start, stop),
                    source._read_by_uproot(list(columns), start, stop),
                )
                for name, column in columns.items():
                    assert same_column(own[name], column[start:stop]), name
                    assert same_column(others[name], column[start:stop]), name


@pytest.mark.parametrize("codec", ["zlib", "lz4", "lzma"])
@given(tree=trees(), data=st.data())
@settings(max_examples=examples(25), deadline=None)
def test_a_damaged_basket_is_refused_by_name_or_harmless(
    codec: str, tree: tuple[dict[str, Column], list[int]], data: st.DataObject
) -> None:
    """Of baskets that are compressed with a checksum: what is stored as it is can change unseen."""
    columns, parts = tree
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.root")
        _write(path, columns, parts, CODECS[codec])
        with open_source(str(path)) as source:
            assert isinstance(source, TTreeSource)
            table = source.table
        baskets = [
            (branch, number)
            for branch in table.branches.values()
            for number in range(len(branch.seeks))
            if branch.path in columns and _is_compressed(path, branch, number)
        ]
        if not baskets:
            return
        branch, number = data.draw(st.sampled_from(baskets))
        stored = bytearray(path.read_bytes())
        place = int(branch.seeks[number]) + data.draw(st.integers(0, int(branch.stored[number]) - 1))
        stored[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(stored)
        try:
            with open_source(str(path)) as source:
                read = source.read(list(columns), 0, sum(parts))
        except DataError as error:
            named = f"branch '{branch.path}', basket {number}" in str(error)
        else:
            named = all(same_column(read[name], column) for name, column in columns.items())
        assert named


def _is_compressed(path: Path, branch: Any, number: int) -> bool:
    head = path.read_bytes()[int(branch.seeks[number]) :][:16]
    length, size, keylen = (int.from_bytes(head[start:stop], "big") for start, stop in ((0, 4), (6, 10), (14, 16)))
    return length - keylen != size
