"""Refuses what carries a pickle or other code of Python, by content, wherever it stands and whatever it is called.

`mlaas4hep.bundle.pickles` finds pickles; here they are looked for in packed streams too, and the refusal says what to
send instead. Invariant: bytes are looked at and never executed.
"""

from __future__ import annotations

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mlaas4hep.bundle.pickles import holds_pickle
from mlaas4hep.errors import UploadError

WAY_OUT = (
    "send instead: ONNX (torch.onnx.export(model, rows, 'model.onnx', dynamo=True), model.export('model.onnx', "
    "format='onnx') of Keras); scikit-learn by skops.io.dump(model, 'model.skops'); XGBoost by "
    "save_model('model.json'); LightGBM by save_model('model.txt'); weights of PyTorch by safetensors with our "
    "spec.json and settings.json; or a bundle of mlaas4hep.bundle.write_bundle"
)
_LOOKED_AT = 1 << 16


def refuse_pickles(path: Path, name: str, *, most: int) -> None:
    """`UploadError` where a file holds a pickle, plain, packed, or in a zip.

    Parameters
    ----------
    path
        The file.
    name
        What it is called, for the message.
    most
        Bytes of a zip that are read.
    """
    with path.open("rb") as stream:
        head = stream.read(_LOOKED_AT)
    if zipfile.is_zipfile(path):
        if path.stat().st_size > most:
            raise UploadError(f"'{name}' is an archive of more than {most} bytes in another one")
        found = holds_pickle(path.read_bytes())
    else:
        found = holds_pickle(head) or holds_pickle(_inflated(head))
    if found:
        raise UploadError(
            f"'{name}' holds a pickle, which runs code when it is read{_of_torch(path)}; no pickle is ever opened "
            f"here. {WAY_OUT}"
        )


def _inflated(head: bytes) -> bytes:
    """What the first bytes of a packed stream unpack to, at most 64 KiB; nothing where they are not packed."""
    openers: Sequence[tuple[bytes, Callable[[], bytes]]] = (
        (b"\x1f\x8b", lambda: zlib.decompressobj(31).decompress(head, _LOOKED_AT)),
        (b"\x78", lambda: zlib.decompressobj().decompress(head, _LOOKED_AT)),
        (b"BZh", lambda: bz2.BZ2Decompressor().decompress(head, _LOOKED_AT)),
        (b"\xfd7zXZ", lambda: lzma.LZMADecompressor(memlimit=64 << 20).decompress(head, _LOOKED_AT)),
        (b"\x5d\x00\x00", lambda: lzma.LZMADecompressor(memlimit=64 << 20).decompress(head, _LOOKED_AT)),
    )
    for magic, opened in openers:
        if head.startswith(magic):
            try:
                return opened()
            except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
                return b""
    return b""


def _of_torch(path: Path) -> str:
    """Words for what PyTorch saves; it is told by the names in its archive."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, UnicodeError, NotImplementedError):
        return " (or is damaged or locked, so that nobody can tell)"
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return " (TorchScript)"
    return " (PyTorch's torch.save)" if any(name.endswith("data.pkl") for name in names) else ""
