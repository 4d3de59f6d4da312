"""A config is understood whole, or refused with all of its problems at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mlaas4hep.config import Config, parse_config, read_config
from mlaas4hep.errors import ConfigError

WHOLE = """
tree: Events
eras: {"2022": {lumi_fb: 8.0}, "2023": {lumi_fb: 18.1}}
samples:
  ttH:   {files: "root://host//store/ttH/*.root", era: "2022", label: signal, xsec_pb: 0.295,
          sum_of_weights: Runs/genEventSumw}
  ttbar: {files: tt.txt, era: "2022", label: background, xsec_pb: 832.0, sum_of_weights: 1e6,
          selection: "nGenTop == 2", friends: ["btag/*.root"]}
  data:  {files: "data/*.root", kind: data}
preselection: "nJet >= 4"
new_variables: {ht: "sum(Jet_pt)", Jet_deta: "Jet_eta - FatJet_eta[0]"}
inputs:
  event: [PuppiMET_pt, {name: ht, scale: log, clip: [0, 2000]}]
  jets:  {vars: [Jet_pt, Jet_deta, Jet_phi, Jet_btagDeepFlavB], length: 6, sort: -Jet_pt}
weights: {event: genWeight, training: balanced}
split: {by: [run, luminosityBlock, event], test: 0.2, validation: 0.1}
variations: {jesUp: {Jet_pt: Jet_pt_jesTotalUp}, muRup: {weight: "genWeight * LHEScaleWeight[5]"}}
observers: [HT]
model: mlp
"""

SMALL = """
samples:
  sig: {files: a.root, label: signal}
  bkg: {files: b.root, label: background}
inputs: {event: [x]}
"""


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def test_the_config_of_the_design_is_understood_whole() -> None:
    config = parse_config(WHOLE)
    assert config.classes == ("background", "signal")
    assert [group.name for group in config.features.inputs] == ["event", "jets"]
    assert config.samples["ttbar"].sum_of_weights == 1e6
    assert config.samples["ttH"].sum_of_weights == "Runs/genEventSumw"
    assert config.lumi_fb("ttH") == 8.0
    assert config.features.inputs[0].variables[1].clip == (0.0, 2000.0)
    assert config.features.variations["jesUp"] == {"Jet_pt": "Jet_pt_jesTotalUp"}


def test_what_is_read_but_not_built_yet_is_named() -> None:
    config = parse_config(WHOLE)
    assert config.not_built() == ()
    regression = msgspec.structs.replace(config.features, classes=(), targets={"m": "HT"})
    lines = msgspec.structs.replace(config, features=regression).not_built()
    assert [line.split(":")[0] for line in lines] == ["variations", "observers"]


def test_spectators_are_observers() -> None:
    named = WHOLE.replace("observers:", "spectators:")
    assert named != WHOLE
    assert parse_config(named).features == parse_config(WHOLE).features
    assert parse_config(WHOLE.replace("observers: [HT]", "spectators: HT")).features.observers == ("HT",)
    with pytest.raises(ConfigError, match=r"observers\[0\]"):
        parse_config(WHOLE.replace("observers: [HT]", "observers: ['HT +']"))


def test_samples_of_kind_data_are_told_apart_and_said_to_be_unused() -> None:
    config = parse_config(WHOLE)
    assert (config.simulated, config.observed) == (("ttH", "ttbar"), ("data",))
    assert [line.split(":")[0] for line in config.unused()] == ["samples.data"]
    assert (config.label_of("ttH"), config.label_of("data")) == ("signal", None)


def test_three_mistakes_are_reported_at_once_each_with_its_path() -> None:
    problems = problems_of(
        SMALL.replace("a.root, label", "a.root, xsec: 1.0, label").replace("[x]", "[x, x]") + "split: {test: 1.5}\n"
    )
    assert "samples.sig.xsec: unknown key; did you mean 'xsec_pb'?" in problems
    assert "inputs.event: lists 'x' twice" in problems
    assert "split.test: 1.5 is not a share of the events; wants 0 to below 1" in problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("tre: Events", "tre: unknown key; did you mean 'tree'"),
        ("training: {epochs: many}", "training.epochs: wants a whole number, found text 'many'"),
        ("weights: {training: balancd}", "weights.training: 'balancd' is none of balanced, physics, none; did you"),
        ("preselection: 'nJet >= '", "preselection: this cannot be read"),
        ("new_variables: {a: 'b + 1', b: 'a + 1'}", "new_variables: a, b need each other in a circle"),
        ("name: 'a/b'", "name: 'a/b' cannot name a model"),
        ("training: {max_memory: lots}", "training.max_memory: 'lots' is not a size"),
        (
            "training: {shuffle: false}",
            "training.shuffle: wants window (events are shuffled window by window) or exact",
        ),
        ("training: {shuffle: exakt}", "training.shuffle: 'exakt' is none of window, exact; did you mean 'exact'?"),
        ("training: 5", "training: wants a mapping such as {epochs: 60, batch_size: 256}; found 5"),
        ("split: 0.3", "split: wants a mapping such as {test: 0.2, validation: 0.1}; found 0.3"),
        (
            "on_error: skip up to 200 %",
            "on_error: 'skip up to 200 %': a share of the entries is above 0 % and at most 100",
        ),
        (
            "on_error: skip up to 0 %",
            "on_error: 'skip up to 0 %': a share of the entries is above 0 % and at most 100 %",
        ),
        (
            "on_error: skip up to -3 %",
            "on_error: 'skip up to -3 %': a share of the entries is above 0 % and at most 100 %",
        ),
        (
            "on_error: skip up to nan %",
            "on_error: 'skip up to nan %': a share of the entries is above 0 % and at most 100 %",
        ),
        ("on_error: skip up to -3", "on_error: 'skip up to -3': a number of files or clusters is 1 or more"),
        ("training: {seed: -1}", "training.seed: -1 is out of range; wants a whole number from 0 to 4294967295"),
        ("on_error: 5", "on_error: '5' is not known; write stop, skip, skip up to 5 (files or clusters)"),
        (
            "cache: 100",
            "cache: wants a folder on a local disk, such as /scratch/rows, or {path: /scratch/rows, limit: 50 GB}; f",
        ),
        ("missing: true", "missing: wants a list, found true"),
    ],
)
def test_a_mistake_names_its_path(change: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems_of(SMALL + change + "\n"))


def test_one_code_for_a_missing_value_needs_no_list() -> None:
    assert parse_config(SMALL + "missing: -999\n").features.missing == (-999.0,)


def test_a_key_without_a_value_says_nothing() -> None:
    text = SMALL + "labels:\nmissing: null\nmodel:\non_error:\ntraining:\n"
    assert parse_config(text) == parse_config(SMALL)
    assert "samples: wants a mapping, found nothing" in problems_of("samples:\ninputs: {event: [x]}\n")


def test_an_input_group_without_length_or_with_a_reserved_name_is_refused() -> None:
    text = SMALL.replace("{event: [x]}", "{event: [x], jets: {vars: [Jet_pt]}, scores: {vars: [y], length: 2}}")
    problems = problems_of(text)
    assert any(line.startswith("inputs.jets.length: is required") for line in problems)
    assert any("'scores' is reserved" in line for line in problems)


def test_one_class_only_is_refused() -> None:
    problems = problems_of(SMALL.replace("label: background", "label: signal"))
    assert problems == ("samples: all have the label 'signal'; a classifier needs at least two classes",)


def test_two_classes_without_a_signal_must_say_which_the_score_is_for() -> None:
    text = SMALL.replace("label: signal", "label: top").replace("label: background", "label: qcd")
    assert any(line.startswith("labels.signal: is required") for line in problems_of(text))
    assert parse_config(text + "labels: {signal: qcd}\n").classes == ("top", "qcd")


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    assert "line 6, column 1: key 'inputs' is given twice" in problems_of(SMALL + "inputs: {event: [y]}\n")


def test_the_order_of_keys_means_nothing() -> None:
    one = parse_config(
        SMALL.replace("{event: [x]}", "{event: [x], jets: {vars: [p], length: 2}, b: {vars: [q], length: 1}}")
    )
    other = parse_config(
        SMALL.replace("{event: [x]}", "{jets: {length: 2, vars: [p]}, b: {length: 1, vars: [q]}, event: [x]}")
    )
    assert one.features == other.features


def test_numbers_are_read_as_physicists_write_them() -> None:
    config = parse_config(SMALL + "model: {name: mlp, learning_rate: 1e-3}\n", overrides=["model.alpha=2e-5"])
    assert config.model.dials == {"learning_rate": 1e-3, "alpha": 2e-5}


def test_set_overrides_a_key_and_refuses_an_unknown_one() -> None:
    assert parse_config(SMALL, overrides=["training.epochs=3", "model=bdt"]).training.epochs == 3
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; did you mean 'epochs'"):
        parse_config(SMALL, overrides=["training.epoch=3"])


def test_relative_paths_start_at_the_config(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "analysis.yaml").write_text(SMALL)
    config: Config = read_config(folder / "analysis.yaml")
    assert config.samples["sig"].files == (str(folder / "a.root"),)
    assert config.name == "analysis"


def test_a_file_that_is_not_there_or_not_yaml_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "analysis.yml").write_text(SMALL)
    (tmp_path / "analysys.root").touch()
    with pytest.raises(
        ConfigError, match=r"analysys\.yaml: 1 problem\n  - does not exist; did you mean 'analysis.yml'\?"
    ):
        read_config(tmp_path / "analysys.yaml")
    with pytest.raises(ConfigError, match=r"does not exist \(the folder .*/runs/old does not exist; .* does\)"):
        read_config(tmp_path / "runs" / "old" / "analysis.yml")
    with pytest.raises(ConfigError, match="line 1, column"):
        parse_config("samples: [a: b: c")


def test_codes_of_missing_values_are_finite_numbers() -> None:
    assert parse_config(SMALL + "missing: [-999, -99.9]").features.missing_values == (-999.0, -99.9)
    with pytest.raises(ConfigError, match=r"missing\[1\]: inf is no value"):
        parse_config(SMALL + "missing: [-999, .inf]")
    with pytest.raises(ConfigError, match="missing"):
        parse_config(SMALL + "missing: [none]")


def with_weights(sig: str, bkg: str, more: str = "") -> tuple[str, ...]:
    """Problems where the two samples carry these further keys."""
    return problems_of(SMALL.replace("a.root,", f"a.root, {sig}").replace("b.root,", f"b.root, {bkg}") + more)


XSEC = "xsec_pb: 1, sum_of_weights: 10,"


@pytest.mark.parametrize(
    ("sig", "bkg", "problem"),
    [
        (XSEC, "", "samples: 'sig' has xsec_pb, but 'bkg' has none"),
        (f"{XSEC} era: a,", XSEC, "samples: 'sig' has an era, but 'bkg' has none and would count for 1 fb^-1"),
        ("era: a,", "", "samples.sig.era: weighs nothing without xsec_pb"),
        ("", "sum_of_weights: Runs/w,", "samples.bkg.sum_of_weights: weighs nothing without xsec_pb"),
        ("xsec_pb: .inf, sum_of_weights: 1,", XSEC, "samples.sig.xsec_pb: inf is not a cross-section"),
        ("xsec_pb: 1, sum_of_weights: .nan,", XSEC, "samples.sig.sum_of_weights: nan is no sum to normalise by"),
        ("xsec_pb: 1, sum_of_weights: 0,", XSEC, "samples.sig.sum_of_weights: 0.0 is no sum to normalise by"),
    ],
)
def test_physics_weights_are_whole_or_absent(sig: str, bkg: str, problem: str) -> None:
    problems = with_weights(sig, bkg, "eras: {a: {lumi_fb: 1}}\n")
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_all_samples_normalised_or_none_and_data_apart_is_accepted() -> None:
    eras = "eras: {a: {lumi_fb: 1}}\n"
    both = SMALL.replace("root,", f"root, {XSEC} era: a,") + eras
    data = both.replace("bkg:", "obs: {files: d.root, kind: data, era: a}\n  bkg:")
    for text in (SMALL, both, data, both.replace("era: a,", "")):
        parse_config(text)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("eras: {a: {lumi_fb: .inf}}", "eras.a.lumi_fb: inf is not a luminosity"),
        ("split: {test: .nan}", "split.test: nan is not a share"),
        ("labels: {classes: [signal, background, signal]}", "labels.classes: lists 'signal' twice"),
        ("training: {max_memory: 1.2.3 GB}", "training.max_memory: '1.2.3 GB' is not a size; write it as '2 GB'"),
        ("training: {max_memory: 0 GB}", "training.max_memory: '0 GB' is not a size"),
        ("training: {max_memory: . GB}", "training.max_memory: '. GB' is not a size"),
        ("training: {learning_rate: 1}", "training.learning_rate: unknown key; if it is a setting of the model, it"),
        ("learning_rate: 1", "learning_rate: unknown key; if it is a setting of the model, it stands there: model.lea"),
        ("seed: abc", "seed: unknown key; did you mean 'training.seed' or 'split.seed'?"),
        ("epochs: 3", "epochs: unknown key; did you mean 'training.epochs'?"),
        ("? [a, b]\n: 3", "line 6, column 3: a key is a list or a mapping; wants text"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_clear_line(change: str, problem: str) -> None:
    problems = problems_of(SMALL + change)
    assert len(problems) == 1, problems
    assert problems[0].startswith(problem)


def test_a_clip_must_be_finite_and_rising() -> None:
    assert problems_of(SMALL.replace("[x]", "[{name: x, clip: [0, .inf]}]")) == (
        "inputs.event[0].clip: [0.0, inf] is not finite; wants two numbers, [low, high]",
    )


def test_sections_that_are_empty_say_what_they_want() -> None:
    assert problems_of(SMALL.replace("{event: [x]}", "{}"))[0].startswith("inputs: lists no group")
    (nothing,) = problems_of("samples: {}\ninputs: {event: [x]}")
    assert nothing.startswith("samples: lists none; wants at least one")
    (data,) = problems_of("samples: {a: {files: a.root, kind: data}}\ninputs: {event: [x]}")
    assert data.startswith("samples: all are of kind data")


def test_one_mistake_is_one_problem_without_echoes() -> None:
    era = SMALL.replace("root,", f"root, {XSEC} era: Run2,") + "eras: {Run2: {lumi: 1}}\n"
    assert problems_of(era) == ("eras.Run2.lumi: unknown key; did you mean 'lumi_fb'?",)
    assert problems_of(SMALL.replace("files: b.root", "file: b.root")) == (
        "samples.bkg.file: unknown key; did you mean 'files' or 'friends'?",
    )
    assert problems_of(SMALL.replace("files: b.root, ", "")) == ("samples.bkg.files: is required",)


def test_new_variables_in_a_circle_or_too_many_are_refused() -> None:
    assert problems_of(SMALL + "new_variables: {ht: ht / 1000}")[0].startswith("new_variables.ht: needs itself")
    many = ", ".join(f"v{i}: x" for i in range(1001))
    assert "new_variables: lists 1001; at most 1000 fit one model" in problems_of(SMALL + f"new_variables: {{{many}}}")
