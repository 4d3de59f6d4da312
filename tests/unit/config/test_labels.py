"""Labels by sample, column or condition, and targets: what a config may say, and what is refused by name."""

from __future__ import annotations

import pytest

from mlaas4hep.config import Config, Rule, parse_config
from mlaas4hep.errors import ConfigError

ONE = "samples: {all: {files: a.root}}\ninputs: {event: [x]}\n"
TWO = "samples:\n  a: {files: a.root, %s}\n  b: {files: b.root, %s}\ninputs: {event: [x]}\n"


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def rules(config: Config) -> list[Rule | None]:
    return [config.rule_of(name) for name in config.samples]


def test_one_sample_is_enough_where_a_column_tells_its_events_apart() -> None:
    config = parse_config(ONE + "labels: {column: y, classes: {signal: 1, background: [0, 2]}}\n")
    assert config.classes == ("background", "signal")
    assert rules(config) == [Rule("y", {"signal": (1,), "background": (0, 2)})]
    assert config.label_of("all") is None


def test_a_list_of_classes_beside_a_column_stands_for_0_1_2_in_its_order() -> None:
    config = parse_config(ONE + "labels: {column: y, classes: [top, w, qcd]}\n")
    assert config.classes == ("top", "w", "qcd")
    assert rules(config) == [Rule("y", {"top": (0,), "w": (1,), "qcd": (2,)})]


def test_words_and_truth_values_may_stand_in_a_column() -> None:
    word = parse_config(ONE + "labels: {column: Label, classes: {signal: s, background: b}}\n")
    assert [one.is_text for one in rules(word) if one] == [True]
    truth = parse_config(ONE + "labels: {column: is_top, classes: {signal: true, background: false}}\n")
    assert [one.is_text for one in rules(truth) if one] == [False]


def test_the_order_of_values_means_nothing_and_signal_says_which_class_is_last() -> None:
    one = parse_config(ONE + "labels: {column: y, classes: {top: 1, qcd: 0}, signal: qcd}\n")
    other = parse_config(ONE + "labels: {column: y, classes: {qcd: 0, top: 1}, signal: qcd}\n")
    assert one.classes == other.classes == ("top", "qcd")


def test_conditions_tell_classes_apart() -> None:
    config = parse_config(ONE + "labels: {expressions: {signal: nGenTop == 2, background: nGenTop == 0}}\n")
    assert config.classes == ("background", "signal")
    assert rules(config) == [Rule(expressions={"signal": "nGenTop == 2", "background": "nGenTop == 0"})]


def test_samples_of_one_class_and_samples_of_several_stand_side_by_side() -> None:
    config = parse_config(TWO % ("label: signal", "label: ~") + "labels: {column: y, classes: [background, signal]}\n")
    assert [config.label_of(name) for name in config.samples] == ["signal", None]
    assert rules(config) == [None, Rule("y", {"background": (0,), "signal": (1,)})]


def test_a_sample_may_have_a_rule_of_its_own() -> None:
    own = "labels: {column: z, classes: {signal: 7}}"
    config = parse_config(TWO % (own, "label: background"))
    assert rules(config) == [Rule("z", {"signal": (7,)}), None]
    inherited = parse_config(TWO % ("labels: {column: z}", "tree: T") + "labels: {column: y, classes: [b, signal]}\n")
    assert [one.column for one in rules(inherited) if one] == ["z", "y"]
    assert rules(inherited)[0] == Rule("z", {"b": (0,), "signal": (1,)})


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("{column: y}", "labels.classes: is required beside column"),
        ("{classes: {signal: 1, background: 0}}", "labels.classes: gives values, but no labels.column"),
        ("{column: y, classes: {signal: 1, background: 1}}", "labels.classes: the value 1 stands for both"),
        ("{column: y, classes: {signal: 1, background: true}}", "labels.classes: the value True stands for both"),
        ("{column: y, classes: {signal: s, background: 0}}", "labels.classes: mixes text and numbers"),
        ("{column: y, classes: {signal: 1, background: []}}", "labels.classes.background: lists no value"),
        ("{column: y, classes: {signal: 1.5, background: 0}}", "labels.classes.signal[0]: wants"),
        ("{column: y, classes: {signal: 1}}", "labels: all events have the label 'signal'"),
        ("{column: y, classes: {top: 1, qcd: 0}}", "labels.signal: is required to say which of 'qcd' and 'top'"),
        ("{column: y, classes: {top: 1, qcd: 0}, signal: tpo}", "labels.signal: no event can have the label 'tpo'"),
        ("{column: y, classes: [b, s], expressions: {s: x > 1, b: x < 1}}", "labels: has both column and expressions"),
        ("{expressions: {signal: x > 1, background: 'x <'}}", "labels.expressions.background: this cannot be read"),
        ("{expressions: {signal: x > 1}, classes: {signal: 1}}", "labels.classes: gives values, which belong to"),
        ("{expressions: {signal: x > 1, b: x < 1}, classes: [signal]}", "labels.classes: the label 'b' of the samples"),
        ("{columns: y, classes: [b, signal]}", "labels.columns: unknown key; did you mean 'column'"),
        ("{column: y, classes: text}", "labels.classes: wants a list or a mapping, found text 'text'"),
    ],
)
def test_labels_that_make_no_sense_are_refused_by_name(labels: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems_of(ONE + f"labels: {labels}\n")), problem


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        ("label: signal, labels: {column: y}", "samples.a: has both label and labels"),
        ("labels: {column: y, signal: s}", "samples.a.labels.signal: stands at the top"),
        ("labels: {classes: {signal: 1}}", "samples.a.labels: tells no events apart"),
        ("labels: {column: z}", "samples.a.labels.classes: is required beside column"),
        ("labels: {expressions: {signal: 'x +'}}", "samples.a.labels.expressions.signal: this cannot be read"),
        ("labels: {column: z, classes: {signal: 1, s: 1}}", "samples.a.labels.classes: the value 1 stands for both"),
        ("kind: data, label: signal", "samples.a.label: events of kind data have no class"),
        ("kind: data, labels: {column: y}", "samples.a.labels: events of kind data have no class"),
        ("kind: data, xsec_pb: 1", "samples.a.xsec_pb: a sample of kind data counts each event once"),
        ("kind: data, sum_of_weights: 5", "samples.a.sum_of_weights: a sample of kind data counts each event once"),
    ],
)
def test_labels_of_a_sample_that_make_no_sense_are_refused_by_name(sample: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems_of(TWO % (sample, "label: background"))), problem


def test_a_regression_has_targets_in_the_order_of_their_names_and_no_classes() -> None:
    config = parse_config(ONE + "targets: {pt: GenTop_pt, mass: GenTop_mass}\n")
    assert config.classes == ()
    assert list(config.features.target_texts.items()) == [("mass", "GenTop_mass"), ("pt", "GenTop_pt")]
    assert (config.label_of("all"), config.rule_of("all")) == (None, None)
    again = parse_config(ONE + "targets: {mass: GenTop_mass, pt: GenTop_pt}\n")
    assert config.features == again.features
    assert repr(config.features) == repr(again.features)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("targets: {'a b': x}", "targets.a b: is not a name"),
        ("targets: {m: 'x +'}", "targets.m: this cannot be read"),
        ("targets: {m: x}\nlabels: {column: y, classes: [b, s]}", "labels: a regression has targets, no classes"),
        (f"targets: {{{', '.join(f't{i}: x' for i in range(65))}}}", "targets: lists 65; at most 64"),
    ],
)
def test_targets_that_make_no_sense_are_refused_by_name(more: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems_of(ONE + more + "\n"))


def test_a_label_of_a_sample_beside_targets_is_refused() -> None:
    problems = problems_of(TWO % ("label: signal", "kind: data") + "targets: {m: x}\n")
    assert problems == ("samples.a.label: a regression has targets, no classes; leave out this or targets",)
