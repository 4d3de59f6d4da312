"""A bundle trained again is the same, wherever its files lie; what is not the same is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlaas4hep.bundle import load_bundle
from mlaas4hep.cli import run
from mlaas4hep.config import parse_config
from mlaas4hep.data.contents import WHOLE_BYTES, identity_of
from mlaas4hep.errors import BundleError, DataError
from mlaas4hep.progress import Silent
from mlaas4hep.testing import write_events
from mlaas4hep.train import replay as module
from mlaas4hep.train.differences import differences
from mlaas4hep.train.origins import Origin, Shortened
from mlaas4hep.train.replay import replay
from mlaas4hep.train.run import train
from mlaas4hep.train.whereabouts import Whereabouts

pytestmark = pytest.mark.usefixtures("plain_pictures")

ROOT = Path(__file__).parents[3]
OWN_MODEL = """
from sklearn.neural_network import MLPClassifier

def model(idim):
    return MLPClassifier((idim,))
"""
OWN_FUNCTION = "def preprocessing(rec):\n    return {**rec, 'twice': 2.0 * rec['x']} if rec['x'] > -2 else None\n"


def events(seed: int, *, entries: int = 240, shift: float = 0.0) -> dict[str, object]:
    random = np.random.default_rng(seed)
    return {name: random.normal(shift, 1.5, entries) for name in ("x", "y")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of the same name in two folders, and one that is no ROOT file."""
    for seed, name in enumerate(("b/one", "a/one", "a/two")):
        file = tmp_path / "data" / f"{name}.root"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_events(file, events(seed, shift=float(name != "b/one")), cluster=60)  # type: ignore[arg-type]
    return tmp_path


def trained(folder: Path, *, max_events: int | None = None, **keys: object) -> Path:
    """A bundle, taken out of its run."""
    document = {
        "name": "toy",
        # Not in the order of the alphabet: the order of samples is that of their events.
        "samples": {"signal": {"files": "data/a/*.root"}, "background": {"files": "data/b/*.root"}},
        "inputs": {"event": ["x", "y"]},
        "model": {"name": "bdt", "trees": 5},
        "training": {"epochs": 2, "batch_size": 32},
        **keys,
    }
    text = yaml.safe_dump(document, sort_keys=False)
    train(parse_config(text, folder=folder, where="toy.yaml"), output=folder / "run", max_events=max_events)
    shutil.move(folder / "run" / "model" / "toy", folder / "toy")
    shutil.rmtree(folder / "run")
    return folder / "toy"


@pytest.mark.parametrize("split", [{}, {"folds": 2, "validation": 0.2}], ids=["one model", "two folds"])
def test_moved_files_and_own_code_give_equal_hashes(folder: Path, tmp_path: Path, split: dict[str, object]) -> None:
    (folder / "mine.py").write_text(OWN_MODEL)
    (folder / "pre.py").write_text(OWN_FUNCTION)
    bundle = trained(
        folder,
        model={"file": "mine.py"},
        preproc="pre.py",
        inputs={"event": ["x", "y", "twice"]},
        max_events=500,
        split=split,
    )
    for gone in ("mine.py", "pre.py"):
        (folder / gone).unlink()
    (folder / "data").rename(folder / "elsewhere")
    told = json.loads((bundle / "1" / "spec.json").read_text())["provenance"]
    assert str(folder) not in json.dumps(told)
    assert [one["path"] for one in told["files"]] == ["a/one.root", "a/two.root", "b/one.root"]
    assert sum(one["read"] for one in told["files"]) <= 500
    assert {one["read"] - one["selected"] - one["cut"] for one in told["files"]} == {0}
    done = replay(load_bundle(bundle), files=[str(folder / "elsewhere")], output=tmp_path / "again")
    assert done.equal
    assert done.differences == ()
    assert done.run == tmp_path / "again"
    assert (done.run / "report.html").is_file()


def test_an_exact_order_is_replayed_with_a_cache_of_its_own(folder: Path) -> None:
    training = {"epochs": 2, "batch_size": 32, "shuffle": "exact"}
    bundle = trained(folder, model={"name": "mlp", "hidden": [4]}, training=training, cache=str(folder / "rows"))
    shutil.rmtree(folder / "rows")
    assert replay(load_bundle(bundle), files=[str(folder / "data")]).equal
    assert not (folder / "rows").exists()


def test_a_bundle_in_its_run_finds_its_files_and_the_shell_says_equal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "samples: {signal: {files: 'data/a/*.root'}, background: {files: data/b}}\n"
        "inputs: {event: [x]}\nmodel: {name: bdt, trees: 5}\n"
    )
    done = train(parse_config(text, folder=folder, where="toy.yaml"), output=folder / "run")
    assert run(["replay", str(done.bundle.path), "--no-progress"]) == 0
    printed, _ = capsys.readouterr()
    assert printed.count(" equal ") == 2
    assert "not equal" not in printed


def test_a_changed_file_is_named_with_both_identities_and_status_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = trained(folder), folder / "data" / "a" / "two.root"
    then = identity_of(str(file))[1]
    write_events(file, events(9), cluster=60)  # type: ignore[arg-type]
    assert run(["replay", str(bundle), "--files", str(folder / "data"), "--json", "--no-progress"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert not figures["equal"]
    assert not figures["model_sha256"]["equal"]
    first = figures["differences"][0]
    assert "a/two.root" in first
    assert then in first
    assert identity_of(str(file))[1] in first
    assert any(one.startswith("spec.statistics") for one in figures["differences"])
    assert figures["differences"][-1].startswith("model: scores of 32 trial rows differ by at most")


def test_files_that_are_gone_are_listed_and_status_two(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = trained(folder)
    (folder / "data" / "a" / "two.root").unlink()
    assert run(["replay", str(bundle), "--files", str(folder / "data")]) == 2
    told = capsys.readouterr().err
    assert "1 files of the training are not found: a/two.root" in told
    assert "--files OLD=NEW" in told


def test_a_file_that_could_not_be_opened_keeps_its_place(folder: Path) -> None:
    (folder / "data" / "a" / "p.root").write_bytes(b"root, but damaged")
    bundle = trained(folder, on_error="skip up to 1", split={"test": 0.3, "validation": 0.0})
    done = replay(load_bundle(bundle), files=[str(folder / "data")])
    assert done.equal
    assert done.differences == ()


def test_several_friends_of_several_files_come_with_them(folder: Path) -> None:
    for number, name in enumerate(("one", "two")):
        for friend in ("btag", "tau"):
            path = folder / "data" / friend / f"{name}.root"
            path.parent.mkdir(exist_ok=True)
            values = events(20 + number)["x"]
            write_events(path, {f"{friend}_score": values}, tree=friend)  # type: ignore[dict-item]
    samples = {
        "signal": {"files": "data/a/*.root", "friends": ["data/tau/*.root", "data/btag/*.root"]},
        "background": {"files": "data/b/*.root"},
    }
    bundle = trained(folder, samples=samples)
    files = load_bundle(bundle).spec.provenance["files"]
    assert [name for name, _ in files[1]["friends"]] == ["tau/two.root", "btag/two.root"]
    assert replay(load_bundle(bundle), files=[str(folder / "data")]).equal


def test_a_bundle_without_its_config_is_refused_by_what_is_missing() -> None:
    old = load_bundle(ROOT / "tests" / "golden" / "bundle_v1" / "trees")
    with pytest.raises(BundleError, match="cannot be replayed: its provenance has no config, max_events, versions"):
        replay(old)


def test_only_what_differs_is_told() -> None:
    file = {"path": "a.root", "read": 5, "selected": 4}
    then = {"versions": {"numpy": "2.3.0", "python": "3.11.2"}, "code_sha256": "a", "files": [file], "skipped": []}
    now = {**then, "versions": {"numpy": "2.4.0", "python": "3.11.2", "torch": "2.7"}, "machine": {"cores": 2}}
    now["files"] = [{**file, "selected": 3}]
    assert list(differences(then, then)) == []
    assert list(differences(then, now)) == [
        "numpy: 2.3.0 then, 2.4.0 now",
        "torch: not installed then, 2.7 now",
        "machine.cores: nothing then, 2 now",
        "file a.root: selected 4 then, 3 now",
    ]


def test_of_a_large_file_both_ends_and_pieces_between_are_looked_at(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"abc")
    size, identity = identity_of(str(small))
    assert (size, identity.partition(":")[0]) == (3, "sha256")
    bytes_ = np.random.default_rng(0).bytes(WHOLE_BYTES + 100_000)
    large.write_bytes(bytes_)
    size, whole = identity_of(str(large))
    assert (size, whole.partition(":")[0]) == (len(bytes_), "sampled-sha256")
    for place in (0, len(bytes_) - 1):
        changed = bytearray(bytes_)
        changed[place] ^= 1
        large.write_bytes(changed)
        assert identity_of(str(large))[1] != whole


def test_places_that_are_told_come_first_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    for name in ("new/x/one.root", "other/one.root"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    origins = [Origin("s", 0, "2022/x/one.root", "t", 1)]
    moved = Whereabouts(origins, [f"2022={tmp_path}/new", str(tmp_path / "other")]).find(progress=Silent())
    assert moved["s", 0, 0].path == str(tmp_path / "new/x/one.root")
    flat = Whereabouts(origins, [str(tmp_path / "other")]).find(progress=Silent())
    assert flat["s", 0, 0].path == str(tmp_path / "other/one.root")
    with pytest.raises(DataError, match=r"--files 2023=\.\.\.: the bundle names no such file or folder; did you mean"):
        Whereabouts(origins, ["2023=/x"])
    with pytest.raises(DataError, match="is no folder; write OLD=NEW"):
        Whereabouts(origins, [str(tmp_path / "nothing")])


def test_names_hold_no_folder_of_this_machine() -> None:
    short = Shortened(["/home/me/a.root", "file:///home/me/sub/b.root", "root://host//store/c.root"])
    assert [short("/home/me/a.root"), short("file:///home/me/sub/b.root")] == ["a.root", "sub/b.root"]
    assert short("root://host//store/c.root") == "root://host//store/c.root"


def test_an_origin_that_cannot_be_understood_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(trained(folder))
    broken = {**bundle.spec.provenance, "files": [{"sample": 3}]}
    monkeypatch.setattr(module, "_record", lambda _: broken)
    with pytest.raises(BundleError, match="tells a file in a way that is not known"):
        replay(bundle)
