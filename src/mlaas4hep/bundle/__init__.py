"""A model on disk: one contract, one graph, and proof that neither was changed.

::

    NAME/config.pbtxt          a Triton model repository entry, generated
    NAME/1/model.onnx          raw padded tensors in, scores out
    NAME/1/spec.json           the contract
    NAME/1/manifest.json       size and SHA-256 of every file, its own included
    NAME/1/README.md           inputs and scores, for people
    NAME/1/native/             the framework's own weights in a pickle-free format
    NAME/1/report/             metrics and plots

Here is what readers need, such as a server: it imports onnxruntime, not ``onnx``. `write_bundle`, which needs ``onnx``,
lives in `mlaas4hep.bundle.write` and is fetched from there when first asked for. Invariant: no file of a bundle is ever
unpickled.
"""

from importlib import import_module
from typing import Any

from mlaas4hep.bundle.read import Bundle, load_bundle
from mlaas4hep.bundle.verify import VerifyReport, verify_bundle

__all__ = ["Bundle", "VerifyReport", "load_bundle", "verify_bundle", "write_bundle"]


def __getattr__(name: str) -> Any:
    if name == "write_bundle":
        return import_module("mlaas4hep.bundle.write").write_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
