"""Text files with a path a line, replicas, redirectors, and configs that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.locate import Located, file_key, locate, search
from mlaas4hep.data.places import open_place
from mlaas4hep.errors import ConfigError
from mlaas4hep.testing import make_events, refusal, write_events
from tests.fault_server import Faults, fault_server

CONFIG = """
samples:
  signal: {files: SIGNAL}
  background: {files: back.root}
inputs: {event: [MET_pt]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("sig.root", "back.root", "more.root")):
        write_events(tmp_path / name, make_events(30, seed=number))
    return tmp_path


def names(found: tuple[str, ...]) -> list[str]:
    return [Path(one).name for one in found]


def test_a_list_holds_a_path_a_line_from_its_own_folder(folder: Path) -> None:
    (folder / "lists").mkdir()
    text = f"# first\n\n  ../sig.root  \n{folder}/b*.root # with a comment\n../sig.root\n"
    (folder / "lists" / "all.txt").write_text(text)
    assert names(locate([str(folder / "lists" / "all.txt")])) == ["sig.root", "back.root"]
    assert names(locate([str(folder / "lists" / "*.txt"), str(folder / "more.root")])) == [
        "sig.root",
        "back.root",
        "more.root",
    ]


def test_what_is_wrong_with_a_list_is_told_with_its_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "list.txt"
    for text, says in [
        ("\n# nothing\n", "without a file in it"),
        ("sig.root\nsog.root\n", "list.txt, line 1"),
        ("other.txt\n", "a list of files inside a list"),
        ("gopher://host/a.root", "nothing is known for gopher://"),
    ]:
        elsewhere.write_text(text)
        assert says in refusal(lambda: locate([str(elsewhere)]))
    elsewhere.write_bytes(b"\xff\xfe\x00")
    assert "no text at byte 0" in refusal(lambda: locate([str(elsewhere)]))
    elsewhere.write_text("sig.root")
    monkeypatch.chdir(folder)
    assert "start at the folder of the list" in refusal(lambda: locate([str(elsewhere)]))


def test_replicas_are_one_file_whatever_their_order(folder: Path) -> None:
    here, far = str(folder / "sig.root"), "root://host//sig.root"
    found, problems = search([[far, here], [here, far], str(folder / "back.root")])
    assert found == (Located(far, (far, here)), Located(str(folder / "back.root")))
    assert problems == ()
    assert file_key(far, (far, here)) == file_key(here, (here, far))
    assert "wild cards" in search([[f"{folder}/*.root"]])[1][0]


def test_redirectors_are_asked_for_absolute_paths_that_are_not_here(folder: Path) -> None:
    doors = ["root://one", "https://two/"]
    found, problems = search(["/store/x.root", str(folder / "sig.root"), "none.root"], redirectors=doors)
    assert found == (
        Located("root://one//store/x.root", ("root://one//store/x.root", "https://two/store/x.root")),
        Located(str(folder / "sig.root")),
    )
    assert len(problems) == 1  # a relative path is looked for here alone
    assert search(["/store/x.root"], redirectors=doors[:1])[0] == (Located("root://one//store/x.root"),)


def test_addresses_with_credentials_are_named_without_and_opened_with_them(folder: Path) -> None:
    with fault_server(folder) as server:
        (folder / "list.txt").write_text(f"{server.url}/sig.root?X-Amz-Signature=s3cret\n")
        found, _ = search([str(folder / "list.txt")])
        assert found[0].path == f"{server.url}/sig.root"
        assert "s3cret" not in repr(found)
        assert found[0].replicas == (f"{server.url}/sig.root?X-Amz-Signature=s3cret",)
        place = open_place(found[0].path, replicas=found[0].replicas)
        assert "s3cret" not in f"{place.url} {place.identity}"


def test_a_config_may_list_replicas(folder: Path) -> None:
    with fault_server(folder, Faults({"error": 1.0})) as bad:
        config = CONFIG.replace("SIGNAL", f"[['{bad.url}/sig.root', sig.root], more.root]")
        files = Catalogue.open(parse_config(config, folder=folder)).files
    assert [len(file.replicas) for file in files] == [2, 0, 0]
    assert files[0].path == f"{bad.url}/sig.root"
    assert files[0].num_entries == 30


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("redirector: cms-xrd-global.cern.ch", "redirector: 'cms-xrd-global.cern.ch' is no address"),
        ("redirector: https://me:s3cret@host", "redirector: https://host is written with a credential"),
        ("SIGNAL: 'https://h/a.root?X-Amz-Signature=s3cret'", "samples.signal.files[0]: https://h/a.root is written"),
        ("SIGNAL: [[]]", "samples.signal.files[0]: lists no address"),
        ("SIGNAL: [{a: b}]", "samples.signal.files[0]: wants text or a list"),
    ],
)
def test_addresses_in_configs_are_checked(line: str, says: str) -> None:
    key, _, value = line.partition(": ")
    config = CONFIG.replace("SIGNAL", value) if key == "SIGNAL" else CONFIG.replace("SIGNAL", "a.root") + line
    with pytest.raises(ConfigError) as refused:
        parse_config(config)
    assert says in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_redirector_of_a_sample_goes_before_that_of_the_config() -> None:
    text = CONFIG.replace("files: SIGNAL", "files: a.root, redirector: root://own") + "redirector: root://all\n"
    config = parse_config(text)
    assert config.redirectors_of("signal") == ("root://own",)
    assert config.redirectors_of("background") == ("root://all",)
