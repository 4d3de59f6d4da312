"""Paths and globs to files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.data.locate import locate
from mlaas4hep.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b1.root", "a2.root", "a1.root", "notes.txt", "odd[1].root"):
        (tmp_path / name).write_bytes(b"root")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.root").write_bytes(b"root")
    return tmp_path


def names(found: tuple[str, ...]) -> list[str]:
    return [Path(one).name for one in found]


def test_globs_are_sorted_and_stay_in_the_order_given(folder: Path) -> None:
    assert names(locate([f"{folder}/b*.root", f"{folder}/a*.root"])) == ["b1.root", "a1.root", "a2.root"]
    assert names(locate([f"{folder}/**/c.root"])) == ["c.root"]


def test_a_folder_stands_for_its_root_files(folder: Path) -> None:
    assert names(locate([str(folder / "sub")])) == ["c.root"]


def test_a_path_that_exists_is_not_a_pattern(folder: Path) -> None:
    assert names(locate([f"{folder}/odd[1].root"])) == ["odd[1].root"]


def test_a_file_named_twice_comes_once_however_it_is_spelled(folder: Path) -> None:
    (folder / "link.root").symlink_to(folder / "a1.root")
    spellings = [f"{folder}/a1.root", f"{folder}/sub/../a1.root", f"{folder}/link.root"]
    assert locate(spellings) == (spellings[0],)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a3.root", "no such file; did you mean 'a2.root' or 'a1.root'"),
        ("x*.root", "matches no file"),
        ("nowhere/x.root", "does not exist"),
        ("nowhere/*.root", "does not exist"),
    ],
)
def test_what_finds_nothing_is_refused_with_the_nearest(folder: Path, pattern: str, says: str) -> None:
    with pytest.raises(DataError, match=says.replace("*", r"\*")) as refused:
        locate([f"{folder}/{pattern}"])
    assert pattern in str(refused.value)


def test_all_that_find_nothing_are_reported_at_once(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError) as refused:
        locate([f"{folder}/no1.root", f"{folder}/a1.root", f"{folder}/empty", "gopher://host/a.root"])
    assert len(str(refused.value).splitlines()) == 3
    assert "nothing is known for gopher://" in str(refused.value)


@pytest.mark.parametrize(("typed", "meant"), [("rot", "root"), ("htps", "https"), ("s4", "s3"), ("roott", "root")])
def test_a_misspelled_scheme_is_told_with_the_nearest_one(typed: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"nothing is known for {typed}://; did you mean '{meant}'"):
        locate([f"{typed}://host//a.root"])


def test_a_scheme_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def fails(url: str) -> None:
        raise OSError("Unable to load libjvm: cannot open shared object file")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fails)
    with pytest.raises(DataError, match=r"needs its driver: Java .* set JAVA_HOME.* webhdfs://"):
        locate(["hdfs://host/a.root"])
