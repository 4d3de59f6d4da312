"""What a plain entry's config says beyond its tensors: which versions are served, and what is run before they are.

Both are Triton's: ``version_policy`` and ``model_warmup``. Invariant: an entry whose config asks for what cannot be
done is not served, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BundleError, RequestError
from mlaas4hep.serve.pbtxt import Message
from mlaas4hep.serve.tensors import DTYPES, check_shape, from_bytes

if TYPE_CHECKING:
    from mlaas4hep.serve.model import ServedModel

WARMUP_FOLDER = "warmup"
# Runs of one sample, and numbers of all tensors of it.
MAX_RUNS, MAX_NUMBERS = 1000, 1 << 26
_POLICIES = ("latest", "all", "specific")


def followed(versions: Sequence[int], config: Message, where: str) -> list[int]:
    """Of these versions, those that the config's ``version_policy`` asks for; all where it says nothing.

    Raises
    ------
    BundleError
        It is none of Triton's policies.
    """
    policy = config.get("version_policy", [{}])[-1]
    kinds = [one for one in _POLICIES if isinstance(policy, dict) and one in policy]
    if not kinds and policy == {}:
        return list(versions)
    if len(kinds) != 1 or not isinstance(policy[kinds[0]][-1], dict):
        raise BundleError(f"{where}: version_policy is one of {', '.join(_POLICIES)}, found {policy}")
    said = policy[kinds[0]][-1]
    if kinds == ["latest"]:
        return sorted(versions)[-_count(said, "num_versions", where, least=1) :]
    if kinds == ["specific"]:
        return [one for one in versions if one in said.get("versions", [])]
    return list(versions)


def warm_up(model: ServedModel, config: Message, folder: Path, where: str) -> None:
    """Run what ``model_warmup`` asks for; its files lie in ``warmup`` beside the versions.

    Raises
    ------
    BundleError
        A sample does not fit the model, or its file is not there.
    """
    for number, sample in enumerate(config.get("model_warmup", []), start=1):
        place = f"{where}: model_warmup {number}"
        if not isinstance(sample, dict):
            raise BundleError(f"{place}: asked for inputs, found {sample}")
        rows = _count(sample, "batch_size", place, least=1)
        try:
            inputs = {name: _tensor(one, model, rows, folder, f"{place}: '{name}'") for name, one in _inputs(sample)}
            for _ in range(min(_count(sample, "count", place, least=0) or 1, MAX_RUNS)):
                model.run(inputs)
        except RequestError as error:
            raise BundleError(f"{place}: {error}") from error


def _inputs(sample: Message) -> Iterator[tuple[str, Message]]:
    """A map: entries of key and value in a text, and a mapping in JSON."""
    for one in sample.get("inputs", []):
        pairs = [(one["key"][-1], one["value"])] if "key" in one and "value" in one else one.items()
        for name, values in pairs:
            if not isinstance(values[-1], dict):
                raise RequestError(f"'{name}': asked for data_type, dims and data, found {values[-1]}")
            yield str(name), values[-1]


def _tensor(said: Message, model: ServedModel, rows: int, folder: Path, where: str) -> NDArray[Any]:
    word = str(said.get("data_type", [""])[-1]).removeprefix("TYPE_")
    word = "BYTES" if word == "STRING" else word
    shape = tuple(said.get("dims", []))
    if not all(isinstance(size, int) for size in shape):
        raise RequestError(f"{where}: dims are numbers, found {list(shape)}")
    shape = (rows, *shape) if model.batches else shape
    check_shape(word, shape, where)
    if math.prod(shape) > MAX_NUMBERS:
        raise RequestError(f"{where}: {math.prod(shape)} numbers, and {MAX_NUMBERS} may be")
    if "input_data_file" in said:
        return _from_file(str(said["input_data_file"][-1]), word, shape, folder, where)
    if said.get("random_data", [False])[-1] is True and word != "BYTES":
        random = np.random.default_rng(0)
        dtype = DTYPES[word]
        return (random.random(shape) if dtype.kind == "f" else random.integers(0, 2, shape)).astype(dtype)
    if said.get("random_data", [False])[-1] is True or said.get("zero_data", [False])[-1] is True:
        return np.full(shape, "", object) if word == "BYTES" else np.zeros(shape, DTYPES[word])
    raise RequestError(f"{where}: asked for zero_data, random_data or input_data_file, found none")


def _from_file(name: str, word: str, shape: tuple[int, ...], folder: Path, where: str) -> NDArray[Any]:
    file = folder / WARMUP_FOLDER / name
    if name != file.name or file.is_symlink() or not file.is_file():
        raise RequestError(f"{where}: input_data_file '{name}': asked for a file in {file.parent.name}, found none")
    return from_bytes(memoryview(file.read_bytes()), word, shape, where)


def _count(said: Message, key: str, where: str, *, least: int) -> int:
    value = said.get(key, [least])[-1]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BundleError(f"{where}: {key} is a number from {least}, found '{value}'")
    return value
