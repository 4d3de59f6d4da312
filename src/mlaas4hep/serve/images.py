"""Pictures as inputs: a few lines beside a model say how a PNG or JPEG becomes one of its tensors.

``NAME/image.yaml`` stands beside the versions. Invariant: without it no picture is taken, and nothing that it has to
say is guessed; served and offline are the same call of `decode_image`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BundleError, RequestError, nearest
from mlaas4hep.serve.beside import load_struct
from mlaas4hep.serve.pictures import MAX_PIXELS, Background, Resize, read_head, read_pixels

if TYPE_CHECKING:
    from mlaas4hep.serve.model import ServedModel, TensorSpec

IMAGE_FILE = "image.yaml"
PNG, JPEG = "image/png", "image/jpeg"
EXAMPLE = "layout: CHW, colour: RGB, resize: bilinear, fit: stretch, divide_by: 255"

# Of one question: pictures, their pixels before resizing, and the numbers that they become.
MAX_PICTURES = 1024
MAX_QUESTION_PIXELS = 4 * MAX_PIXELS
MAX_NUMBERS = 1 << 26

# What `mlaas4hep.convert` calls one, where TFaaS answers pictures with labels.
FROZEN_GRAPH = "a frozen TensorFlow graph"
_PARAMS_FILE, _CONVERSION_FILE = "params.json", "conversion.json"
_DATATYPES = ("FP32", "FP16", "FP64", "UINT8")
_log = logging.getLogger(__name__)


class ImageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``image.yaml`` says: how a picture becomes a tensor.

    A number of the tensor is ``(pixel / divide_by - mean) / std``, with pixels from 0 to 255, in float32 (float64 where
    the tensor is FP64), operation by operation.

    Parameters
    ----------
    layout
        Order of channels, height and width in the tensor, without the pictures: ``CHW`` as in PyTorch, ``HWC`` as in
        TensorFlow, ``HW`` where gray pictures have no dimension of channels.
    colour
        ``RGB``, ``BGR`` (OpenCV, Caffe) or ``gray``. Pictures of the other kind are converted: gray becomes three equal
        channels, colour becomes its luma by ITU-R 601.
    divide_by
        255 for values from 0 to 1, 1 for values from 0 to 255.
    resize
        Filter of Pillow: nearest, box, bilinear, hamming, bicubic or lanczos; ``none`` refuses other sizes.
    fit
        ``stretch`` brings both sides to the size of the tensor; ``crop`` brings the shorter side to `shorter`, then
        cuts the middle out, as torchvision's ``Resize`` and ``CenterCrop`` do. Needed unless `resize` is ``none``.
    shorter
        With ``crop``.
    size
        Height and width, where the graph leaves them open or its tensor is flat.
    mean, std
        Taken away, and divided by, after `divide_by`; one number, or one a channel in the order of `colour`.
    input
        Name of the tensor, where the model has several.
    background
        ``white`` or ``black`` behind pictures that are transparent in places; else these are refused.
    """

    layout: Literal["CHW", "HWC", "HW"]
    colour: Literal["RGB", "BGR", "gray"]
    divide_by: float
    resize: Resize
    fit: Literal["stretch", "crop"] | None = None
    shorter: int | None = None
    size: tuple[int, int] | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    input: str = ""
    background: Background | None = None

    @property
    def channels(self) -> int:
        """1 of gray pictures, else 3."""
        return 1 if self.colour == "gray" else 3


@dataclass(frozen=True, eq=False, slots=True)
class ImageInput:
    """The input of a model that pictures become.

    Parameters
    ----------
    spec
        How.
    name, dtype, shape
        Of the tensor; the shape is that of one picture.
    size
        Height and width.
    stacked
        Whether the tensor has a first dimension of pictures.
    """

    spec: ImageSpec
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: tuple[int, int]
    stacked: bool

    @classmethod
    def of(cls, spec: ImageSpec, inputs: Sequence[TensorSpec], *, batches: bool, where: str) -> ImageInput:
        """What a declaration means for the inputs of a model, whose first dimension is left out where it ``batches``.

        Raises
        ------
        BundleError
            It contradicts itself or the graph, or leaves a size open.
        """
        _check(spec, where)
        tensor = _chosen(spec, inputs, where)
        if tensor.datatype not in _DATATYPES:
            raise BundleError(
                f"{where}: '{tensor.name}' is {tensor.datatype}; a picture becomes {', '.join(_DATATYPES)}"
            )
        if tensor.datatype == "UINT8" and (spec.divide_by, spec.mean, spec.std) != (1, 0, 1):
            raise BundleError(
                f"{where}: '{tensor.name}' is UINT8, whole numbers: asked for divide_by: 1 and nothing else"
            )
        for stacked, shape in ((True, tensor.shape),) if batches else ((True, tensor.shape[1:]), (False, tensor.shape)):
            size = _size(spec, shape)
            if size is not None:
                whole = tuple(_sizes(spec, size)) if len(shape) > 1 else shape
                return cls(spec, tensor.name, tensor.dtype, whole, size, stacked)
        dims = [*([-1] if batches else []), *tensor.shape]
        raise BundleError(f"{where}: {_text(spec)} does not fit input '{tensor.name}' {dims}{_hint(spec, dims)}")


def decode_image(data: bytes, image: ImageInput, *, where: str = "the picture") -> NDArray[Any]:
    """The tensor of one picture, of the input's type and shape; this is what server and offline have in common.

    Raises
    ------
    RequestError
        As `mlaas4hep.serve.pictures.read_pixels`.
    """
    spec = image.spec
    pixels: NDArray[Any] = read_pixels(
        data,
        where,
        size=image.size,
        gray=spec.colour == "gray",
        resize=spec.resize,
        shorter=spec.shorter,
        background=spec.background,
    )
    if spec.colour == "BGR":
        pixels = pixels[..., ::-1]
    if image.dtype != np.uint8:
        work = np.dtype(np.float64 if image.dtype == np.float64 else np.float32)
        mean, std = (np.asarray(one, work).reshape(-1) for one in (spec.mean, spec.std))
        pixels = ((pixels.astype(work) / work.type(spec.divide_by) - mean) / std).astype(image.dtype)
    if spec.layout == "CHW" and pixels.ndim == 3:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels).reshape(image.shape)


def decode_images(pictures: Sequence[bytes], image: ImageInput) -> NDArray[Any]:
    """The tensor of several pictures; of one without a further dimension where the model takes it so.

    Raises
    ------
    RequestError
        As `decode_image`, or they are too many together.
    """
    name = f"input '{image.name}'"
    wheres = [f"{name}, picture {number}" for number in range(len(pictures))] if len(pictures) != 1 else ["the picture"]
    if len(pictures) > MAX_PICTURES or len(pictures) * math.prod(image.shape) > MAX_NUMBERS:
        most = min(MAX_PICTURES, MAX_NUMBERS // math.prod(image.shape))
        raise RequestError(f"{name}: {len(pictures)} pictures; at most {most} of this size are taken in one question")
    if not image.stacked and len(pictures) != 1:
        raise RequestError(f"{name}: {len(pictures)} pictures; the model takes one at a time")
    pixels = sum(read_head(data, where).pixels for data, where in zip(pictures, wheres, strict=True))
    if pixels > MAX_QUESTION_PIXELS:
        asked = f"at most {MAX_QUESTION_PIXELS} are taken in one question"
        raise RequestError(f"{name}: the pictures have {pixels} pixels together; {asked}")
    tensor = np.empty((len(pictures), *image.shape), image.dtype)
    for number, (data, where) in enumerate(zip(pictures, wheres, strict=True)):
        tensor[number] = decode_image(data, image, where=where)
    return tensor if image.stacked else tensor[0]


def encoded_pictures(array: NDArray[Any], image: ImageInput) -> list[bytes]:
    """The pictures of a BYTES tensor [n] or [n, 1]: their bytes as they are, or as base64 in JSON.

    Raises
    ------
    RequestError
        Another shape, or a text that is no base64.
    """
    if array.ndim not in (1, 2) or array.size != len(array):
        asked = f"input '{image.name}': pictures are BYTES of shape [n] or [n, 1]"
        raise RequestError(f"{asked}, found {list(array.shape)}")
    return [_picture(one, f"input '{image.name}', picture {place}") for place, one in enumerate(array.ravel())]


def is_encoded(array: object) -> bool:
    """Whether what is given for an image is BYTES, not numbers."""
    return isinstance(array, np.ndarray) and array.dtype == object


def image_of(model: ServedModel, *, alone: bool = True) -> ImageInput:
    """The input of a model that takes pictures.

    Parameters
    ----------
    alone
        Nothing else is given.

    Raises
    ------
    RequestError
        It takes none, and why; or it needs more than a picture.
    """
    if model.image is None:
        raise RequestError(_why_not(model))
    others = [one.name for one in model.inputs if one.name != model.image.name]
    if alone and others:
        asked = f"needs {', '.join(others)} beside a picture: send them as tensors to /v2/models/{model.name}/infer"
        raise RequestError(f"model '{model.name}' {asked}, with the picture as BYTES in '{model.image.name}'")
    return model.image


def read_image(folder: Path, inputs: Sequence[TensorSpec], *, batches: bool) -> ImageInput | None:
    """What is declared for a version folder; None where nothing is.

    ``image.yaml`` lies beside the version. Without it, an ``img_channels`` in the version's ``params.json`` says what
    TFaaS does: values from 0 to 255, height, width and channels in this order, no other sizes. So does any
    ``params.json`` of a frozen graph that takes three channels or one.

    Raises
    ------
    BundleError
        ``image.yaml`` cannot be read, or does not fit the graph.
    """
    file = folder.parent / IMAGE_FILE
    if file.is_file():
        return ImageInput.of(load_struct(file, ImageSpec), inputs, batches=batches, where=str(file))
    channels = _tfaas_channels(folder, inputs)
    if not channels:
        return None
    layouts: tuple[Literal["HWC", "HW"], ...] = ("HWC", "HW") if channels == 1 else ("HWC",)
    for layout in layouts:
        spec = ImageSpec(layout=layout, colour="gray" if channels == 1 else "RGB", divide_by=1, resize="none")
        try:
            return ImageInput.of(spec, inputs, batches=batches, where=str(folder / _PARAMS_FILE))
        except BundleError as error:
            _log.warning("no pictures are taken, as TFaaS would: %s", error)
    return None


def _check(spec: ImageSpec, where: str) -> None:
    for key, value in (("mean", spec.mean), ("std", spec.std)):
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) not in (1, spec.channels) or not all(map(math.isfinite, numbers)):
            asked = f"asked for one number or {spec.channels}, one a channel of {spec.colour}"
            raise BundleError(f"{where}: {key}: {asked}, found {list(numbers)}")
        if key == "std" and 0 in numbers:
            raise BundleError(f"{where}: std: asked for numbers that can be divided by, found {list(numbers)}")
    if not (math.isfinite(spec.divide_by) and spec.divide_by):
        raise BundleError(f"{where}: divide_by: asked for a number such as 255 or 1, found {spec.divide_by}")
    if (spec.fit is None) != (spec.resize == "none"):
        asked = "fit: stretch or crop, says how pictures of another shape are resized; with resize: none there is none"
        raise BundleError(f"{where}: {asked}")
    if (spec.shorter is None) == (spec.fit == "crop"):
        raise BundleError(
            f"{where}: shorter goes with fit: crop: the pixels of the shorter side before the middle is cut"
        )
    if spec.layout == "HW" and spec.colour != "gray":
        raise BundleError(f"{where}: layout HW has no channels; asked for colour: gray, found {spec.colour}")


def _chosen(spec: ImageSpec, inputs: Sequence[TensorSpec], where: str) -> TensorSpec:
    names = [one.name for one in inputs]
    if not spec.input and len(inputs) != 1:
        raise BundleError(
            f"{where}: the model has several inputs; say which one is the picture: input: {', '.join(names)}"
        )
    if spec.input and spec.input not in names:
        raise BundleError(f"{where}: input '{spec.input}' is not one of the model's{nearest(spec.input, names)}")
    return next(one for one in inputs if one.name == (spec.input or names[0]))


def _size(spec: ImageSpec, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of a tensor of this shape; None where it is none of pictures, or they stay open."""
    if len(shape) == 1 and spec.size is not None:
        return spec.size if shape[0] == spec.channels * math.prod(spec.size) else None
    if len(shape) != len(spec.layout):
        return None
    found = dict(zip(spec.layout, shape, strict=True))
    size = spec.size or (found["H"], found["W"])
    fits = all(have in (-1, want) for have, want in zip(shape, _sizes(spec, size), strict=True))
    wide = spec.shorter is None or spec.shorter >= max(size)
    return size if fits and wide and min(size) > 0 and math.prod(size) <= MAX_PIXELS else None


def _sizes(spec: ImageSpec, size: tuple[int, int]) -> list[int]:
    known = {"C": spec.channels, "H": size[0], "W": size[1]}
    return [known[letter] for letter in spec.layout]


def _text(spec: ImageSpec) -> str:
    size = f", size {list(spec.size)}" if spec.size else ""
    return f"layout {spec.layout} of {spec.colour}{size}{f', shorter {spec.shorter}' if spec.shorter else ''}"


def _hint(spec: ImageSpec, dims: Sequence[int]) -> str:
    if spec.size is None and dims.count(-1) > 1:
        return "; where the graph leaves height and width open, say size: [height, width]"
    return "; a crop is not larger than the shorter side" if spec.shorter else ""


def _picture(value: object, where: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where}: asked for the bytes of a PNG or JPEG, or base64 of them: {error}") from error


def _why_not(model: ServedModel) -> str:
    inputs = ", ".join(f"'{one.name}' {one.datatype} {list(one.shape)}" for one in model.inputs)
    if model.contract is not None:
        return (
            f"model '{model.name}' is asked with events by name (GET /v1/models/{model.name} has an example), not with "
            "pictures: an image that it sees, such as that of a jet, is drawn inside it from the objects of the event. "
            f"A picture becomes one of its inputs ({inputs}) only where an {IMAGE_FILE} beside its versions says how"
        )
    return (
        f"model '{model.name}' does not say how a picture becomes one of its inputs ({inputs}), and it is not guessed; "
        f"put an {IMAGE_FILE} beside its versions, such as {{{EXAMPLE}}}"
    )


def _tfaas_channels(folder: Path, inputs: Sequence[TensorSpec]) -> int:
    """``img_channels`` of a ``params.json``, in either spelling; 0 where it says nothing of use.

    TFaaS's pages of frozen graphs have no such word: there it follows from the graph.
    """
    said = _json_of(folder / _PARAMS_FILE)
    channels = said.get("img_channels", said.get("imgChannels", 0))
    if said and not channels and _json_of(folder / _CONVERSION_FILE).get("found") == FROZEN_GRAPH:
        shape = inputs[0].shape if len(inputs) == 1 else ()
        channels = shape[-1] if len(shape) >= 3 and min(shape[-3:]) > 0 else 0
    return channels if channels in (1, 3) else 0


def _json_of(file: Path) -> dict[str, Any]:
    """A small object beside a graph; an empty one where there is none."""
    if not file.is_file() or file.is_symlink():
        return {}
    try:
        found = json.loads(file.read_bytes()[: 1 << 20])
    except (ValueError, RecursionError) as error:
        _log.warning("%s is not read, so that no pictures are taken: %s", file, error)
        return {}
    return found if isinstance(found, dict) else {}
