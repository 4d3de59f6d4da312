"""Every entry of an input is in its output once, in order, with its offline score.

Whatever the files, the chunks and the selections are, and wherever it was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.split import STANDARD
from mlaas4hep.score import part, passes, reading, run
from mlaas4hep.score.asked import ask
from mlaas4hep.score.part import PartFile
from mlaas4hep.score.run import Manner, Result, Scored, score_files
from mlaas4hep.score.verify import verify
from mlaas4hep.score.writers import FORMATS
from mlaas4hep.testing import write_events
from tests.examples import examples
from tests.scored import identified, offline, read_output
from tests.small_bundle import CONFIG, write_small_bundle

SELECTIONS = (None, "HLT", "nJet > 3", "MET_pt > 1e9", "sum(Jet_pt) > 100 and HLT")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Bundle]:
    """By preselection."""
    found = {}
    lines = [line for line in CONFIG.splitlines() if not line.startswith("preselection")]
    for number, text in enumerate(SELECTIONS):
        config = "\n".join([*lines, *([f"preselection: {text}"] if text else [])])
        found[text] = write_small_bundle(tmp_path_factory.mktemp(f"bundle{number}"), config=config, seed=number)
    return found


class Killed(BaseException):
    """As SIGKILL, but for the process, which goes on."""


class Countdown:
    """Kills at the n-th place where a process may die with work half done."""

    def __init__(self, places: int) -> None:
        self.left = places

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@contextmanager
def dying(after: int) -> Iterator[None]:
    """Die at some place while files are read, written, brought to the disk or renamed; nothing is cleaned up."""
    count = Countdown(after)

    def before(act: Any) -> Any:
        def acted(*arguments: Any, **options: Any) -> Any:
            count()
            return act(*arguments, **options)

        return acted

    def closed(self: PartFile, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and issubclass(kind, Killed):
            self.file.raw.close()  # what waits in memory is lost, and the part stays as it is
        else:
            left(self, kind, error, trace)

    left = PartFile.__exit__
    with (
        mock.patch.object(reading, "read_stored", before(reading.read_stored)),
        mock.patch.object(run, "_joined", before(run._joined)),
        mock.patch.object(part.os, "fsync", before(part.os.fsync)),
        mock.patch.object(part.os, "replace", before(part.os.replace)),
        mock.patch.object(PartFile, "__exit__", closed),
    ):
        yield


@contextmanager
def in_pieces(part_entries: int, batch: int, read_bytes: int) -> Iterator[None]:
    """Everything that is done in pieces, in pieces of those sizes."""
    with (
        mock.patch.object(run, "PART_ENTRIES", part_entries),
        mock.patch.object(passes, "BATCH", batch),
        mock.patch.dict(reading.Reader.__init__.__kwdefaults__, read_bytes=read_bytes),
    ):
        yield


def check(one: Scored, bundle: Bundle, wanted: dict[str, Any], fill: float) -> None:
    """Every column of an output, and what it says of itself."""
    found, count = read_output(one.path), len(wanted["event"])
    scores = offline(bundle, wanted, fill=fill)[:, 0]
    selected = bundle.score(wanted, count)[1]
    assert found["tth_signal"].tobytes() == scores.tobytes()
    assert np.array_equal(found["tth_selected"].astype(bool), selected)
    for name in STANDARD:
        assert np.array_equal(found[name], np.asarray(wanted[name])), name
    told = one.stamp.alignment
    ends = [{name: int(wanted[name][at]) for name in STANDARD} if count else {} for at in (0, -1)]
    assert (told.entries, told.first, told.last) == (count, *ends)
    assert [model.scored for model in one.stamp.models] == [int(np.count_nonzero(selected))]


@settings(max_examples=examples(40))
@given(data=st.data())
def test_every_entry_once_in_order_with_its_offline_score(
    bundles: dict[str | None, Bundle], data: st.DataObject
) -> None:
    draw = data.draw
    bundle = bundles[draw(st.sampled_from(SELECTIONS))]
    sizes = draw(st.lists(st.integers(0, 220), min_size=1, max_size=3))
    format = draw(st.sampled_from(["ttree", "rntuple", "parquet"]))
    manner = Manner(draw(st.sampled_from(FORMATS)))
    fill = draw(st.sampled_from([np.nan, -1.0]))
    kills = draw(st.lists(st.integers(1, 30), max_size=3))
    # Drawn here: whether a run is killed hangs on its threads, and what is drawn may not.
    manners = iter(draw(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1, 64, 1000])), min_size=4, max_size=4)))
    pieces = [draw(st.sampled_from(some)) for some in ([1, 50, 65_536], [1, 7, 4096], [1, 2_000, 48_000_000])]
    with TemporaryDirectory() as name:
        folder = Path(name)
        files, columns = [], []
        for number, size in enumerate(sizes):
            columns.append(identified(size, seed=number))
            path = folder / f"{number}.{'parquet' if format == 'parquet' else 'root'}"
            cluster = draw(st.integers(1, 100))
            write_events(path, columns[-1], format=format, cluster=cluster)  # type: ignore[arg-type]
            files.append(str(path))
        before = [Path(one).read_bytes() for one in files]
        out = folder / "out"

        def score() -> Result:
            threads, stretch = next(manners)
            with in_pieces(*pieces):
                asked = ask([bundle], fill=fill)
                return score_files(asked, files, str(out), manner=manner, threads=threads, stretch=stretch)

        for after in kills:
            try:
                with dying(after):
                    score()
            except Killed:
                named = [one for one in out.glob("*") if not one.name.startswith(".")] if out.exists() else []
                for one in named:  # what has its name is whole
                    assert len(read_output(one)["event"]) == sizes[int(one.name[0])]
        done = score()
        assert [Path(one.input).name for one in done.outputs] == [Path(one).name for one in files]
        for one, wanted in zip(done.outputs, columns, strict=True):
            check(one, bundle, wanted, fill)
        assert not [one.problems for one in verify(str(out), files) if one.problems]
        assert sorted(one.name[0] for one in out.iterdir()) == sorted(str(n) for n in range(len(sizes)))
        assert [Path(one).read_bytes() for one in files] == before, "inputs stay as they are"
