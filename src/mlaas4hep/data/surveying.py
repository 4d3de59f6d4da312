"""Opens every file of a config once and compares it with what the config asks for.

Invariant: nothing that is wrong is told one at a time: problems are gathered, and what several files say is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mlaas4hep.config import Config, Sample
from mlaas4hep.config.labels import Rule, rule_of
from mlaas4hep.data.asking import Lacks, needs_of, of_samples
from mlaas4hep.data.entries import NO_LABEL, FileEntry, SampleEntry, SampleKind
from mlaas4hep.data.friends import match_friends
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.hooked import KEPT
from mlaas4hep.data.label_values import asked_told, first_values
from mlaas4hep.data.locate import Located, file_key, search
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.quarantine import Quarantine, Skipped, reason_of
from mlaas4hep.data.source import Source, Texts
from mlaas4hep.data.split import choose_identity
from mlaas4hep.data.weights import normalisation
from mlaas4hep.errors import DataError, DeclarationError, ExpressionError, nearest, some_files
from mlaas4hep.spec.columns import ColumnType, promote
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import Split
from mlaas4hep.spec.preprocess import columns_of


class Survey:
    """Files being opened and checked, with the problems met on the way.

    Parameters
    ----------
    config
        What is asked for.
    kind
        Of the samples: ``mc`` or ``data``.
    """

    def __init__(self, config: Config, kind: SampleKind) -> None:
        self.config = config
        self.kind = kind
        self.samples: list[SampleEntry] = []
        self.files: list[FileEntry] = []
        self.types: dict[str, ColumnType] = {}
        self.problems: list[str] = []
        self._everywhere: set[str] | None = None
        self._asked: set[str] = set()
        self._needs: dict[tuple[str | None, str, int], frozenset[str]] = {}
        self._other_kind: dict[str, str] = {}
        self._missing: dict[tuple[str, str, str], list[str]] = {}
        self._labels_told: dict[tuple[str, str, str], str] = {}
        self._columns: dict[str, None] = {}
        self._lacks = Lacks()
        self._misfits: dict[str, dict[str, None]] = {}
        self._selected: dict[tuple[object, ...], dict[str, str]] = {}
        self._refused: dict[tuple[str, str], list[str]] = {}
        self._quarantine = Quarantine(config.on_error)
        self._hook = None if config.preproc is None else RecordHook.load(config.preproc)

    def add_sample(self, name: str, progress: Callable[[int], None]) -> None:
        """Open its files; what fails is noted, and the others go on."""
        sample = self.config.samples[name]
        files, problems = search(sample.files, redirectors=self.config.redirectors_of(name))
        for line in problems:
            self._leave_out(name, line.partition(": ")[0], line, otherwise=bool(files))
        opened = len(self.files)
        friends: tuple[tuple[str, ...], ...] = ((),) * len(files)
        with self._noted(name):
            friends = match_friends([one.path for one in files], sample.friends)
        for index, (file, beside) in enumerate(zip(files, friends, strict=True)):
            with self._noted(name, file.path):
                self._add_file(name, index, file, beside)
            progress(1)
        read = {one.path for one in self.files[opened:]}
        reasons = [one for one in self._quarantine.records if one.sample == name]
        if files and not read and reasons:
            self.problems.append(f"samples.{name}: none of its {len(files)} files can be opened, such as {reasons[0]}")
        factor = 1.0
        if not self.problems and read:
            usable = tuple(one for one in files if one.path in read)
            with self._noted(name):
                factor = normalisation(sample, usable, lumi_fb=self.config.lumi_fb(name))
        named = self.config.label_of(name)
        label = NO_LABEL if named is None else self.config.classes.index(named)
        own, rule = isinstance(sample.sum_of_weights, str), self.config.rule_of(name)
        self.samples.append(SampleEntry(name, len(self.samples), label, sample.selection, factor, rule, own))

    def finish(self) -> dict[str, Any]:
        """What a `mlaas4hep.data.catalogue.Catalogue` is made of.

        Raises
        ------
        DataError
            With every problem at once.
        """
        if not self.problems and not self._refused and not self._misfits:
            self.problems.extend(
                self._unknown_names() if self.kind == "mc" else ()
            )  # else they may be in a file that could not be opened
        self.problems.extend(f"{told} {of_samples(list(names))}" for told, names in self._misfits.items())
        self.problems.extend(self._lacks.lines(self.config, self.kind, self._columns))
        self.problems.extend(self._missing_lines())
        self.problems.extend(
            f"samples.{name}: {some_files(paths)}{told}" for (name, told), paths in self._refused.items()
        )
        self.problems.extend(line for name, line in self._other_kind.items() if name in self._asked)
        if self.problems:
            raise DataError(_joined(self.problems))
        self._quarantine.unopened = sum(map(self._unopened, self.samples))
        self._quarantine.total = self._quarantine.unopened + sum(one.num_entries for one in self.files)
        self._quarantine.check()
        features = self.config.features
        everywhere = {name: self.types[name] for name in self._everywhere or () if name not in self._other_kind}
        return {
            "samples": tuple(self.samples),
            "files": tuple(self.files),
            "classes": self.config.classes,
            "types": {name: one for name, one in self.types.items() if name not in self._other_kind},
            "features": features,
            "identity": choose_identity(self._split, everywhere, columns_of(features, known=self.types)),
            "kind": self.kind,
            "quarantine": self._quarantine,
            "hook": self._hook,
        }

    def _unopened(self, sample: SampleEntry) -> int:
        """Entries of a sample's files that could not be opened, taken for average ones."""
        sizes = [one.num_entries for one in self.files if one.sample == sample.number]
        count = sum(one.sample == sample.name and one.tree is None for one in self._quarantine.records)
        return round(count * sum(sizes) / len(sizes)) if sizes else 0

    @property
    def _split(self) -> Split:
        return self.config.features.split if self.kind == "mc" else Split()

    @contextmanager
    def _noted(self, name: str, path: str = "") -> Iterator[None]:
        """Keep what a `DataError` says; what several files of a sample say is told once."""
        try:
            yield
        except DataError as error:
            for line in str(error).splitlines():
                told = line.removeprefix(path) if path else line
                if told == line:
                    self.problems.append(f"samples.{name}: {line}")
                else:
                    self._refused.setdefault((name, told), []).append(path)

    def _needed(self, sample: Sample) -> frozenset[str]:
        """Columns that a sample takes, as far as is known by the files so far what a collection stands for."""
        key = (
            sample.selection,
            repr(rule_of(sample, self.config.labels)),
            len(self.types),
        )  # names are only ever added
        if key not in self._needs:
            self._needs[key] = self._find_needed(sample)
        return self._needs[key]

    def _find_needed(self, sample: Sample) -> frozenset[str]:
        features, rule = self.config.features, rule_of(sample, self.config.labels)
        texts = [sample.selection, *(rule.expressions.values() if rule else ())]
        if self.kind == "mc":
            texts += [features.weights.event, *features.target_texts.values()]
        names = [rule.column] if rule and rule.column is not None else []
        given = [text for text in texts if text is not None]
        kept = frozenset() if self._hook is None else frozenset({KEPT})
        try:
            return kept | columns_of(features, given, names=names, known=self.types) | frozenset(self._split.by)
        except ExpressionError as error:
            place = f"at character {error.column + 1} of '{error.text}'"
            raise _MisfitError(f"{error.where}: {error.reason} ({place})") from error

    def _add_file(self, name: str, index: int, file: Located, friends: tuple[str, ...]) -> None:
        sample, path = self.config.samples[name], file.path
        try:
            opening = Opening(path, sample.tree or self.config.tree, file.replicas, friends, self._hook)
            source = _open_filled(opening)
        except DataError as error:
            if isinstance(error, DeclarationError) or not self._quarantine.policy.skips:
                raise
            self._quarantine.add_file(Skipped(name, path, reason_of(error, path)))
            return
        with source:
            self._refuse_twice(name, file, source.tree, sample.selection)
            self._add_columns(source)
            try:
                needed = self._needed(sample) - {self._label_word(name, source)}
            except _MisfitError as error:
                self._misfits.setdefault(str(error), {})[name] = None
                return
            self._asked |= needed
            for column in sorted(needed):
                self._check_column(name, source, column)
            place = (len(self.files), len(self.samples), index)
            found = (source.clusters, source.num_entries, source.identity)
            self.files.append(FileEntry(*place, path, source.tree, *found, replace(opening, tree=source.tree)))

    def _leave_out(self, name: str, path: str, problem: str, *, otherwise: bool) -> None:
        """A file that is not there: left out where that is allowed and there are others, else a problem."""
        if self._quarantine.policy.skips and otherwise:
            self._quarantine.add_file(Skipped(name, path, reason_of(problem, path)))
        else:
            self.problems.append(f"samples.{name}: {problem}")

    def _label_word(self, name: str, source: Source) -> str | None:
        """The column of text that labels the events of a sample, if it can be read as one."""
        rule = self.config.rule_of(name)
        if rule is None or rule.column is None or not rule.is_text:
            return None
        info = source.columns.get(rule.column)
        if info is not None and info.type is not None:
            self._note_label(name, source, f"numbers ({info.description})", rule)
        return rule.column if isinstance(source, Texts) and rule.column in source.texts else None

    def _note_label(self, name: str, source: Source, words: str, rule: Rule) -> None:
        """The column of a label holds what its classes do not name: told with what is there, in its first file."""
        column, key = rule.column or "", (name, source.tree, words)
        if key not in self._labels_told:
            held = first_values(source, column, text=not rule.is_text)
            kind = "text" if rule.is_text else "numbers"
            self._labels_told[key] = (
                f"column '{column}' holds {words}: {held}; labels.classes gives {kind} for it: {asked_told(rule)}"
            )
        self._missing.setdefault((name, source.tree, self._labels_told[key]), []).append(source.path)

    def _refuse_twice(self, name: str, file: Located, tree: str, selection: str | None) -> None:
        """No two samples with the same entries of a tree; overlaps of selections show when events are read."""
        path = file.path
        others = self._selected.setdefault((file_key(path, file.replicas), tree), {})
        wanted = "" if selection is None else Expression.parse(selection, where=f"samples.{name}.selection").canonical
        for other, selected in others.items():
            if other == name:
                continue
            if selected == wanted:
                raise DataError(
                    f"{path}, tree '{tree}': selects the same entries as the sample '{other}'; give the two different "
                    "files, trees or selections"
                )
            if not (selected and wanted):
                whole, part = (other, name) if wanted else (name, other)
                raise DataError(
                    f"{path}, tree '{tree}': the sample '{whole}' has all of its entries, those of the sample "
                    f"'{part}' among them; give '{whole}' a selection without those"
                )
        others[name] = wanted

    def _add_columns(self, source: Source) -> None:
        self._columns.update(dict.fromkeys(name for name in source.columns if name != KEPT))
        readable = {name: one.type for name, one in source.columns.items() if one.type is not None}
        self._everywhere = set(readable) if self._everywhere is None else self._everywhere & set(readable)
        for name, found in readable.items():
            known = self.types.setdefault(name, found)
            if known.kind != found.kind:
                self._other_kind.setdefault(
                    name, f"column '{name}' is {found.kind} in {source.path}, but {known.kind} in files before it"
                )
            elif known != found:
                self.types[name] = ColumnType(known.kind, promote(known.dtype, found.dtype))

    def _check_column(self, name: str, source: Source, column: str) -> None:
        info = source.columns.get(column)
        place = {"sample": name, "path": source.path, "tree": source.tree}
        if info is None:
            known = [*(one for one in source.columns if one != KEPT), *self.config.features.new_variables]
            self._lacks.add(column, "", close=nearest(column, known), **place)
        elif info.type is None:
            rule = self.config.rule_of(name)
            if rule is not None and column == rule.column and isinstance(source, Texts) and column in source.texts:
                self._note_label(name, source, "text", rule)
                return
            self._lacks.add(column, f"({info.description}) cannot be read: {info.reason}", **place)

    def _missing_lines(self) -> Iterator[str]:
        for (name, tree, problem), paths in self._missing.items():
            yield f"samples.{name}: {some_files(paths)}, tree '{tree}': {problem}"

    def _unknown_names(self) -> Iterator[str]:
        """Names that are only used later, in observers and variations: a typo is told now."""
        features = self.config.features
        known = [*self._columns, *features.new_variables]
        named = []
        for index, text in enumerate(features.observers):
            needs = [text] if text in known else sorted(needs_of(text, known))
            named += [(f"observers[{index}]", name) for name in needs]
        for variation, replacements in features.variations.items():
            path = f"variations.{variation}"
            named += [(f"{path}.{target}", target) for target in replacements if target != "weight"]
            for target, text in replacements.items():
                named += [(f"{path}.{target}", name) for name in sorted(needs_of(text, known))]
        for path, name in named:
            if name not in self._columns and name not in features.new_variables:
                yield f"{path}: '{name}' is neither a column of the files nor a new variable{nearest(name, known)}"


class _MisfitError(Exception):
    """A collection has not the columns that an expression asks of it, in the files so far."""


def _open_filled(opening: Opening) -> Source:
    source = opening.open()
    if source.num_entries == 0:
        source.close()
        raise DataError(f"{opening.path}: tree '{source.tree}' has no entries")
    return source


def _joined(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems with the input files:", *(f"  - {line}" for line in problems)])
