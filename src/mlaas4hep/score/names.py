"""What the columns of an output are called, and what each of them is.

Invariant: names are those of C++ variables, so that ROOT, RDataFrame and pandas take them as they are; no two columns
of an output have the same.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import UserError

COLUMN = "{model}_{score}"
"""The name of a score where nothing else is asked for."""
_FIELDS = {"model", "score", "version", "run", "number"}

Kind = Literal["score", "selected", "observer", "identity"]


class OutputColumn(msgspec.Struct, frozen=True):
    """One column of an output.

    Parameters
    ----------
    name
        In the file.
    kind
        ``score``; ``selected``, whether the model scored the event; ``observer``; ``identity``, what tells one event
        from another.
    of
        Name of the score, text of the observer, or name of the column in the input; empty of ``selected``.
    model
        Whose; empty of identities.
    variation
        Under which the event was scored; empty of the nominal scores.
    """

    name: str
    kind: Kind
    of: str = ""
    model: str = ""
    variation: str = ""


def identifier(text: str) -> str:
    """A text as the name of a variable.

    Examples
    --------
    >>> identifier("ttH-2022"), identifier("max(Jet_pt)"), identifier("4jets")
    ('ttH_2022', 'max_Jet_pt', '_4jets')
    """
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", text)
    plain = plain.strip("_") or "_" if plain != text else text
    return f"_{plain}" if plain[0].isdigit() else plain


def check_template(template: str, fields: Iterable[str], *, where: str) -> None:
    """Refuse a template with fields that are not known.

    Raises
    ------
    UserError
        It is no template, or asks for another field.
    """
    known = sorted(fields)
    shown = ", ".join(f"{{{one}}}" for one in known)
    try:
        asked = [(field, form, how) for _, field, form, how in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise UserError(f"{where} '{template}': {error}; fields are {shown}") from error
    for field, form, how in asked:
        if field not in known or form or how:
            raise UserError(f"{where} '{template}': has no field '{{{field}}}'; fields are {shown}")


def columns_of(bundle: Bundle, template: str, *, variations: Iterable[str] = (), number: int = 1) -> list[OutputColumn]:
    """Scores of a model and whether an event has them, nominal first, then by variation.

    Parameters
    ----------
    bundle, number
        The model, and its place among those that are asked, from 1.
    template
        Of the names: ``{model}``, ``{version}``, ``{run}`` (the folder that it was trained into), ``{number}``,
        ``{score}``.
    variations
        Names of those that are scored, too.
    """
    check_template(template, _FIELDS, where="--column")
    model = {"model": identifier(bundle.name), "version": bundle.version, "run": _run_of(bundle), "number": number}
    found = []
    for variation in ("", *variations):
        ending = f"_{identifier(variation)}" if variation else ""
        for score in (*bundle.spec.score_names, ""):
            name = template.format(**model, score=identifier(score or "selected"))
            kind: Kind = "score" if score else "selected"
            found.append(OutputColumn(identifier(name) + ending, kind, score, bundle.name, variation))
    return found


def require_different(columns: Sequence[OutputColumn]) -> None:
    """Refuse two columns of one name.

    Raises
    ------
    UserError
        With both, and a way out.
    """
    seen: dict[str, OutputColumn] = {}
    for one in columns:
        other = seen.setdefault(one.name, one)
        if other is not one:
            raise UserError(
                f"two columns of the output would be called '{one.name}': {_told(other)} and {_told(one)}; say how "
                "they are called by what tells them apart: --column '{model}_v{version}_{score}', '{run}_{score}' (the "
                "folder that a model was trained into) or 'm{number}_{score}'"
            )


def _run_of(bundle: Bundle) -> str:
    """Of ``runs/RUN/model/NAME/1``; of a bundle that lies elsewhere the folder that it lies in."""
    above = bundle.path.resolve().parents[1]
    return identifier((above.parent if above.name == "model" else above).name or "model")


def _told(one: OutputColumn) -> str:
    of = f" '{one.of}'" if one.of else ""
    variation = f", variation '{one.variation}'" if one.variation else ""
    return f"the {one.kind}{of} of {one.model or 'the event'}{variation}"
