from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uproot
from isal import isal_zlib

from benchmarks.events import CODECS, NARROW, TREE, WIDE, Layout, events_file, write_events
from benchmarks.limits import InflateOnly, RawUproot, random_rows

SMALL = replace(NARROW, cluster=500, clusters=3)


@pytest.fixture(params=CODECS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return events_file(tmp_path, SMALL, codec=request.param)


def test_inflating_touches_every_byte_of_the_wanted_branches_and_no_other(path: Path) -> None:
    with InflateOnly(path, SMALL, threads=2) as inflating:
        assert inflating.read() == SMALL.events
    with uproot.open(path) as file:
        wanted = 0
        for name in SMALL.branches:
            branch = file[TREE][name]
            keys = sum(branch.basket_key(number).fKeylen for number in range(branch.num_baskets))
            wanted += int(branch.member("fTotBytes")) - keys
    assert inflating.inflated == wanted


def test_raw_reading_gives_every_event(path: Path) -> None:
    assert RawUproot(path, SMALL).read() == SMALL.events


@pytest.mark.parametrize("codec", ["zlib", "lz4"])  # ROOT's zstd has no checksum
def test_a_flipped_bit_is_not_counted_as_read(tmp_path: Path, codec: str) -> None:
    path = events_file(tmp_path, SMALL, codec=codec)
    with uproot.open(path) as file:
        branch = file[TREE]["Jet_pt"]
        end = int(branch.member("fBasketSeek")[1]) + int(branch.member("fBasketBytes")[1])
    content = bytearray(path.read_bytes())
    content[end - 20] ^= 1
    path.write_bytes(content)
    with InflateOnly(path, SMALL, threads=1) as inflating, pytest.raises((OSError, isal_zlib.error)):
        inflating.read()


def test_random_rows_takes_each_row_once(tmp_path: Path) -> None:
    assert random_rows(1_000, 7, batch=64)(0) == 1_000


def test_the_files_are_as_described() -> None:
    assert (len(NARROW.flat), len(NARROW.lengths), NARROW.width, NARROW.events) == (25, 20, 100, 500_000)
    assert (len(WIDE.flat), len(WIDE.lengths), WIDE.width, WIDE.events) == (584, 346, 3_352, 20_000)
    jagged = sum(mean * len(WIDE.variables[name]) for name, (mean, _) in WIDE.collections.items())
    assert len(WIDE.flat) + len(WIDE.collections) + jagged == pytest.approx(2_490, abs=10)


def test_clusters_are_what_uproot_and_root_take_them_for(path: Path) -> None:
    with uproot.open(path) as file:
        tree = file[TREE]
        assert tree.common_entry_offsets() == [0, 500, 1_000, 1_500]
        assert tree.member("fAutoFlush") == SMALL.cluster


def values(layout: Layout, path: Path, number: int) -> np.ndarray:
    write_events(path, layout, codec="zlib", number=number)
    with uproot.open(path) as file:
        return file[TREE]["evt_f0"].array(library="np")


def test_the_same_number_gives_the_same_events_and_another_one_others(tmp_path: Path) -> None:
    first = values(SMALL, tmp_path / "a.root", 0)
    assert np.array_equal(first, values(SMALL, tmp_path / "b.root", 0))
    assert not np.isin(first, values(SMALL, tmp_path / "c.root", 1)).any()
