"""A first config out of what `mlaas4hep.data.inspect` found, for the user to correct.

Guesses come from names, as experiments give them: collections by their prefix, generator truth, triggers, weights and
identity kept out of the inputs, labels from files, trees or a label column. Invariant: the text passes the validation
of `mlaas4hep.config`; where nothing can be guessed, a place to fill in is marked ``CHANGE-ME``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from mlaas4hep.data.inspect import ColumnSummary, Survey, prefix_of
from mlaas4hep.data.source import ONLY_TABLE
from mlaas4hep.data.split import STANDARD
from mlaas4hep.errors import told_once
from mlaas4hep.spec.features import MAX_LENGTH
from mlaas4hep.spec.spelling import spell_name

TO_FILL_IN = "CHANGE-ME.root"
"""Stands for files that the user has to name."""
_MAX_EVENT_VARIABLES = 40
_MAX_COLLECTIONS = 6
_MAX_COLLECTION_VARIABLES = 12
_RECONSTRUCTED = ("jet", "fatjet", "muon", "electron", "tau", "photon")
_TRUTH = re.compile(r"gen|lhe|truth|(^|_)mc|htxs|pileup|flavou?r|hadrons|parton|match|pdgid", re.IGNORECASE)
_BOOKKEEPING = re.compile(
    r"^(hlt_|l1_|l1reco|flag_|dst_)|idx|index|cleanmask|fuid|funiqueid|fbits|(^|_)id$", re.IGNORECASE
)
_IDENTITY = re.compile(
    r"^(run|lumi|luminosityblock|lumi_?block|lumi_?section|ls|lbn|event|evt)(_?(number|nr|num|id))?$|^bunchcrossing$",
    re.IGNORECASE,
)
_WEIGHT = re.compile(r"weight|(^|_)xsec|^puweight|sumw", re.IGNORECASE)
_BOOKED = re.compile(
    r"(event|run|channel|dataset)_?(number|nr)|lumi_?(block|section)|time_?stamp|^(lbn|bcid|dsid)$|bunch|^(orbit|bx)",
    re.IGNORECASE,
)
# Up and Down as words of a name: Jet_pt_jesTotalUp, JERUp_MET, jet_pt_JES_1up; not Upsilon, cleanup or group.
_VARIATION = re.compile(r"(Up|Down)(?![a-z])|(UP|DOWN)(?![A-Za-z])|(?<=[^A-Za-z])(up|down)(?![A-Za-z])|[dD]elta[XY]$")
_PLACEHOLDERS = (-99.0, -99.9, -999.0, -999.9, -9999.0, -99999.0, -999999.0)
_KINEMATIC = ("pt", "et", "eta", "phi", "mass", "m", "e", "energy", "px", "py", "pz")
_LABEL = re.compile(r"^(label|labels|target|class|is_?sig(nal)?|type|truth|y)$", re.IGNORECASE)
_SIGNAL = re.compile(r"sig|tth|hh|higgs|(^|_)h(bb|gg|ww|zz|tautau)|top|zprime|susy", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True)
class _Sample:
    name: str
    files: tuple[str, ...]
    label: str | None = None
    tree: str | None = None
    selection: str | None = None


def draft_config(found: Survey) -> str:
    """YAML of a config for the files of a survey.

    Parameters
    ----------
    found
        Of all files that are to be used; those that look like one process (``ttH_1.root``, ``ttH_2.root``) become one
        sample.
    """
    label = _label_column(found)
    samples = _samples(found, label)
    lines = [
        "# A first config, drafted from the files: check the labels, the inputs and the lengths.",
        f"# Figures are of {found.looked_at} of {found.entries} events{_of_tree(found, samples)}.",
        *(f"# left out: {line}" for line in _left_out(found)),
        *(f"# not in all files: {line}" for line in _partial(found)),
    ]
    if found.tree != ONLY_TABLE and not any(sample.tree for sample in samples):
        lines.append(f"tree: {_word(found.tree)}")
    lines += ["samples:", *(f"  {line}" for sample in samples for line in _sample_lines(sample))]
    lines += _label_lines(samples)
    collections = _collections(found)
    event, more = _event_variables(found, label, collections)
    lines += ["inputs:", *(f"  {line}" for line in _input_lines(found, event, more, collections))]
    lines += _remark_lines(found, [*event, *(one.name for members in collections.values() for one in members)])
    lines += _weight_lines(found)
    lines += _split_lines(found)
    lines.append("model: mlp")
    return "\n".join(lines) + "\n"


def _left_out(found: Survey) -> list[str]:
    """One line each, whatever is in the name of a file."""
    lines = told_once((path, f": {why}") for path, why in (found.refused | found.left_out).items())
    return [" ".join(line.split()) for line in lines]


def _of_tree(found: Survey, samples: Sequence[_Sample]) -> str:
    others = [one.tree for one in samples if one.tree is not None and one.tree != found.tree]
    return f" of tree {found.tree}; not looked at: {', '.join(others)}" if others else ""


def _partial(found: Survey) -> list[str]:
    """Columns that only some files have, or have otherwise; those with one reason together."""
    names: dict[str, list[str]] = {}
    for one in found.columns:
        if one.partial:
            names.setdefault(one.reason or "", []).append(one.name)
    lines = [f"{_some(held)}: {why}" for why, held in names.items()]
    if lines and all(one.kind is None for one in found.columns):
        lines.append("no column is shared; give one kind of file at a time")
    return [" ".join(line.split()) for line in lines]


def _samples(found: Survey, label: ColumnSummary | None) -> list[_Sample]:
    processes = _processes(found.paths)
    if len(processes) > 1:
        return _labelled([_Sample(name, files) for name, files in processes.items()])
    twins = trees_alike(found)
    if len(twins) > 1 and len(found.paths) == 1:
        return _labelled([_Sample(_name(tree), found.paths, tree=tree) for tree in twins])
    if label is not None and label.minimum is not None and label.maximum is not None:
        low, high = int(label.minimum), int(label.maximum)
        return [
            _Sample("background", found.paths, selection=f"{label.name} == {low}"),
            _Sample("signal", found.paths, selection=f"{label.name} == {high}"),
        ]
    other = _Sample("background", (TO_FILL_IN,))
    return [_Sample("signal", found.paths), other]


def _processes(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Files by what is left of their name without running numbers; the folder where names alone tell nothing."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        stem = re.sub(r"([_.-]?(part|file|batch)?[_.-]?\d+)+$", "", PurePath(path).stem)
        by_name.setdefault(_name(stem or PurePath(path).parent.name or "sample"), []).append(path)
    return {name: tuple(files) for name, files in by_name.items()}


def trees_alike(found: Survey) -> list[str]:
    """The chosen tree, and others of the first file with as many columns: such as signal and background."""
    there = [one for one in found.trees if one.entries and one.path == found.paths[0]]
    chosen = next(one for one in there if one.name in (found.tree, ONLY_TABLE))
    others = [one for one in there if one.columns == chosen.columns and one.kind == chosen.kind and one is not chosen]
    return [one.name for one in (chosen, *others)]


def _labelled(samples: list[_Sample]) -> list[_Sample]:
    """Signal against background where names tell which is the signal; else every sample its own class."""
    signals = [sample.name for sample in samples if _SIGNAL.search(sample.name)]
    if len(signals) != 1:
        return samples
    labels = dict.fromkeys(signals, "signal")
    return [_Sample(one.name, one.files, labels.get(one.name, "background"), one.tree) for one in samples]


def _label_column(found: Survey) -> ColumnSummary | None:
    return next(
        (
            one
            for one in found.columns
            if one.kind == "flat" and one.distinct == 2 and _LABEL.match(one.name) and _IDENTIFIER.match(one.name)
        ),
        None,
    )


def _sample_lines(sample: _Sample) -> Iterator[str]:
    yield f"{_word(sample.name)}:"
    files = [_word(file) for file in sample.files]
    if sample.files == (TO_FILL_IN,):
        yield "  # All files that were given are one sample. A classifier needs another: write its files here. Or leave"
        yield "  # this sample out and say under labels which column tells the classes apart."
    yield f"  files: {files[0] if len(files) == 1 else '[' + ', '.join(files) + ']'}"
    if sample.tree is not None:
        yield f"  tree: {_word(sample.tree)}"
    if sample.label is not None:
        yield f"  label: {sample.label}"
    if sample.selection is not None:
        yield f"  selection: {_word(sample.selection)}"


def _label_lines(samples: list[_Sample]) -> list[str]:
    labels = sorted({sample.label or sample.name for sample in samples})
    if len(labels) == 2 and "signal" not in labels:
        return [f"labels: {{signal: {_word(labels[-1])}}}  # a guess: the class that the score is for"]
    return []


def _input_lines(
    found: Survey, event: list[str], more: list[str], collections: dict[str, list[ColumnSummary]]
) -> Iterator[str]:
    if not event and not collections:
        event = [one.name for one in found.columns if one.kind == "flat"][:1] or ["CHANGE-ME"]
    if more:
        yield f"# The first {len(event)} columns of one value an event; {len(more)} more look usable: {_some(more)}"
    if event == ["CHANGE-ME"]:
        yield "# No column holds one number an event. Name one here, or an expression under new_variables."
    if event:
        yield "event:"
        yield from (f"  - {_word(name)}" for name in event)
    for prefix, members in collections.items():
        yield from _group_lines(group_name(prefix), members)


def _event_variables(
    found: Survey, label: ColumnSummary | None, collections: dict[str, list[ColumnSummary]]
) -> tuple[list[str], list[str]]:
    """Flat inputs, and those that are too many; counters only of collections that are inputs themselves."""
    counters = {f"n{prefix}".lower() for prefix in found.collections if prefix not in collections}
    usable = [
        one.name
        for one in found.columns
        if one.kind == "flat"
        and _is_input(one)
        and not _IDENTITY.match(one.name)
        and one.name.lower() not in counters
        and (label is None or one.name != label.name)
    ]
    return usable[:_MAX_EVENT_VARIABLES], usable[_MAX_EVENT_VARIABLES:]


def looks_like_truth(name: str) -> bool:
    """Whether a column is, by its name, generator truth or a weight, which data do not have.

    Examples
    --------
    >>> looks_like_truth("genWeight"), looks_like_truth("Jet_hadronFlavour"), looks_like_truth("Jet_pt")
    (True, True, False)
    """
    return any(pattern.search(name) for pattern in (_TRUTH, _WEIGHT))


def _is_input(column: ColumnSummary) -> bool:
    """Says something (not constant), and is neither truth, weight, variation, trigger nor bookkeeping."""
    kept_out = (_TRUTH, _BOOKKEEPING, _BOOKED, _WEIGHT, _VARIATION)
    return column.distinct > 1 and not any(pattern.search(column.name) for pattern in kept_out)


def _collections(found: Survey) -> dict[str, list[ColumnSummary]]:
    """Collections that make inputs, by prefix: reconstructed objects where there are any."""
    columns = {one.name: one for one in found.columns}
    candidates = {
        prefix: [columns[name] for name in names if _is_input(columns[name])]
        for prefix, names in found.collections.items()
        if not prefix.startswith("_") and not _TRUTH.search(prefix)
    }
    usable = {prefix: _kinematic_first(members) for prefix, members in candidates.items() if members}
    wanted = [prefix for prefix in usable if prefix.lower() in _RECONSTRUCTED] or list(usable)
    by_name = {group_name(prefix): prefix for prefix in reversed(wanted[:_MAX_COLLECTIONS])}
    return {prefix: usable[prefix] for prefix in wanted if prefix in by_name.values()}


def _kinematic_first(members: list[ColumnSummary]) -> list[ColumnSummary]:
    return sorted(members, key=lambda one: _last_word(one.name) not in _KINEMATIC)[:_MAX_COLLECTION_VARIABLES]


def _group_lines(name: str, members: list[ColumnSummary]) -> Iterator[str]:
    lengths = members[0].lengths
    suggested = 1 if lengths is None else (lengths.q99 if lengths.q99 <= 16 else lengths.q95)
    by_momentum = next((one.name for one in members if _last_word(one.name) in ("pt", "et", "e", "energy")), None)
    yield f"{name}:"
    yield f"  vars: [{', '.join(_word(one.name) for one in members)}]"
    yield f"  length: {min(max(suggested, 1), MAX_LENGTH)}"
    if by_momentum is not None and "`" not in by_momentum:
        yield f"  sort: {_word('-' + spell_name(by_momentum))}"


def _remark_lines(found: Survey, names: Sequence[str]) -> list[str]:
    """What to look at in the inputs: infinities, and lowest values that may stand for a missing one."""
    inputs = [one for one in found.columns if one.name in set(names)]
    infinite = [one.name for one in inputs if one.infinite]
    lines = [f"# Infinite values in: {_some(infinite)}. They are clipped to the finite range."] if infinite else []
    held = {
        code: [one.name for one in inputs if one.minimum is not None and np.float32(one.minimum) == np.float32(code)]
        for code in _PLACEHOLDERS
    }
    codes = sorted(code for code, holders in held.items() if holders)
    lines += [f"# The lowest value is {code:g} in: {_some(held[code])}" for code in codes]
    if codes:
        lines += [
            f'# If {"that means" if len(codes) == 1 else "these mean"} "not there", remove the # of the next line:',
            f"# missing: [{', '.join(f'{c:g}' for c in codes)}]",
        ]
    return lines


def _some(names: list[str]) -> str:
    shown = ", ".join(_word(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _last_word(name: str) -> str:
    """``pt`` of ``Jet_pt`` and ``Jet.PT``."""
    return re.split(r"[_.]", name)[-1].lower()


def _weight_lines(found: Survey) -> list[str]:
    flat = {one.name.lower(): one.name for one in found.columns if one.kind == "flat" and one.values}
    names = ("genweight", "mcweight", "eventweight", "weight", "weights")
    chosen = next((flat[name] for name in names if name in flat), None)
    return [] if chosen is None else [f"weights: {{event: {_word(spell_name(chosen))}}}"]


def _split_lines(found: Survey) -> list[str]:
    flat = [one.name for one in found.columns if one.kind == "flat"]
    if all(name in flat for name in STANDARD):
        return []
    chosen = [name for name in flat if _IDENTITY.match(name) and not _TRUTH.search(name)]
    return [f"split: {{by: [{', '.join(_word(name) for name in chosen)}]}}"] if chosen else []


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "sample"


def group_name(prefix: str) -> str:
    """Name of an input group for a collection: ``jets`` for ``Jet``."""
    name = re.sub(r"[^a-z0-9]+", "_", prefix_of(prefix).lower()).strip("_")
    name = name if name[:1].isalpha() else f"group_{name}"
    plural = name if name.endswith("s") else f"{name}s"
    return f"{plural}_" if plural in ("event", "scores") else plural


def _word(text: str) -> str:
    """A YAML scalar: as it stands where that is safe, else in double quotes."""
    return text if _PLAIN.match(text) and text.lower() not in _YAML_WORDS else json.dumps(text, ensure_ascii=False)
