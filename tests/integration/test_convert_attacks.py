"""Uploads that mean harm are refused within their limits by the whole way, and leave nothing on disk.

One of each sort; the corpus itself is gone through by the tests of `mlaas4hep.convert`'s parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from mlaas4hep.convert import Limits, Upload, convert
from mlaas4hep.convert import sandbox as sandbox_module
from mlaas4hep.convert.child import ANSWER
from mlaas4hep.errors import MLaaSError, UploadError, UserError
from tests.attacks import (
    external,
    graph_def,
    keras_config,
    keras_file,
    node_def,
    onnx_model,
    pickles,
    saved_model,
    small_network,
    tar_member,
    tarred,
    zipped,
)


def squares(size: int, count: int) -> bytes:
    """A file of a few hundred bytes that multiplies square matrices of ones."""
    shape = numpy_helper.from_array(np.array([size, size], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    ]
    nodes += [helper.make_node("MatMul", [f"m{at}", "m0"], [f"m{at + 1}"]) for at in range(count)]
    nodes += [
        helper.make_node("ReduceSum", [f"m{count}"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    return onnx_model(*nodes, initialisers=(shape,)).SerializeToString()


LAMBDA = keras_config({"module": "keras.layers", "class_name": "Lambda", "config": {}})
READS = saved_model(graph_def(node_def("x", "Placeholder"), node_def("r", "ReadFile"), node_def("y", "Add", "x", "r")))
CUSTOM = onnx_model(helper.make_node("Run", ["x"], ["y"], domain="com.evil"), domains=("com.evil",))
ATTACKS: dict[str, tuple[bytes, Limits, str]] = {
    "a Lambda layer": (keras_file(LAMBDA), Limits(), "carries code"),
    "a graph that reads files": (tarred({"m/saved_model.pb": READS, "m/variables/x": b""}), Limits(), "ReadFile"),
    "an operator of others": (CUSTOM.SerializeToString(), Limits(), "com.evil"),
    "weights of another file": (external("../../../etc/passwd").SerializeToString(), Limits(), "in another file"),
    "a way out of the folder": (tarred({"../../evil": b"x"}), Limits(), "leads out of it"),
    "a symbolic link": (tar_member(tarfile.SYMTYPE), Limits(), "a link, a device"),
    "a bomb": (zipped({"a": b"\0" * (30 << 20)}, compression=8), Limits(), "unpacks to more"),
    "too many bytes": (b"\0" * 2000, Limits(upload_bytes=1000), "more than 1000 bytes"),
    "endless work": (squares(3000, 400), Limits(cpu_s=4), "more than its CPU time of 4 s"),
    "a hundred gigabytes": (squares(160_000, 1), Limits(), "ONNX Runtime cannot load|fails on sample|memory"),
    "more memory than a model is given": (squares(4000, 1), Limits(run_bytes=50 << 20), "MiB; at most 50"),
    "more time than there is": (small_network().SerializeToString(), Limits(wall_s=0.05), "longer than 0.05 s"),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    data, limits, words = ATTACKS[what]
    # As in a server: what is asked of the confined process is not to be hidden by what its parent holds.
    held = np.ones(300 << 20, np.uint8) if limits.run_bytes < Limits().run_bytes else None
    with pytest.raises(UploadError, match=words):
        convert(Upload(data, "net"), tmp_path / "in" / "models", limits=limits)
    del held
    assert list(tmp_path.rglob("*")) == []


def test_names_in_an_upload_do_nothing_to_the_terminal_that_shows_them(tmp_path: Path) -> None:
    with pytest.raises(UploadError) as caught:
        convert(
            Upload(tarred({"m/\x1b[31mred\r\nForged line.txt": b"x", "m/\x9b2J": b"y"}), "net"), tmp_path / "models"
        )
    assert r"\x1b[31mred\x0d" in str(caught.value)
    assert r"\x9b2J" in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_pickle_is_not_run_and_the_models_that_are_there_stay(tmp_path: Path) -> None:
    models, mark = tmp_path / "models", tmp_path / "ran"
    convert(Upload(small_network().SerializeToString(), "net"), models)
    with pytest.raises(UploadError, match="holds a pickle"):
        convert(Upload(pickles(mark)["torch.save"], "net"), models)
    assert sorted(one.name for one in models.rglob("*")) == [
        "1",
        "config.pbtxt",
        "conversion.json",
        "model.onnx",
        "net",
    ]
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a" * 200, "x\n"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UploadError, match=r"cannot name a model|has no name"):
        convert(Upload(small_network().SerializeToString(), name), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_folder_with_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").symlink_to("/etc/passwd")
    with pytest.raises(UploadError, match="a link, a device"):
        convert(Upload(tmp_path / "m", "net"), tmp_path / "models")


# What a hijacked process would try; each line says whether it could.
_TRIES = """
import ctypes, json, os, socket, subprocess, sys, threading
from pathlib import Path
from mlaas4hep.convert.confine import confine
folder, secret = Path(sys.argv[1]), Path(sys.argv[2])
limits = dict(memory_bytes=2 << 30, cpu_s=20, file_bytes=1 << 20, open_files=64, processes=64)
walls = confine(limits, folder=folder, readable=[*filter(None, sys.path), sys.prefix, sys.base_prefix])
def could(what):
    try:
        what()
    except (OSError, MemoryError, ValueError):
        return False
    return True
tries = {
    "write in its folder": lambda: (folder / "own").write_text("x"),
    "start a thread": lambda: threading.Thread(target=int).start(),
    "open a socket": lambda: socket.socket(),
    "fork": os.fork,
    "start a program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "read another file": secret.read_text,
    "write another file": lambda: secret.write_text("x"),
    "make a link": lambda: os.symlink(secret, folder / "link"),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "read its parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "raise its limits": lambda: __import__("resource").setrlimit(7, (4096, 4096)),
    "take much memory": lambda: bytearray(3 << 30),
    "write a large file": lambda: (folder / "big").write_bytes(b"0" * (2 << 20)),
}
print(json.dumps({"walls": walls, "could": [name for name, what in tries.items() if could(what)]}))
"""


def test_a_hijacked_process_can_do_nothing_but_compute(tmp_path: Path) -> None:
    folder, secret = tmp_path / "own", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("s")
    command = [sys.executable, "-c", _TRIES, str(folder), str(secret)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if not {"landlock", "seccomp"} <= set(found["walls"]):
        pytest.skip(f"this machine allows only {found['walls']}")
    assert found["could"] == ["write in its folder", "start a thread"]
    assert secret.read_text() == "s"


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", UploadError, "the library that read it crashed"),
        ("import os; os.abort()", UploadError, "memory"),
        ("raise SystemExit(3)", MLaaSError, "ended with status 3"),
        ("pass", MLaaSError, "gave no answer"),
        (f"open({ANSWER!r}, 'w').write('[1]')", MLaaSError, "gave no answer"),
        (f"import os; os.symlink('/etc/passwd', {ANSWER!r})", MLaaSError, "no answer"),
        (f"open({ANSWER!r}, 'w').write('x' * (2 << 20))", MLaaSError, "no answer"),
        ("import time; time.sleep(60)", UploadError, "longer than 2 s"),
    ],
)
def test_every_end_of_the_process_is_an_error_in_words(
    program: str, kind: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_START", program.replace("{", "{{").replace("}", "}}"))
    with pytest.raises(kind, match=words):
        convert(Upload(small_network().SerializeToString(), "net"), tmp_path / "models", limits=Limits(wall_s=2.0))
    assert os.listdir(tmp_path) == []


_LIES = """
import json, sys
from pathlib import Path
job = json.loads(sys.stdin.read())
entry = Path(job["folder"]) / "entry"
entry.mkdir()
CHANGE
end = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
done = {"name": "net", "found": "", "converter": "", "versions": {}, "inputs": [end], "outputs": [end | {"name": NAME}],
        "contract": False, "batches": True, "compared_with": "", "rows": {}, "bar": 0, "worst": 0, "model_sha256": SHA}
Path("answer.json").write_text(json.dumps({"done": done}))
"""


def test_a_process_that_was_taken_over_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, evil = (one.SerializeToString() for one in (small_network(), CUSTOM))
    write = "(entry / 'model.onnx').write_bytes(bytes.fromhex('{}'))"
    lies = {
        "another graph than it wrote": (write.format(good.hex()), "y", "0" * 64),
        "com.evil": (write.format(evil.hex()), "y", hashlib.sha256(evil).hexdigest()),
        "other inputs or outputs": (write.format(good.hex()), "z", hashlib.sha256(good).hexdigest()),
        "which is no entry": ("(entry / 'run.py').write_text('1')", "y", "0" * 64),
        "a symbolic link": ("(entry / 'model.onnx').symlink_to('/etc/passwd')", "y", "0" * 64),
    }
    for words, (change, name, sha) in lies.items():
        program = _LIES.replace("CHANGE", change).replace("NAME", repr(name)).replace("SHA", repr(sha))
        monkeypatch.setattr(sandbox_module, "_START", program.replace("{", "{{").replace("}", "}}"))
        with pytest.raises(UserError, match=words):
            convert(Upload(good, "net"), tmp_path / "models")
    assert os.listdir(tmp_path) == []
