"""Friends stand beside a tree, and the user's function sees each event first: through catalogue, scan and stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.scan import scan_files
from mlaas4hep.data.source import cut_reads, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import ROOT_FORMATS, Format, make_events, same_batch, write_events

HOOK = """
def preprocessing(rec):
    if len(rec["Jet_pt"]) < 2:
        return None
    rec["hardest"] = max(rec["Jet_pt"])
    rec["Jet_pt"] = [pt / 1000 for pt in rec["Jet_pt"]]
    return rec
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["s0", "s1", "b0"]):
        events = make_events(130, seed=number, run=number)
        write_events(tmp_path / f"{name}.root", events, cluster=40)
        btag = {"score": np.arange(130, dtype=np.float32) + 1000 * number}
        write_events(tmp_path / f"btag_{name}.root", btag, tree="btag", cluster=65)
    return tmp_path


def config_of(folder: Path, inputs: str, more: str = "", friends: tuple[str, str] = ("", "")) -> Config:
    return parse_config(
        f"samples:\n  signal: {{files: '{folder}/s*.root'{friends[0]}}}\n"
        f"  background: {{files: '{folder}/b0.root'{friends[1]}}}\ninputs: {inputs}\n{more}",
        folder=folder,
    )


def read(config: Config, **settings: object) -> tuple[list[Batch], dict[int, Counts]]:
    catalogue = Catalogue.open(config)
    stream = EventDataset(catalogue, Preprocessor(config.features, catalogue.types), batch_size=50, **settings)  # type: ignore[arg-type]
    with stream, stream.epoch(0) as batches:
        return list(batches), batches.counts


def test_columns_of_friends_stand_beside_those_of_the_tree(folder: Path) -> None:
    friends = tuple(f", friends: ['{folder}/btag_{name}.root']" for name in ("s*", "b0"))
    config = config_of(folder, "{event: [score, MET_pt]}", friends=friends)  # type: ignore[arg-type]
    batches, _ = read(config)
    scores = np.concatenate([one.inputs["event"][:, 0] for one in batches])
    entries = np.concatenate([one.entries for one in batches])
    assert np.array_equal(scores, entries["entry"] + 1000.0 * entries["file"])
    qualified = config_of(folder, "{event: [btag_score]}", "new_variables: {btag_score: btag.score}", friends)  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([one.inputs["event"][:, 0] for one in read(qualified)[0]]), scores)


def test_friends_that_do_not_fit_are_refused(folder: Path) -> None:
    two = (f", friends: ['{folder}/btag_s0.root', '{folder}/btag_s1.root', '{folder}/btag_b0.root']", "")
    with pytest.raises(DataError, match=r"signal: friends: 2 files need as many friend files each, found 1 of"):
        Catalogue.open(config_of(folder, "{event: [score]}", friends=two))
    write_events(folder / "btag_b0.root", {"score": np.zeros(7)}, tree="btag")
    short = ("", f", friends: ['{folder}/btag_b0.root']")
    with pytest.raises(DataError, match=r"btag_b0\.root, tree 'btag': has 7 entries and cannot be friend"):
        Catalogue.open(config_of(folder, "{event: [MET_pt]}", friends=short))


def test_a_function_changes_drops_and_adds_before_anything_else(folder: Path) -> None:
    (folder / "preproc.py").write_text(HOOK)
    inputs = "{event: [hardest, MET_pt], jets: {vars: [Jet_pt], length: 3}}"
    hooked, counts = read(config_of(folder, inputs, "preproc: preproc.py\n"))
    same = "{event: [hardest, MET_pt], jets: {vars: [pt], length: 3}}"
    said = "preselection: count(Jet_pt) >= 2\nnew_variables: {hardest: max(Jet_pt), pt: Jet_pt / 1000}\n"
    plain, expected = read(config_of(folder, same, said))
    assert all(map(same_batch, hooked, plain))
    assert counts == expected
    assert 0 < sum(one.cut for one in counts.values()) < 390


def test_the_scan_sees_what_the_function_leaves(folder: Path) -> None:
    (folder / "preproc.py").write_text(HOOK)
    config = config_of(folder, "{event: [hardest]}", "preproc: preproc.py\n")
    catalogue = Catalogue.open(config)
    result = scan_files(catalogue, Preprocessor(config.features, catalogue.types))
    batches, counts = read(config)
    assert [one.delivered for one in result.files] == [counts[number].delivered for number in range(3)]
    assert sum(map(len, batches)) == sum(one.delivered for one in result.files)


def test_a_function_that_keeps_nothing_or_is_not_there_is_refused(folder: Path) -> None:
    (folder / "preproc.py").write_text("def preprocessing(rec): return None\n")
    with pytest.raises(DataError, match="keeps none of its first 130 events"):
        Catalogue.open(config_of(folder, "{event: [MET_pt]}", "preproc: preproc.py\n"))
    with pytest.raises(DataError, match=r"preproc: .*preproc2\.py does not exist; did you mean"):
        Catalogue.open(config_of(folder, "{event: [MET_pt]}", "preproc: preproc2.py\n"))


@pytest.mark.parametrize("format", ROOT_FORMATS)
def test_reads_behind_a_function_are_cut_by_all_that_it_sees(tmp_path: Path, format: Format) -> None:
    """It sees all columns, whichever are asked for, as objects of Python that take several times the bytes."""
    columns = {"x": np.arange(2000.0), "e": Jagged.from_counts(np.full(2000, 50), np.zeros(100_000, np.float32))}
    path = str(write_events(tmp_path / "a.root", columns, format=format, cluster=100))
    hook = RecordHook("mine.py", b"", lambda rec: rec)
    with open_source(path) as plain, Opening(path, hook=hook).open() as hooked:
        bounds = cut_reads(hooked, ["x"], 150, 1850, max_bytes=300_000)
        assert len(bounds) > 2 * len(cut_reads(plain, ["x", "e"], 150, 1850, max_bytes=300_000))
        assert (bounds[0], bounds[-1]) == (150, 1850)
        assert bounds == sorted(set(bounds))
        assert cut_reads(hooked, ["x"], 0, 2000, max_bytes=10**8) == [0, 2000]
