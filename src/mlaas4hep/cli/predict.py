"""``mlaas4hep predict``: one question to a server from the shell."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.client import Client

Prediction = dict[str, float | None] | None


@click.command(
    epilog="""\b
Examples:
  mlaas4hep predict --model tth --event '{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}'
  mlaas4hep predict --event 'PuppiMET_pt=31.2 Jet_pt=[88.1,42.0]' --event 'PuppiMET_pt=12.5 Jet_pt=[]'
  mlaas4hep predict --url http://gpu7:8000 --file events.json --json
  zcat events.json.gz | mlaas4hep predict --file -
"""
)
@click.option("--url", default="http://localhost:8000", show_default=True, help="Where 'mlaas4hep serve' runs.")
@click.option("--model", help="Name of the model; may be left out where the server has one.")
@click.option(
    "--event",
    "texts",
    multiple=True,
    metavar="JSON|'NAME=VALUE ...'",
    help="One event: column names and values; a list for a jagged column, null for a missing value. May be repeated.",
)
@click.option(
    "--file",
    type=click.File("rb"),
    help="Events as JSON: a list, {instances: [...]}, or one event a line; - reads standard input.",
)
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Longest wait for an answer, in s.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as one JSON line.")
def command(
    url: str, model: str | None, texts: tuple[str, ...], file: IO[bytes] | None, timeout_s: float, as_json: bool
) -> None:
    """Ask a server for the scores of events, given by the names of their columns."""
    import json

    from mlaas4hep.client import Client

    events = [_event(text) for text in texts]
    if file is not None:
        events += _events(file.read(), where=file.name)
    if not events:
        raise click.UsageError("no events: give --event or --file")
    with Client(url, timeout_s=timeout_s) as client:
        name = model or _only_model(client, url)
        predictions = client.predict(name, events)
    click.echo(json.dumps({"model_name": name, "predictions": predictions}) if as_json else _table(predictions))


def _only_model(client: Client, url: str) -> str:
    from mlaas4hep.errors import NotFoundError

    names = client.models()
    if len(names) != 1:
        raise NotFoundError(f"{url} serves {len(names)} models; choose one with --model: {', '.join(names)}")
    return names[0]


def _event(text: str) -> dict[str, Any]:
    """One event, from a JSON object or from ``name=value`` pairs with JSON values."""
    import re

    from mlaas4hep.errors import RequestError

    if text.lstrip().startswith("{"):
        value: dict[str, Any] = _json(text.encode(), where="--event")
        return value
    event = {}
    for pair in re.split(r"\s+(?=[^\s=]+=)", text.strip()):
        name, equals, value_text = pair.partition("=")
        if not equals:
            raise RequestError(f"--event: asked for a JSON object or name=value, found '{pair}'")
        event[name] = _json(value_text.encode(), where=f"--event {name}")
    return event


def _events(data: bytes, *, where: str) -> list[Any]:
    """Events of a file: a JSON list, an object with ``instances``, or one event a line."""
    import json

    from mlaas4hep.errors import RequestError

    try:
        whole = json.loads(data)
    except ValueError:
        lines = enumerate(data.splitlines(), 1)
        return [_json(line, where=f"{where}, line {number}") for number, line in lines if line.strip()]
    listed = whole.get("instances", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(listed, list):
        raise RequestError(f'{where}: asked for a list of events or {{"instances": [...]}}, found neither')
    return listed


def _json(data: bytes, *, where: str) -> Any:
    import json

    from mlaas4hep.errors import RequestError

    try:
        return json.loads(data)
    except ValueError as error:
        raise RequestError(f"{where}: is not JSON: {error}") from error


def _table(predictions: list[Prediction]) -> str:
    """One line an event, one column a score."""
    names = list(next((one for one in predictions if one is not None), {}))
    head = ["event", *names]
    rows = [[str(index), *_cells(one, names)] for index, one in enumerate(predictions)]
    widths = [max(len(row[column]) for row in [head, *rows] if column < len(row)) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) for row in [head, *rows]]
    return "\n".join(lines)


def _cells(prediction: Prediction, names: list[str]) -> list[str]:
    if prediction is None:
        return ["not selected (the model's preselection)"] if not names else ["not selected"]
    return ["missing" if prediction[name] is None else f"{prediction[name]:.6g}" for name in names]
