"""What stands beside the scores: observers, variations, and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import score_files
from mlaas4hep.score.verify import verify
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from tests.scored import identified, offline, read_output
from tests.small_bundle import CONFIG, write_small_bundle

MORE = """
observers: [lepton_mass, max(Jet_pt), nJet]
variations:
  jesUp: {Jet_pt: Jet_pt_up}
  scaled: {MET_pt: MET_pt * 2}
  muR: {weight: "1.5"}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("bundle"), more=MORE)


def columns_with(count: int = 200) -> dict[str, Any]:
    columns = identified(count)
    jets = columns["Jet_pt"]
    assert isinstance(jets, Jagged)
    up = Jagged(jets.offsets, (jets.values * 1.3).astype(np.float32))
    mass = np.random.default_rng(0).normal(90.0, 5.0, count)
    return columns | {"Jet_pt_up": up, "lepton_mass": mass}


def scored(bundle: Bundle, columns: dict[str, Any], folder: Path, **more: Any) -> dict[str, np.ndarray]:
    write_events(folder / "a.root", columns, cluster=60)
    asked = ask([bundle], **more)
    done = score_files(asked, [str(folder / "a.root")], str(folder / "out"))
    return read_output(done.outputs[0].path)


def test_observers_are_written_as_they_are(bundle: Bundle, tmp_path: Path) -> None:
    columns = columns_with()
    found = scored(bundle, columns, tmp_path)
    assert found["lepton_mass"].tobytes() == columns["lepton_mass"].tobytes()
    assert found["nJet"].tolist() == columns["nJet"].tolist()
    highest = [max(one, default=np.nan) for one in columns["Jet_pt"].tolist()]
    np.testing.assert_array_equal(found["max_Jet_pt"], np.array(highest, found["max_Jet_pt"].dtype))


def test_an_observer_that_the_files_lack_is_told_with_a_way_out(bundle: Bundle, tmp_path: Path) -> None:
    columns = columns_with()
    del columns["lepton_mass"]
    with pytest.raises(DataError, match=r"observer 'lepton_mass' cannot be told.*--no-observers"):
        scored(bundle, columns, tmp_path)
    assert "lepton_mass" not in scored(bundle, columns, tmp_path, observers=False)


def test_each_variation_of_values_is_scored_as_its_columns_were(bundle: Bundle, tmp_path: Path) -> None:
    columns = columns_with()
    found = scored(bundle, columns, tmp_path, variations=["*"])
    up = offline(bundle, columns | {"Jet_pt": columns["Jet_pt_up"]})[:, 0]
    scaled = offline(bundle, columns | {"MET_pt": (columns["MET_pt"].astype(np.float64) * 2).astype(np.float32)})[:, 0]
    assert found["tth_signal_jesUp"].tobytes() == up.tobytes()
    assert found["tth_signal_scaled"].tobytes() == scaled.tobytes()
    assert found["tth_signal"].tobytes() == offline(bundle, columns)[:, 0].tobytes()
    assert np.array_equal(found["tth_selected_jesUp"], ~np.isnan(up))
    assert not any("muR" in name for name in found), "weights leave scores as they are"
    some = (
        scored(bundle, columns, tmp_path / "some", variations=["jesUp"]) if (tmp_path / "some").mkdir() is None else {}
    )
    assert [name for name in some if name.startswith("tth_signal")] == ["tth_signal", "tth_signal_jesUp"]


def test_variations_are_asked_by_their_names(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="no model has a variation 'jesup'; did you mean 'jesUp'"):
        ask([bundle], variations=["jesup"])
    with pytest.raises(UserError, match="'muR' changes the weights of events alone"):
        ask([bundle], variations=["muR"])


def test_without_identities_no_column_of_them_is_written(bundle: Bundle, tmp_path: Path) -> None:
    found = scored(bundle, columns_with(), tmp_path, identity=False, observers=False)
    assert list(found) == ["tth_signal", "tth_selected"]


def test_a_column_of_the_file_does_not_take_the_place_of_a_new_variable(bundle: Bundle, tmp_path: Path) -> None:
    columns = columns_with()
    found = scored(bundle, columns | {"ht": np.zeros(200, np.float32)}, tmp_path)
    assert found["tth_signal"].tobytes() == offline(bundle, columns)[:, 0].tobytes()


def test_columns_of_friends_are_read_beside_those_of_the_input(bundle: Bundle, tmp_path: Path) -> None:
    columns = columns_with()
    apart = {name: columns.pop(name) for name in ("MET_pt", "lepton_mass")}
    write_events(tmp_path / "a.root", columns, cluster=60)
    write_events(tmp_path / "a_more.root", apart, tree="more", cluster=90)
    files, out = [str(tmp_path / "a.root")], str(tmp_path / "out")
    with pytest.raises(DataError, match="has no column 'MET_pt'"):
        score_files(ask([bundle]), files, out)
    with pytest.raises(UserError, match=r"no field '\{name\}'; fields are \{folder\}, \{stem\}"):
        score_files(ask([bundle]), files, out, friends=["{name}.root"])
    friends = ["{folder}/{stem}_more.root"]
    done = score_files(ask([bundle]), files, out, friends=friends)
    found = read_output(done.outputs[0].path)
    assert found["tth_signal"].tobytes() == offline(bundle, columns | apart)[:, 0].tobytes()
    assert not verify(out, files, friends=friends)[0].problems


def test_one_name_for_two_things_is_refused(tmp_path: Path) -> None:
    other = CONFIG.replace("sum(Jet_pt)", "max(Jet_pt)")
    made = [
        write_small_bundle(tmp_path, name=name, config=config, more="observers: [ht]\n")
        for name, config in (("one", CONFIG), ("same", CONFIG), ("other", other))
    ]
    write_events(tmp_path / "a.root", columns_with())
    files = [str(tmp_path / "a.root")]
    done = score_files(ask(made[:2]), files, str(tmp_path / "out"))
    assert list(read_output(done.outputs[0].path)).count("ht") == 1
    with pytest.raises(UserError, match=r"'ht' is one thing to the model 'one' and another to 'other'.*--no-observers"):
        score_files(ask([made[0], made[2]]), files, str(tmp_path / "more"))
    score_files(ask([made[0], made[2]], observers=False), files, str(tmp_path / "more"))
