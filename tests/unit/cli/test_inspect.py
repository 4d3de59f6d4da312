"""``mlaas4hep inspect``: a table for people, JSON for programs, a draft for a start."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlaas4hep.cli import run as run_command_line
from mlaas4hep.cli.inspect import command
from mlaas4hep.config import parse_config
from mlaas4hep.data.places.endings import has_known_ending
from mlaas4hep.errors import DataError
from mlaas4hep.testing import make_events, write_events
from tests.unit.data.test_quarantine import break_cluster


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(write_events(tmp_path / "a.root", make_events(40), extra={"Runs": {"sumw": np.ones(1)}}))


def test_the_table_is_aligned_and_says_how_many_events_it_is_of(path: str) -> None:
    lines = CliRunner().invoke(command, [path, "--max-events", "30"], catch_exceptions=False).output.splitlines()
    assert lines[0].split() == ["tree", "format", "entries", "clusters", "columns", "file"]
    assert "tree Events: figures of 30 of 40 events (the first events; --max-events looks at more)" in lines
    table = lines[lines.index(next(line for line in lines if line.startswith("column"))) :]
    assert table[1].startswith("run ")
    jet = next(line for line in table if line.startswith("Jet_pt"))
    assert "float32[]" in jet
    assert max(map(len, table)) <= 160


def test_json_and_draft_can_be_read_back(path: str) -> None:
    found = json.loads(CliRunner().invoke(command, [path, "--json"], catch_exceptions=False).output)
    assert found["entries"] == 40
    assert {one["name"] for one in found["columns"]} >= {"Jet_pt", "MET_pt"}
    draft = CliRunner().invoke(command, [path, "--draft"], catch_exceptions=False).output
    assert "jets" in {group.name for group in parse_config(draft).features.inputs}


def test_a_column_that_cannot_be_read_is_listed_with_its_reason(test_data: Path) -> None:
    output = CliRunner().invoke(command, [str(test_data / "ntuples/uproot-Zmumu.root")], catch_exceptions=False).output
    assert "1 column that cannot be read:" in output
    assert "text, not numbers" in output


@pytest.mark.slow  # some of them are asked always, in the tests of the survey
def test_every_real_file_gives_a_table_or_one_clear_refusal(
    test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(path for path in test_data.rglob("*") if path.is_file())
    assert paths
    for path in paths:
        status = run_command_line(["inspect", str(path), "--max-events", "100"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err, path
        if status == 0:
            assert said.out.startswith("tree "), path
            assert "figures of " in said.out, path
            assert not said.err, path
        else:
            assert status == 2, path
            assert said.err.startswith(f"Error: {path}: "), said.err
            assert not said.out, path
            # Beside the files may lie a page that tells where they are from.
            assert path.parent.name == "broken" or not has_known_ending(path.name), said.err


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "no.root")])
    assert isinstance(result.exception, DataError)


CONFIG = """
tree: Events
samples: {signal: {files: a.root, selection: MET_pt > 40}, background: {files: a.root, selection: MET_pt <= 40}}
inputs: {event: [MET_pt], jets: {vars: [Jet_pt], length: 3}}
"""


def run(*arguments: str) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout


def test_figures_of_all_events_are_printed_and_drawn(path: str, tmp_path: Path) -> None:
    lines = run(path, "--stats", "-o", str(tmp_path / "stats.png")).splitlines()
    assert lines[0] == "tree Events: figures of all 40 events of 1 file; quantiles are within 0.1 % in rank"
    assert lines[1].split()[:5] == ["column", "type", "values", "NaN", "inf"]
    assert next(line for line in lines if line.startswith("MET_pt")).split()[1:3] == ["float32", "40"]
    assert (tmp_path / "stats.png").stat().st_size > 1000
    run(path, "--stats", "-o", str(tmp_path / "stats.html"))
    assert "<td>MET_pt</td>" in (tmp_path / "stats.html").read_text()


def test_figures_say_when_they_are_of_fewer_events(path: str) -> None:
    assert run(path, "--stats", "-n", "30").startswith("tree Events: figures of 30 of 40 events (the first ones")
    found = json.loads(run(path, "--stats", "-n", "30", "--json"))
    assert (found["looked_at"], found["entries"]) == (30, 40)
    assert {one["name"] for one in found["columns"] if one["figures"]} >= {"Jet_pt", "MET_pt"}


def test_a_config_says_which_columns_and_files_are_meant(path: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    for arguments in ([str(tmp_path / "config.yaml")], ["--config", str(tmp_path / "config.yaml"), path]):
        found = json.loads(run(*arguments, "--stats", "--json"))
        assert found["entries"] == 40
        assert [one["name"] for one in found["columns"]] == [
            "Jet_pt",
            "MET_pt",
            "event",
            "luminosityBlock",
            "run",
        ]


def test_a_plan_tells_what_it_was_measured_on(path: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    for arguments in ([str(tmp_path / "config.yaml")], [path], ["--config", str(tmp_path / "config.yaml"), path]):
        text = run(*arguments, "--plan")
        assert "(measured on 1 of " in text
        heads = [line.split("  ")[0] for line in text.splitlines()]
        assert heads[:6] == ["files", "columns", "an epoch", "clusters", "windows", "memory"]
    found = json.loads(run(str(tmp_path / "config.yaml"), "--plan", "--json"))
    assert found["memory_bytes"] == sum(found["memory"].values())


@pytest.mark.parametrize("option", ["", "--draft", "--json", "--stats", "--plan"])
def test_files_that_cannot_be_read_are_told_and_the_status_says_so(path: str, tmp_path: Path, option: str) -> None:
    (tmp_path / "empty.root").write_bytes(b"")
    missing = str(tmp_path / "missing.root")
    result = CliRunner().invoke(
        command, [path, str(tmp_path / "empty.root"), missing, "--no-progress", *option.split()], catch_exceptions=False
    )
    assert result.exit_code == 2
    assert f"left out, cannot be read: {tmp_path}/empty.root: is an empty file (0 bytes)" in result.stderr
    assert f"left out, cannot be read: {missing}: no such file" in result.stderr
    assert len(result.stdout) > 100
    if option == "--json":
        assert list(json.loads(result.stdout)["refused"]) == [missing, str(tmp_path / "empty.root")]


OPTIONS = ["", "--draft", "--json", "--stats", "--plan"]


@pytest.mark.parametrize("option", OPTIONS)
def test_files_that_hold_nothing_of_use_are_told_beside_good_ones(path: str, tmp_path: Path, option: str) -> None:
    none = write_events(tmp_path / "none.root", {"x": np.zeros(0)}, tree="nothing")
    other = write_events(tmp_path / "other.root", {"x": np.arange(3.0)}, tree="other")
    bare = write_events(tmp_path / "bare.root", {"x": np.zeros(0)})
    result = CliRunner().invoke(
        command, [path, str(none), str(other), str(bare), "--no-progress", *option.split()], catch_exceptions=False
    )
    assert result.exit_code == 2
    assert f"left out, cannot be read: {none}: has no tree 'Events'; it holds nothing (no entries)\n" in result.stderr
    assert f"left out, empty: {bare}: its tree 'Events' has no entries\n" in result.stderr
    left_out = f"left out: {other}: has no tree 'Events'; it holds other\n"
    assert left_out in (result.stdout if not option else result.stderr) or option == "--json"
    assert CliRunner().invoke(command, [path, str(other), *option.split()]).exit_code == 0, "it is no bad file"
    asked = CliRunner().invoke(command, [path, str(other), "--tree", "Events", *option.split()])
    assert asked.exit_code == 2, "it lacks what was asked for by name"
    assert f"left out, cannot be read: {other}: has no tree 'Events'" in asked.stderr


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["old_cs_compression.root", "rntuple_prerelease.root", "uproot-empty.root"])
def test_broken_files_of_others_are_told_beside_good_ones(test_data: Path, path: str, name: str, option: str) -> None:
    broken = str(test_data / "broken" / name)
    result = CliRunner().invoke(command, [path, broken, "--no-progress", *option.split()], catch_exceptions=False)
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("left out")]
    assert line.startswith(f"left out, cannot be read: {broken}: ")
    assert len(result.stdout) > 100


def test_columns_of_several_kinds_of_files_are_told_apart_from_unreadable_ones(tmp_path: Path) -> None:
    tables = {
        "a": {"x": np.arange(3.0)},
        "b": {"x": np.arange(3.0), "y_pt": np.arange(3.0)},
        "c": {"z": np.arange(3.0)},
    }
    a, b, c = (str(write_events(tmp_path / f"{name}.root", columns)) for name, columns in tables.items())
    assert f"1 column not in all files, or not of one kind:\n  y_pt  float64  not in {a}, but in {b}\n" in run(a, b)
    assert f"# not in all files: y_pt: not in {a}, but in {b}\n" in run(a, b, "--draft")
    none = run(a, c)
    assert "tree Events: no column is in all 2 files; give one kind of file at a time\n" in none
    assert "cannot be read" not in none
    assert "# not in all files: no column is shared; give one kind of file at a time\n" in run(a, c, "--draft")


def test_a_file_of_two_trees_alike_says_which_figures_are_shown(tmp_path: Path) -> None:
    one = {"x": np.arange(3.0)}
    path = str(write_events(tmp_path / "a.root", one, tree="sig", extra={"bkg": one, "Runs": {"y": one["x"], **one}}))
    shown = run(path, "--tree", "sig")
    assert "tree sig: figures of all 3 events\n  another of as many columns: --tree bkg\ncolumn" in shown
    assert "# Figures are of 3 of 3 events of tree sig; not looked at: bkg.\n" in run(path, "--tree", "sig", "--draft")


@pytest.mark.parametrize("option", ["--draft", "--plan"])
def test_a_draft_beside_a_damaged_file_names_each_sample_once(path: str, tmp_path: Path, option: str) -> None:
    bad = write_events(tmp_path / "b.root", make_events(40))
    break_cluster(bad, 0)
    result = CliRunner().invoke(command, [path, str(bad), "--no-progress", option], catch_exceptions=False)
    assert result.exit_code == 2
    assert f"{bad}: branch 'Jet_pt', basket 0" in result.stderr
    if option == "--draft":
        samples = parse_config(result.stdout).samples
        assert {name: sample.files for name, sample in samples.items()}["signal"] == (path,)
    else:
        assert result.stdout.startswith("files      1;")


@pytest.mark.parametrize("option", ["--stats", "--plan"])
def test_of_other_files_the_config_says_too_whether_bad_ones_may_be_left_out(
    path: str, tmp_path: Path, option: str
) -> None:
    (tmp_path / "empty.root").write_bytes(b"")
    files = [path, str(tmp_path / "empty.root"), str(tmp_path / "missing.root")]
    found = {}
    for rule in ("stop", "skip up to 1", "skip up to 2"):
        (tmp_path / "config.yaml").write_text(f"{CONFIG}on_error: {rule}\n")
        found[rule] = CliRunner().invoke(command, ["--config", str(tmp_path / "config.yaml"), *files, option])
    assert [one.exit_code for one in found.values()] == [1, 1, 0]
    assert "missing.root: no such file" in str(found["stop"].exception)
    assert "2 files or clusters cannot be read, and on_error allows 1" in str(found["skip up to 1"].exception)
    told = found["skip up to 2"].stderr.replace(" (sample 'signal')", "")
    assert "empty.root: is an empty file" in told
    assert "missing.root: no such file" in told


@pytest.mark.parametrize("option", ["--stats", "--plan"])
def test_what_a_config_allows_to_leave_out_is_told_and_is_no_mistake(path: str, tmp_path: Path, option: str) -> None:
    (tmp_path / "empty.root").write_bytes(b"")
    text = CONFIG.replace(
        "{files: a.root, selection: MET_pt > 40}", "{files: [a.root, empty.root], selection: MET_pt > 40}"
    )
    (tmp_path / "config.yaml").write_text(f"{text}on_error: skip\n")
    result = CliRunner().invoke(command, [str(tmp_path / "config.yaml"), option, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "empty.root (sample 'signal'): is an empty file (0 bytes)" in result.stderr
    [left] = json.loads(result.stdout)["skipped"]
    assert (Path(left["path"]).name, left["sample"], left["reason"]) == (
        "empty.root",
        "signal",
        "is an empty file (0 bytes)",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give files, or a config"),
        (["a.root", "--stats", "--plan"], "give one of"),
        (["c.yaml"], "is looked at with --stats or --plan"),
        (["a.root", "-o", "x.png"], "-o goes with --stats"),
        (["a.root", "--stats", "-o", "x.pdf"], "must end in .png or .html"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert words in result.output
