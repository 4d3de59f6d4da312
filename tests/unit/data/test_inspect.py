"""What is in files, and a first config from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.data.draft import draft_config
from mlaas4hep.data.inspect import survey
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.testing import make_events, write_events


def test_figures_are_those_of_the_events_looked_at(tmp_path: Path) -> None:
    columns = {
        "x": np.array([1, 2, np.nan, np.inf, 4, 100], dtype=np.float32),
        "Jet_pt": Jagged.from_lists([[1, 2], [], [3], [4, 5, 6], [7], [8]]),
    }
    found = survey([str(write_events(tmp_path / "a.root", columns))], max_events=5)
    assert (found.entries, found.looked_at) == (6, 5)
    x, jet = (next(one for one in found.columns if one.name == name) for name in ("x", "Jet_pt"))
    assert (x.minimum, x.maximum, x.values, x.missing, x.infinite) == (1, 4, 3, 1, 1)
    assert x.mean == pytest.approx(7 / 3)
    assert jet.lengths is not None
    assert (jet.lengths.minimum, jet.lengths.mean, jet.lengths.maximum) == (0, pytest.approx(1.4), 3)
    assert (jet.type, jet.values) == ("float32[]", 7)


def test_the_largest_tree_or_events_is_shown_and_all_are_listed(tmp_path: Path) -> None:
    small = {"y": np.arange(3.0)}
    path = str(write_events(tmp_path / "a.root", make_events(50), tree="nominal", extra={"Runs": small}))
    found = survey([path])
    assert found.tree == "nominal"
    assert [(one.name, one.entries) for one in found.trees] == [("nominal", 50), ("Runs", 3)]
    assert survey([path], tree="Runs").columns[0].name == "y"
    with pytest.raises(DataError, match="did you mean 'nominal'"):
        survey([path], tree="nominall")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("ttH_1", "ttH_2", "ttbar_1", "qcd"), ("background", "signal")),
        (("zee", "zmumu"), ("zee", "zmumu")),
        (("wjets", "zjets", "ttbar"), ("ttbar", "wjets", "zjets")),
        (("data",), ("background", "signal")),
    ],
)
def test_labels_are_guessed_from_file_names(tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    paths = [str(write_events(tmp_path / f"{name}.root", make_events(30))) for name in names]
    config = parse_config(draft_config(survey(paths)))
    assert config.classes == classes
    assert sum(len(sample.files) for sample in config.samples.values()) == max(len(names), 2)


def test_a_draft_knows_collections_weights_and_identity(tmp_path: Path) -> None:
    paths = [str(write_events(tmp_path / f"{name}.root", make_events(200))) for name in ("ttH", "qcd")]
    features = parse_config(draft_config(survey(paths))).features
    groups = {group.name: group for group in features.inputs}
    assert [one.name for one in groups["event"].variables] == ["MET_pt", "nJet"]
    assert [one.name for one in groups["jets"].variables] == ["Jet_pt", "Jet_eta"]
    assert groups["jets"].sort == "-Jet_pt"
    assert 5 <= (groups["jets"].length or 0) <= 10
    assert features.weights.event == "genWeight"
    assert features.split.by == ()


def test_a_label_column_makes_two_samples(tmp_path: Path) -> None:
    columns = {"x": np.arange(40.0), "label": np.arange(40, dtype=np.int32) % 2}
    config = parse_config(draft_config(survey([str(write_events(tmp_path / "a.root", columns))])))
    assert [sample.selection for sample in config.samples.values()] == ["label == 0", "label == 1"]


def test_files_without_the_tree_are_named_in_the_draft(tmp_path: Path) -> None:
    paths = [
        str(write_events(tmp_path / "sig.root", make_events(20))),
        str(write_events(tmp_path / "bkg.root", make_events(20), tree="nominal")),
        str(write_events(tmp_path / "none.root", {"MET_pt": np.zeros(0, np.float32)})),
    ]
    text = draft_config(survey(paths))
    assert f"# left out: {paths[1]}: has no tree 'Events'; it holds nominal\n" in text
    assert f"# left out: {paths[2]}: its tree 'Events' has no entries\n" in text
    assert "left out" not in draft_config(survey(paths[:1]))


def test_files_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = (str(write_events(tmp_path / f"{name}.root", make_events(20))) for name in "ab")
    Path(bad).write_bytes(Path(bad).read_bytes()[:1500])
    (tmp_path / "c.root").write_bytes(b"")
    (tmp_path / "d.root").write_bytes(b"")
    found = survey([bad, good, str(tmp_path / "c.root"), str(tmp_path / "d.root")])
    assert found.paths == (good,)
    assert found.entries == 20
    assert list(found.refused) == [bad, f"{tmp_path}/c.root", f"{tmp_path}/d.root"]
    text = draft_config(found)
    assert f"# left out: {tmp_path}/c.root and 1 more file: is an empty file (0 bytes)\n" in text
    assert f"# left out: {bad}: is truncated" in text
    with pytest.raises(DataError, match=r"c\.root and 1 more file: is an empty file"):
        survey([str(tmp_path / "c.root"), str(tmp_path / "d.root")])


def test_a_tree_is_chosen_that_has_events_and_without_one_each_file_tells_of_its_own(tmp_path: Path) -> None:
    nothing = np.zeros(0)
    empty = str(write_events(tmp_path / "a.root", {"x": nothing, "y": nothing}))
    other = str(write_events(tmp_path / "b.root", {"x": nothing}, tree="nominal", extra={"Runs": {"z": nothing}}))
    good = str(write_events(tmp_path / "c.root", {"x": np.arange(3.0)}, tree="nominal"))
    found = survey([empty, other, good])
    assert (found.tree, found.paths, found.entries) == ("nominal", (good,), 3)
    with pytest.raises(DataError) as caught:
        survey([empty, other])
    first, second = str(caught.value).splitlines()
    assert first == f"{empty}: its tree 'Events' has no entries"
    assert second == f"{other}: holds no events that can be read: nominal (no entries), Runs (no entries)"


def test_a_tree_that_no_file_has_is_refused_beside_a_file_of_one_table(tmp_path: Path) -> None:
    root = str(write_events(tmp_path / "a.root", {"x": np.arange(3.0)}))
    table = str(write_events(tmp_path / "a.csv", {"x": np.arange(3.0)}, format="csv"))
    with pytest.raises(DataError, match="has no tree 'Evnts'; did you mean 'Events'"):
        survey([root, table], tree="Evnts")
    assert survey([root, table], tree="Events").entries == 6
    assert survey([table], tree="whatever").entries == 3


def test_columns_that_are_not_the_same_in_all_files_name_the_files(tmp_path: Path) -> None:
    flat, lists = np.arange(2.0), Jagged.from_lists([[1], [2]])
    tables: dict[str, dict[str, Column]] = {
        "a": {"x": flat, "y": flat, "z": flat},
        "b": {"x": flat, "y": lists},
        "c": {"x": flat, "y": flat, "w": flat},
    }
    paths = [str(write_events(tmp_path / f"{name}.root", columns)) for name, columns in tables.items()]
    reasons = {one.name: one.reason for one in survey(paths).columns if one.name != "ny"}
    assert reasons == {
        "x": None,
        "y": f"is float64 in {paths[0]}, float32[] in {paths[1]}",
        "z": f"not in {paths[1]} and 1 more file, but in {paths[0]}",
        "w": f"not in {paths[0]} and 1 more file, but in {paths[2]}",
    }


def test_variations_and_bookkeeping_stay_out_of_a_draft_and_counters_of_its_collections_in(tmp_path: Path) -> None:
    rising = np.arange(40)
    kept = ["MET_pt", "HT", "nGroup", "setup", "Upsilon_mass", "nJet"]
    out = ["MET_pt_jesTotalUp", "JERUp_MET", "HT_JES_1down", "MET_UnclustEnUpDeltaX", "eventNumber", "mcEventNumber"]
    out += ["RandomRunNumber", "lumiBlock", "timeStamp", "bcid", "nGenPart"]
    lists = Jagged.from_counts(rising % 3, np.arange((rising % 3).sum(), dtype=np.float32))
    columns: dict[str, Column] = dict.fromkeys(kept + out, rising)
    columns |= dict.fromkeys(("Jet_pt", "Jet_pt_jerUp", "Jet_JERDown_mass", "GenPart_pt"), lists)
    path = str(write_events(tmp_path / "a.root", columns))
    features = parse_config(draft_config(survey([path]))).features
    event, jets = features.inputs
    assert {one.name for one in event.variables} == set(kept)
    assert [one.name for one in jets.variables] == ["Jet_pt"]
    assert features.split.by == ("eventNumber", "lumiBlock")


def test_values_that_may_stand_for_a_missing_one_are_remarked(tmp_path: Path) -> None:
    columns = {
        "mbb": np.array([-999, 1, 2, 3], dtype=np.float32),
        "tau": np.array([-99.9, 1, 2, 3], dtype=np.float32),
        "ratio": np.array([np.inf, 1, 2, 3], dtype=np.float32),
        "fine": np.array([-998, 1, 2, 3], dtype=np.float32),
    }
    text = draft_config(survey([str(write_events(tmp_path / "a.root", columns))]))
    assert "# The lowest value is -999 in: mbb\n# The lowest value is -99.9 in: tau\n" in text
    assert "# Infinite values in: ratio." in text
    assert "# missing: [-999, -99.9]\n" in text
    assert parse_config(text.replace("# missing", "missing")).features.missing_values == (-999.0, -99.9)


def test_what_is_to_be_filled_in_says_what_it_wants(tmp_path: Path) -> None:
    columns: dict[str, Column] = {f"x{number}": np.arange(5.0) for number in range(47)}
    text = draft_config(survey([str(write_events(tmp_path / "data.root", columns))]))
    before, after = text.split('    files: "CHANGE-ME.root"\n')
    assert "A classifier needs another: write its files here." in before.splitlines()[-2]
    assert "7 more look usable: x40, x41, x42, x43, x44 and 2 more\n" in after
    parse_config(text)


REAL = [
    "delphes/delphes.root",
    "higgs/Higgs_data.root",
    "jets/jets_qcd.root",
    "jets/jets_top_rntuple.root",
    "jets/quark_gluon_tracks.root",
    "nanoaod/nano_dy.root",
    "ntuples/uproot-HZZ-lzma.root",
    "ntuples/uproot-HZZ-objects.root",
    "ntuples/uproot-Zmumu.root",
    "ntuples/uproot-double32-float16.root",
    "ntuples/uproot-from-geant4.root",
    "rntuple/Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root",
    "rntuple/test_multiple_cluster_groups_rntuple_v1-0-0-0.root",
    "rntuple/test_stl_containers_rntuple_v1-0-0-0.root",
    "tth/dev_ttbar_jagged.root",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_give_a_survey_and_a_draft_that_is_valid(test_data: Path, name: str) -> None:
    found = survey([str(test_data / name)], max_events=500)
    assert found.columns
    assert all(one.reason for one in found.columns if one.kind is None)
    parse_config(draft_config(found))


def test_higgs_has_its_label_in_the_name_of_the_tree(test_data: Path) -> None:
    config = parse_config(draft_config(survey([str(test_data / "higgs/Higgs_data.root")])))
    assert {name: (one.tree, one.label) for name, one in config.samples.items()} == {
        "sig_tree": ("sig_tree", "signal"),
        "bkg_tree": ("bkg_tree", "background"),
    }


@pytest.mark.parametrize("name", ["old_cs_compression.root", "rntuple_prerelease.root", "uproot-empty.root"])
def test_broken_files_are_refused_by_name(test_data: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        survey([str(test_data / "broken" / name)])
