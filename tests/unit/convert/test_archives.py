"""Archives are opened into a folder and nowhere else, and never to more than they may be."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.convert.archives import files_below, unpack
from mlaas4hep.convert.limits import Limits
from mlaas4hep.errors import UploadError
from tests.attacks import tar_member, tarred, zipped


def opened(data: bytes, folder: Path, limits: Limits | None = None) -> dict[str, bytes]:
    source, goal = folder / "archive", folder / "inside"
    source.write_bytes(data)
    goal.mkdir()
    unpack(source, goal, limits or Limits())
    return {name: path.read_bytes() for name, path in files_below(goal).items()}


FILES = {"m/a.txt": b"one", "m/sub/b.bin": b"\0" * 5000}


@pytest.mark.parametrize(
    "data",
    [zipped(FILES), zipped(FILES, compression=zipfile.ZIP_DEFLATED), tarred(FILES), tarred(FILES, mode="w:")],
    ids=["zip", "deflated", "tar.gz", "tar"],
)
def test_an_archive_gives_its_files(data: bytes, tmp_path: Path) -> None:
    assert opened(data, tmp_path) == FILES


LEADS_OUT = ["../evil", "a/../../evil", "/etc/evil", "..", "a\\..\\evil", "C:evil"]


@pytest.mark.parametrize("name", LEADS_OUT)
@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])
def test_a_member_that_leads_out_is_refused(name: str, pack: object, tmp_path: Path) -> None:
    folder = tmp_path / "two" / "down"  # so that every way out of it still ends in this test's own folder
    folder.mkdir(parents=True)
    with pytest.raises(UploadError, match=r"leads out|damaged"):
        opened(pack({name: b"x"}), folder)  # type: ignore[operator]
    assert not list(tmp_path.rglob("*evil"))
    assert not Path("/etc/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="link, a device"):
        opened(tar_member(kind), tmp_path)
    assert not list((tmp_path / "inside").iterdir())


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UploadError, match="link or a device"):
        opened(buffer.getvalue(), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a")])
def test_a_name_that_comes_twice_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    for mode in ("zip", "tar"):
        buffer = io.BytesIO()
        if mode == "zip":
            with zipfile.ZipFile(buffer, "w") as archive:
                for name in names:
                    archive.writestr(name, b"x")
        else:
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for name in names:
                    tar.addfile(tarfile.TarInfo(name))
        place = tmp_path / mode
        place.mkdir()
        with pytest.raises(UploadError, match=r"twice|as a file and a folder|below what is a file"):
            opened(buffer.getvalue(), place)


@pytest.mark.parametrize("deflated", [True, False], ids=["zip", "tar.gz"])
def test_a_bomb_ends_at_the_limit_and_not_behind_it(deflated: bool, tmp_path: Path) -> None:
    big = {"zeros": b"\0" * (40 << 20)}
    data = zipped(big, compression=zipfile.ZIP_DEFLATED) if deflated else tarred(big)
    assert len(data) < 100_000
    with pytest.raises(UploadError, match="unpacks to more"):
        opened(data, tmp_path)
    limits = Limits()
    assert (tmp_path / "inside" / "zeros").stat().st_size <= limits.ratio * len(data) + (1 << 20)


def test_members_and_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="more than 3 members"):
        opened(zipped({f"f{at}": b"" for at in range(4)}), tmp_path, Limits(members=3))
    (tmp_path / "long").mkdir()
    with pytest.raises(UploadError, match="a name of 899 letters"):
        opened(tarred({"/".join(["a" * 99] * 9): b""}), tmp_path / "long")


@given(data=st.binary(max_size=300), cut=st.integers(0, 200))
def test_damaged_archives_end_in_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int
) -> None:
    whole = tarred(FILES)
    for one in (data, whole[:cut] + data + whole[cut + len(data) :], zipped(FILES)[: 200 - cut % 150]):
        with suppress(UploadError):
            opened(one, tmp_path_factory.mktemp("archive"))
