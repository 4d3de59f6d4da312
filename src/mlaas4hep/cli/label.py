"""``mlaas4hep label``: names of versions in a model repository, such as ``stable``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  mlaas4hep label models tth                     # what is labelled
  mlaas4hep label models tth stable 2            # from now on, stable is version 2
  mlaas4hep label models tth stable --remove
  curl localhost:8000/v2/models/tth/versions/stable
"""
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("name")
@click.argument("label", required=False)
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="Take the label away.")
@click.option("--json", "as_json", is_flag=True, help="Say what is labelled as one JSON line.")
def command(path: Path, name: str, label: str | None, version: str | None, remove: bool, as_json: bool) -> None:
    """Label VERSION of the model NAME under PATH; without a LABEL, show those that are there.

    A label stands wherever a version can, such as versions/stable in an address. The newest version is always `latest`.
    Labels lie in labels.json beside the versions: a server finds them at its next look (serve --poll-s) or load, and
    takes them over HTTP too (serve --control).
    """
    import json

    from mlaas4hep.serve.repository import ModelRepository

    if label is not None and (version is None) != remove:
        raise click.UsageError(f"which version is '{label}'? Say it, or --remove")
    repository = ModelRepository(path=path)
    if label is not None:
        repository.label(name, label, version)
    labels = repository.kept_labels(name)
    if as_json:
        click.echo(json.dumps(labels))
        return
    for one, found in labels.items():
        click.echo(f"{one}: version {found}")
