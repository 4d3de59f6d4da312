"""What is asked of a scoring: models with what answers for them, and how outputs are to look.

Invariant: whatever can be found to be wrong without opening an input is refused here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import UserError, nearest
from mlaas4hep.score.engine import Engine, LocalEngine, ServedEngine
from mlaas4hep.score.folds import Folds, in_folds, learned_from, open_folds
from mlaas4hep.score.names import COLUMN, OutputColumn, columns_of, require_different
from mlaas4hep.spec.varied import WEIGHT

FoldChoice = Literal["auto", "out", "mean"]


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle, what answers for it, and the columns that it gives.

    Parameters
    ----------
    bundle, engine
        Of the model.
    variations
        Under which it is scored too: what takes the place of what, by name.
    columns
        Scores and selections, nominal first.
    folds
        Where events are scored out of fold.
    """

    bundle: Bundle
    engine: Engine
    variations: Mapping[str, Mapping[str, str]]
    columns: tuple[OutputColumn, ...]
    folds: Folds | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """Everything that decides what stands in an output, but for its input.

    Parameters
    ----------
    models
        At least one.
    fill
        Score of entries that have none.
    observers
        Whether those of the contracts are written.
    identity
        Whether the columns that tell events apart are written.
    """

    models: tuple[Model, ...]
    fill: float = math.nan
    observers: bool = True
    identity: bool = True

    def work(self, *, input: str, tree: str, layout: Sequence[str]) -> str:
        """A hash of all that an output depends on: equal, and the output need not be made again.

        Parameters
        ----------
        input
            Identity of the bytes of the input.
        tree
            Its table.
        layout
            Format and names of the output.
        """
        told = {
            "input": [input, tree],
            "layout": list(layout),
            "models": [self._told(one) for one in self.models],
            "fill": None if math.isnan(self.fill) else self.fill,
            "observers": self.observers,
            "identity": self.identity,
        }
        return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()

    def _told(self, model: Model) -> dict[str, Any]:
        bundle = model.bundle
        return {
            "name": bundle.name,
            "hashes": [bundle.spec_sha256, bundle.model_sha256],
            "columns": model.columns,
            "folds": model.folds is not None,
        }

    def close(self) -> None:
        """Give back what the engines hold."""
        for one in self.models:
            one.engine.close()


def ask(
    bundles: Sequence[Bundle],
    *,
    files: Sequence[str] = (),
    column: str = COLUMN,
    fill: float = math.nan,
    variations: Sequence[str] = (),
    observers: bool = True,
    identity: bool = True,
    folds: FoldChoice = "auto",
    urls: Sequence[str] = (),
    client: Mapping[str, Any] | None = None,
) -> Asked:
    """Put together what is asked.

    Parameters
    ----------
    bundles
        Models, in the order of their columns.
    files
        Inputs, by whose bytes it is told whether a model of folds learned from them.
    column
        Template of the names of scores; see `mlaas4hep.score.names.columns_of`.
    fill, observers, identity
        As of `Asked`.
    variations
        Names of those that are scored too; ``*`` stands for all of a model.
    folds
        ``out``: each event by the model that has not seen it; ``mean``: by the mean of all; ``auto`` takes the first
        for files that were learned from and the second for others.
    urls
        Servers that have the same models and are asked instead of running the graph here.
    client
        Settings of the client.

    Raises
    ------
    UserError
        No model, a variation that no model has, two columns of one name, folds that a server cannot tell.
    """
    if not bundles:
        raise UserError(
            "no bundle to score with: name the folder that 'mlaas4hep train' wrote, such as runs/tth/model/tth"
        )
    _check_twice(bundles)
    _check_variations(bundles, variations)
    models: list[Model] = []
    chosen = {one.path: _varied(one, variations) for one in bundles}
    columns = {
        one.path: tuple(columns_of(one, column, variations=chosen[one.path], number=number))
        for number, one in enumerate(bundles, 1)
    }
    require_different([name for some in columns.values() for name in some])
    _check_preprocessing(bundles)
    try:
        for one in bundles:
            found, engine = _engine(one, files, folds, urls, client)
            models.append(Model(one, engine, chosen[one.path], columns[one.path], found))
    except BaseException:
        for model in models:
            model.engine.close()
        raise
    return Asked(tuple(models), fill, observers, identity)


def _engine(
    bundle: Bundle, files: Sequence[str], folds: FoldChoice, urls: Sequence[str], client: Mapping[str, Any] | None
) -> tuple[Folds | None, Engine]:
    out = folds == "out" or (folds == "auto" and in_folds(bundle) and learned_from(bundle, files))
    if out and not in_folds(bundle):
        raise UserError(f"'{bundle.name}' was not trained in folds: it has no score out of fold; leave --folds out")
    if out and urls:
        raise UserError(
            f"'{bundle.name}' learned from these files in folds, and a server has the mean of its models alone; leave "
            "--url out, or give --folds mean where that is what you want"
        )
    if out:
        return open_folds(bundle)
    return None, ServedEngine(urls, bundle, options=client) if urls else LocalEngine.of(bundle)


def _varied(bundle: Bundle, asked: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Variations of values, in the order of the contract: those of weights leave scores as they are."""
    declared = {name: one for name, one in bundle.spec.features.variations.items() if set(one) != {WEIGHT}}
    return {name: one for name, one in declared.items() if "*" in asked or name in asked}


def _check_twice(bundles: Sequence[Bundle]) -> None:
    paths = [one.path for one in bundles]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise UserError(f"{twice[0]}: is given twice")


def _check_variations(bundles: Sequence[Bundle], asked: Sequence[str]) -> None:
    declared = {name: one for bundle in bundles for name, one in bundle.spec.features.variations.items()}
    for name in asked:
        if name == "*":
            continue
        if name not in declared:
            known = nearest(name, declared) or "; the models have none"
            raise UserError(f"--variations: no model has a variation '{name}'{known}")
        if set(declared[name]) == {WEIGHT}:
            raise UserError(
                f"--variations: '{name}' changes the weights of events alone; their scores stay the nominal ones"
            )


def _check_preprocessing(bundles: Sequence[Bundle]) -> None:
    for one in bundles:
        if "preprocessing_sha256" in one.spec.provenance:
            source = one.path / "native" / "preprocessing.py"
            where = f" (a copy: {source})" if source.is_file() else ""
            raise UserError(
                f"'{one.name}' learned from events that went through preprocessing(rec), a function of the user, and "
                "files hold events that did not: their scores would be of other events. Score in Python, behind that "
                f"function{where}: mlaas4hep.Scorer('{one.path}')(awkward.Array([preprocessing(rec) for rec in "
                "events])); see docs/howto/score-in-analysis.md"
            )
