"""Files in, scored files out."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import OnError
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.score.asked import ask
from mlaas4hep.score.outputs import outputs_of
from mlaas4hep.score.part import PartFile
from mlaas4hep.score.run import Manner, Result, score_files
from mlaas4hep.score.writers import FORMATS
from mlaas4hep.testing import write_events
from tests.scored import identified, offline, read_output, write_input
from tests.small_bundle import write_small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("other"), name="ttbar-2022", seed=4)


def score(bundles: list[Bundle], files: list[Path], out: Path, *, manner: Manner | None = None, **more: Any) -> Result:
    settings = {name: more.pop(name) for name in ("on_error", "threads", "stretch", "tree") if name in more}
    asked = ask(bundles, files=list(map(str, files)), **more)
    try:
        return score_files(asked, list(map(str, files)), str(out), manner=manner, **settings)
    finally:
        asked.close()


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_every_entry_has_its_offline_score_in_order(bundle: Bundle, tmp_path: Path, format: str) -> None:
    columns = write_input(tmp_path / "a.root")
    done = score([bundle], [tmp_path / "a.root"], tmp_path / "out", manner=Manner(format))
    found = read_output(done.outputs[0].path, "Events" if format == "copy" else None)
    wanted = offline(bundle, columns)[:, 0]
    assert found["tth_signal"].astype(np.float32).tobytes() == wanted.tobytes()
    assert np.array_equal(found["tth_selected"].astype(bool), ~np.isnan(wanted))
    assert np.array_equal(found["event"], columns["event"])


def test_inputs_of_every_format_give_the_same_scores(bundle: Bundle, tmp_path: Path) -> None:
    endings = {"ttree": "root", "rntuple": "root", "parquet": "parquet", "avro": "avro", "json": "json"}
    files = [tmp_path / f"{format}.{ending}" for format, ending in endings.items()]
    for format, path in zip(endings, files, strict=True):
        columns = write_input(path, format=format)  # type: ignore[arg-type]
    done = score([bundle], files, tmp_path / "out")
    assert len({one.stamp.alignment.sha256 for one in done.outputs}) == 1
    for one in done.outputs:
        assert read_output(one.path)["tth_signal"].tobytes() == offline(bundle, columns)[:, 0].tobytes()


def test_several_models_are_scored_in_one_pass_under_names_of_their_own(
    bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    columns = write_input(tmp_path / "a.root")
    done = score([bundle, other], [tmp_path / "a.root"], tmp_path / "out", column="{score}_of_{model}_v{version}")
    found = read_output(done.outputs[0].path)
    assert list(found)[:4] == [
        "signal_of_tth_v1",
        "selected_of_tth_v1",
        "signal_of_ttbar_2022_v1",
        "selected_of_ttbar_2022_v1",
    ]
    assert found["signal_of_ttbar_2022_v1"].tobytes() == offline(other, columns)[:, 0].tobytes()


def test_two_columns_of_one_name_are_refused_with_a_way_out(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root")
    twin = write_small_bundle(tmp_path / "runs" / "b-d-t" / "model", seed=9)  # of the same name and version
    with pytest.raises(UserError, match=r"would be called 'tth_signal'.*'\{run\}_\{score\}'"):
        score([bundle, twin], [tmp_path / "a.root"], tmp_path / "out")
    done = score([bundle, twin], [tmp_path / "a.root"], tmp_path / "twins", column="{run}_{number}_{score}")
    found = read_output(done.outputs[0].path)["b_d_t_2_signal"]
    assert found.tobytes() == offline(twin, columns)[:, 0].tobytes()
    with pytest.raises(UserError, match=r"would be called 'signal'.*--column"):
        score([bundle, other], [tmp_path / "a.root"], tmp_path / "out", column="{score}")
    with pytest.raises(UserError, match="is given twice"):
        score([bundle, bundle], [tmp_path / "a.root"], tmp_path / "out")


def test_entries_that_are_not_selected_have_the_fill_value(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root")
    done = score([bundle], [tmp_path / "a.root"], tmp_path / "out", fill=-1.0)
    found = read_output(done.outputs[0].path)
    assert found["tth_signal"].tobytes() == offline(bundle, columns, fill=-1.0)[:, 0].tobytes()
    assert done.outputs[0].stamp.fill == -1.0
    assert done.outputs[0].stamp.models[0].scored == int(found["tth_selected"].sum()) < 300


def test_an_input_without_entries_has_an_output_without_rows(bundle: Bundle, tmp_path: Path) -> None:
    for format in ("ttree", "parquet"):
        path = tmp_path / f"none_{format}.{'root' if format == 'ttree' else format}"
        write_events(path, {name: one[:0] for name, one in identified(5).items()}, format=format)  # type: ignore[arg-type, misc]
        done = score([bundle], [path], tmp_path / "out", manner=Manner(format))
        assert done.outputs[0].stamp.alignment.entries == 0
        assert all(len(one) == 0 for one in read_output(done.outputs[0].path).values())


def test_threads_and_stretches_change_nothing(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root", 500, cluster=33)
    found = []
    for number, (threads, stretch) in enumerate([(0, 1), (1, 100), (3, 40), (2, 10_000)]):
        done = score([bundle], [tmp_path / "a.root"], tmp_path / str(number), threads=threads, stretch=stretch)
        found.append((done.outputs[0].stamp, {k: v.tobytes() for k, v in read_output(done.outputs[0].path).items()}))
    assert all(one == found[0] for one in found)


def test_what_is_finished_is_not_made_again(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    for number, one in enumerate(files):
        write_input(one, seed=number)
    first = score([bundle], files[:1], tmp_path / "out")
    before = os.stat(first.outputs[0].path).st_mtime_ns
    done = score([bundle], files, tmp_path / "out")
    assert [one.before for one in done.outputs] == [True, False]
    assert os.stat(first.outputs[0].path).st_mtime_ns == before
    assert [one.stamp for one in done.outputs[:1]] == [one.stamp for one in first.outputs]


def test_an_output_of_other_work_is_never_taken_for_this(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    file, out = tmp_path / "a.root", tmp_path / "out"
    write_input(file)
    score([bundle], [file], out)
    with pytest.raises(DataError, match=r"is of other work: of the models tth.*--overwrite"):
        score([other], [file], out)
    with pytest.raises(DataError, match="with other columns"):
        score([bundle], [file], out, fill=0.0)
    file.unlink()
    write_input(file, seed=9)
    with pytest.raises(DataError, match="earlier state of its input"):
        score([bundle], [file], out)
    (out / "a_scores.root").write_bytes(b"something of mine")
    with pytest.raises(DataError, match="was not written by 'score'"):
        score([bundle], [file], out)
    done = score([bundle], [file], out, manner=Manner(overwrite=True))
    assert not done.outputs[0].before


def test_no_output_is_an_input_and_no_two_share_one(bundle: Bundle, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_input(tmp_path / folder / "a.root")
    files = [tmp_path / "x" / "a.root", tmp_path / "y" / "a.root"]
    with pytest.raises(UserError, match="written over the input"):
        score([bundle], files[:1], tmp_path / "x", manner=Manner(name="{stem}"))
    with pytest.raises(UserError, match=r"both be written to .*\{folder\}_\{stem\}"):
        score([bundle], files, tmp_path / "out")
    with pytest.raises(UserError, match=r"no field '\{file\}'; fields are \{folder\}"):
        score([bundle], files, tmp_path / "out", manner=Manner(name="{file}"))
    done = score([bundle], files, tmp_path / "out", manner=Manner(name="{folder}_{stem}"))
    assert names_in(tmp_path / "out") == ["x_a.root", "y_a.root"]
    assert len(done.outputs) == 2


def test_one_input_may_name_its_output(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    done = score([bundle], [tmp_path / "a.root"], tmp_path / "there" / "mine.root")
    assert done.outputs[0].path == str(tmp_path / "there" / "mine.root")


class FullDisk:
    """A file on a disk that is full after so many bytes."""

    def __init__(self, file: Any, room: int, number: int = errno.ENOSPC) -> None:
        self._file, self._room, self._errno = file, room, number

    def write(self, data: Any) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(self._errno, os.strerror(self._errno))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing_and_says_where(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    write_input(tmp_path / "a.root")
    opened = PartFile._open
    monkeypatch.setattr(PartFile, "_open", lambda part: FullDisk(opened(part), 2_000))
    with pytest.raises(OSError, match="No space left on device") as caught:
        score([bundle], [tmp_path / "a.root"], tmp_path / "out", manner=Manner(format))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(tmp_path / "out" / "a_scores."))
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO])
def test_a_file_that_may_not_grow_is_told_in_words(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_input(tmp_path / "a.root")
    opened = PartFile._open
    monkeypatch.setattr(PartFile, "_open", lambda part: FullDisk(opened(part), 2_000, number))
    with pytest.raises(DataError, match=rf"a_scores.root: cannot be written: {os.strerror(number)}"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "out")
    assert names_in(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_told(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    (tmp_path / "file").write_text("here")
    with pytest.raises(DataError, match=r"cannot be written: (Not a directory|File exists)"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "file" / "out")


def test_two_processes_do_not_write_one_file(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    (tmp_path / "out").mkdir()
    with (
        PartFile(tmp_path / "out" / "a_scores.root"),
        pytest.raises(DataError, match="is being written by another process"),
    ):
        score([bundle], [tmp_path / "a.root"], tmp_path / "out")


def damage(path: Path, column: str) -> None:
    """Break the third basket of a branch."""
    import uproot

    with uproot.open(path) as file:
        branch = file["Events"][column]
        seek, size = int(branch.member("fBasketSeek")[2]), int(branch.member("fBasketBytes")[2])
    data = bytearray(path.read_bytes())
    data[seek + size - 60 : seek + size] = b"\xff" * 60
    path.write_bytes(data)


def test_entries_that_cannot_be_read_keep_their_rows_where_that_is_allowed(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root", cluster=100)
    damage(tmp_path / "a.root", "Jet_id")
    with pytest.raises(DataError, match="Jet_id"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "out")
    assert names_in(tmp_path / "out") == []
    done = score([bundle], [tmp_path / "a.root"], tmp_path / "out", on_error=OnError(skips=True))
    found, wanted = read_output(done.outputs[0].path), offline(bundle, columns)[:, 0]
    wanted[200:] = np.nan
    assert found["tth_signal"].tobytes() == wanted.tobytes()
    assert found["event"].tolist() == [*columns["event"][:200].tolist(), *([0] * 100)]
    [lost] = done.outputs[0].stamp.unreadable
    assert (lost.start, lost.stop) == (200, 300)
    with pytest.raises(DataError, match="on_error allows"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "strict", on_error=OnError(skips=True, most_percent=10.0))


def test_files_that_cannot_be_opened_are_left_out_where_that_is_allowed(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    (tmp_path / "b.root").write_bytes((tmp_path / "a.root").read_bytes()[:1000])
    files = [tmp_path / "b.root", tmp_path / "a.root", tmp_path / "none.root"]
    with pytest.raises(DataError, match=r"(none|b)\.root"):
        score([bundle], files, tmp_path / "out")
    done = score([bundle], files, tmp_path / "out", on_error=OnError(skips=True))
    assert [one.input for one in done.outputs] == [str(tmp_path / "a.root")]
    assert {Path(one.path).name for one in done.skipped} == {"b.root", "none.root"}


def test_an_input_that_does_not_fit_is_told_before_anything_is_written(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    columns = identified(20)
    columns["MET_pT"] = columns.pop("MET_pt")
    write_events(tmp_path / "b.root", columns)
    with pytest.raises(DataError, match=r"b.root.*has no column 'MET_pt' \(float32\); did you mean 'MET_pT'"):
        score([bundle], [tmp_path / "a.root", tmp_path / "b.root"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_names_its_events_and_models_and_no_folder(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root")
    stamp = score([bundle], [tmp_path / "a.root"], tmp_path / "out").outputs[0].stamp
    assert stamp.alignment.entries == 300
    assert stamp.alignment.columns == ("run", "luminosityBlock", "event")
    assert stamp.alignment.first == {"run": 1, "luminosityBlock": 0, "event": int(columns["event"][0])}
    assert stamp.alignment.last == {"run": 1, "luminosityBlock": 2, "event": int(columns["event"][-1])}
    assert stamp.models[0].model_sha256 == bundle.model_sha256
    assert str(tmp_path) not in msgspec.json.encode(stamp).decode()
    assert math.isnan(math.nan if stamp.fill is None else stamp.fill)


def test_outputs_may_lie_elsewhere_and_are_found_there_again(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root")
    first = score([bundle], [tmp_path / "a.root"], "memory://scored/of")  # type: ignore[arg-type]
    assert [one.path for one in first.outputs] == ["memory://scored/of/a_scores.root"]
    found = read_output(first.outputs[0].path)
    assert found["tth_signal"].tobytes() == offline(bundle, columns)[:, 0].tobytes()
    again = score([bundle], [tmp_path / "a.root"], "memory://scored/of")  # type: ignore[arg-type]
    assert again.outputs[0].before
    assert again.outputs[0].stamp == first.outputs[0].stamp


def test_a_name_says_of_which_format_a_file_is(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    with pytest.raises(UserError, match=r"x.parquet: the output is a .root file; --format parquet would make it"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x.root: the output is a .parquet file; --format ttree"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "x.root", manner=Manner("parquet"))
    with pytest.raises(UserError, match="--drop is of copies, and --format ttree copies nothing"):
        score([bundle], [tmp_path / "a.root"], tmp_path / "out", manner=Manner(drop=("event",)))
    (tmp_path / "folder.root").mkdir()
    done = score([bundle], [tmp_path / "a.root"], tmp_path / "folder.root")
    assert names_in(tmp_path / "folder.root") == [Path(done.outputs[0].path).name]


def test_no_output_is_a_friend(bundle: Bundle, tmp_path: Path) -> None:
    write_input(tmp_path / "a.root")
    score([bundle], [tmp_path / "a.root"], tmp_path)  # scores of an earlier model, which are inputs of the next
    asked, manner = ask([bundle]), Manner(overwrite=True)
    friends = ["{folder}/{stem}_scores.root"]
    with pytest.raises(UserError, match=r"would be written over the input .*a_scores.root"):
        score_files(asked, [str(tmp_path / "a.root")], str(tmp_path), friends=friends, manner=manner)


def test_what_an_address_says_of_us_stays_behind_its_path(bundle: Bundle, tmp_path: Path) -> None:
    columns = write_input(tmp_path / "a.root", 5)
    entry = FileEntry(0, 0, 0, str(tmp_path / "a.root"), "Events", np.array([0, len(columns["event"])]))
    found = outputs_of([entry], "davs://host/out?authz=x", suffix=lambda _: ".root")
    assert [one.path for one in found] == ["davs://host/out/a_scores.root?authz=x"]
