"""A bundle on disk: written whole or not at all, read only if no byte changed, and equal for equal inputs."""

from __future__ import annotations

import io
import json
import os
import pickle
import site
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mlaas4hep
from mlaas4hep.bundle import Bundle, load_bundle, verify_bundle, write_bundle
from mlaas4hep.bundle.layout import Manifest
from mlaas4hep.errors import BundleError, ParityError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.contract import ModelSpec
from tests.small_graphs import bits, make_mlp, make_rows, make_spec, make_trees

SPEC = make_spec()


def write(folder: Path, *, spec: ModelSpec = SPEC, trees: bool = False, **options: object) -> Bundle:
    core, reference = make_trees(spec)[:2] if trees else make_mlp(spec)
    return write_bundle(folder, spec=spec, core=core, reference=reference, rows=make_rows(spec, 1000), **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "plots").mkdir()
    (folder / "metrics.json").write_text('{"auc": 0.9}')
    (folder / "plots" / "roc.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def bundle(tmp_path: Path, report: Path) -> Bundle:
    return write(tmp_path / "models", native={"weights.json": b"[1, 2]", "src/model.py": b"x = 1\n"}, report=report)


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_has_the_layout_of_a_triton_repository(bundle: Bundle) -> None:
    assert list(files_of(bundle.path.parent)) == [
        "1/README.md",
        "1/manifest.json",
        "1/model.onnx",
        "1/native/src/model.py",
        "1/native/weights.json",
        "1/report/metrics.json",
        "1/report/plots/roc.png",
        "1/spec.json",
        "config.pbtxt",
    ]
    config = (bundle.path.parent / "config.pbtxt").read_text()
    for line in (
        'name: "toy"',
        'backend: "onnxruntime"',
        "max_batch_size: 4096",
        '{ name: "event" data_type: TYPE_FP32 dims: [ 4 ] },',
        '{ name: "jets" data_type: TYPE_FP32 dims: [ 3, 5 ] }',
        '{ name: "scores" data_type: TYPE_FP32 dims: [ 1 ] }',
    ):
        assert line in config
    assert os.listdir(bundle.path.parent.parent) == ["toy"], "the draft must be gone"


def test_a_bundle_read_back_gives_the_same_scores(bundle: Bundle) -> None:
    rows = make_rows(SPEC, 300, seed=3)
    for path in (bundle.path, bundle.path.parent, str(bundle.path.parent)):
        again = load_bundle(path)
        assert (again.name, again.version, again.spec) == ("toy", 1, SPEC)
        np.testing.assert_array_equal(bits(again.predict(rows)), bits(bundle.predict(rows)))
        np.testing.assert_array_equal(bits(again.session(threads=2).run(rows)), bits(bundle.predict(rows)))


def test_more_events_than_a_batch_holds_get_the_scores_of_each_alone(bundle: Bundle) -> None:
    rows = make_rows(SPEC, 5000)
    first = {name: array[4999:] for name, array in rows.items()}
    np.testing.assert_array_equal(bits(bundle.predict(rows)[4999:]), bits(bundle.predict(first)))


def test_events_are_scored_from_their_columns(bundle: Bundle) -> None:
    columns = {f"event_{i}": np.array([1.0, np.nan], np.float32) for i in range(4)}
    columns |= {f"jets_{i}": Jagged.from_lists([[1.0, 2.0], []]) for i in range(5)}
    scores, selected = bundle.score(columns, 2)
    jets = np.full((2, 3, 5), np.nan, np.float32)
    jets[0, :2] = [[1] * 5, [2] * 5]
    event = np.array([[1] * 4, [np.nan] * 4], np.float32)
    np.testing.assert_array_equal(bits(scores), bits(bundle.predict({"event": event, "jets": jets})))
    assert selected.tolist() == [True, True]


@pytest.mark.parametrize("trees", [False, True])
def test_two_runs_give_equal_hashes(tmp_path: Path, trees: bool) -> None:
    here = write(tmp_path / "here", trees=trees)
    there = write(tmp_path / "there", trees=trees, spec=SPEC.with_provenance({"made": "later"}))
    assert (here.spec_sha256, here.model_sha256) == (there.spec_sha256, there.model_sha256)


def test_any_changed_byte_in_any_file_is_found_and_named(bundle: Bundle) -> None:
    random = np.random.default_rng(0)
    for path in files_of(bundle.path.parent).values():
        intact = path.read_bytes()
        for position in random.integers(0, len(intact), 25):
            changed = bytearray(intact)
            changed[position] ^= 1 << random.integers(0, 8)
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=path.name):
                load_bundle(bundle.path)
        path.write_bytes(intact[:-1])
        with pytest.raises(BundleError, match=path.name):
            load_bundle(bundle.path)
        path.write_bytes(intact)
    load_bundle(bundle.path)


def test_every_byte_of_the_manifest_counts(bundle: Bundle) -> None:
    intact = (bundle.path / "manifest.json").read_bytes()
    for position in range(len(intact)):
        changed = intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :]
        with pytest.raises(BundleError):
            Manifest.from_json(changed, where="manifest.json")


def test_a_missing_and_a_new_file_are_named(bundle: Bundle) -> None:
    (bundle.path / "native" / "more.bin").write_bytes(b"1")
    with pytest.raises(BundleError, match=r"native/more\.bin: was added"):
        load_bundle(bundle.path)
    (bundle.path / "native" / "more.bin").unlink()
    for name in ("model.onnx", "report/metrics.json", "../config.pbtxt", "manifest.json"):
        path = bundle.path / name
        intact = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=path.name):
            load_bundle(bundle.path)
        path.write_bytes(intact)


def test_a_manifest_cannot_lead_out_of_the_folder(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    manifest = bundle.manifest
    files = {**manifest.files, "../../secret": next(iter(manifest.files.values()))}
    path.write_bytes(type(manifest)(**{**as_dict(manifest), "files": files}).sealed().to_json())
    with pytest.raises(BundleError, match="secret: is missing"):
        load_bundle(bundle.path)


def as_dict(struct: object) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}  # type: ignore[attr-defined]


def test_another_format_names_both_versions(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "format_version": 7, "new_field": 1}))
    with pytest.raises(BundleError, match=r"manifest\.json: bundle format 7; this program reads format 1"):
        load_bundle(bundle.path)


def test_a_path_that_is_no_bundle_says_what_is_there(bundle: Bundle, tmp_path: Path) -> None:
    models = bundle.path.parent.parent
    with pytest.raises(BundleError, match=r"no bundle at '.*/toi'; did you mean 'toy'\?"):
        load_bundle(models / "toi")
    with pytest.raises(BundleError, match="is not there either"):
        load_bundle(tmp_path / "no" / "such")
    with pytest.raises(BundleError, match=r"is a file; a bundle is a folder"):
        load_bundle(bundle.path / "model.onnx")
    with pytest.raises(BundleError, match=r"is no bundle.*holds: toy; a bundle is '.*/toy'"):
        load_bundle(models)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"holds: nothing"):
        load_bundle(tmp_path / "empty")


def test_a_failed_gate_leaves_nothing(tmp_path: Path) -> None:
    core, reference = make_mlp(SPEC)
    with pytest.raises(ParityError, match="nothing was written"):
        write_bundle(
            tmp_path, spec=SPEC, core=core, reference=lambda rows: reference(rows) + 1e-3, rows=make_rows(SPEC, 1000)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path, report=tmp_path / "no-report")
    assert list(tmp_path.iterdir()) == []


def test_a_second_version_stands_beside_the_first(bundle: Bundle) -> None:
    models = bundle.path.parent.parent
    second = write(models, trees=True)
    assert second.version == load_bundle(models / "toy").version == 2
    assert load_bundle(models / "toy" / "1").model_sha256 == bundle.model_sha256 != second.model_sha256
    assert load_bundle(models / "toy" / "1").version == 1


def test_a_version_with_other_inputs_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="other inputs or scores; give the new one another name"):
        write(bundle.path.parent.parent, spec=make_spec(event=5))
    assert load_bundle(bundle.path.parent).version == 1


def test_a_folder_that_is_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="is there and is no bundle"):
        write(tmp_path)
    assert list(files_of(tmp_path)) == ["toy/thesis.tex"]


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", 'x"y'])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot name a model"):
        write(tmp_path, spec=make_spec(name=name))


def as_zip(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", data)
    return stream.getvalue()


def as_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path) -> None:
    data = pickle.dumps({"weights": [1.0]})
    for held in (data, as_zip(data), as_npy(np.array([{}], dtype=object)), as_zip(as_npy(np.array([None])))):
        with pytest.raises(BundleError, match=r"weights\.json' holds a pickle"):
            write(tmp_path, native={"weights.json": held})
    kept = write(
        tmp_path, native={"weights.npy": as_npy(np.zeros(3)), "more.zip": as_zip(b"text"), "bad.zip": b"PK\x03\x04"}
    )
    assert kept.version == 1


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd"])
def test_a_native_file_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="leads out of the bundle"):
        write(tmp_path, native={name: b"x"})


def test_no_path_of_the_machine_is_in_a_bundle(bundle: Bundle) -> None:
    checkout = Path(mlaas4hep.__file__).parents[2]
    places = {str(Path.home()), str(checkout), str(bundle.path.parents[2]), *site.getsitepackages()} - {"/"}
    for path in files_of(bundle.path.parent).values():
        data = path.read_bytes()
        assert not [place for place in places if place.encode() in data], path
        assert b"site-packages" not in data
    assert b".py" not in (bundle.path / "model.onnx").read_bytes()


def test_verify_proves_the_law_where_it_stands(bundle: Bundle) -> None:
    report = verify_bundle(bundle)
    assert report.ok
    assert (report.difference, report.threads, report.rows) == (0.0, (1, 2), 4096)
    assert "toy version 1" in str(report)


def test_a_graph_changed_after_loading_is_not_run(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.path)
    (bundle.path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"model\.onnx: was changed since the bundle was loaded"):
        loaded.session()


def test_several_writers_make_several_versions(bundle: Bundle) -> None:
    models = bundle.path.parent.parent
    done, failed = [], []

    def work() -> None:
        try:
            done.append(write(models).version)
        except BundleError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(failed) == 4
    assert len(set(done)) == len(done) >= 1
    for version in done:
        load_bundle(models / "toy" / str(version))
    assert os.listdir(models) == ["toy"]
