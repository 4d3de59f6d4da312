"""``mlaas4hep serve``: answer predictions over HTTP until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlaas4hep.serve.service import InferenceService


@click.command(
    epilog="""\b
Examples:
  mlaas4hep serve runs/tth/model/tth             # one bundle, http://127.0.0.1:8000
  mlaas4hep serve models --port 0 --json         # a folder of bundles, on a free port
  curl localhost:8000/v1/models/tth              # what the model wants, with an example event
  curl localhost:8000/v1/models/tth:predict -H 'Content-Type: application/json' \\
       -d '{"instances": [{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}]}'
"""
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Threads inside one prediction; more pay from about 256 events a request.",
)
@click.option(
    "--queue-s",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.001, 3600),
    help="Questions that would wait longer for an answer are refused at once, with 503 and Retry-After.",
)
@click.option(
    "--max-wait-ms",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 10_000),
    help="Put each run off so that more questions can join it. 0 joins what is there anyway, at no cost of time.",
)
@click.option("--json", "as_json", is_flag=True, help="Say where and what is served as one JSON line.")
def command(path: Path, host: str, port: int, threads: int, queue_s: float, max_wait_ms: float, as_json: bool) -> None:
    """Serve the models under PATH: a bundle, one version of it, or a folder of bundles and plain ONNX entries.

    Open Inference Protocol v2 for tensors (/v2, for tritonclient and others), and events by column name (/v1, KServe's
    form). Ctrl-C or SIGTERM finishes what was accepted, then stops.
    """
    import logging
    from importlib.metadata import version

    from mlaas4hep.serve.batcher import QueueLimits
    from mlaas4hep.serve.repository import open_repository
    from mlaas4hep.serve.server import bind, serve, url_of
    from mlaas4hep.serve.service import InferenceService, Limits

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    listening = bind(host, port)
    try:
        limits = Limits(queue=QueueLimits(wait_s=queue_s, max_wait_ms=max_wait_ms))
        models = open_repository(path, threads=threads)
        service = InferenceService(models, limits=limits, version=version("mlaas4hep"))
        url = url_of(listening)
        serve(service, listening, on_ready=lambda: click.echo(_ready(service, url, as_json=as_json)))
    finally:
        listening.close()


def _ready(service: InferenceService, url: str, *, as_json: bool) -> str:
    import json
    from shlex import quote

    names = service.model_names()
    if as_json:
        return json.dumps({"url": url, "models": names})
    lines = [f"Serving on {url}; stop with Ctrl-C.", *(f"  {name}" for name in names), "", "Ask it:"]
    asked = next((name for name in names if service.repository.get(name).contract), None)
    if asked is None:
        return "\n".join([*lines, f"  curl {url}/v2/models/{names[0]}  # its tensors"])
    contract = service.model_contract(asked)
    body = json.dumps({"instances": [contract.example]})
    ask = f"  curl {url}/v1/models/{asked}:predict -H 'Content-Type: application/json' -d {quote(body)}"
    return "\n".join([*lines, ask])
