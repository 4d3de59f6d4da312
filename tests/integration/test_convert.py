"""Models of every framework become entries that give the framework's own answers, by the whole way.

Each conversion is a process of its own, so a test here costs what its framework's import costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from mlaas4hep.bundle import load_bundle
from mlaas4hep.bundle.layout import FileRecord
from mlaas4hep.bundle.write import write_mean_bundle
from mlaas4hep.cli import run
from mlaas4hep.convert import Conversion, Upload, convert
from mlaas4hep.convert.runtime import Graph
from mlaas4hep.errors import BundleError, UploadError
from mlaas4hep.serve.opening import open_repository
from tests.attacks import safetensors, small_network, tarred
from tests.contracts.test_keras_frameworks import tensorflows_python
from tests.small_bundle import make_events, write_small_bundle

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(300, 5)).astype(np.float32)
HOLES = np.where(RANDOM.random(ROWS.shape) < 0.1, np.float32(np.nan), ROWS)
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int) + (ROWS[:, 2] > 1)


def scores(folder: Path, done: Conversion, rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    graph = Graph((folder / done.name / done.version / "model.onnx").read_bytes())
    return graph.run({graph.inputs[0].name: rows})[graph.outputs[0].name]


def test_an_onnx_model_keeps_its_bits(tmp_path: Path) -> None:
    data = small_network(width=5).SerializeToString()
    done = convert(Upload(data, "net", {"labels.txt": b"cat\ndog\n"}), tmp_path)
    assert (done.name, done.version, done.worst, done.batches, done.labels) == ("net", "1", 0.0, True, ("cat", "dog"))
    assert scores(tmp_path, done, ROWS).tobytes() == Graph(data).run({"x": ROWS})["y"].tobytes()
    told = json.loads((tmp_path / "net" / "1" / "conversion.json").read_bytes())
    assert told["model_sha256"] == done.model_sha256
    assert "seccomp" in told["walls"] or sys.platform != "linux"
    assert "max_batch_size: 4096" in (tmp_path / "net" / "config.pbtxt").read_text()
    assert sorted(os.listdir(tmp_path)) == ["net"]


def test_a_further_version_takes_the_same_tensors_or_another_name(tmp_path: Path) -> None:
    first = convert(Upload(small_network().SerializeToString(), "net"), tmp_path)
    second = convert(Upload(small_network(seed=1).SerializeToString(), "net"), tmp_path)
    assert (first.version, second.version) == ("1", "2")
    with pytest.raises(BundleError, match="other inputs or outputs"):
        convert(Upload(small_network(width=7).SerializeToString(), "net"), tmp_path)
    assert sorted(os.listdir(tmp_path / "net")) == ["1", "2", "config.pbtxt"]


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_xgboost_in_both_formats_gives_one_graph(kind: str, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(HOLES, LABELS), 6)
    done = convert(Upload(bytes(booster.save_raw(kind)), "bdt"), tmp_path)
    assert {"with missing values", "next to a tree threshold"} <= done.rows.keys()
    assert np.abs(scores(tmp_path, done, HOLES) - booster.inplace_predict(HOLES)).max() < 1e-6


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    parameters = {"objective": "binary", "verbosity": -1, "num_leaves": 7, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(HOLES, LABELS > 0), 6)
    done = convert(Upload(booster.model_to_string().encode(), "bdt"), tmp_path)
    assert np.abs(scores(tmp_path, done, HOLES)[:, 0] - booster.predict(HOLES)).max() < 1e-6


def estimators() -> dict[str, tuple[Any, bool]]:
    """scikit-learn's models that are known, and whether they learn with missing values."""
    from sklearn import ensemble, linear_model, neural_network, pipeline, preprocessing, tree

    few = {"n_estimators": 4, "random_state": 0}
    net = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0}
    behind = pipeline.make_pipeline
    return {
        "logistic": (behind(preprocessing.StandardScaler(), linear_model.LogisticRegression()), False),
        "ridge": (linear_model.Ridge(), False),
        "network": (behind(preprocessing.MinMaxScaler(), neural_network.MLPClassifier(**net)), False),
        "network of values": (behind(preprocessing.MaxAbsScaler(), neural_network.MLPRegressor(**net)), False),
        "forest": (ensemble.RandomForestClassifier(**few), True),
        "forest behind a scaler": (behind(preprocessing.RobustScaler(), ensemble.RandomForestClassifier(**few)), True),
        "extra trees": (ensemble.ExtraTreesRegressor(**few), False),
        "tree": (tree.DecisionTreeClassifier(max_depth=3), True),
        "boosting": (ensemble.GradientBoostingClassifier(**few), False),
        "boosting of values": (ensemble.GradientBoostingRegressor(**few), False),
        "histogram boosting": (ensemble.HistGradientBoostingClassifier(max_iter=4), True),
        "histogram boosting of values": (ensemble.HistGradientBoostingRegressor(max_iter=4), True),
    }


@pytest.mark.parametrize("name", list(estimators()))
def test_every_known_estimator_of_scikit_learn_is_lowered_to_its_own_answers(name: str, tmp_path: Path) -> None:
    """The converter itself, without the process: that has the next test."""
    skops = pytest.importorskip("skops.io")
    from mlaas4hep.convert.made import Asked
    from mlaas4hep.convert.plain import canonical_plain
    from mlaas4hep.convert.sklearn import convert_skops

    estimator, missing = estimators()[name]
    rows = HOLES if missing else ROWS
    truth = rows[:, 0] if name.endswith("of values") or name in ("ridge", "extra trees") else LABELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(rows, np.nan_to_num(truth))
    skops.dump(estimator, tmp_path / "m.skops")
    made = convert_skops(tmp_path / "m.skops", Asked())
    import onnx

    graph = Graph(canonical_plain(onnx.ModelProto.FromString(made.model)))
    assert made.rows is not None
    assert made.reference is not None
    assert not missing or "with missing values" in {one.sort for one in made.rows}
    for one in made.rows:
        wanted = np.asarray(made.reference(one.inputs)["scores"])
        difference = np.abs(graph.run(one.inputs)["scores"] - wanted) / np.maximum(1, np.abs(wanted))
        assert difference.max() <= 1e-6, one.sort
    own = estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else estimator.predict(rows)[:, None]
    assert np.abs(graph.run({"input": rows})["scores"] - own).max() < 2e-6 * max(1.0, np.abs(own).max())


def test_scikit_learn_through_skops_by_the_whole_way(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.naive_bayes import GaussianNB

    boosting = HistGradientBoostingClassifier(max_iter=3).fit(HOLES, LABELS > 0)
    done = convert(Upload(skops.dumps(boosting), "bdt"), tmp_path)
    assert np.abs(scores(tmp_path, done, HOLES) - boosting.predict_proba(HOLES)[:, 1:]).max() < 1e-6
    with pytest.raises(UploadError, match="GaussianNB cannot be written as a graph yet"):
        convert(Upload(skops.dumps(GaussianNB().fit(ROWS, LABELS)), "v"), tmp_path)
    assert os.listdir(tmp_path) == ["bdt"]


def test_an_upload_with_our_contract_becomes_a_bundle(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    spec = write_small_bundle(tmp_path / "own").spec
    rows = RANDOM.normal(size=(200, spec.width)).astype(np.float32)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(rows, rows[:, 0] > 0), 4)
    done = convert(Upload(bytes(booster.save_raw("json")), "bdt", {"spec.json": spec.to_json()}), tmp_path / "models")
    bundle = load_bundle(tmp_path / "models" / "bdt")
    assert (done.contract, done.batches, bundle.name) == (True, True, "bdt")
    assert {"conversion.json", "model.onnx", "spec.json"} <= bundle.manifest.files.keys()
    wrong = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(rows[:, :3], rows[:, 0] > 0), 1)
    with pytest.raises(UploadError, match=f"takes 3 numbers an event; spec.json says {spec.width}"):
        convert(Upload(bytes(wrong.save_raw("json")), "b2", {"spec.json": spec.to_json()}), tmp_path / "models")


def test_a_bundle_comes_over_with_its_hashes_and_a_changed_one_does_not(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "own")
    files = {
        one.relative_to(tmp_path / "own").as_posix(): one for one in (tmp_path / "own").rglob("*") if one.is_file()
    }
    packed = {name: path.read_bytes() for name, path in files.items()}
    done = convert(Upload(tarred(packed)), tmp_path / "models")
    assert (done.name, done.spec_sha256, done.model_sha256) == (bundle.name, bundle.spec_sha256, bundle.model_sha256)
    assert load_bundle(tmp_path / "models" / bundle.name).spec == bundle.spec
    packed[f"{bundle.name}/1/model.onnx"] = packed[f"{bundle.name}/1/model.onnx"][:-1] + b"x"
    with pytest.raises(UploadError, match=r"^entry/bundle/1/model.onnx: was changed"):
        convert(Upload(tarred(packed)), tmp_path / "models")
    assert os.listdir(tmp_path / "models") == [bundle.name]


def test_models_of_folds_in_a_bundle_keep_to_the_operators_too(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "own")
    rows = bundle.spec.preprocessor().run(make_events(500, seed=1), 500).inputs
    mean = write_mean_bundle(tmp_path / "mean", spec=bundle.spec, models=[bundle, bundle], rows=rows)
    place = tmp_path / "mean" / bundle.name

    def packed() -> bytes:
        return tarred({f"tth/{one.relative_to(place)}": one.read_bytes() for one in place.rglob("*") if one.is_file()})

    done = convert(Upload(packed()), tmp_path / "models")
    folds = tmp_path / "models" / "folds"
    folds.mkdir()
    (folds / "ensemble.yaml").write_text("folds: ../tth")
    assert len(open_repository(tmp_path / "models").get("folds").members) == 2
    chance = helper.make_graph(
        [helper.make_node("RandomNormal", [], ["y"], shape=[1])], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    file = mean.path / "native" / "models" / "1.onnx"
    file.write_bytes(helper.make_model(chance, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    manifest = msgspec.structs.replace(
        mean.manifest,
        files={**mean.manifest.files, "native/models/1.onnx": FileRecord.of(file)},
        manifest_sha256="",
    )
    (mean.path / "manifest.json").write_bytes(manifest.sealed().to_json())
    with pytest.raises(UploadError, match="RandomNormal"):
        convert(Upload(packed()), tmp_path / "models")
    assert sorted(os.listdir(tmp_path / "models" / done.name)) == ["1", "config.pbtxt"]


@pytest.mark.slow
def test_weights_of_pytorch_as_safetensors_and_native_with_our_contract(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mlaas4hep.backends.protocol import Task
    from mlaas4hep.backends.torch import TorchBackend
    from mlaas4hep.backends.torch_built_in import BUILT_IN

    bundle = write_small_bundle(tmp_path / "own")
    learner: Any = TorchBackend().build("mlp", BUILT_IN["mlp"].dials(), Task.of(bundle.spec, seed=0))
    spec = bundle.spec.to_json()
    settings = json.dumps({"backend": "torch", "model": "mlp", "dials": {}}).encode()
    weights = Upload(safetensors(learner.state()), "net", {"spec.json": spec, "settings.json": settings})
    done = convert(weights, tmp_path / "models")
    native = {f"net/native/{name}": data for name, data in learner.native().items()} | {"net/spec.json": spec}
    again = convert(Upload(tarred(native), "net"), tmp_path / "models")
    assert done.model_sha256 == again.model_sha256
    rows = {one.name: RANDOM.normal(size=(9, *one.shape)).astype(np.float32) for one in bundle.spec.signature}
    served = load_bundle(tmp_path / "models" / "net").predict(rows)
    assert np.abs(served - learner.predict(rows)).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_keras_of_both_formats(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("keras")
    from mlaas4hep.backends.keras_start import settle_framework

    settle_framework()
    import keras

    layers = [keras.Input((5,), name="inputs"), keras.layers.Dense(8, activation="gelu"), keras.layers.Dense(3)]
    model = keras.Sequential([*layers, keras.layers.Softmax()])
    model.save(tmp_path / f"m.{ending}")
    done = convert(Upload(tmp_path / f"m.{ending}"), tmp_path / "models")
    from mlaas4hep.backends.keras_values import array_of

    assert done.name == "m"
    assert np.abs(scores(tmp_path / "models", done, ROWS) - array_of(model(ROWS))).max() < 1e-6


_TENSORFLOW = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from mlaas4hep.convert import Upload, convert
from mlaas4hep.convert.runtime import Graph
from mlaas4hep.errors import UploadError

folder = Path(sys.argv[1])
tf.random.set_seed(0)
model = tf.keras.Sequential([tf.keras.Input((5,), name="inputs"), tf.keras.layers.Dense(8, "relu"),
                             tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(1, "sigmoid")])
model.export(folder / "saved", verbose=False)
(folder / "saved" / "params.json").write_text('{"name": "tfaas", "model": "saved_model.pb"}')
rows = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
wanted = model(rows).numpy()
models = folder / "models"

def check(done, name):
    graph = Graph((models / done.name / done.version / "model.onnx").read_bytes())
    assert graph.inputs[0].name == name, graph.inputs
    found = next(iter(graph.run({name: rows}).values()))
    assert np.abs(found - wanted).max() < 1e-6, np.abs(found - wanted).max()

import tarfile
with tarfile.open(folder / "bundle.tar.gz", "w:gz") as archive:
    archive.add(folder / "saved", arcname="tfaas")
done = convert(Upload(folder / "bundle.tar.gz"), models)
assert done.name == "tfaas" and (models / "tfaas" / "1" / "params.json").is_file()
check(done, "inputs")

from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
function = tf.function(lambda inputs: model(inputs, training=False))
concrete = function.get_concrete_function(tf.TensorSpec((None, 5), tf.float32, "inputs"))
frozen = convert_variables_to_constants_v2(concrete)
data = frozen.graph.as_graph_def().SerializeToString()
form = {"name": b"frozen", "model": data, "labels": b"a", "params":
        b'{"name": "frozen", "inputNode": "inputs", "outputNode": "Identity"}'}
check(convert(Upload.form(form), models), "inputs")

class Reader(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
    def f(self, x):
        return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)

tf.saved_model.save(Reader(), folder / "reader")
try:
    convert(Upload(folder / "reader", "reader"), models)
except UploadError as error:
    assert "ReadFile, which reads or writes files" in str(error), error
else:
    raise AssertionError("taken")
assert sorted(path.name for path in models.iterdir()) == ["frozen", "tfaas"]
print("all equal")
"""


@pytest.mark.slow
def test_a_tarball_of_tfaas_and_a_frozen_graph_of_tensorflow(tmp_path: Path) -> None:
    python = tensorflows_python()
    if subprocess.run([python, "-c", "import tf2onnx"], capture_output=True, check=False).returncode:
        pytest.skip("the package tf2onnx is not installed beside TensorFlow")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    command = [python, "-c", _TENSORFLOW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "all equal" in done.stdout, done.stdout + done.stderr


def test_without_tensorflow_a_saved_model_names_the_extra(tmp_path: Path) -> None:
    from importlib.util import find_spec

    from mlaas4hep.errors import MissingExtraError
    from tests.attacks import graph_def, node_def, saved_model

    if find_spec("tensorflow") is not None and find_spec("tf2onnx") is not None:
        pytest.skip("both are here")
    graph = graph_def(node_def("x", "Placeholder"), node_def("y", "Relu", "x"))
    files = {"net/saved_model.pb": saved_model(graph), "net/variables/variables.index": b"\0"}
    with pytest.raises(MissingExtraError, match=r"mlaas4hep\[savedmodel\]"):
        convert(Upload(tarred(files)), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_command_says_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(small_network().SerializeToString())
    assert run(["convert", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "models")]) == 0
    told = capsys.readouterr().out
    assert "an ONNX model became net/1, without a contract" in told
    assert str(tmp_path / "models" / "net" / "1") in told
    assert run(["convert", "net.onnx", "-o", "models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "2"
    assert run(["convert", str(tmp_path / "net.onx"), "-o", str(tmp_path / "models")]) == 2
    assert "did you mean 'net.onnx'" in capsys.readouterr().err
