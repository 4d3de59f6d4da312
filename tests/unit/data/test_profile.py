"""One pass over all columns of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.data.profile import ColumnProfile, Pass, Profile, files_of
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import Format, make_events, write_events


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
    assert reasons == {"y": f"is float32[] in {paths[1]}", "z": f"not in {paths[1]}", "w": f"not in {paths[0]}"}
