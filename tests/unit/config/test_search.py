"""Ranges of a search: found where values would stand, put aside for expressions, refused by a plain training."""

from __future__ import annotations

import pytest

from mlaas4hep.config import parse_config, parse_document
from mlaas4hep.config.search import Choice, Dial, Range, find_dials, placed
from mlaas4hep.config.text import load_yaml
from mlaas4hep.errors import ConfigError

BASE = """
samples: {signal: {files: a.root}, background: {files: b.root}}
inputs:
  event: [met]
  jets: {vars: [Jet_pt], length: 4}
"""


def dials(more: str) -> tuple[dict[str, Dial], list[str]]:
    problems: list[str] = []
    return find_dials(load_yaml(BASE + more, "config"), problems), problems


def test_ranges_stand_where_values_would() -> None:
    found, problems = dials(
        """
model:
  name: choice(mlp, deepsets)
  learning_rate: log(1e-4, 1e-2)
  dropout: uniform(0, .5, step=.2)
  hidden: choice([64], [128, 64], default=[128, 64])
training: {batch_size: "logint(64, 1024, default=128)", epochs: "int(3, 12, step=3)"}
"""
    )
    assert not problems
    assert found == {
        "model.name": Choice(("mlp", "deepsets")),
        "model.learning_rate": Range("log", 1e-4, 1e-2),
        "model.dropout": Range("uniform", 0, 0.4, step=0.2),  # the last that steps reach
        "model.hidden": Choice(([64], [128, 64]), 1),
        "training.batch_size": Range("logint", 64, 1024, default=128),
        "training.epochs": Range("int", 3, 12, step=3),
    }


def test_expressions_are_no_ranges() -> None:
    found, problems = dials(
        "new_variables: {x: log(met), y: 'log(1, 2)'}\npreselection: log(met) > 1\nmodel: mlp\ntargets: {t: log(met)}"
    )
    assert (found, problems) == ({}, [])


def test_a_sort_key_is_an_expression() -> None:
    text = BASE.replace("length: 4", "length: 'int(3, 12)', sort: log(Jet_pt)")
    assert list(find_dials(load_yaml(text, "config"), [])) == ["inputs.jets.length"]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("log(0, 1)", "has no logarithm"),
        ("log(1)", "wants two numbers, such as log(1e-4, 1e-2)"),
        ("log(a, 1)", "wants two numbers"),
        ("log(1, 2, defalt=1)", "did you mean 'default'"),
        ("int(1, 2.5)", "wants whole numbers"),
        ("int(5, 3)", "is empty"),
        ("int(3, 9, step=7)", "a step is above 0 and at most the range"),
        ("logint(3, 9, step=2)", "goes with int and uniform"),
        ("uniform(0, 1, default=2)", "the default 2 lies outside"),
        ("uniform(0, .inf)", "is empty"),
        ("choice(1)", "wants two values at least"),
        ("choice(1, 1)", "each once"),
        ("choice(1, 2, default=3)", "the default 3 is none of its values"),
        ("choice(1, 2, step=3)", "choice takes no step"),
        ("choice([1, 2)", "is not YAML"),
    ],
)
def test_what_a_range_says_wrong_is_told_by_its_path(written: str, words: str) -> None:
    found, problems = dials(f"model:\n  x: {written}\n")
    assert not found
    assert len(problems) == 1
    assert problems[0].startswith("model.x: ")
    assert words in problems[0]


def test_a_range_that_yaml_cut_in_two_is_told_with_the_remedy() -> None:
    _, problems = dials("model: {learning_rate: log(1e-4, 1e-2)}")
    assert problems == [
        "model.learning_rate: 'log(1e-4' ends too early: between {} or [] a range needs quotes, \"log(1e-4, 1e-2)\""
    ]


@pytest.mark.parametrize("key", ["split: {test: 'uniform(.1, .3)'}", "weights: {training: 'choice(none, balanced)'}"])
def test_what_trials_are_judged_by_is_not_searched(key: str) -> None:
    found, problems = dials(key)
    assert not found
    assert "decides by which events, or with which weights, trials are judged" in problems[0]


def test_a_seed_is_not_searched() -> None:
    assert "is no property of a model" in dials("training: {seed: 'int(0, 9)'}")[1][0]


def test_a_plain_reading_refuses_all_ranges_and_points_to_tune() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(BASE + "model:\n  name: mlp\n  learning_rate: log(1e-4, 1e-2)\n  hidden: choice([8], [9])\n")
    first, second = caught.value.problems
    assert first == "model.learning_rate: log(0.0001, 0.01) is a range to be searched: it stands for no single value"
    assert "mlaas4hep tune config" in second
    assert "--set model.learning_rate=VALUE" in second


def test_set_gives_a_range_and_takes_one_away() -> None:
    override = ["model.hidden=choice([8], [9])"]
    with pytest.raises(ConfigError, match=r"model\.hidden: choice\(\[8\], \[9\]\) is a range"):
        parse_config(BASE, overrides=override)
    assert parse_config(BASE, overrides=[*override, "model.hidden=[8]"]).model.dials == {"hidden": [8]}


def test_values_in_their_places_make_an_ordinary_config() -> None:
    document = load_yaml(
        BASE.replace("[met]", "choice([met], [met, ht])").replace("length: 4", "length: 'int(3, 12)'")
        + "model:\n  hidden: choice([8], [9])\n",
        "config",
    )
    config = parse_document(
        placed(document, {"inputs.event": ["met", "ht"], "inputs.jets.length": 7, "model.hidden": [9]})
    )
    assert [len(group.variables) for group in config.features.inputs] == [2, 1]
    assert config.features.inputs[1].length == 7
    assert config.model.dials == {"hidden": [9]}
    assert document["model"] == {"hidden": "choice([8], [9])"}, "the document is not changed"


@pytest.mark.parametrize(
    ("dial", "usual", "start"),
    [
        (Range("log", 1e-4, 1e-2), 2e-3, 2e-3),
        (Range("log", 1e-4, 1e-2), 1.0, 1e-2),
        (Range("log", 1e-4, 1e-2), None, 1e-3),
        (Range("int", 3, 12, step=3), 7, 6),
        (Range("int", 3, 12), None, 8),
        (Range("logint", 16, 1024), (64, 32), 128),
        (Range("uniform", 0, 1, default=0.25), 0.5, 0.25),
        (Choice(("a", "b"), 1), "a", "b"),
    ],
)
def test_a_search_begins_at_the_default(dial: Dial, usual: object, start: object) -> None:
    assert dial.start(usual) == pytest.approx(start)


def test_a_logarithm_of_a_column_is_an_expression() -> None:
    problems: list[str] = []
    document = {
        "inputs": {"event": ["log(MET_pt)"], "jets": {"vars": ["log(Jet_pt)"], "length": "int(3, 12)"}},
        "weights": {"event": "log(genWeight)"},
    }
    assert list(find_dials(document, problems)) == ["inputs.jets.length"]
    assert problems == []
