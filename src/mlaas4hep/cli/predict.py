"""``mlaas4hep predict``: one question to a server from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.client import Client

Prediction = dict[str, float | None] | None
# Events that are sent at once: so often the bar moves, and so much is lost where a question fails.
PART = 5000
# Of a picture, the likeliest.
SHOWN_CLASSES = 5
_BINARY = {b"root": "a ROOT file", b"PAR1": "a Parquet file", b"Obj\x01": "an Avro file"}


def _waits(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    from mlaas4hep.client.attempts import LONGEST_TIMEOUT_S

    if not 0 < value <= LONGEST_TIMEOUT_S:
        raise click.BadParameter(
            f"{value} is not a time in s above 0 and up to {LONGEST_TIMEOUT_S:.0f}", ctx, parameter
        )
    return value


def _refuse_port(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(f"no option --port; a server is named with --url http://localhost:{value}", ctx)


@click.command(
    epilog="""\b
Examples:
  mlaas4hep predict --model tth --event '{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}'
  mlaas4hep predict --event 'PuppiMET_pt=31.2 Jet_pt=[88.1,42.0]' --event 'PuppiMET_pt=12.5 Jet_pt=[]'
  mlaas4hep predict --url http://gpu7:8000 --file events.json --json
  mlaas4hep predict --url https://a.cern.ch --url https://b.cern.ch --token-file token --file events.json
  zcat events.json.gz | mlaas4hep predict --file -
  mlaas4hep predict --model tth --version stable --file events.json   # the version that has this label
  mlaas4hep predict --model resnet --image cat.png
"""
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    default=("http://localhost:8000",),
    show_default=True,
    help="Where 'mlaas4hep serve' runs. May be repeated: where one server fails, the next is asked.",
)
@click.option("--port", hidden=True, expose_value=False, callback=_refuse_port)
@click.option("--model", help="Name of the model; may be left out where the server has one.")
@click.option("--version", help="Version of the model, or a label such as stable; the newest where none is given.")
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
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A PNG or JPEG, for a model that says what it makes of one (image.yaml beside it). May be repeated.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=30.0,
    show_default=True,
    callback=_waits,
    help=f"Longest wait for an answer (to {PART} events, of more), in s, repetitions included.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Bearer token to show. Else that of BEARER_TOKEN, BEARER_TOKEN_FILE or bt_u$UID, to a server that asks.",
)
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Authorities that vouch for an https server.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as one JSON line.")
def command(
    urls: tuple[str, ...],
    model: str | None,
    version: str | None,
    texts: tuple[str, ...],
    file: IO[bytes] | None,
    images: tuple[Path, ...],
    timeout_s: float,
    token_file: str | None,
    ca: str | None,
    as_json: bool,
) -> None:
    """Ask a server for the scores of events, given by the names of their columns, or for those of pictures."""
    import json

    from mlaas4hep.client import Client, Tls

    events = [_event(text) for text in texts]
    if file is not None:
        events += _events(file.read(), where=file.name)
    if images and events:
        raise click.UsageError("--image goes without --event and --file")
    if not events and not images:
        raise click.UsageError("no events: give --event or --file, or --image for pictures")
    with Client(urls, timeout_s=timeout_s, token_file=token_file, tls=Tls(ca=ca)) as client:
        name = model or _only_model(client)
        if images:
            _ask_images(client, name, version, images, as_json=as_json)
            return
        predictions = _predictions(client, name, version, events)
        if as_json:
            click.echo(json.dumps({"model_name": name, "predictions": predictions}))
        else:
            # What the table says beside the scores is asked for only where it is needed.
            contract = client.contract(name, version) if None in predictions else {}
            click.echo(_table(predictions, contract))


def _predictions(client: Client, model: str, version: str | None, events: list[dict[str, Any]]) -> list[Prediction]:
    """Of all events, in order, some at a time."""
    from mlaas4hep.cli.progress import Bars

    bars, predictions = Bars(), list[Prediction]()
    if len(events) > PART:  # all of them are asked of one version, also where it is switched meanwhile
        version = client.contract(model, version)["version"]
        bars.start("predicting", total=len(events))
    try:
        for start in range(0, len(events), PART):
            part = events[start : start + PART]
            predictions += client.predict(model, part, version=version, progress=bars.update)
    finally:
        bars.close()
    return predictions


def _ask_images(client: Client, model: str, version: str | None, images: tuple[Path, ...], *, as_json: bool) -> None:
    """One question a picture; of many classes the likeliest are shown."""
    import json

    predictions = [client.predict_image(model, file.read_bytes(), version=version) for file in images]
    if as_json:
        click.echo(json.dumps({"model_name": model, "predictions": predictions}))
        return
    for file, prediction in zip(images, predictions, strict=True):
        click.echo(f"{file}:")
        scores = {name: value for name, value in prediction.items() if isinstance(value, float)}
        if len(scores) < len(prediction):
            click.echo(f"  {json.dumps(prediction)}")
            continue
        for name in sorted(scores, key=lambda one: -scores[one])[:SHOWN_CLASSES]:
            click.echo(f"  {scores[name]:.6g}  {name}")


def _only_model(client: Client) -> str:
    from mlaas4hep.errors import NotFoundError

    names = client.models()
    if len(names) != 1:
        raise NotFoundError(f"{client.url} serves {len(names)} models; choose one with --model: {', '.join(names)}")
    return names[0]


def _event(text: str) -> dict[str, Any]:
    """One event, from a JSON object or from ``name=value`` pairs with JSON values, between them blanks or commas."""
    import re

    from mlaas4hep.errors import RequestError

    if text.lstrip().startswith("{"):
        value: dict[str, Any] = _json(text.encode(), where="--event")
        return value
    event = {}
    for pair in re.split(r"[\s,]+(?=[^\s=,\[\]]+=)", text.strip(" \t\r\n,")):
        name, equals, value_text = pair.partition("=")
        if not equals:
            raise RequestError(f"--event: asked for a JSON object or name=value, found '{pair}'")
        hint = "; write numbers, true, false, null (missing) or a list, as in 'HT=812 nJet=6 Jet_pt=[210.0, 88.1]'"
        event[name] = _json(value_text.encode(), where=f"--event {name}", hint=hint)
    return event


def _events(data: bytes, *, where: str) -> list[dict[str, Any]]:
    """Events of a file: a JSON list, an object with ``instances``, or one event a line."""
    import json

    from mlaas4hep.errors import RequestError

    binary = next((name for start, name in _BINARY.items() if data.startswith(start)), None)
    if binary is not None:
        raise RequestError(
            f"{where}: asked for events as JSON, found {binary}; "
            "'mlaas4hep score BUNDLE FILES -o OUT' scores the events of such files"
        )
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        lines = enumerate(data.splitlines(), 1)
        listed = {
            f"line {number}": _json(line, where=f"{where}, line {number}") for number, line in lines if line.strip()
        }
    else:
        found = whole.get("instances", [whole]) if isinstance(whole, dict) else whole
        if not isinstance(found, list):
            raise RequestError(f'{where}: asked for a list of events or {{"instances": [...]}}, found neither')
        listed = {f"event {index}": one for index, one in enumerate(found)}
    for place, one in listed.items():
        if not isinstance(one, dict):
            raise RequestError(f"{where}, {place}: asked for an object {{column: value}}, found {_short(one)}")
    if not listed:
        raise RequestError(f"{where}: holds no events")
    return list(listed.values())


def _json(data: bytes, *, where: str, hint: str = "") -> Any:
    import json

    from mlaas4hep.errors import RequestError

    try:
        return json.loads(data)
    except ValueError as error:
        raise RequestError(f"{where}: is not JSON: {error}{hint}") from error
    except RecursionError as error:
        raise RequestError(f"{where}: is nested too deeply") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _table(predictions: list[Prediction], contract: dict[str, Any]) -> str:
    """One line an event, one column a score; an event that is not scored says why.

    ``contract`` is that of the model, as the server tells it; looked at where an event is not selected.
    """
    names = list(next((one for one in predictions if one is not None), contract.get("score_names", [])))
    cells = [None if one is None else [_score(one[name]) for name in names] for one in predictions]
    widths = [max(map(len, column)) for column in zip(names, *filter(None, cells), strict=True)]
    first = max(len("event"), len(str(len(predictions) - 1)))
    reason = f"not selected (preselection: {contract.get('preselection')})"
    lines = [_line("event", names, first, widths)]
    for index, row in enumerate(cells):
        lines.append(f"{index:>{first}}  {reason}" if row is None else _line(str(index), row, first, widths))
    return "\n".join(lines)


def _line(event: str, cells: list[str], first: int, widths: list[int]) -> str:
    return "  ".join([event.rjust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])


def _score(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}"
