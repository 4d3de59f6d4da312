"""Whether outputs and inputs belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import OnError
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.errors import DataError
from mlaas4hep.score.asked import ask
from mlaas4hep.score.outputs import base_of
from mlaas4hep.score.run import Manner, score_files
from mlaas4hep.score.verify import verify
from mlaas4hep.score.writers import Layout, format_of
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.testing import write_events
from tests.scored import read_output, write_input
from tests.small_bundle import make_events, write_small_bundle
from tests.unit.score.test_run import damage


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


def score(bundle: Bundle, path: Path, out: Path, format: str = "ttree", on_error: OnError | None = None) -> str:
    done = score_files(ask([bundle]), [str(path)], str(out), manner=Manner(format), on_error=on_error)
    return done.outputs[0].path


def problems(output: Path | str, *files: Path) -> list[str]:
    return [line for one in verify(str(output), list(map(str, files))) for line in one.problems]


@pytest.mark.parametrize("format", ["ttree", "rntuple", "copy", "parquet"])
def test_what_was_scored_belongs_together_wherever_it_lies(bundle: Bundle, tmp_path: Path, format: str) -> None:
    write_input(tmp_path / "a.root")
    score(bundle, tmp_path / "a.root", tmp_path / "out", format)
    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "a.root", tmp_path / "there" / "a.root")
    assert problems(tmp_path / "out", tmp_path / "there" / "a.root") == []


def write(path: Path, columns: dict[str, Column], order: np.ndarray) -> None:
    taken = {
        name: one.take(order) if isinstance(one, Jagged) else np.asarray(one)[order] for name, one in columns.items()
    }  # type: ignore[union-attr]
    write_events(path, taken, cluster=50)


@pytest.mark.parametrize("identified", [True, False], ids=["by event numbers", "by inputs"])
def test_a_skim_another_order_and_other_events_are_noticed(bundle: Bundle, tmp_path: Path, identified: bool) -> None:
    path = tmp_path / "a.root"
    columns = write_input(path) if identified else make_events(300)
    if not identified:
        write_events(path, columns)
    out = score(bundle, path, tmp_path / "out")
    everything = np.arange(300)
    write(path, columns, everything[:-1])
    assert problems(out, path) == ["the input has 299 entries, the output was made of 300"]
    swapped = everything.copy()
    swapped[[7, 8]] = [8, 7]
    write(path, columns, swapped)
    [line] = problems(out, path)
    assert "its events, told apart by" in line
    assert line.endswith("are others, or in another order")
    write(path, columns, everything)
    assert problems(out, path) == []


def test_first_and_last_event_are_told(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root")
    out = score(bundle, tmp_path / "a.root", tmp_path / "out")
    write(tmp_path / "a.root", columns, np.arange(300)[::-1])
    lines = problems(out, tmp_path / "a.root")
    last, first = "run 1, luminosityBlock 2, event 299", "run 1, luminosityBlock 0, event 0"
    assert lines[0] == f"the first event is {last}, the output was made of {first}"
    assert lines[1] == f"the last event is {first}, the output was made of {last}"


def test_an_input_without_output_is_told_with_the_nearest(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("ttH_1", "ttH_2"):
        write_input(tmp_path / f"{name}.root", 20)
        score(bundle, tmp_path / f"{name}.root", tmp_path / "out")
    write_input(tmp_path / "ttH_3.root", 20)
    [line] = problems(tmp_path / "out", tmp_path / "ttH_3.root")
    assert line.startswith("no output says that it was made of 'ttH_3.root'; did you mean")


def test_of_outputs_of_inputs_of_one_name_the_right_one_is_found(bundle: Bundle, tmp_path: Path) -> None:
    files = []
    for seed, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "a.root")
        write_input(files[-1], seed=seed)
        score(bundle, files[-1], tmp_path / "out" / folder)
    for folder in ("x", "y"):
        (tmp_path / "out" / folder / "a_scores.root").rename(tmp_path / "out" / f"{folder}.root")
    assert problems(tmp_path / "out", *files) == []


def test_no_output_is_passed_over_beside_one_that_fits(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    for seed, name in ((1, "earlier"), (2, "now")):
        path.unlink(missing_ok=True)
        write_input(path, seed=seed)
        made = score(bundle, path, tmp_path / "out")
        Path(made).rename(tmp_path / "out" / f"{name}.root")
    good, bad = verify(str(tmp_path / "out"), [str(path)])
    assert (Path(good.output).name, good.problems) == ("now.root", ())
    assert (Path(bad.output).name, bad.input) == ("earlier.root", str(path))
    assert bad.problems[0].startswith("the first event is run 1")


def test_entries_that_were_left_out_are_left_out_again(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", cluster=100)
    damage(tmp_path / "a.root", "run")
    out = score(bundle, tmp_path / "a.root", tmp_path / "out", on_error=OnError(skips=True))
    assert problems(out, tmp_path / "a.root") == []


def test_files_that_say_nothing_of_scores_are_no_outputs(tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    with pytest.raises(DataError, match="none of its files says that it was written by 'mlaas4hep score'"):
        verify(str(tmp_path / "a.root"), [str(tmp_path / "a.root")])


@pytest.mark.parametrize("format", ["ttree", "rntuple", "parquet"])
def test_an_output_whose_rows_were_moved_is_noticed(bundle: Bundle, tmp_path: Path, format: str) -> None:
    write_input(tmp_path / "a.root")
    out = Path(score(bundle, tmp_path / "a.root", tmp_path / "out", format))
    own = format_of(format)
    stamp, values = own.stamp(str(out)), read_output(out)
    assert stamp is not None
    order = np.arange(300)
    order[[7, 8]] = [8, 7]
    for taken, said in ((order, "the rows of the output, told apart by run"), (order[:-1], "the output has 299 rows")):
        types = {name: one.dtype for name, one in values.items()}
        input = FileEntry(0, 0, 0, str(tmp_path / "a.root"), "Events", np.array([0, 300]))
        with out.open("w+b") as file:
            writer = own.begin(file, Layout("scores", types, len(taken), 1, input, "ab" * 32))
            writer.append({name: one[taken] for name, one in values.items()})
            writer.finish(stamp)
        [line] = problems(out, tmp_path / "a.root")
        assert line.startswith(said)


def test_events_may_be_told_apart_by_values_that_are_missing(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "model", more="split: {by: [MET_pt, nJet]}\n")
    columns = make_events(50)
    met = np.array(columns["MET_pt"])
    met[[0, -1]] = np.nan, np.inf
    write_events(tmp_path / "a.root", columns | {"MET_pt": met})
    out = score(bundle, tmp_path / "a.root", tmp_path / "out")
    assert problems(out, tmp_path / "a.root") == []
    again = score_files(ask([bundle]), [str(tmp_path / "a.root")], str(tmp_path / "out")).outputs[0]
    assert again.before
    assert again.stamp.alignment.first == {"MET_pt": None, "nJet": int(columns["nJet"][0])}


def test_an_address_is_known_by_its_path_alone() -> None:
    assert base_of("https://host/store/a.root?authz=secret") == "a.root"
    assert base_of("data/a?.root") == "a?.root"
