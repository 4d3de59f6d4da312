"""Names and formats of the files of a bundle, shared by those who write and those who read.

Invariant: a manifest is canonical JSON that holds its own hash, so that a change of any byte in it shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mlaas4hep.errors import BundleError
from mlaas4hep.graph.parity import ParityReport
from mlaas4hep.spec.contract import ModelSpec, canonical_json

FORMAT_VERSION = 1
MODEL_FILE = "model.onnx"
SPEC_FILE = "spec.json"
MANIFEST_FILE = "manifest.json"
README_FILE = "README.md"
CONFIG_FILE = "config.pbtxt"
NATIVE_FOLDER = "native"
REPORT_FOLDER = "report"

MAX_BATCH_SIZE = 4096
# Rows of `probe_rows` whose scores the manifest keeps, to compare another machine with the one that wrote.
PROBE_ROWS = 32


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Read a file through."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return cls(size=stream.tell(), sha256=digest)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version folder holds.

    Parameters
    ----------
    spec_sha256, model_sha256
        Over the contract without provenance, and over the canonical graph.
    config
        The file ``config.pbtxt`` beside the version folder.
    files
        All files of the version folder but this one, by path with ``/``.
    parity
        What the gate saw before writing.
    probe
        Scores of the first rows of `mlaas4hep.graph.invariance.probe_rows` on the machine that wrote.
    manifest_sha256
        Over the canonical JSON of all the other fields.
    """

    spec_sha256: str
    model_sha256: str
    config: FileRecord
    files: dict[str, FileRecord]
    parity: ParityReport
    probe: tuple[tuple[float, ...], ...]
    manifest_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def sealed(self) -> Manifest:
        """With its own hash."""
        return msgspec.structs.replace(self, manifest_sha256=self._own_sha256())

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Manifest:
        """Read what `to_json` wrote; `BundleError` where a byte differs or the format is another."""
        try:
            version = msgspec.json.decode(data, type=_Versioned).format_version
            if version != FORMAT_VERSION:
                raise BundleError(f"{where}: bundle format {version}; this program reads format {FORMAT_VERSION}")
            manifest = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BundleError(f"{where}: is not a manifest of this project: {error}") from error
        if manifest.to_json() != data or manifest.manifest_sha256 != manifest._own_sha256():
            raise BundleError(f"{where}: was changed since the bundle was written")
        return manifest

    def _own_sha256(self) -> str:
        return hashlib.sha256(canonical_json(msgspec.structs.replace(self, manifest_sha256=""))).hexdigest()


class _Versioned(msgspec.Struct):
    format_version: int


def files_in(folder: Path) -> dict[str, Path]:
    """All files below a folder, sorted, by path with ``/``.

    Raises
    ------
    BundleError
        Something there is neither a file nor a folder: a symbolic link leads out of what the manifest seals.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            what = "a symbolic link" if path.is_symlink() else "neither a file nor a folder"
            raise BundleError(f"{path}: is {what}; a bundle holds plain files only")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    return found


def triton_config(spec: ModelSpec) -> bytes:
    """``config.pbtxt``: a Triton model repository entry. Follows from the name, the inputs and the number of scores."""
    inputs = _ends((one.name, one.shape) for one in spec.signature)
    output = _ends([("scores", (len(spec.score_names),))])
    return f"""\
name: "{spec.name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH_SIZE}
input [
{inputs}
]
output [
{output}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
version_policy: {{ latest: {{ num_versions: 1 }} }}
""".encode()


def _ends(ends: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    return ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, shape))} ] }}' for name, shape in ends
    )


def readme(spec: ModelSpec) -> bytes:
    """``README.md``: what goes in and comes out, for people."""
    shapes = {one.name: f"[{', '.join(['N', *map(str, one.shape)])}]" for one in spec.signature}
    inputs = "\n".join(f"- `{one.name}` {shapes[one.name]}: {', '.join(one.variables)}" for one in spec.scaling)
    scores = ", ".join(f"`{name}`" for name in spec.score_names)
    own = " (the targets, in their own units)" if spec.task == "regression" else ""
    return f"""\
# {spec.name}

A {spec.task} model with its contract (`spec.json`). Inputs are raw float32 tensors; NaN stands where a value is missing
and in the empty slots of a collection:

{inputs}

The output `scores` [N, {len(spec.score_names)}] holds: {scores}{own}.

`model.onnx` does the scaling itself. In binary tensors NaN is legal, in JSON it is not: send `null` to
`mlaas4hep serve`, and use the binary extension with Triton. Collections are padded by the client there.
""".encode()
