"""The conversion itself, as it runs in the confined process: from an upload to an entry in a folder, or an error.

Invariant: what is written here was compared with the framework and with itself in other batches, and keeps to the list
of operators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.layout import CONFIG_FILE, MODEL_FILE, SPEC_FILE, triton_config
from mlaas4hep.convert import runtime
from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.made import SCORE_BAR, Asked, Made, Rows, versions_of
from mlaas4hep.convert.operators import Operators, check_graph
from mlaas4hep.convert.params import read_labels, read_params
from mlaas4hep.convert.plain import canonical_plain
from mlaas4hep.convert.recognise import PARAMS, SETTINGS, SPEC, TITLES, Found, recognise
from mlaas4hep.convert.result import Conversion, Tensor
from mlaas4hep.errors import BundleError, ParityError, UploadError
from mlaas4hep.graph.core import FLAT_INPUT, Core
from mlaas4hep.graph.invariance import find_variance, probe_rows
from mlaas4hep.graph.merge import oldest_ir
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import Scaler

ENTRY, UPLOAD, INSIDE, SCRATCH = "entry", "upload", "inside", "tmp"
_SAMPLES = 64


class Job(msgspec.Struct, frozen=True):
    """What the confined process is told.

    Parameters
    ----------
    folder
        Holds ``upload``; everything is written below it.
    name
        Of the entry; empty takes it from what came.
    beside
        ``spec.json``, ``params.json``, ``settings.json``, ``labels.txt``: what was sent with the model.
    """

    folder: str
    name: str
    beside: dict[str, bytes]
    limits: Limits
    operators: Operators


def work(job: Job) -> Conversion:
    """Convert; the entry stands below ``folder/entry`` afterwards, as a bundle or as loose files.

    Raises
    ------
    UploadError, ModelError, BundleError, ParityError, MissingExtraError
        The upload is refused.
    """
    folder = Path(job.folder)
    found = recognise(folder / UPLOAD, folder / INSIDE, job.limits)
    beside = {**found.beside, **job.beside}
    asked = _asked(beside)
    name = job.name or (asked.spec.name if asked.spec else "") or asked.params.name or found.name
    if asked.spec is not None and name and name != asked.spec.name:
        asked = Asked(msgspec.structs.replace(asked.spec, name=name), asked.params)
    if found.kind == "bundle":
        done = _sealed_bundle(found, job, name)
    else:
        before = _resident()
        made = _made(found, asked, beside, job, folder)
        if found.kind != "onnx":  # the framework's own memory is not the model's
            before = _resident()
        done = _bundle(made, asked.spec, folder, job) if asked.spec else _plain(made, name, folder, job, before)
    _keep(beside, done, folder)
    return msgspec.structs.replace(done, found=TITLES[found.kind], labels=read_labels(_labels(beside)))


def _keep(beside: Mapping[str, bytes], done: Conversion, folder: Path) -> None:
    """TFaaS's description stays beside a plain model, as it came."""
    if PARAMS in beside and not done.contract:
        (folder / ENTRY / PARAMS).write_bytes(beside[PARAMS])


def _asked(beside: Mapping[str, bytes]) -> Asked:
    spec = ModelSpec.from_json(beside[SPEC]) if SPEC in beside else None
    return Asked(spec, read_params(beside.get(PARAMS)))


def _labels(beside: Mapping[str, bytes]) -> bytes | None:
    return next((data for name, data in beside.items() if name.startswith("labels")), None)


def _made(found: Found, asked: Asked, beside: Mapping[str, bytes], job: Job, folder: Path) -> Made:
    """By the converter of its kind; each imports what it needs."""
    path = found.path
    if found.kind == "onnx":
        return _onnx(path.read_bytes(), asked, job)
    if found.kind in ("keras", "keras_h5"):
        from mlaas4hep.convert.keras import convert_keras

        return convert_keras(path, asked, job.limits, hdf5=found.kind == "keras_h5", folder=folder / SCRATCH)
    if found.kind in ("xgboost_json", "xgboost_ubj"):
        from mlaas4hep.convert.trees import convert_xgboost

        return convert_xgboost(path.read_bytes(), asked, ubj=found.kind == "xgboost_ubj")
    if found.kind == "lightgbm":
        from mlaas4hep.convert.trees import convert_lightgbm

        return convert_lightgbm(path.read_bytes(), asked)
    if found.kind == "skops":
        from mlaas4hep.convert.sklearn import convert_skops

        return convert_skops(path, asked)
    if found.kind in ("saved_model", "frozen_graph"):
        return _tensorflow(found, asked)
    from mlaas4hep.convert import native

    if found.kind == "native":
        return native.convert_native(path, asked)
    return native.convert_safetensors(path.read_bytes(), asked, beside.get(SETTINGS))


def _tensorflow(found: Found, asked: Asked) -> Made:
    from mlaas4hep.convert import tensorflow

    if asked.spec is not None:
        raise UploadError("a model of TensorFlow is taken as a plain entry; send it without spec.json, or as Keras 3")
    if found.kind == "frozen_graph":
        return tensorflow.convert_frozen(found.path, asked)
    if not (found.path / "variables").is_dir():
        raise UploadError("a SavedModel is a folder with saved_model.pb and variables/; send it as tar.gz or zip")
    return tensorflow.convert_saved_model(found.path, asked)


def _onnx(data: bytes, asked: Asked, job: Job) -> Made:
    """The graph as it came, against itself: what has to be shown is that its canonical form computes the same."""
    model = check_graph(data, job.operators, most=job.limits.model_bytes)
    opsets = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    model.ir_version = min(model.ir_version, oldest_ir(max(opsets, default=1)))  # ONNX writes newer ones than are read
    plain = model.SerializeToString()
    common: dict[str, Any] = {
        "framework": "the uploaded graph",
        "converter": "canonical form",
        "versions": versions_of("onnx", "onnxruntime"),
    }
    if asked.spec is None:
        return Made(model=plain, reference=runtime.Graph(plain).run, bar=0.0, **common)
    graph = runtime.Graph(plain)
    inputs = [end.name for end in model.graph.input if end.name in {one.name for one in graph.inputs}]
    groups = {one.name for one in asked.spec.scaling}
    flat = len(inputs) == 1 and inputs[0] not in groups
    if flat:
        _rename(model, inputs[0], FLAT_INPUT)
    scores = len(asked.spec.score_names)
    sizes = [end.shape[-1] if len(end.shape) == 2 else 1 for end in graph.outputs[:1]]
    columns = (1,) if scores == 1 and sizes == [2] else tuple(range(scores))
    core = Core(model.SerializeToString(), "flat" if flat else "groups", "impute", graph.outputs[0].name, columns)
    scaler = Scaler(asked.spec.scaling)

    def reference(tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        given = {inputs[0]: scaler.flat(tensors)} if flat else _groups(scaler, tensors, graph)
        found = graph.run(given)[graph.outputs[0].name]
        return found.reshape(len(found), -1)[:, list(columns)]

    notes = ("the graph is given scaled inputs, 0 where a value is missing, as spec.json says",)
    return Made(core=core, core_reference=reference, notes=notes, **common)


def _groups(scaler: Scaler, tensors: Mapping[str, NDArray[Any]], graph: runtime.Graph) -> dict[str, NDArray[Any]]:
    given = {**scaler.tensors(tensors), **{f"{name}_mask": mask for name, mask in scaler.masks(tensors).items()}}
    return {
        end.name: given[end.name].astype(runtime.dtype_of(end.datatype)) for end in graph.inputs if end.name in given
    }


def _rename(model: Any, old: str, new: str) -> None:
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = new if name == old else name
    for end in graph.input:
        end.name = new if end.name == old else end.name


def _plain(made: Made, name: str, folder: Path, job: Job, before: int) -> Conversion:
    """A plain entry: a canonical graph, held against the framework."""
    if made.reference is None:
        raise UploadError(f"{made.framework}'s model needs a contract: send spec.json with it")
    data = canonical_plain(check_graph(made.model, job.operators, most=job.limits.model_bytes))
    check_graph(data, job.operators, most=job.limits.model_bytes)
    graph = runtime.Graph(data)
    rows = made.rows or _samples(graph)
    wanted = [made.reference(one.inputs) for one in rows]
    bar = min(made.bar, SCORE_BAR) if runtime.are_scores(wanted[0]) else made.bar
    worst = 0.0
    for one, asked in zip(rows, wanted, strict=True):
        difference = runtime.largest_difference(graph.run(one.inputs), asked)
        runtime.require_close(difference, bar * one.stretch, one.sort, framework=made.framework)
        worst = max(worst, difference / one.stretch)
    inputs = {key: array[:_SAMPLES] for key, array in rows[0].inputs.items()}
    batches = runtime.joins_rows(data, graph, inputs)
    used = _resident() - before
    _require_memory(used, job.limits)
    outputs = _as_run(graph, inputs)
    entry = folder / ENTRY
    entry.mkdir()
    (entry / MODEL_FILE).write_bytes(data)
    return Conversion(
        name=name,
        found="",
        converter=made.converter,
        versions=made.versions,
        inputs=graph.inputs,
        outputs=outputs,
        contract=False,
        batches=batches,
        compared_with=made.framework,
        rows={one.sort: len(next(iter(one.inputs.values()), ())) for one in rows},
        bar=bar,
        worst=worst,
        model_sha256=hashlib.sha256(data).hexdigest(),
        run_bytes=used,
        notes=made.notes,
    )


def _samples(graph: runtime.Graph) -> tuple[Rows, ...]:
    """Samples that follow from declared inputs: random, large, zero, NaN where they are floating."""
    free = runtime.free_size(graph)
    count = _SAMPLES if all(end.shape[:1] == (-1,) for end in graph.inputs) and _light(graph, free) else 2
    usual = runtime.sample(graph.inputs, count, free=free)
    floating = [end.name for end in graph.inputs if end.datatype.startswith("FP")]
    large, zero, holes = ({name: array.copy() for name, array in usual.items()} for _ in range(3))
    for name in floating:
        large[name] *= 30
        zero[name][...] = 0
        holes[name].reshape(-1)[::3] = np.nan
    sorts = (Rows("random", usual), Rows("thirty times larger", large, 30.0), Rows("zero", zero))
    return (*sorts, Rows("with NaN", holes)) if floating else sorts


def _light(graph: runtime.Graph, free: int) -> bool:
    """Whether a row is small enough that many of them are cheap."""
    one = runtime.sample(graph.inputs, 1, free=free)
    return sum(array.size for array in one.values()) <= 1 << 16


def _as_run(graph: runtime.Graph, inputs: Mapping[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    """Outputs with as many dimensions as they have; a graph need not declare them."""
    found = graph.run(inputs)
    return tuple(
        end if len(end.shape) == found[end.name].ndim else Tensor(end.name, end.datatype, (-1,) * found[end.name].ndim)
        for end in graph.outputs
    )


def _resident() -> int:
    """Most bytes of memory that this process held so far.

    As told of the program that runs now: ``getrusage`` counts the process that started it, too, which may be a server
    with many models; then nothing would ever seem to need more.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _require_memory(used: int, limits: Limits) -> None:
    if used > limits.run_bytes:
        raise UploadError(
            f"running the model on samples takes {used >> 20} MiB; at most {limits.run_bytes >> 20} are given"
        )


def _bundle(made: Made, spec: ModelSpec, folder: Path, job: Job) -> Conversion:
    """A bundle, through the same gate as those that a training writes."""
    from mlaas4hep.bundle.write import write_bundle

    if made.core is None or made.core_reference is None:
        raise UploadError(f"{made.framework}'s model cannot be joined with a contract; send it without spec.json")
    before = _resident()
    bundle = write_bundle(
        folder / ENTRY,
        spec=spec,
        core=made.core,
        reference=made.core_reference,
        rows={name: array[:0] for name, array in probe_rows(spec.scaling, 1).items()},  # there are no real ones
    )
    return _of_bundle(bundle, made, job, used=_resident() - before)


def _of_bundle(bundle: Bundle, made: Made, job: Job, *, used: int) -> Conversion:
    check_graph(bundle.model(), job.operators, most=job.limits.model_bytes)
    _require_memory(used, job.limits)
    graph = runtime.Graph(bundle.model())
    return Conversion(
        name=bundle.name,
        found="",
        converter=made.converter,
        versions=made.versions,
        inputs=graph.inputs,
        outputs=graph.outputs,
        contract=True,
        batches=True,
        compared_with=made.framework,
        rows=bundle.manifest.parity.rows,
        bar=bundle.manifest.parity.bar,
        worst=bundle.manifest.parity.worst,
        model_sha256=bundle.model_sha256,
        spec_sha256=bundle.spec_sha256,
        run_bytes=used,
        notes=made.notes,
    )


def _sealed_bundle(found: Found, job: Job, name: str) -> Conversion:
    """A bundle that was written elsewhere: its seal, its graph, and law 11 on this machine."""
    goal = job.folder + f"/{ENTRY}/" + "bundle/1"
    Path(goal).parent.mkdir(parents=True)
    found.path.rename(goal)
    version = Path(goal)
    if (found.path.parent / CONFIG_FILE).is_file():
        (found.path.parent / CONFIG_FILE).rename(version.parent / CONFIG_FILE)
    elif (version / SPEC_FILE).is_file():
        (version.parent / CONFIG_FILE).write_bytes(
            triton_config(ModelSpec.from_json((version / SPEC_FILE).read_bytes()))
        )
    bundle = load_bundle(version)
    if name not in ("", bundle.name) and job.name:
        raise BundleError(f"the bundle is sealed as model '{bundle.name}'; it cannot be called '{name}'")
    for one in bundle.manifest.files:
        if one.endswith(".onnx"):  # models of folds may be asked, too
            check_graph((version / one).read_bytes(), job.operators, most=job.limits.model_bytes)
    before = _resident()
    rows = probe_rows(bundle.spec.scaling, 512)
    changed = find_variance(bundle.model(), rows, most=bundle.max_batch)
    if changed:
        raise ParityError(f"the bundle breaks batch invariance on this machine: {changed[0]}; nothing was written")
    probe = bundle.predict({key: array[: len(bundle.manifest.probe)] for key, array in rows.items()})
    worst = runtime.largest_difference({"scores": probe}, {"scores": np.array(bundle.manifest.probe, np.float32)})
    runtime.require_close(worst, 10 * SCORE_BAR, "probe", framework="the machine that wrote the bundle")
    made = Made(framework="the machine that wrote it", converter="taken as it is", versions=versions_of("mlaas4hep"))
    done = _of_bundle(bundle, made, job, used=_resident() - before)
    return msgspec.structs.replace(done, rows={"probe": len(probe)}, worst=worst, bar=10 * SCORE_BAR)
