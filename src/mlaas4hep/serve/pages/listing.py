"""What the pages tell of a repository: a line for each name, and the versions behind it.

Looking is not asking: nothing is loaded, and nothing counts as asked for. Invariant: every entry of the index is shown,
also those that are broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from mlaas4hep.serve.entries import LATEST
from mlaas4hep.serve.exposition import Totals
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.pages.sealed import Facts, Metrics, facts_of
from mlaas4hep.serve.served import IndexEntry
from mlaas4hep.serve.service import InferenceService


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of a name, or the name itself where nothing of it is known.

    Parameters
    ----------
    version
        Empty where the index knows none.
    state, reason
        As in the index.
    labels
        Of it.
    requests, rows
        Answered since the start, and rows that were run.
    facts
        Of a version that is loaded.
    """

    version: str
    state: str
    reason: str
    labels: tuple[str, ...]
    requests: int
    rows: int
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One name."""

    name: str
    linked: bool
    versions: tuple[VersionRow, ...]

    @property
    def newest(self) -> VersionRow:
        """Its newest version that can be asked, else its newest."""
        ready = [one for one in self.versions if one.state == "READY"]
        return (ready or list(self.versions))[-1]

    @property
    def requests(self) -> int:
        """Of all versions."""
        return sum(one.requests for one in self.versions)


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A model that an ensemble is made of.

    Parameters
    ----------
    name, version
        Of it.
    answer
        Output under which its own scores are given; empty where they are not.
    facts
        Where it comes from; None where it is not one of the models that are served here under names of their own.
    """

    name: str
    version: str
    answer: str
    facts: Facts | None

    @property
    def linked(self) -> bool:
        """Whether it has a page of its own."""
        return self.facts is not None and is_linkable(self.name)


def member_rows(service: InferenceService, model: ServedModel) -> list[MemberRow]:
    """What a model is made of, in order; empty where it is no ensemble.

    Members from elsewhere are known by the names of their folders, which those of a run in folds have in common.
    """
    answers = [*(one.name for one in model.outputs[1:]), *[""] * len(model.members)]
    found = []
    for text, answer in zip(model.members, answers, strict=False):
        name, _, version = text.rpartition("/")
        served = service.repository.entry(name) if model.members.count(text) == 1 else None
        member = served.versions.get(version) if served is not None else None
        facts = facts_of(member) if member is not None and not member.members else None
        found.append(MemberRow(name, version, answer, facts))
    return found


def model_rows(service: InferenceService, totals: Iterable[Totals]) -> list[ModelRow]:
    """All names of the index, sorted."""
    counted = {(one.model, one.version): one for one in totals}
    entries = groupby(service.repository_index(), key=lambda one: one.name)
    return [
        ModelRow(name, is_linkable(name), tuple(_versions(service, name, found, counted))) for name, found in entries
    ]


def is_linkable(name: str) -> bool:
    """Whether an address can have the name as one of its pieces."""
    return "/" not in name and name not in (".", "..")


def figure_words(metrics: Metrics | None) -> str:
    """The figure of a training in one line; empty where there is none.

    Examples
    --------
    >>> figure_words(Metrics(auc=0.88612, auc_err=0.0083, auc_part="validation"))
    'AUC 0.8861 ± 0.0083'
    """
    from mlaas4hep.report.page import measured  # whom nobody looks at loads nothing of reports

    if metrics is None:
        return ""
    if metrics.auc is not None:
        return f"AUC {measured(metrics.auc, metrics.auc_err or 0.0)}"
    known = [(name, one.resolution, one.resolution_err or 0.0) for name, one in metrics.targets.items()]
    found = [f"{name}: resolution {measured(value, error)}" for name, value, error in known if value is not None]
    return ", ".join(found[:2])


def _versions(
    service: InferenceService, name: str, entries: Iterable[IndexEntry], counted: dict[tuple[str, str], Totals]
) -> Iterator[VersionRow]:
    served = service.repository.entry(name)
    labels = {} if served is None else {LATEST: served.known[None].version, **served.labels}
    for entry in entries:
        version = entry.version
        model = served.versions.get(version) if served is not None else None
        totals = counted.get((name, version))
        yield VersionRow(
            version=version,
            state=entry.state,
            reason=entry.reason,
            labels=tuple(sorted(label for label, of in labels.items() if of == version)),
            requests=totals.succeeded + sum(totals.failures.values()) if totals else 0,
            rows=totals.rows if totals else 0,
            facts=facts_of(model) if model is not None else None,
        )
