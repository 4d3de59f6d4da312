"""PNG and JPEG to pixels, within bounds. The only module that imports Pillow.

Invariant: how large a picture is, and of which kind, is read from its head before a decoder sees any of it; what would
have to be guessed (transparency, 16 bits, CMYK, several frames, a turned camera) is refused in words.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["none", "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Background = Literal["white", "black"]

# Of one picture: what is sent, and what it becomes at any step (3 bytes a pixel and more).
MAX_BYTES = 16 << 20
MAX_PIXELS = 1 << 24
# Chunks of a PNG or segments of a JPEG, each of which costs a decoder time; and how often a JPEG may be drawn over.
MAX_PARTS, MAX_SCANS = 10_000, 64

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Frames of JPEG: baseline, extended and progressive are read; lossless, hierarchical and arithmetic ones are not.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_SCAN = 0xDA
_ORIENTATION, _UPRIGHT = 0x0112, 1


class Head(NamedTuple):
    """What a picture says of itself before its pixels."""

    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """How many."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels (width x height)"


def read_head(data: bytes, where: str) -> Head:
    """Format and size of a picture, without decoding it.

    Raises
    ------
    RequestError
        It is none of the formats, too large, or of a kind that is not read.
    """
    if len(data) > MAX_BYTES:
        raise _refusal(where, f"has {len(data)} bytes; at most {MAX_BYTES} are taken")
    if data.startswith(_PNG):
        head = _png_head(data, where)
    elif data.startswith(_JPEG):
        head = _jpeg_head(data, where)
    else:
        raise _refusal(where, f"is neither PNG nor JPEG: it begins with {data[:8].hex(' ') or 'nothing'}")
    if not head.pixels:
        raise _refusal(where, f"has {head}")
    if head.pixels > MAX_PIXELS:
        raise _refusal(where, f"has {head}; at most {MAX_PIXELS} pixels are taken: make it smaller before it is sent")
    return head


def read_pixels(
    data: bytes,
    where: str,
    *,
    size: tuple[int, int],
    gray: bool,
    resize: Resize,
    shorter: int | None = None,
    background: Background | None = None,
) -> NDArray[np.uint8]:
    """The pixels of one picture.

    Parameters
    ----------
    data
        PNG or JPEG, told apart by their first bytes.
    where
        What it is called in errors.
    size
        Height and width that are wanted.
    gray
        One channel (luma of ITU-R 601 where the picture is in colour), else red, green and blue.
    resize
        Pillow's filter; ``none`` refuses a picture of another size.
    shorter
        The shorter side is brought to this, and the middle is cut out; None stretches both sides.
    background
        Of a picture that is transparent in places; None refuses it.

    Returns
    -------
    uint8 [height, width] of gray ones, [height, width, 3] of others.

    Raises
    ------
    RequestError
        As `read_head`, or it cannot be decoded, or something would have to be guessed.
    """
    from PIL.Image import Resampling

    head = read_head(data, where)
    goal = _goal(head, size, resize, shorter, where)
    image = _opaque(_opened(data, head, where), background, where).convert("L" if gray else "RGB")
    if goal != image.size:
        image = image.resize(goal, Resampling[resize.upper()])
    height, width = size
    if goal != (width, height):
        top, left = round((goal[1] - height) / 2), round((goal[0] - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image)


def _png_head(data: bytes, where: str) -> Head:
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise _refusal(where, "is a PNG without its head")
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    if depth == 16:
        raise _refusal(where, "is a PNG of 16 bits a channel; send it with 8, or as a tensor")
    at = len(_PNG)
    for _ in range(MAX_PARTS):
        size, kind = struct.unpack_from(">I4s", data, at) if at + 8 <= len(data) else (0, b"IEND")
        if kind == b"acTL":
            raise _refusal(where, "is an animated PNG; send one of its frames")
        if kind == b"IEND":
            return Head("PNG", width, height)
        at += 12 + size
    raise _refusal(where, f"is a PNG of more than {MAX_PARTS} chunks")


def _jpeg_head(data: bytes, where: str) -> Head:
    at, found = 2, None
    for _ in range(MAX_PARTS):
        if at + 10 > len(data) or data[at] != 0xFF:
            raise _refusal(where, "is a JPEG whose segments do not follow each other")
        marker = data[at + 1]
        if marker == 0xFF:  # may stand any number of times before a marker
            at += 1
            continue
        if marker == _SCAN:
            return _jpeg_frame(data, at, found, where)
        if marker in _OTHER_FRAMES:
            raise _refusal(where, f"is a JPEG of a kind that is not read (SOF{marker - 0xC0}), such as lossless")
        if marker in _FRAMES:
            found = struct.unpack_from(">BHHB", data, at + 4)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise _refusal(where, f"is a JPEG of more than {MAX_PARTS} segments")


def _jpeg_frame(data: bytes, at: int, found: tuple[int, ...] | None, where: str) -> Head:
    if found is None:
        raise _refusal(where, "is a JPEG that does not say its size")
    depth, height, width, channels = found
    if depth != 8:
        raise _refusal(where, f"is a JPEG of {depth} bits a channel; send it with 8")
    if channels not in (1, 3):
        raise _refusal(where, f"is a JPEG of {channels} channels, as CMYK has; convert it to RGB before it is sent")
    if (scans := data.count(bytes((0xFF, _SCAN)), at)) > MAX_SCANS:
        raise _refusal(where, f"is a JPEG of {scans} scans; at most {MAX_SCANS} are taken")
    return Head("JPEG", width, height)


def _goal(head: Head, size: tuple[int, int], resize: str, shorter: int | None, where: str) -> tuple[int, int]:
    """Width and height after resizing, as torchvision's ``Resize`` counts them."""
    height, width = size
    if resize == "none":
        if (head.height, head.width) != size:
            raise _refusal(where, f"has {head}; the model takes {width} x {height} and resizes none")
        return width, height
    if shorter is None:
        goal = width, height
    elif head.width <= head.height:
        goal = shorter, int(shorter * head.height / head.width)
    else:
        goal = int(shorter * head.width / head.height), shorter
    # Pillow brings all rows to their new width first.
    if goal[0] * max(goal[1], head.height) > MAX_PIXELS:
        raise _refusal(where, f"has {head}, too narrow to be resized to {width} x {height} within {MAX_PIXELS} pixels")
    return goal


def _opened(data: bytes, head: Head, where: str) -> Image:
    from PIL import Image

    with _decoding(head, where):
        image = Image.open(io.BytesIO(data), formats=(head.format,))
    if image.format != head.format or image.size != (head.width, head.height):
        raise _refusal(where, f"is a {head.format} with several pictures in it, or with two sizes; send one picture")
    with _decoding(head, where):
        image.load()
        turned = image.getexif().get(_ORIENTATION, _UPRIGHT)
    if turned != _UPRIGHT:
        raise _refusal(where, f"was taken with a turned camera (EXIF orientation {turned}); turn its pixels first")
    return image


def _opaque(image: Image, background: Background | None, where: str) -> Image:
    """The picture without its transparency."""
    from PIL import Image

    if not ("A" in image.getbands() or "transparency" in image.info):
        return image
    layered = image.convert("RGBA")
    lowest: Any = layered.getchannel("A").getextrema()
    if lowest[0] == 255:
        return layered.convert("RGB")
    if background is None:
        hint = "the model does not say what is behind it (background: white or black)"
        raise _refusal(where, f"is transparent in places, and {hint}; send it without")
    return Image.alpha_composite(Image.new("RGBA", layered.size, background), layered)


@contextmanager
def _decoding(head: Head, where: str) -> Iterator[None]:
    """Whatever a decoder says of the bytes that a client sent is told to that client."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise RequestError(f"{where}: cannot be read as the {head.format} that it says it is") from error
    except Exception as error:  # Pillow raises nearly anything on a crafted file
        raise RequestError(f"{where}: cannot be decoded as {head.format}: {error}") from error


def _refusal(where: str, text: str) -> RequestError:
    return RequestError(f"{where}: {text}")
