"""Ready lines to ask a model: for the shell, Python and C++.

Invariant: whatever a name or a value holds, it is one word of the shell, one literal of Python, one of C++.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shlex import quote as word
from typing import Any
from urllib.parse import quote

from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.pages.fields import row_shape, tensor_fields

_TOKEN = ' \\\n  -H "Authorization: Bearer $(cat token)"'


@dataclass(frozen=True, slots=True)
class Recipe:
    """Some lines, and in which language they are."""

    title: str
    text: str


def recipes_for_events(url: str, name: str, event: Mapping[str, Any], *, guarded: bool) -> list[Recipe]:
    """Of a model with a contract: events by name.

    Parameters
    ----------
    url
        Of the server.
    name
        Of the model.
    event
        That it takes.
    guarded
        Whether the server may ask for a token.
    """
    body = '{"instances": [' + _lines(event, json.dumps, "  ") + "]}"
    asked = f"print(client.predict({name!r}, [{_lines(event, repr, '    ')}]))"
    place = f"{url}/v1/models/{quote(name, safe='')}:predict"
    return [
        Recipe("curl", _post(place, body, guarded=guarded)),
        Recipe("Python", _python(url, asked, guarded=guarded)),
        Recipe("C++, with the class Server of examples/cpp", _cpp(url, name, body)),
    ]


def recipes_for_tensors(url: str, model: ServedModel, *, guarded: bool) -> list[Recipe]:
    """Of any graph: tensors, here of zeros. Where they are too many for a command, Python alone."""
    place = f"{url}/v2/models/{quote(model.name, safe='')}/infer"
    found = [Recipe("curl", _post(place, tensor_body(model), guarded=guarded))] if tensor_fields(model) else []
    lines = [f"    {one.name!r}: np.{_zeros(model, number)},\n" for number, one in enumerate(model.inputs)]
    asked = f"print(client.infer({model.name!r}, tensors))"
    text = _python(url, asked, guarded=guarded)
    return [*found, Recipe("Python", f"import numpy as np\n{text.replace('with ', _tensors(lines) + 'with ', 1)}")]


def recipes_for_pictures(url: str, name: str, *, guarded: bool) -> list[Recipe]:
    """Of a model that takes a picture and nothing else."""
    place = f"{url}/v1/models/{quote(name, safe='')}:predict"
    token = _TOKEN if guarded else ""
    curl = f"curl {word(place)}{token} \\\n  -H 'Content-Type: image/png' \\\n  --data-binary @picture.png"
    asked = f"print(client.predict_image({name!r}, Path('picture.png').read_bytes()))"
    text = f"from pathlib import Path\n\n{_python(url, asked, guarded=guarded)}"
    return [Recipe("curl, with a picture", curl), Recipe("Python, with a picture", text)]


def tensor_body(model: ServedModel) -> str:
    """A question of zeros, one row of them where rows are independent."""
    inputs = [
        {
            "name": spec.name,
            "shape": row_shape(spec, batches=model.batches),
            "datatype": spec.datatype,
            "data": json.loads(f"[{field.value}]"),
        }
        for spec, field in zip(model.inputs, tensor_fields(model), strict=True)
    ]
    return json.dumps({"inputs": inputs})


def _lines(event: Mapping[str, Any], write: Callable[[Any], str], indent: str) -> str:
    """An event with a line for each column."""
    lines = ",\n".join(f"{indent}  {write(name)}: {write(value)}" for name, value in event.items())
    return f"{{\n{lines}\n{indent}}}"


def _post(place: str, body: str, *, guarded: bool) -> str:
    token = _TOKEN if guarded else ""
    return f"curl {word(place)}{token} \\\n  -H 'Content-Type: application/json' \\\n  -d {word(body)}"


def _python(url: str, asked: str, *, guarded: bool) -> str:
    token = ', token_file="token"' if guarded else ""
    return f"from mlaas4hep.client import Client\n\nwith Client({url!r}{token}) as client:\n    {asked}"


def _tensors(lines: list[str]) -> str:
    return f"tensors = {{\n{''.join(lines)}}}\n"


def _zeros(model: ServedModel, number: int) -> str:
    spec = model.inputs[number]
    shape = tuple(row_shape(spec, batches=model.batches))
    return f"full({shape}, '', object)" if spec.datatype == "BYTES" else f"zeros({shape}, {str(spec.dtype)!r})"


def _cpp(url: str, name: str, body: str) -> str:
    mark = "json"
    while f'){mark}"' in body:
        mark += "_"
    text = f'R"{mark}({body}){mark}"'
    return f"Server server({_literal(url)});\nstd::cout << server.predict({_literal(name)}, {text});"


def _literal(text: str) -> str:
    """Of C++: JSON's escapes are its own, too."""
    return json.dumps(text, ensure_ascii=False)
