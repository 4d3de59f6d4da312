"""The model of one fold, which lies in the bundle of the mean of all: ``NAME/1/native/models/0.onnx``.

Invariant: it is read as the bundle it lies in, whose manifest seals it, and takes and gives what that does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.layout import NATIVE_FOLDER
from mlaas4hep.errors import BundleError

FOLDS_FOLDER, FOLD = f"{NATIVE_FOLDER}/models", ".onnx"


@dataclass(frozen=True, eq=False)
class Fold(Bundle):
    """A bundle whose graph is that of one of its folds."""

    file: str = ""

    @property
    def model_sha256(self) -> str:
        """Over the graph of the fold."""
        return self.manifest.files[self.file].sha256

    def model(self) -> bytes:
        """The graph of the fold; `BundleError` if the file changed since the bundle was loaded."""
        data = (self.path / self.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.model_sha256:
            raise BundleError(f"{self.path / self.file}: was changed since the bundle was loaded")
        return data


def load_fold(file: Path) -> Fold:
    """Read and check the bundle that a graph lies in; `BundleError` where that is not what was written."""
    bundle = load_bundle(file.parents[2])
    name = f"{FOLDS_FOLDER}/{file.name}"
    if name not in bundle.manifest.files:
        raise BundleError(f"{file}: the manifest of the bundle does not name it")
    return Fold(bundle.path, bundle.version, bundle.spec, bundle.manifest, name)
