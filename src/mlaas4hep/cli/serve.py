"""``mlaas4hep serve``: answer predictions over HTTP until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlaas4hep.serve.service import InferenceService
    from mlaas4hep.serve.workers import Worker

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
# Names of models that are told at the start.
_SHOWN = 20
# Beyond what a worker needs to end by itself.
_KILL_AFTER_S = 20.0


@click.command(
    epilog="""\b
Examples:
  mlaas4hep serve runs/tth/model/tth             # one bundle, http://127.0.0.1:8000
  mlaas4hep serve models --port 0 --json         # a folder of bundles, on a free port
  mlaas4hep serve both=both.yaml                 # several models as one: members: [../a, ../b]
  mlaas4hep serve tth=runs/folds                 # the mean of a run that was trained in folds, with its models
  mlaas4hep serve models --workers 4 --access-log access.jsonl --drain 10
  mlaas4hep serve models --host 0.0.0.0 --tls-cert host.pem --tls-key host.key --auth auth.yaml
  curl localhost:8000/v1/models/tth              # what the model wants, with an example event
  curl localhost:8000/v1/models/tth:predict -H 'Content-Type: application/json' \\
       -d '{"instances": [{"PuppiMET_pt": 31.2, "Jet_pt": [88.1, 42.0]}]}'
  curl localhost:8000/metrics                    # for Prometheus
  mlaas4hep serve models --uploads               # TFaaS's /upload brings models, /delete takes them away
  curl localhost:8000/upload -F name=net -F model=@net.onnx
  curl localhost:8000/json -d '{"values": [1.5, 0.2], "model": "net"}'   # a row, as TFaaS takes it
  xdg-open http://localhost:8000                 # pages of the models, with a form to try each
"""
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    help="Where gRPC is answered; 8001, or a free one where --port is 0.",
)
@click.option("--no-grpc", is_flag=True, help="Answer HTTP alone; so it is too without the extra mlaas4hep[grpc].")
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
@click.option(
    "--limits",
    type=_FILE,
    help="YAML file of what a request, a connection, a client may take, and what may wait for each model.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes that answer; each holds the models. One that dies is started again.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, gpu (cuda, cuda:1) or auto; a GPU needs onnxruntime-gpu, and its bits may differ from those offline.",
)
@click.option("--auth", type=_FILE, help="YAML file that says whose tokens are taken, and who may do what.")
@click.option("--tls-cert", type=_FILE, help="Certificate of the server with its chain, PEM; then it speaks https.")
@click.option("--tls-key", type=_FILE, help="Its key.")
@click.option("--tls-client-ca", type=_FILE, help="Clients must show a certificate of these authorities.")
@click.option("--access-log", metavar="FILE", help="One JSON line a request; - for standard output.")
@click.option("--cors", metavar="ORIGIN", multiple=True, help="Pages of this origin may ask; * for all. Repeat it.")
@click.option(
    "--drain",
    "drain_s",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Seconds that questions are still taken after SIGTERM, while the server says that it is not ready.",
)
@click.option(
    "--control",
    is_flag=True,
    help="Whoever asks may load, unload and label models, in all workers; with --auth who may manage them.",
)
@click.option(
    "--poll-s",
    type=click.FloatRange(0.1, 86_400),
    help="Look so often for new, changed and vanished models in PATH; without it only when asked (--control).",
)
@click.option("--lazy", is_flag=True, help="Load a model when it is first asked.")
@click.option(
    "--max-loaded",
    type=click.IntRange(1),
    help="Models in memory; beyond it, the one that was not asked for longest is put to sleep. Means --lazy.",
)
@click.option("--max-loaded-mb", type=click.IntRange(1), help="The same, in megabytes of their graphs on disk.")
@click.option(
    "--uploads",
    is_flag=True,
    help="Who asks may bring models into PATH and delete them (TFaaS's routes); with --auth who may upload. Each is "
    "converted behind walls, held against its framework, and served when that is done. PATH may be empty.",
)
@click.option("--upload-mb", default=512, show_default=True, type=click.IntRange(1), help="The largest upload.")
@click.option(
    "--base",
    default="tfaas",
    show_default=True,
    metavar="NAME",
    help="Prefix that TFaaS's routes are found under, too.",
)
@click.option(
    "--no-pages", is_flag=True, help="Show no pages to browsers; they are under /pages, and answer there alone."
)
@click.option("--json", "as_json", is_flag=True, help="Say where and what is served as one JSON line.")
def command(
    path: Path,
    host: str,
    port: int,
    grpc_port: int | None,
    no_grpc: bool,
    workers: int,
    drain_s: float,
    **options: Any,
) -> int | None:
    """Serve the models under PATH: a bundle, one version of it, or a folder of bundles and plain ONNX entries.

    Several models as one are NAME/ensemble.yaml in that folder; or PATH is NAME=FILE, or NAME=RUN of a run in folds.

    Open Inference Protocol v2 for tensors (/v2, for tritonclient and others), and events by column name (/v1, KServe's
    form), rows and uploads by TFaaS's routes. Ctrl-C or SIGTERM finishes what was accepted, then stops. SIGHUP opens
    the access log anew and reads new certificates. A model that cannot be served is logged and stops no other.
    """
    from mlaas4hep.serve.sockets import bind, join
    from mlaas4hep.serve.workers import start_workers

    _check_tls(**options)
    _check_uploads(path, **options)
    listening = bind(host, port, shared=workers > 1)
    grpc = None
    try:
        if _asks_grpc(grpc_port, no_grpc=no_grpc):
            taken = (8001 if port else 0) if grpc_port is None else grpc_port
            grpc = bind(host, taken, shared=workers > 1, option="--grpc-port")
        if workers == 1:
            _serve(path, listening, grpc, None, drain_s=drain_s, **options)
            return None
        found = start_workers(workers, on_ready=click.echo, limit_s=drain_s + _KILL_AFTER_S)
        if isinstance(found, int):
            return found
        _serve(path, join(listening), join(grpc) if grpc else None, found, drain_s=drain_s, **options)
        return None
    finally:
        listening.close()
        if grpc is not None:
            grpc.close()


def _asks_grpc(port: int | None, *, no_grpc: bool) -> bool:
    """Whether gRPC is answered; without its packages only who asks for it in words is told of them."""
    from importlib.util import find_spec

    if port is not None and no_grpc:
        raise click.UsageError("--grpc-port and --no-grpc exclude each other")
    there = find_spec("hpack") is not None and find_spec("google") is not None
    return not no_grpc and (port is not None or there)


def _serve(path: Path, listening: Any, grpc: Any, worker: Worker | None, **options: Any) -> None:
    """Load and answer, in this process."""
    import logging
    from contextlib import nullcontext
    from importlib.metadata import version

    from mlaas4hep.serve.opening import open_repository
    from mlaas4hep.serve.operation import Operation
    from mlaas4hep.serve.peers import Peers
    from mlaas4hep.serve.served import Bounds
    from mlaas4hep.serve.server import serve
    from mlaas4hep.serve.service import InferenceService
    from mlaas4hep.serve.sockets import url_of

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    asked, limits = _options(**options), _limits(**options)  # what is wrong is told before models are loaded
    most = options["max_loaded_mb"]
    bounds = Bounds(models=options["max_loaded"], bytes=most and most << 20)
    where = {"threads": options["threads"], "device": options["device"]}
    control = options["control"] or options["auth"] is not None
    # Before models are looked at, so that nothing that is changed meanwhile is missed.
    shares = worker is not None and (control or options["uploads"])
    peers = Peers(worker.folder, worker.number, worker.workers) if worker and shares else None
    models = open_repository(path, **where, lazy=options["lazy"], bounds=bounds, empty=options["uploads"])
    polling = models.watched(options["poll_s"]) if options["poll_s"] else nullcontext()
    uploads = _uploads(models, options["upload_mb"] << 20) if options["uploads"] else None
    service = InferenceService(models, limits=limits, version=version("mlaas4hep"), control=control, uploads=uploads)
    if peers is not None:
        peers.join(models)
        service.everywhere = peers
    place = (worker.folder, worker.number) if worker else (None, 0)
    operation = Operation(service, asked, folder=place[0], worker=place[1])
    url = url_of(listening, scheme=operation.scheme)
    tell = worker.tell if worker else click.echo
    try:
        with polling:
            serve(
                service,
                listening,
                on_ready=lambda: tell(_ready(service, url, _place(grpc), **options)),
                operation=operation,
                grpc=grpc,
                watched=worker.beat if worker else None,
            )
    finally:
        operation.close()
        if peers is not None:
            peers.close()


def _options(
    *,
    auth: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    access_log: str | None,
    cors: tuple[str, ...],
    drain_s: float,
    base: str,
    no_pages: bool,
    **_: Any,
) -> Any:
    from mlaas4hep.auth.policy import read_policy
    from mlaas4hep.serve.operation import Options
    from mlaas4hep.serve.tls import TlsFiles

    tls = TlsFiles(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    if tls is not None:
        tls.context()
    return Options(
        access_log=access_log,
        policy=read_policy(auth) if auth else None,
        tls=tls,
        cors=cors,
        drain_s=drain_s,
        base=base.strip("/"),
        pages=not no_pages,
    )


def _check_uploads(path: Path, *, uploads: bool, base: str, **_: Any) -> None:
    if "/" in base.strip("/"):
        raise click.UsageError(f"--base is one name, such as tfaas; found '{base}'")
    if uploads and not path.exists():
        path.mkdir(parents=True)


def _uploads(models: Any, limit_bytes: int) -> Any:
    """Who takes models over the wire; the converter is handed in, since serving knows no framework."""
    from mlaas4hep.convert.limits import Limits
    from mlaas4hep.convert.upload import Upload, convert
    from mlaas4hep.errors import BundleError
    from mlaas4hep.serve.entries import is_entry
    from mlaas4hep.serve.uploads import Received, Uploads

    if is_entry(models.path):
        raise BundleError(f"--uploads: asked for a folder of models, {models.path} is a model; serve what it lies in")
    limits = Limits(upload_bytes=limit_bytes)

    def take(received: Received) -> Any:
        sent = Upload(received.model) if received.form is None else Upload.form(received.form, received.model)
        return convert(sent, models.path, limits=limits)

    uploads = Uploads(models, take, limit_bytes=limit_bytes)
    uploads.clean()
    return uploads


def _limits(*, limits: Path | None, queue_s: float, max_wait_ms: float, **_: Any) -> Any:
    from mlaas4hep.serve.limits import Limits, QueueLimits, read_limits

    queue = QueueLimits(wait_s=queue_s, max_wait_ms=max_wait_ms)
    return Limits(queue=queue) if limits is None else read_limits(limits, queue=queue)


def _check_tls(*, tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, **_: Any) -> None:
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key: only over TLS is a certificate shown")


def _place(grpc: Any) -> str | None:
    from mlaas4hep.serve.sockets import url_of

    return None if grpc is None else url_of(grpc).removeprefix("http://")


def _told(service: InferenceService, name: str) -> str:
    """A name, and what who asks should know of it."""
    note = service.repository.get(name).note if name in service.repository.loaded else ""
    return f"{name}: {note}" if note else name


def _ready(service: InferenceService, url: str, grpc: str | None, *, as_json: bool, no_pages: bool, **_: Any) -> str:
    import json
    from shlex import quote

    names = service.model_names()
    if as_json:
        return json.dumps({"url": url, "grpc": grpc, "models": names})
    rpc = f", gRPC on {grpc}" if grpc else ""
    lines = [f"Serving on {url}{rpc}; stop with Ctrl-C.", *(f"  {_told(service, name)}" for name in names[:_SHOWN])]
    if len(names) > _SHOWN:
        lines.append(f"  and {len(names) - _SHOWN} more")
    if not names:
        return "\n".join([*lines, "No model yet. Bring one:", f"  curl {url}/upload -F name=net -F model=@net.onnx"])
    lines += ["", "Ask it:", *([] if no_pages else [f"  {url}/pages  # in a browser"])]
    repository = service.repository
    asked = next((name for name in repository.loaded if repository.get(name).contract), None)
    if asked is None:
        return "\n".join([*lines, f"  curl {url}/v2/models/{names[0]}  # its tensors"])
    contract = service.model_contract(asked)
    body = json.dumps({"instances": [contract.example]})
    ask = f"  curl {url}/v1/models/{asked}:predict -H 'Content-Type: application/json' -d {quote(body)}"
    return "\n".join([*lines, ask])
