"""Pictures as inputs: equal to plain Pillow and numpy, the same served and offline, refused where they are unclear."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

from mlaas4hep.client import Client
from mlaas4hep.errors import BundleError, RequestError
from mlaas4hep.serve import pictures
from mlaas4hep.serve.images import ImageInput, ImageSpec, decode_image
from mlaas4hep.serve.model import ServedModel, TensorSpec, load_model
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.protocol import InferRequest
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService, Question
from mlaas4hep.serve.sockets import bind, url_of
from tests.small_bundle import write_small_bundle
from tests.small_pictures import IMAGENET, encode, make_pixels, write_image_graph

WIDE = make_pixels(12, 16)
Pixels = NDArray[np.uint8]


def stretched(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC))


def middle(image: Image.Image) -> Pixels:
    """As torchvision: the shorter side to 10, then the middle 8 x 8."""
    small = image.resize((int(10 * 16 / 12), 10), Image.Resampling.BILINEAR)  # 13 x 10
    return np.asarray(small)[1:9, 2:10]


STEPS: dict[str, tuple[str, tuple[Any, ...], Callable[[Image.Image], NDArray[Any]]]] = {
    "PyTorch's recipe": (
        IMAGENET,
        ("n", 3, 8, 8),
        lambda image: (
            (middle(image.convert("RGB")).astype(np.float32) / np.float32(255) - np.float32([0.485, 0.456, 0.406]))
            / np.float32([0.229, 0.224, 0.225])
        ).transpose(2, 0, 1),
    ),
    "TensorFlow's": (
        "{layout: HWC, colour: RGB, resize: bicubic, fit: stretch, divide_by: 127.5, mean: 1}",
        ("n", 8, 8, 3),
        lambda image: stretched(image.convert("RGB")).astype(np.float32) / np.float32(127.5) - np.float32(1),
    ),
    "Caffe's": (
        "{layout: CHW, colour: BGR, resize: bicubic, fit: stretch, divide_by: 1, mean: [104, 117, 123], size: [8, 8]}",
        ("n", 3, "h", "w"),
        lambda image: (
            stretched(image.convert("RGB"))[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])
        ).transpose(2, 0, 1),
    ),
    "a flat one of gray pictures": (
        "{layout: HW, colour: gray, resize: bicubic, fit: stretch, divide_by: 255, size: [8, 8]}",
        ("n", 64),
        lambda image: (stretched(image.convert("L")).astype(np.float32) / np.float32(255)).ravel(),
    ),
}
FILES = {
    "RGB": encode(WIDE),
    "JPEG": encode(WIDE, "JPEG", quality=80),
    "progressive": encode(WIDE, "JPEG", progressive=True),
    "gray": encode(make_pixels(12, 16, channels=1)),
    "palette": encode(Image.fromarray(WIDE).convert("P")),
    "black and white": encode(Image.fromarray(WIDE).convert("1")),
    "opaque": encode(Image.fromarray(WIDE).convert("RGBA")),
    "interlaced": encode(WIDE, optimize=True),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("steps", STEPS)
def test_a_tensor_is_what_plain_pillow_and_numpy_give(steps: str, file: str, tmp_path: Path) -> None:
    declared, shape, plain = STEPS[steps]
    model = load_model(write_image_graph(tmp_path / "m", shape, declared=declared))
    image = Image.open(io.BytesIO(FILES[file]))
    (tensor,) = model.predict_image(FILES[file])["same"]
    wanted = plain(image.convert("RGB") if image.mode in ("P", "RGBA") else image)
    assert (tensor.dtype, tensor.shape) == (np.dtype(np.float32), wanted.shape)
    assert tensor.tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize(
    ("kind", "dtype", "values"),
    [
        (TensorProto.UINT8, np.uint8, WIDE),
        (TensorProto.FLOAT16, np.float16, WIDE.astype(np.float16)),
        (TensorProto.DOUBLE, np.float64, WIDE.astype(np.float64)),
    ],
)
def test_tensors_of_other_types(kind: int, dtype: Any, values: NDArray[Any], tmp_path: Path) -> None:
    declared = "{layout: HWC, colour: RGB, resize: none, divide_by: 1}"
    model = load_model(write_image_graph(tmp_path / "m", (12, 16, 3), declared=declared, max_batch_size=0, kind=kind))
    found = model.predict_image(encode(WIDE))["same"]
    assert found.dtype == dtype
    assert (found == values).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_image_graph(path / "same")
    write_image_graph(path / "means", labels=("red", "green", "blue"))
    write_image_graph(path / "undeclared", declared=None)
    write_small_bundle(path)
    return path


@pytest.fixture(scope="module")
def repository(folder: Path) -> ModelRepository:
    return open_repository(folder)


class Witness(InferenceService):
    """Remembers in which threads pictures were decoded."""

    threads: set[str] = set()  # noqa: RUF012

    def ask_image(self, name: str, data: bytes, *, version: str | None = None) -> Question[Any]:
        asked = super().ask_image(name, data, version=version)

        def prepare() -> Mapping[str, NDArray[Any]]:
            self.threads.add(threading.current_thread().name)
            return asked.ready().inputs

        return Question(asked.model, asked.inputs, asked.rows, asked.finish, prepare=prepare)


@pytest.fixture(scope="module")
def urls(repository: ModelRepository) -> Iterator[tuple[str, str]]:
    rpc = bind("127.0.0.1", 0)
    place = url_of(rpc).removeprefix("http://")
    with background(Witness(repository), grpc=rpc) as url:
        yield url, place


def test_served_is_offline_bit_for_bit_whichever_way_it_comes(
    repository: ModelRepository, urls: tuple[str, str]
) -> None:
    data = encode(WIDE, "JPEG")
    (wanted,) = repository.get("same").predict_image(data)["same"]
    with Client(urls[0]) as client:
        found = np.array(client.predict_image("same", data)["same"], np.float32)
        texts = np.array([base64.b64encode(one).decode() for one in (data, encode(WIDE))], object)
        by_json = client.infer("same", {"x": texts})["same"]
    assert found.tobytes() == by_json[0].tobytes() == wanted.tobytes()
    assert by_json[1].tobytes() != wanted.tobytes()
    for triton, place in ((tritonclient.http, urls[0].removeprefix("http://")), (tritonclient.grpc, urls[1])):
        one = triton.InferInput("x", [2, 1], "BYTES")
        one.set_data_from_numpy(np.array([[data], [encode(WIDE)]], object))
        caller = triton.InferenceServerClient(place)
        try:
            answer = caller.infer("same", [one]).as_numpy("same")
        finally:
            caller.close()
        assert answer.tobytes() == by_json.tobytes()


def test_a_picture_is_decoded_off_the_loop_and_answered_by_its_labels(
    repository: ModelRepository, urls: tuple[str, str]
) -> None:
    Witness.threads.clear()
    with Client(urls[0]) as client:
        prediction = client.predict_image("means", encode(WIDE))
    assert all("mlaas4hep-run" in name for name in Witness.threads)
    assert len(Witness.threads) == 1
    (wanted,) = repository.get("means").predict_image(encode(WIDE))["means"]
    assert {name: np.float32(value) for name, value in prediction.items()} == dict(
        zip(("red", "green", "blue"), wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("same", b"no picture", "neither PNG nor JPEG: it begins with 6e 6f 20"),
        ("undeclared", encode(WIDE), r"does not say how a picture becomes one of its inputs \('x' FP32 \[3, 8, 8\]\)"),
        ("tth", encode(WIDE), "asked with events by name .* drawn inside it from the objects of the event"),
    ],
)
def test_what_is_no_picture_or_no_model_of_pictures_is_refused(
    model: str, body: bytes, said: str, urls: tuple[str, str]
) -> None:
    with Client(urls[0]) as client, pytest.raises(RequestError, match=said):
        client.predict_image(model, body)


def test_bytes_that_are_no_picture_are_refused_and_texts_still_are_texts(urls: tuple[str, str]) -> None:
    with Client(urls[0]) as client:
        with pytest.raises(RequestError, match="picture 1: asked for the bytes of a PNG or JPEG, or base64"):
            client.infer("same", {"x": np.array([base64.b64encode(encode(WIDE)).decode(), "?"], object)})
        with pytest.raises(RequestError, match=r"BYTES of shape \[n\] or \[n, 1\], found \[2, 2\]"):
            client.infer("same", {"x": np.array([["a", "b"], ["c", "d"]], object)})
        with pytest.raises(RequestError, match="asked for FP32, found BYTES"):
            client.infer("undeclared", {"x": np.array(["a"], object)})
    request = urllib.request.Request(f"{urls[0]}/v1/models/same:predict", encode(WIDE), {"Content-Type": "image/gif"})
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request):
        pass
    assert (refused.value.code, "image/png" in json.load(refused.value)["error"]) == (415, True)


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG of a head and nothing that could be decoded."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + more


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def faded() -> Image.Image:
    image = Image.fromarray(WIDE).convert("RGBA")
    image.putalpha(Image.fromarray(make_pixels(12, 16, channels=1)))
    return image


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(WIDE, "JPEG", exif=exif)


def two_views() -> bytes:
    return encode(WIDE, "MPO", save_all=True, append_images=[Image.fromarray(WIDE)])


def with_frame(data: bytes, marker: int, head: bytes | None = None) -> bytes:
    """A JPEG that is said to be of another kind."""
    place = data.index(b"\xff\xc0")
    return data[:place] + bytes((0xFF, marker)) + (head or data[place + 2 : place + 9]) + data[place + 9 :]


JPEG_FILE = encode(WIDE, "JPEG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither PNG nor JPEG: it begins with nothing"),
        (encode(WIDE, "GIF"), "neither PNG nor JPEG: it begins with 47 49 46"),
        (b"\x89PNG\r\n\x1a\n", "PNG without its head"),
        (png(100_000, 100_000), r"has 100000 x 100000 pixels \(width x height\); at most 16777216 pixels are taken"),
        (png(0, 5), "has 0 x 5 pixels"),
        (png(1, 16_000_000), "too narrow to be resized to 8 x 8"),
        (png(8, 8, depth=16), "16 bits a channel"),
        (png(8, 8, more=chunk(b"acTL", bytes(8))), "animated PNG"),
        (png(8, 8, more=chunk(b"teST") * 10_001), "more than 10000 chunks"),
        (png(8, 8, more=chunk(b"IEND")), "cannot be"),
        (encode(WIDE)[:-30], "cannot be decoded as PNG"),
        (encode(faded()), "transparent in places"),
        (encode(Image.fromarray(WIDE).convert("P"), transparency=0), "transparent in places"),
        (JPEG_FILE[:-40], "cannot be decoded as JPEG: image file is truncated"),
        (JPEG_FILE[:20] + b"?" + JPEG_FILE[20:], "segments do not follow each other"),
        (b"\xff\xd8" + b"\xff" * 10_100, "more than 10000 segments"),
        (b"\xff\xd8\xff\xda" + bytes(20), "does not say its size"),
        (JPEG_FILE + b"\xff\xda" * 64, "of 65 scans; at most 64"),
        (with_frame(JPEG_FILE, 0xC3), r"SOF3\), such as lossless"),
        (with_frame(JPEG_FILE, 0xC1, b"\0\x11\x0c\0\x0c\0\x10"), "12 bits a channel"),
        (with_frame(JPEG_FILE, 0xC0, b"\0\x11\x08\xff\xff\xff\xff"), "65535 x 65535 pixels"),
        (encode(Image.fromarray(WIDE).convert("CMYK"), "JPEG"), "4 channels, as CMYK has"),
        (turned(), r"turned camera \(EXIF orientation 6\)"),
        (
            encode(Image.fromarray(WIDE), "MPO", save_all=True, append_images=[Image.fromarray(WIDE)]),
            "several pictures",
        ),
        (bytes(pictures.MAX_BYTES + 1), "has 16777217 bytes; at most 16777216"),
    ],
)
def test_a_picture_that_is_unclear_broken_or_too_large_is_refused_in_words(
    data: bytes, said: str, repository: ModelRepository
) -> None:
    with pytest.raises(RequestError, match=f"the picture: .*{said}"):
        repository.get("same").predict_image(data)


def test_a_background_may_be_declared_and_another_size_is_not_guessed() -> None:
    layered = encode(faded())
    spec = ImageSpec(layout="HWC", colour="RGB", resize="none", divide_by=1, background="white")
    image = ImageInput.of(spec, [TensorSpec("x", "UINT8", (12, 16, 3))], batches=True, where="here")
    white = Image.alpha_composite(Image.new("RGBA", (16, 12), "white"), faded()).convert("RGB")
    assert (decode_image(layered, image) == np.asarray(white)).all()
    with pytest.raises(RequestError, match=r"has 12 x 16 pixels .*; the model takes 16 x 12 and resizes none"):
        decode_image(encode(make_pixels(16, 12)), image)


def test_many_pictures_in_one_question_are_bounded(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = repository.get("same")
    assert model.image is not None
    service = InferenceService(repository)

    def ask(count: int) -> Any:
        array = np.empty(count, object)
        array[:] = [encode(WIDE)] * count
        return service.infer("same", InferRequest({"x": array}))

    assert ask(3).outputs["same"].shape == (3, 3, 8, 8)
    assert ask(0).outputs["same"].shape == (0, 3, 8, 8)
    with pytest.raises(RequestError, match="1025 pictures; at most 1024 of this size"):
        ask(1025)
    monkeypatch.setattr("mlaas4hep.serve.images.MAX_QUESTION_PIXELS", 400)
    with pytest.raises(RequestError, match="have 576 pixels together; at most 400"):
        ask(3)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("layout: CHW", "colour, divide_by, resize must be said: it is not guessed"),
        (IMAGENET + "color: RGB", "key 'color' is none of .*; did you mean 'colour'"),
        (IMAGENET + "layout: CHW", "'layout' is given twice"),
        ("- CHW", "is not a mapping of keys such as layout, colour, divide_by"),
        (IMAGENET.replace("CHW", "WHC"), "Invalid enum value 'WHC'"),
        (IMAGENET.replace("CHW", "HWC"), r"layout HWC of RGB, shorter 10 does not fit input 'x' \[-1, 3, 8, 8\]"),
        (IMAGENET.replace("RGB", "gray").replace("[0.485, 0.456, 0.406]", "1"), "std: asked for one number or 1"),
        (IMAGENET.replace("0.229", "0"), "std: asked for numbers that can be divided by"),
        (IMAGENET.replace("fit: crop", ""), "fit: stretch or crop, says how"),
        (IMAGENET.replace("shorter: 10", ""), "shorter goes with fit: crop"),
        (IMAGENET.replace("shorter: 10", "shorter: 7"), "a crop is not larger than the shorter side"),
        (IMAGENET.replace("255", ".nan"), "divide_by: asked for a number such as 255"),
        (IMAGENET + "input: y", "input 'y' is not one of the model's"),
        (IMAGENET + "size: [9, 8]", r"size \[9, 8\], shorter 10 does not fit"),
        ("{layout: HW, colour: RGB, resize: none, divide_by: 1}", "layout HW has no channels"),
    ],
)
def test_a_declaration_that_contradicts_itself_or_the_graph_says_where(
    declared: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=f"image.yaml: (.|\n)*{said}"):
        load_model(write_image_graph(tmp_path / "m", declared=declared))


def test_a_size_that_the_graph_leaves_open_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"say size: \[height, width\]"):
        load_model(write_image_graph(tmp_path / "m", ("n", 3, "h", "w")))
    with pytest.raises(BundleError, match="UINT8, whole numbers: asked for divide_by: 1"):
        load_model(write_image_graph(tmp_path / "k", kind=TensorProto.UINT8))
    with pytest.raises(BundleError, match="'x' is INT64; a picture becomes FP32"):
        load_model(write_image_graph(tmp_path / "l", kind=TensorProto.INT64))


@pytest.mark.parametrize(("key", "shape"), [("img_channels", (1, 12, 16, 1)), ("imgChannels", ("n", 12, 16))])
def test_tfaas_params_say_what_tfaas_does(key: str, shape: tuple[Any, ...], tmp_path: Path) -> None:
    folder = write_image_graph(tmp_path / "m", shape, declared=None, max_batch_size=0)
    (folder / "params.json").write_text(json.dumps({"name": "m", key: 1}))
    gray = make_pixels(12, 16, channels=1)
    (tensor,) = load_model(folder).predict_image(encode(gray))["same"]
    assert (tensor.reshape(12, 16) == gray).all()


@pytest.mark.parametrize("params", ["[", "[]", '{"img_channels": 3}', '{"img_channels": 7}'])
def test_params_that_say_nothing_of_use_take_no_pictures_and_stop_no_model(params: str, tmp_path: Path) -> None:
    folder = write_image_graph(tmp_path / "m", (1, 7), declared=None, max_batch_size=0)
    (folder / "params.json").write_text(params)
    assert load_model(folder).image is None


def test_a_declaration_that_changes_is_seen(tmp_path: Path) -> None:
    write_image_graph(tmp_path / "m", declared=None)
    repository = open_repository(tmp_path)
    assert repository.get("m").image is None
    (tmp_path / "m" / "image.yaml").write_text(IMAGENET)
    repository.refresh()
    assert repository.get("m").predict_image(encode(WIDE))["same"].shape == (1, 3, 8, 8)


SPEC = ImageSpec(layout="CHW", colour="RGB", resize="bilinear", fit="stretch", divide_by=255)
INPUT = ImageInput.of(SPEC, [TensorSpec("x", "FP32", (3, 8, 8))], batches=True, where="here")


@settings(max_examples=60)
@given(
    st.sampled_from([encode(WIDE), JPEG_FILE, FILES["progressive"], FILES["palette"], turned()]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_damaged_picture_is_a_tensor_or_a_refusal(data: bytes, damage: list[tuple[int, bytes]], cut: bool) -> None:
    for place, wrong in damage:
        at = place % len(data)
        data = data[:at] + wrong + data[at + (0 if cut else len(wrong)) :]
    with suppress(RequestError):
        assert decode_image(data, INPUT).shape == (3, 8, 8)


def test_a_model_with_further_inputs_is_asked_by_tensors() -> None:
    model = ServedModel(
        name="two",
        version="1",
        inputs=(TensorSpec("x", "FP32", (3, 8, 8)), TensorSpec("pt", "FP32", (1,))),
        outputs=(TensorSpec("pt", "FP32", (1,)),),
        contract=None,
        batches=True,
        max_rows=8,
        call_s=0.0,
        row_s=0.0,
        execute=lambda tensors: {"pt": tensors["pt"]},
        image=INPUT,
    )
    with pytest.raises(RequestError, match="needs pt beside a picture: send them as tensors to /v2/models/two/infer"):
        model.predict_image(encode(WIDE))
