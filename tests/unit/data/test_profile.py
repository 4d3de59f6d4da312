"""One pass over all columns of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import OnError, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.profile import ColumnProfile, Pass, Profile, files_of
from mlaas4hep.data.quarantine import Quarantine
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import Format, make_events, write_events
from tests.unit.data.test_quarantine import break_cluster


def column(found: Profile, name: str) -> ColumnProfile:
    return next(one for one in found.columns if one.name == name)


@pytest.mark.parametrize("format", ["ttree", "rntuple"])
def test_all_events_of_all_files_are_read_once(small_files: dict[Format, Path], format: Format) -> None:
    paths = [str(small_files[format] / f"signal{number}.root") for number in (0, 1)]
    done: list[int] = []
    reading = Pass(files_of(paths, "Events"))
    found = reading.run(threads=2, progress=done.append)
    assert (found.entries, found.looked_at, sum(done), reading.events) == (435, 435, 435, 435)
    events = [make_events(size, seed=seed) for seed, size in enumerate((350, 85))]
    met = np.concatenate([np.asarray(one["MET_pt"]) for one in events])
    figures = column(found, "MET_pt").figures
    assert figures is not None
    assert figures.count + figures.missing + figures.infinite == 435
    assert figures.mean == pytest.approx(np.nanmean(met[np.isfinite(met)], dtype=np.float64))
    jets = column(found, "Jet_pt").figures
    assert jets is not None
    assert jets.lengths is not None
    assert jets.lengths.mean == pytest.approx(sum(len(one["Jet_pt"].values) for one in events) / 435)  # type: ignore[union-attr]


def test_threads_change_no_bit(small_files: dict[Format, Path]) -> None:
    paths = [str(small_files["ttree"] / f"signal{number}.root") for number in (0, 1)]
    assert len({repr(Pass(files_of(paths, "Events")).run(threads=threads)) for threads in (0, 1, 3)}) == 1


def test_the_first_events_of_each_file_are_taken_and_said_so(small_files: dict[Format, Path]) -> None:
    paths = [str(small_files["ttree"] / f"signal{number}.root") for number in (0, 1)]
    found = Pass(files_of(paths, "Events"), max_events=120).run()
    assert (found.entries, found.looked_at) == (435, 120)
    with pytest.raises(DataError, match="at least 1"):
        Pass(files_of(paths, "Events"), max_events=0)


def test_only_the_columns_asked_for_are_read(small_files: dict[Format, Path]) -> None:
    files = files_of([str(small_files["ttree"] / "signal0.root")] * 2, "Events")
    found = Pass(files, columns={"MET_pt", "Jet_eta"}).run()
    assert [one.name for one in found.columns] == ["Jet_eta", "MET_pt"]
    assert found.entries == 350, "a file that is named twice is read once"
    with pytest.raises(DataError, match="did you mean 'MET_pt'"):
        Pass(files, columns={"MET_pf"})


def test_what_is_not_the_same_in_all_files_has_a_reason(tmp_path: Path) -> None:
    one = {"x": np.arange(3.0), "y": np.arange(3.0), "z": np.arange(3.0)}
    other = {"x": np.arange(2.0), "y": Jagged.from_lists([[1], [2]]), "w": np.arange(2.0)}
    paths = [str(write_events(tmp_path / f"{name}.root", events)) for name, events in (("a", one), ("b", other))]
    found = Pass(files_of(paths, "Events")).run()
    assert column(found, "x").figures is not None
    reasons = {name: column(found, name).reason for name in "yzw"}
    assert reasons == {
        "y": f"is float64 in {paths[0]}, float32[] in {paths[1]}",
        "z": f"not in {paths[1]}, but in {paths[0]}",
        "w": f"not in {paths[0]}, but in {paths[1]}",
    }


def test_a_damaged_cluster_is_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    path = write_events(tmp_path / "a.root", make_events(500), cluster=100)
    whole = Pass(files_of([str(path)], "Events")).run()
    break_cluster(path, 2)
    with pytest.raises(DataError, match="branch 'Jet_pt', basket 2"):
        Pass(files_of([str(path)], "Events")).run()
    quarantine = Quarantine(OnError(skips=True))
    found = Pass(files_of([str(path)], "Events"), quarantine=quarantine).run(threads=0)
    assert (whole.looked_at, found.looked_at, found.unreadable, found.entries) == (500, 400, 100, 500)
    [place] = found.skipped
    assert (place.path, place.tree, place.start, place.stop) == (str(path), "Events", 200, 300)
    figures = column(found, "MET_pt").figures
    assert figures is not None
    assert figures.count == 400, "a place is left out of every column"
    few = Quarantine(OnError(skips=True, most_percent=10))
    with pytest.raises(DataError, match="on_error allows 10 %"):
        Pass(files_of([str(path)], "Events"), quarantine=few).run()


def test_events_that_a_function_drops_are_in_no_figure(tmp_path: Path) -> None:
    write_events(tmp_path / "a.root", {"x": np.arange(1.0, 11.0)})
    (tmp_path / "mine.py").write_text("def preprocessing(rec):\n    return rec if rec['x'] > 4 else None\n")
    config = parse_config(
        "samples: {signal: {files: a.root, selection: x > 7}, b: {files: a.root, selection: x <= 7}}\n"
        "inputs: {event: [x]}\npreproc: mine.py\n",
        folder=tmp_path,
    )
    found = Pass(Catalogue.open(config).files).run()
    assert [one.name for one in found.columns] == ["x"], "no column of our own"
    figures = column(found, "x").figures
    assert figures is not None
    assert (figures.count, figures.minimum, figures.maximum) == (6, 5, 10)
