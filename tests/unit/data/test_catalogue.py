"""Files checked against a config: everything that is wrong is said at once, with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.scan import scan
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events

Make = Callable[..., Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_events(tmp_path / "sig.root", make_events(60), extra={"Twin": make_events(40, seed=5)})
    write_events(tmp_path / "bkg.root", make_events(60, seed=1))
    return tmp_path


def config(folder: Path, signal: str, background: str, *, event: str = "MET_pt", more: str = "") -> Config:
    return parse_config(
        f"tree: Events\nsamples:\n  signal: {{{signal}}}\n  background: {{{background}}}\n"
        f"inputs: {{event: [{event}]}}\n{more}",
        folder=folder,
    )


def refusal(made: Config) -> str:
    with pytest.raises(DataError) as refused:
        Catalogue.open(made)
    return str(refused.value)


def test_files_keep_the_order_of_the_config(small_config: Make) -> None:
    seen: list[int] = []
    catalogue = Catalogue.open(small_config(), progress=seen.append)
    assert [(one.number, one.sample, one.index, one.num_entries) for one in catalogue.files] == [
        (0, 0, 0, 350),
        (1, 0, 1, 85),
        (2, 1, 0, 223),
    ]
    assert [(one.name, catalogue.classes[one.label]) for one in catalogue.samples] == [
        ("signal", "signal"),
        ("background", "background"),
    ]
    assert seen == [1, 1, 1]
    assert catalogue.types["Jet_pt"] == ColumnType("jagged", "float32")
    assert str(catalogue) == "658 entries in 3 files of 2 samples"


def test_two_trees_of_one_file_are_two_samples(folder: Path) -> None:
    catalogue = Catalogue.open(config(folder, "files: sig.root", "files: sig.root, tree: Twin"))
    assert [one.num_entries for one in catalogue.files] == [60, 40]


def test_the_same_entries_in_two_samples_are_refused_however_the_file_is_spelled(folder: Path) -> None:
    (folder / "link.root").symlink_to(folder / "sig.root")
    same = refusal(config(folder, "files: sig.root", "files: ./link.root"))
    assert "samples.background" in same
    assert "selects the same entries as the sample 'signal'" in same
    cut = "selection: 'MET_pt>20'"
    assert "same entries" in refusal(
        config(folder, f"files: sig.root, {cut}", "files: sig.root, selection: MET_pt > 20")
    )
    for spelling in ("(MET_pt) > (20)", "((MET_pt > 20))"):
        assert "same entries" in refusal(
            config(folder, f"files: sig.root, {cut}", f"files: sig.root, selection: {spelling}")
        )
    Catalogue.open(config(folder, f"files: sig.root, {cut}", "files: sig.root, selection: MET_pt <= 20"))


@pytest.mark.parametrize("whole", ["signal", "background"])
def test_a_selection_of_a_tree_that_another_sample_has_whole_is_refused(folder: Path, whole: str) -> None:
    part, all_of_it = "files: sig.root, selection: MET_pt > 20", "files: sig.root"
    text = refusal(config(folder, *([all_of_it, part] if whole == "signal" else [part, all_of_it])))
    assert f"the sample '{whole}' has all of its entries" in text
    assert f"give '{whole}' a selection without those" in text


def test_events_that_two_classes_select_are_counted_by_the_scan_and_refused(folder: Path) -> None:
    def scanned(background: str, more: str = "") -> None:
        made = config(folder, "files: sig.root, selection: MET_pt > 20", background, more=more)
        catalogue = Catalogue.open(made)
        scan(catalogue, Preprocessor(made.features, catalogue.types), threads=1)

    met = make_events(60)["MET_pt"]
    assert isinstance(met, np.ndarray)
    shared = int(np.count_nonzero((met > 20) & (met < 30)))
    assert shared > 0
    (folder / "link.root").symlink_to(folder / "sig.root")
    told = f"'signal' and 'background' both select {shared} entries, first in .*link.root, tree 'Events'"
    with pytest.raises(DataError, match=told):
        scanned("files: [link.root, bkg.root], selection: MET_pt < 30")
    scanned("files: sig.root, selection: MET_pt <= 20")
    scanned("files: sig.root, selection: MET_pt < 30", more="preselection: not (MET_pt > 20 and MET_pt < 30)\n")
    scanned("files: sig.root, tree: Twin, selection: MET_pt < 30")


def test_names_in_observers_and_variations_are_looked_up_too(folder: Path) -> None:
    more = (
        "new_variables: {twice: 2 * MET_pt}\nobservers: [twice, MET_phii]\n"
        "variations: {up: {MET_pt: MET_pt * 1.1, weight: genWeight * genWeigth}, down: {MET: twice}}\n"
    )
    text = refusal(config(folder, "files: sig.root", "files: bkg.root", more=more))
    assert "3 problems" in text
    for line in (
        "observers[1]: 'MET_phii' is neither",
        "variations.up.weight: 'genWeigth'",
        "variations.down.MET: 'MET'",
    ):
        assert line in text
    assert "did you mean 'genWeight'" in text


def test_what_is_true_of_many_files_is_said_once(folder: Path) -> None:
    for number in range(3):
        write_events(folder / f"other{number}.root", make_events(5, seed=number), tree="Tree")
    text = refusal(config(folder, "files: other*.root", "files: bkg.root"))
    assert text.count("samples.signal") == 1
    assert "other0.root and 2 more files: has no tree 'Events'" in text


@pytest.mark.parametrize(
    ("event", "more", "keys"),
    [
        ("MET_px", "", "inputs.event[0]"),
        ("MET_pt, ht, MET_px", "new_variables: {ht: MET_px + 1}", "inputs.event[2], new_variables.ht"),
        ("MET_pt", "preselection: MET_px > 1\nweights: {event: MET_px}", "preselection, weights.event"),
        ("MET_pt", "split: {by: [event, MET_px]}", "split.by[1]"),
        ("MET_pt", "labels: {expressions: {signal: MET_px > 1, b: MET_px < 1}}",
         "labels.expressions.signal, labels.expressions.b"),
        ("MET_pt", "targets: {y: MET_px}", "targets.y"),
        ("MET_pt, fine", "new_variables: {fine: mass(Jat)}", ""),
    ],
)  # fmt: skip
def test_a_missing_column_is_told_once_with_the_keys_that_ask_for_it(
    folder: Path, event: str, more: str, keys: str
) -> None:
    text = refusal(config(folder, "files: sig.root", "files: bkg.root", event=event, more=f"{more}\n"))
    if keys:
        where = f"{folder}/sig.root and 1 more file, tree 'Events' (samples signal, background)"
        assert text == f"{keys}: no column 'MET_px' in {where}; did you mean 'MET_pt' or 'Jet_pt'?"
    else:
        assert text.startswith("new_variables.fine: 'Jat' stands for the columns Jat_pt")
        assert text.endswith("(at character 6 of 'mass(Jat)') (samples signal, background)")


def test_a_column_that_one_selection_asks_for_names_that_sample_alone(folder: Path) -> None:
    write_events(folder / "gen.root", {**make_events(5), "nTop": np.arange(5)})
    text = refusal(config(folder, "files: gen.root, selection: nTop > 2", "files: bkg.root, selection: nTop > 1"))
    assert text.startswith(f"samples.background.selection: no column 'nTop' in {folder}/bkg.root, tree 'Events'")
    assert "(sample background)" in text


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    write_events(folder / "empty.root", {"MET_pt": np.zeros(0, np.float32)})
    (folder / "text.root").write_text("not a file")
    text = refusal(
        config(
            folder,
            "files: [sig.root, text.root, none.root]",
            "files: [bkg.root, empty.root], tree: Events",
            more="split: {by: [evnt]}\n",
        )
    )
    assert text.startswith("4 problems with the input files:")
    for part in (
        "none.root: no such file",
        "text.root: is not a file of a known format",
        "has no entries",
        "did you mean 'event'",
    ):
        assert part in text


def test_types_are_promoted_over_files_and_kinds_must_agree(folder: Path) -> None:
    write_events(folder / "wide.root", {"MET_pt": np.arange(9.0), "n": np.arange(9, dtype=np.int16)})
    catalogue = Catalogue.open(config(folder, "files: sig.root", "files: wide.root"))
    assert catalogue.types["MET_pt"] == ColumnType("flat", "float64")
    assert catalogue.identity.origin == "inputs"
    write_events(folder / "lists.root", {"MET_pt": [[1.0], [2.0, 3.0]]})
    text = refusal(config(folder, "files: sig.root", "files: lists.root"))
    assert "column 'MET_pt' is jagged in" in text
    assert "but flat in files before it" in text


def test_a_column_of_one_sample_alone_may_select_in_that_sample(folder: Path) -> None:
    write_events(folder / "gen.root", {"MET_pt": np.ones(8, np.float32), "nTop": np.arange(8, dtype=np.int32)})
    Catalogue.open(config(folder, "files: gen.root, selection: nTop == 2", "files: bkg.root"))
    assert "no column 'nTop'" in refusal(config(folder, "files: gen.root", "files: bkg.root, selection: nTop == 2"))


def test_the_identity_is_told(small_config: Make, folder: Path) -> None:
    assert str(Catalogue.open(small_config()).identity) == "run, luminosityBlock, event (found in the files)"
    made = config(folder, "files: sig.root", "files: bkg.root", more="split: {by: [event]}\n")
    assert str(Catalogue.open(made).identity) == "event (as asked)"


def test_the_physics_weight_factor_is_read_with_the_files(folder: Path) -> None:
    write_events(folder / "norm.root", make_events(10), extra={"Runs": {"sumw": [200.0]}})
    catalogue = Catalogue.open(
        config(
            folder,
            "files: norm.root, xsec_pb: 2, sum_of_weights: Runs/sumw",
            "files: bkg.root, xsec_pb: 1, sum_of_weights: 500",
        )
    )
    assert [one.factor for one in catalogue.samples] == [pytest.approx(10.0), pytest.approx(2.0)]


def jets(seed: int, **renamed: str) -> dict[str, Column]:
    """Events whose jets have all that a four-vector takes; some columns under other names."""
    events = make_events(60, seed=seed)
    pt = events["Jet_pt"]
    assert isinstance(pt, Jagged)
    events |= {"Jet_phi": Jagged(pt.offsets, pt.values % 3), "Jet_mass": Jagged(pt.offsets, pt.values / 10)}
    return {renamed.get(name, name): column for name, column in events.items()}


def test_a_collection_asks_the_files_for_its_columns(tmp_path: Path) -> None:
    for name, seed in (("sig", 0), ("bkg", 1)):
        write_events(tmp_path / f"{name}.root", jets(seed))
    more = "new_variables: {m: 'mass(Jet[0])'}\nsplit: {test: 0, validation: 0}"
    made = config(tmp_path, "files: sig.root", "files: bkg.root", event="MET_pt, m", more=more)
    catalogue = Catalogue.open(made)
    preprocessor = Preprocessor(catalogue.features, catalogue.types)
    assert preprocessor.columns == {"MET_pt", "Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass"}
    found = scan(catalogue, preprocessor)
    assert found.groups["event"][1].missing == sum(
        len(one) == 0 for seed in (0, 1) for one in jets(seed)["Jet_pt"].tolist()
    )


def test_a_collection_without_its_columns_is_told_with_the_file(tmp_path: Path) -> None:
    write_events(tmp_path / "sig.root", jets(0))
    write_events(tmp_path / "bkg.root", jets(1, Jet_mass="Jet_area"))
    more = "new_variables: {m: '2 * mass(Jet[0])'}"
    told = refusal(config(tmp_path, "files: sig.root", "files: bkg.root", event="m", more=more))
    assert f"new_variables.m: no column 'Jet_mass' in {tmp_path}/bkg.root, tree 'Events' (sample background)" in told
    told = refusal(config(tmp_path, "files: bkg.root", "files: sig.root", event="m", more=more))
    assert "new_variables.m: 'Jet' has Jet_pt, Jet_eta, Jet_phi, but neither mass nor energy" in told
    assert "(at character 10 of '2 * mass(Jet[0])')" in told
