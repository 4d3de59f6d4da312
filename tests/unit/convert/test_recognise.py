"""What an upload is follows from its bytes; what runs code is refused whatever it is called."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.recognise import Found, recognise
from mlaas4hep.errors import UploadError
from tests.attacks import (
    graph_def,
    keras_file,
    node_def,
    pickles,
    safetensors,
    saved_model,
    small_network,
    tarred,
    torch_export,
    zipped,
)

ONNX = small_network().SerializeToString()
GRAPH = graph_def(node_def("x", "Placeholder"), node_def("y", "Relu", "x"))
XGBOOST = b'{"learner": {"objective": {}}, "version": [3, 2, 0]}'
LIGHTGBM = b"tree\nversion=v4\nmax_feature_idx=3\n\n"


def found(data: bytes, folder: Path) -> Found:
    path = folder / "upload"
    path.write_bytes(data)
    return recognise(path, folder / "inside", Limits())


KINDS = {
    "onnx": ONNX,
    "keras": keras_file({}),
    "keras_h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
    "frozen_graph": GRAPH,
    "xgboost_json": XGBOOST,
    "xgboost_ubj": b"{L\0\0\0\0\0\0\0\x07learner{",
    "lightgbm": LIGHTGBM,
    "skops": zipped({"schema.json": b"{}"}),
    "safetensors": safetensors({"w": np.zeros((2, 2))}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_told_by_its_content(kind: str, tmp_path: Path) -> None:
    assert found(KINDS[kind], tmp_path).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_in_an_archive_with_what_came_along(kind: str, tmp_path: Path) -> None:
    params = json.dumps({"name": "net", "model": "anything.bin"}).encode()
    for pack in (tarred, zipped):
        place = tmp_path / pack.__name__
        place.mkdir()
        one = found(pack({"top/anything.bin": KINDS[kind], "top/params.json": params, "top/labels.txt": b"a\n"}), place)
        assert (one.kind, one.name, one.beside["params.json"]) == (kind, "top", params)


def test_a_saved_model_is_its_folder(tmp_path: Path) -> None:
    files = {"net/saved_model.pb": saved_model(GRAPH), "net/variables/variables.index": b"\0", "net/assets/x.txt": b"1"}
    one = found(tarred(files), tmp_path)
    assert (one.kind, one.name) == ("saved_model", "net")
    assert (one.path / "variables" / "variables.index").is_file()


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_what_macos_packs_beside_a_model_is_passed_over(pack: Callable[..., bytes], tmp_path: Path) -> None:
    params = b'{"name": "net"}'
    files = {
        "._net": b"\0\5\x16\7",
        "net/._saved_model.pb": b"\0\5\x16\7",
        "net/saved_model.pb": saved_model(GRAPH),
        "net/variables/variables.index": b"\0",
        "net/params.json": params,
        "net/.DS_Store": b"\0\0\0\1Bud1",
        "__MACOSX/net/._params.json": b"\0\5\x16\7",
    }
    one = found(pack(files), tmp_path)
    assert (one.kind, one.name, one.beside) == ("saved_model", "net", {"params.json": params})


def test_native_weights_and_bundles_are_told_by_their_files(tmp_path: Path) -> None:
    for at, (files, kind) in enumerate(
        [
            ({"m/native/settings.json": b"{}", "m/native/weights.npz": b"", "m/spec.json": b"{}"}, "native"),
            ({"settings.json": b"{}", "weights.safetensors": b""}, "native"),
            ({"tth/config.pbtxt": b"", "tth/1/manifest.json": b"{}", "tth/1/model.onnx": ONNX}, "bundle"),
        ]
    ):
        place = tmp_path / str(at)
        place.mkdir()
        assert found(tarred(files), place).kind == kind


def test_pickles_in_every_disguise_are_refused_with_a_way_out_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for at, (name, data) in enumerate(pickles(mark).items()):
        place = tmp_path / str(at)
        place.mkdir()
        with pytest.raises(UploadError, match="holds a pickle") as refused:
            found(data, place)
        assert "torch.onnx.export" in str(refused.value), name
    assert not mark.exists()


def test_a_pickle_is_told_as_what_it_is_known_by(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="TorchScript"):
        found(pickles(tmp_path / "m")["TorchScript"], tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (torch_export(), r"\.pt2"),
        (zipped({"a.npy": b"\x93NUMPY\x01\0"}), "pickle|numpy"),
        (b"\x7fELF" + b"\0" * 60, "a program"),
        (b"hello, model", "no known kind"),
        (b'{"a": 1}', "JSON, but no model"),
        (b"7z\xbc\xaf\x27\x1c", "pack it as tar.gz or zip"),
        (gzip.compress(b"some text", mtime=0), "damaged"),
        (tarred({"a/readme": b"nothing"}), "no models, wants one; it holds: readme"),
        (tarred({"a.onnx": ONNX, "b.onnx": ONNX}), "2 models, wants one"),
        (saved_model(GRAPH)[:-4], "no known kind"),
    ],
)
def test_what_is_not_known_is_refused_with_what_it_looks_like(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UploadError, match=words):
        found(data, tmp_path)


@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", b"{", b"PK\x03\x04", b"\x08\x08", b"\x0a", b"\x1f\x8b"])
)
def test_any_bytes_are_known_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes) -> None:
    with suppress(UploadError):
        assert found(start + data, tmp_path_factory.mktemp("any")).kind
