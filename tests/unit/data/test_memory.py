"""`max_memory` bounds what the stream takes: what is held at a time fits or is refused, and so it is seen from outside.

What is measured is measured in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.config import Config, parse_config, parse_size
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.memory import buffers, for_rows, share_memory
from mlaas4hep.data.plan import Plan
from mlaas4hep.data.scan import scan_files
from mlaas4hep.data.source import cut_reads, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import (
    FORMATS,
    ROOT_FORMATS,
    Format,
    ending,
    make_events,
    same_batch,
    supports_jagged,
    write_events,
)
from tests.properties.test_stream_laws import FakeFile, stratified_files

Stream = Callable[..., EventDataset]

EVENTS, LENGTH, MEMORY = 30_000, 300, 64_000_000
STREAM = """
import re, sys, threading, time
from pathlib import Path
from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan
from mlaas4hep.data.source import open_source
from mlaas4hep.spec.preprocess import Preprocessor

signal, background, memory = sys.argv[1:]
config = parse_config(
    "samples:\\n"
    f"  signal: {{files: '{signal}'}}\\n  background: {{files: '{background}'}}\\n"
    "inputs: {event: [x], cells: {vars: [cell_e], length: 8}}"
)
catalogue = Catalogue.open(config)
preprocessor = Preprocessor(config.features, catalogue.types)
with open_source(signal) as source:
    source.read(["x"], 0, 1)  # compiled code is loaded once, however much is read

def held():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def watch():
    while True:
        seen.append(held())
        time.sleep(0.002)

start, seen = held(), [held()]
threading.Thread(target=watch, daemon=True).start()
scan(catalogue, preprocessor, max_memory=int(memory))
scanned = max(seen) - start
with EventDataset(
    catalogue, preprocessor, shuffle=True, shuffle_window=1000, threads=2, max_memory=int(memory)
) as stream:
    events = sum(len(batch) for batch in stream)
print(events, scanned, max(seen) - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "format",
    # These take longest to write and to read; that their clusters are bounded by bytes is asked beside them.
    [
        pytest.param(format, marks=[pytest.mark.slow] if format in ("json", "avro") else [])
        for format in FORMATS
        if supports_jagged(format)
    ],
)
def test_long_lists_are_read_within_the_memory_that_is_allowed(tmp_path: Path, format: Format) -> None:
    half = EVENTS // 2
    values = np.random.default_rng(0).normal(size=half * LENGTH).astype(np.float32)
    columns = {"x": np.arange(half), "cell_e": Jagged.from_counts(np.full(half, LENGTH), values)}
    paths = [
        str(write_events(tmp_path / f"{name}{ending(format)}", columns, format=format, cluster=1000)) for name in "ab"
    ]
    command = [sys.executable, "-c", STREAM, *paths, str(MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    events, scanned, grown = map(int, done.stdout.split())
    assert events == EVENTS
    assert scanned < 2 * MEMORY, f"the scan took {scanned / 1e6:.0f} MB"
    assert grown < 2 * MEMORY, f"the stream took {grown / 1e6:.0f} MB"


EXACT = """
import re, sys, threading, time
from pathlib import Path
from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.hashing import permuted
from mlaas4hep.spec.preprocess import Preprocessor

signal, background, folder, memory = sys.argv[1:]
config = parse_config(
    "samples:\\n"
    f"  signal: {{files: '{signal}'}}\\n  background: {{files: '{background}'}}\\n"
    "inputs: {event: [x], cells: {vars: [cell_a, cell_b, cell_c, cell_d], length: 250}}"
)
catalogue = Catalogue.open(config)
settings = {"shuffle_window": 500, "chunk_entries": 1000, "cache": Cache(folder), "max_memory": int(memory)}
with EventDataset(
    catalogue, Preprocessor(config.features, catalogue.types), shuffle="exact", threads=2, **settings
) as stream:
    stream.fill_cache()
    next(stream.epoch(1))

    def held():
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    def watch():
        while True:
            seen.append(held())
            time.sleep(0.001)

    start, seen = held(), [held()]
    threading.Thread(target=watch, daemon=True).start()
    events = sum(len(batch) for batch in stream.epoch(2))
print(events, max(seen) - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_an_exact_order_is_gathered_within_the_memory_that_is_allowed(tmp_path: Path) -> None:
    """25,000 rows of 4 kB: what is gathered at once would be 67 MB a thread."""
    half, memory = 12_500, 40_000_000
    for name in "ab":
        cells = Jagged.from_counts(np.ones(half, np.int64), np.zeros(half))
        columns = {"x": np.arange(half), **{f"cell_{one}": cells for one in "abcd"}}
        write_events(tmp_path / f"{name}.root", columns, cluster=1000)
    paths = [str(tmp_path / f"{name}.root") for name in "ab"]
    command = [sys.executable, "-c", EXACT, *paths, str(tmp_path / "cache"), str(memory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    events, grown = map(int, done.stdout.split())
    assert events == 2 * half
    assert grown < memory, f"the stream took {grown / 1e6:.0f} MB"


FLAT_EVENTS = 150_000
FLAT = """
import re, sys, threading, time
from pathlib import Path
from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan
from mlaas4hep.data.source import open_source
from mlaas4hep.spec.preprocess import Preprocessor

def held():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def watch():
    while True:
        seen.append(held())
        time.sleep(0.002)

def stream(signal, background):
    config = parse_config(
        f"samples: {{signal: {{files: '{signal}'}}, background: {{files: '{background}'}}}}\\n"
        "inputs: {event: [x, y0, y1, y2, y3, y4, y5, y6]}\\nsplit: {by: [x]}"
    )
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    scan(catalogue, preprocessor, max_memory=int(memory))
    with EventDataset(
        catalogue, preprocessor, shuffle=True, shuffle_window=1000, threads=2, max_memory=int(memory)
    ) as stream:
        return sum(len(batch) for batch in stream)

small, large, memory = sys.argv[1:]
stream(f"{small}/a.csv", f"{small}/b.csv")  # what is loaded once, however much is read
start, seen = held(), [held()]
threading.Thread(target=watch, daemon=True).start()
events = stream(f"{large}/a.csv", f"{large}/b.csv")
print(events, max(seen) - start, sum(one.stat().st_size for one in Path(large).iterdir()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_text_of_many_rows_is_read_within_the_memory_that_is_allowed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder, size in (("small", 2_000), ("large", FLAT_EVENTS // 2)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            columns = {"x": np.arange(size)} | {f"y{number}": random.normal(size=size) for number in range(40)}
            write_events(tmp_path / folder / f"{name}.csv", columns, format="csv")
    command = [sys.executable, "-c", FLAT, str(tmp_path / "small"), str(tmp_path / "large"), str(MEMORY // 4)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    events, grown, stored = map(int, done.stdout.split())
    assert events == FLAT_EVENTS
    assert stored > 6 * MEMORY // 4, "the files are much larger than the memory"
    assert grown < 2 * (MEMORY // 4), f"opening, scan and stream took {grown / 1e6:.0f} MB of {stored / 1e6:.0f} MB"


@pytest.mark.parametrize("format", ROOT_FORMATS)
def test_reads_are_cut_by_the_bytes_in_the_file(tmp_path: Path, format: Format) -> None:
    columns = {"x": np.arange(2000.0), "e": Jagged.from_counts(np.full(2000, 50), np.zeros(100_000, np.float32))}
    path = str(write_events(tmp_path / "a.root", columns, format=format, cluster=100))
    with open_source(path) as source:
        assert cut_reads(source, ["x"], 0, 2000, max_bytes=10**6) == [0, 2000]
        bounds = cut_reads(source, ["x", "e"], 150, 1850, max_bytes=100_000)
        assert (bounds[0], bounds[-1]) == (150, 1850)
        assert 4 <= len(bounds) - 1 <= 6, "some 210 bytes an event"
        assert bounds == sorted(set(bounds))
        longest = max(np.diff(cut_reads(source, ["e"], 0, 2000, max_bytes=1)))
        assert longest <= (100 if format == "rntuple" else 128)


@pytest.mark.parametrize("format", FORMATS)
def test_the_memory_of_a_scan_changes_no_bit_of_its_figures(
    small_config: Callable[..., Config], format: Format
) -> None:
    config = small_config(format)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    free = scan_files(catalogue, preprocessor)
    tight = scan_files(catalogue, preprocessor, threads=0, max_memory=1)
    assert msgspec.json.encode(free.statistics) == msgspec.json.encode(tight.statistics)
    assert free.files == tight.files


ROW = 100


def would_do(error: DataError) -> tuple[int, int]:
    """The largest window that a refusal says to fit, 0 for none, and the memory that it says to be enough."""
    window = re.search(r"the largest window that fits is (\d+);", str(error))
    memory = re.search(r"; (?:max_memory )?([\d.]+ ?\w*B) is(?:,| enough)", str(error))
    assert memory is not None
    return int(window[1]) if window else 0, parse_size(memory[1])


@given(
    sizes=st.lists(st.lists(st.integers(1, 9_000), min_size=1, max_size=4), min_size=1, max_size=14),
    window=st.integers(1, 40_000),
    threads=st.integers(0, 4),
    rows=st.integers(1, 200_000),
    shuffle=st.booleans(),
)
def test_all_that_is_held_at_a_time_fits_or_is_refused(
    sizes: list[list[int]], window: int, threads: int, rows: int, shuffle: bool
) -> None:
    """Each file is a sample of its own: each has a strand at least, of which a part may wait."""
    files = [FakeFile(number, 0, np.concatenate([[0], np.cumsum(one)])) for number, one in enumerate(sizes)]
    memory = rows * ROW * 4 // 3
    asked = {"unit": 20_000, "threads": threads, "max_memory": memory, "row_bytes": ROW}
    try:
        shares = share_memory(Plan(files, window, shuffle=shuffle), **asked)
    except DataError as error:
        largest, needed = would_do(error)
        assert largest < window
        if largest:
            share_memory(Plan(files, largest, shuffle=shuffle), **asked)
        plan = Plan(files, window if shuffle else 20_000, shuffle=shuffle)
        share_memory(plan, **asked | {"max_memory": needed})
        with pytest.raises(DataError):
            share_memory(plan, **asked | {"max_memory": int(0.98 * needed) - 2 * ROW})
        return
    assert shares.window == window or (not shuffle and shares.window < window)
    plan = Plan(files, shares.window, shuffle=shuffle, chunk_entries=shares.chunk, early=shares.early)
    chunk = max(one.num_entries for one in plan.chunks())
    held = buffers(plan, threads) * min(shares.window, plan.num_entries) + plan.most_held + max(threads, 1) * chunk
    assert held * ROW <= for_rows(memory)


@given(
    files=stratified_files(),
    window=st.integers(1, 80),
    threads=st.integers(0, 3),
    rows=st.integers(1, 1_000),
    epoch=st.integers(0, 2),
    asked=st.one_of(st.none(), st.integers(1, 20)),
)
def test_all_that_is_held_fits_with_strata_too(
    files: tuple[FakeFile, ...], window: int, threads: int, rows: int, epoch: int, asked: int | None
) -> None:
    """Of one sample many strands may wait, and more where parts of a cluster are read early."""
    plan = Plan(files, window, shuffle=True)
    assert plan.num_strands <= plan.most_strands
    settings = {"unit": 60, "threads": threads, "max_memory": rows * ROW * 4 // 3, "row_bytes": ROW}
    try:
        shares = share_memory(plan, asked=asked, **settings)  # type: ignore[arg-type]
    except DataError as error:
        largest, needed = would_do(error)
        assert largest < min(window, plan.num_entries)
        if largest:
            share_memory(Plan(files, largest, shuffle=True), asked=asked, **settings)  # type: ignore[arg-type]
        share_memory(plan, asked=asked, **settings | {"max_memory": needed})  # type: ignore[arg-type]
        return
    plan = Plan(files, window, shuffle=True, epoch=epoch, chunk_entries=shares.chunk, early=shares.early)
    largest = max(one.num_entries for one in plan.chunks())
    assert shares.beside is not None
    assert (2 * min(window, plan.num_entries) + shares.beside) * ROW <= for_rows(rows * ROW * 4 // 3)
    if asked is None or shares.early:
        assert plan.most_held + max(threads, 1) * largest <= shares.beside


def test_many_samples_fit_the_memory_too(tmp_path: Path) -> None:
    """A strand a sample: twelve chunks may wait for their window where four were reckoned with."""
    lines = []
    for number in range(12):
        write_events(tmp_path / f"{number}.root", make_events(3_000, seed=number), cluster=3_000)
        lines.append(f"  s{number}: {{files: '{tmp_path}/{number}.root', label: {'ab'[number % 2]}}}\n")
    config = parse_config(f"samples:\n{''.join(lines)}labels: {{signal: a}}\ninputs: {{event: [MET_pt]}}\n")
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    settings = {"shuffle": True, "shuffle_window": 6_000, "batch_size": 1_000, "threads": 2}
    row = 4 + 29
    memory = row * (2 * 6_000 + 14 * 1_030) * 4 // 3
    with EventDataset(catalogue, preprocessor, max_memory=memory, **settings) as tight:  # type: ignore[arg-type]
        plan = tight.plan(0)
        chunk = max(one.num_entries for one in plan.chunks())
        assert (2 * 6_000 + plan.most_held + 2 * chunk) * row <= for_rows(memory)
        found = list(tight.epoch(0))
    with EventDataset(catalogue, preprocessor, **settings) as free:  # type: ignore[arg-type]
        assert all(map(same_batch, free.epoch(0), found))


def test_an_unshuffled_stream_fits_what_its_windows_are_cut_to(small_stream: Stream) -> None:
    """It used to be refused: its windows were as large as what it would like to read at once."""
    with small_stream(threads=2) as free:
        every = list(free)
    with small_stream(threads=2, max_memory=57 * 7 * 64 * 4 // 3) as tight:
        assert all(map(same_batch, every, tight))
        assert max(one.num_entries for one in tight.plan(0).chunks()) <= 64
    with pytest.raises(DataError, match=r"is not enough for 2 threads that read 50 entries each, at 57 bytes a row"):
        small_stream(threads=2, max_memory=57 * 7 * 40)


@pytest.mark.parametrize("part", [None, "train"])
def test_an_unshuffled_state_fits_whatever_the_memory_is(small_stream: Stream, part: str | None) -> None:
    memories = [None, 57 * 7 * 64 * 4 // 3, 57 * 7 * 90 * 4 // 3]
    for one in memories:
        for other in memories:
            with small_stream(part=part, max_memory=one, batch_size=37) as first, first.epoch(0) as batches:
                for _ in range(5):
                    next(batches)
                state = batches.state_dict()
                rest = list(batches)
            with small_stream(part=part, max_memory=other, batch_size=37) as second, second.epoch(0) as resumed:
                resumed.load_state_dict(state)
                assert all(map(same_batch, rest, list(resumed)))
