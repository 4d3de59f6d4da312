"""A bundle on disk: written whole or not at all, read only if no byte changed, and equal for equal inputs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import site
import threading
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

import mlaas4hep
from mlaas4hep.bundle import Bundle, load_bundle, read, verify_bundle, write_bundle
from mlaas4hep.bundle.layout import FileRecord, Manifest
from mlaas4hep.bundle.pickles import holds_pickle
from mlaas4hep.errors import BundleError, ParityError, RequestError
from mlaas4hep.serve.limits import QueueLimits
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


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a pickle was executed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols_are_found(protocol: int) -> None:
    for value in (Evil(), {"weights": [1.0, 2.0]}, np.zeros(3), list(map(float, range(50_000)))):
        data = pickle.dumps(value, protocol)
        assert holds_pickle(data)
        assert holds_pickle(as_zip(data))
    assert holds_pickle(pickle.dumps(Evil(), protocol)[:-1] + b"\x00"), "executed before the end is missed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0.5\n1.0\n" * 20_000,
        b"[1, 2]",
        b'{"a": 1}',
        b"class A:\n    x = 1\n",
        b"import numpy as np\nimport os\n",
        b"col,pt\n1,2\n",
        b"config\nname\n",
        b"Some text. And more (of it).\n" * 5000,
        bytes(range(256)) * 500,
        np.linspace(0, 1, 30_000).astype(np.float32).tobytes(),
    ],
)
def test_what_is_no_pickle_is_not_taken_for_one(data: bytes) -> None:
    assert not holds_pickle(data)
    assert not holds_pickle(as_zip(data))


def test_what_cannot_be_looked_into_counts_as_one_that_may_hold_a_pickle() -> None:
    archive = as_zip(b"text" * 100)
    locked, damaged = bytearray(archive), bytearray(archive)
    locked[6] |= 1
    locked[archive.index(b"PK\x01\x02") + 8] |= 1
    damaged[0:4] = b"XXXX"
    assert holds_pickle(bytes(locked))
    assert holds_pickle(bytes(damaged))
    array = as_npy(np.zeros(3))
    for cut in (7, 9, 20):
        assert holds_pickle(array[:cut])
    assert holds_pickle(array[:6] + b"\x09" + array[7:])


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
    assert report.joined == QueueLimits().batch_rows, "every number of rows that a server joins is tried"
    assert "toy version 1" in str(report)
    assert "batches of 1 to 256 and 1000, 4096 on 1, 2 threads" in str(report)


def crafted(bundle: Bundle, spec: bytes) -> None:
    """Another contract in place of the bundle's, with all hashes as a writer would compute them."""
    (bundle.path / "spec.json").write_bytes(spec)
    manifest = as_dict(bundle.manifest)
    manifest["files"] = {**bundle.manifest.files, "spec.json": FileRecord.of(bundle.path / "spec.json")}
    with contextlib.suppress(Exception):
        plain = msgspec.json.decode(spec, type=ModelSpec)
        manifest["spec_sha256"] = plain.sha256
    (bundle.path / "manifest.json").write_bytes(Manifest(**manifest).sealed().to_json())


def changed(path: str, value: object) -> bytes:
    """The contract as JSON with one value put elsewhere: ``scaling.1.length``."""
    document = json.loads(SPEC.to_json())
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("features.new_variables", {"a": "b + 1", "b": "a + 1"}, "circle"),
        (
            "features.new_variables",
            {f"v{i}": f"v{i - 1} + 1" for i in range(1, 5000)} | {"v0": "event_0"},
            "lists 5000; at most 1000",
        ),
        ("features.preselection", "nothing > 1", "nothing"),
        ("features.preselection", "(" * 3000 + "1" + ")" * 3000, "features|preselection"),
        ("features.inputs.1.length", 10**10, "length 10000000000 is outside 1 to 256"),
        ("features.inputs.1.name", "jats", "scaling: has groups 'event', 'jets', features.inputs 'event', 'jats'"),
        ("features.inputs", [], "lists no group"),
        ("features.inputs.0.variables", [{"name": f"x{i}"} for i in range(30_000)], "at most 4096"),
        ("scaling.1.length", 10**9, "scaling 'jets': length is 1000000000, that of the input 3"),
        ("scaling.0.name", "evant", "has groups 'evant', 'jets'"),
        ("scaling.0.variables.0", "other", "variables are not those of the input"),
        ("scaling.0.features", [], "0 features for 4 variables"),
        ("scaling.0.features.0.kind", "log", "scaled as log, declared as none"),
        ("scaling.0.features.0.offset", 1e300, "are not finite float32"),
        ("scaling.0.features.0.scale", 0.0, "not above 0"),
        ("scaling.0.features.0.low", 3e38, None),
        ("score_names", ["a", "b", "c"], "scores the last of two"),
        ("task", "multiclass", "a multiclass model scores"),
        ("classes", ["x", "signal"], "features.classes"),
        ("statistics.groups", {}, "statistics.groups 'event': 4 features asked, 0 found"),
        ("columns", {}, "'event_0' is neither a column"),
        ("columns.event_0.kind", "jagged", "is jagged"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused_though_its_hashes_agree(
    bundle: Bundle, path: str, value: object, said: str | None
) -> None:
    crafted(bundle, changed(path, value))
    if said is None:
        assert load_bundle(bundle.path).predict(make_rows(SPEC, 3)).shape == (3, 1)
        return
    with pytest.raises(BundleError, match=said) as refused:
        load_bundle(bundle.path)
    assert "spec.json" in str(refused.value)
    assert len(str(refused.value)) < 4000


def test_a_contract_nested_too_deeply_or_too_large_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b'{"a": ' * 5000 + b"1" + b"}" * 5000
    crafted(bundle, SPEC.to_json().replace(b'"provenance": {}', b'"provenance": ' + deep))
    with pytest.raises(BundleError, match=r"spec\.json: .*(nested|recursion)"):
        load_bundle(bundle.path)
    with pytest.raises(BundleError, match="at most 67108864"):
        ModelSpec.from_json(b" " * (1 + (64 << 20)))
    crafted(bundle, SPEC.to_json())
    monkeypatch.setattr(read, "MAX_BYTES", 1000)
    with pytest.raises(BundleError, match=r"manifest\.json: has [0-9]* bytes; at most 1000"):
        load_bundle(bundle.path)


def test_a_graph_that_is_not_the_contracts_is_not_run(bundle: Bundle) -> None:
    other = make_spec(jets=(2, 5))
    crafted(bundle, other.to_json())
    with pytest.raises(BundleError, match=r"model\.onnx: takes .*'jets': \(3, 5\).* the contract says .*\(2, 5\)"):
        load_bundle(bundle.path).session()


def test_groups_of_different_length_are_refused_before_they_are_cut_into_batches(bundle: Bundle) -> None:
    rows = make_rows(SPEC, 9000)
    for sizes in ((5000, 4096), (8192, 9000), (0, 5000)):
        uneven = {name: array[:size] for (name, array), size in zip(rows.items(), sizes, strict=True)}
        with pytest.raises(RequestError, match="same number of events"):
            bundle.predict(uneven)
    with pytest.raises(RequestError, match=r"'jets' .* is missing"):
        bundle.predict({"event": rows["event"]})


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_symbolic_link_is_refused(bundle: Bundle, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"x = 1\n")
    (tmp_path / "folder").mkdir()
    (bundle.path / "native" / "src" / "model.py").unlink()
    (bundle.path / "native" / "src" / "model.py").symlink_to(tmp_path / target)
    with pytest.raises(BundleError, match=r"model\.py: is a symbolic link; a bundle holds plain files only"):
        load_bundle(bundle.path)


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
