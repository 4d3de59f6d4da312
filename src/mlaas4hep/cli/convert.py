"""``mlaas4hep convert``: a model that was trained elsewhere becomes an entry of a model repository."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  mlaas4hep convert model.onnx -o models                     # models/model/1/model.onnx
  mlaas4hep convert bdt.json -o models --name tagger         # XGBoost; skops, LightGBM, Keras alike
  mlaas4hep convert bdt.json -o models --spec spec.json      # with our contract: a bundle, asked by column name
  mlaas4hep convert saved_model/ -o models --name net        # TensorFlow (pip install 'mlaas4hep[savedmodel]')
  mlaas4hep convert frozen.pb --params params.json -o models # TFaaS's input_node and output_node
  mlaas4hep serve models

\b
From a framework to a file that is taken:
  PyTorch       torch.onnx.export(model, rows, 'model.onnx', dynamo=True)
  Keras         model.save('model.keras')
  scikit-learn  skops.io.dump(model, 'model.skops')
  XGBoost       model.save_model('model.json')
  LightGBM      model.booster_.save_model('model.txt')
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "repository",
    default="models",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder of models; it becomes OUTPUT/NAME/VERSION there.",
)
@click.option("--name", default="", help="Of the model; else from the contract, params.json, archive or file.")
@click.option(
    "--spec",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Contract (spec.json of a bundle): which columns make the inputs, and how they are scaled.",
)
@click.option(
    "--params",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="params.json of TFaaS: name, input_node, output_node.",
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="settings.json of native weights: backend, model, dials.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Names of the classes, one a line.",
)
@click.option("--memory-mb", default=6144, show_default=True, type=click.IntRange(256), help="Most that it may take.")
@click.option("--seconds", default=180, show_default=True, type=click.IntRange(1), help="Longest that it may take.")
@click.option("--json", "as_json", is_flag=True, help="Say what was made as one JSON line.")
def command(
    file: Path,
    repository: Path,
    name: str,
    spec: Path | None,
    params: Path | None,
    settings: Path | None,
    labels: Path | None,
    memory_mb: int,
    seconds: int,
    as_json: bool,
) -> None:
    """Convert FILE, a model of another program, to an entry that `mlaas4hep serve` answers for.

    FILE is told by what it holds: ONNX, Keras 3 or HDF5, a SavedModel or frozen graph of TensorFlow, XGBoost (JSON,
    UBJ), LightGBM (text), scikit-learn (skops), weights of our own models (safetensors, native), a bundle; alone, as a
    folder, or in a zip or tar.gz, with params.json as TFaaS has it.

    It is opened in a confined process without network, other files or further processes. The graph is held against the
    framework on sample rows; what differs is not written. Files that hold a pickle or other code (torch.save, joblib,
    TorchScript, .pt2, Lambda layers, graphs that read files) are refused: the message says what to send instead.
    """
    import msgspec

    from mlaas4hep.convert import Limits, Upload, convert

    given = {"spec.json": spec, "params.json": params, "settings.json": settings, "labels.txt": labels}
    beside = {key: path.read_bytes() for key, path in given.items() if path is not None}
    limits = Limits(memory_bytes=memory_mb << 20, wall_s=float(seconds), cpu_s=seconds)
    done = convert(Upload(file, name, beside), repository, limits=limits)
    told = f"{done}\n  in {repository / done.name / done.version}"
    click.echo(msgspec.json.encode(done).decode() if as_json else told)
