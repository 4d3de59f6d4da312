"""What a conversion did, as it is returned, printed and written beside the model as ``conversion.json``."""

from __future__ import annotations

import msgspec

from mlaas4hep.spec.contract import canonical_json

FILE = "conversion.json"


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a served graph.

    Parameters
    ----------
    name
        Its name.
    datatype
        In the words of the Open Inference Protocol: ``FP32``, ``INT64``, ``BOOL``, ``BYTES``.
    shape
        All dimensions; -1 where any size is taken.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An upload that became a repository entry.

    Parameters
    ----------
    name, version
        Of the entry.
    found
        What the upload was, by its content, such as ``an XGBoost model (JSON)``.
    converter, versions
        Who wrote the graph; versions of the packages that had a part in it.
    inputs, outputs
        Of the served graph.
    contract
        Whether the entry is a bundle, with our contract; else it is a plain ONNX entry.
    batches
        Whether rows of several requests may be joined: each output was the same, bit for bit, alone and among others.
    compared_with
        Whose answers the graph was held against.
    rows
        Rows compared, by sort.
    bar, worst
        Largest difference allowed, and found; absolute, of values above 1 relative.
    upload_sha256, upload_bytes, model_sha256, spec_sha256
        Hashes and size; of the contract only where there is one.
    walls
        What the confined process was behind: ``limits``, ``namespaces``, ``landlock``, ``seccomp``.
    run_bytes
        Memory that loading and running the graph added.
    labels
        Names of the classes, where they were given.
    notes
        What the sender should know.
    """

    name: str
    version: str = ""
    found: str
    converter: str
    versions: dict[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    contract: bool
    batches: bool
    compared_with: str
    rows: dict[str, int]
    bar: float
    worst: float
    upload_sha256: str = ""
    upload_bytes: int = 0
    model_sha256: str = ""
    spec_sha256: str | None = None
    walls: tuple[str, ...] = ()
    run_bytes: int = 0
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self)

    def __str__(self) -> str:
        rows = sum(self.rows.values())
        told = [
            f"{self.found} became {self.name}/{self.version}, {'with' if self.contract else 'without'} a contract",
            f"  by {self.converter} ({', '.join(f'{name} {version}' for name, version in self.versions.items())})",
            f"  takes {_listed(self.inputs)}; gives {_listed(self.outputs)}",
            f"  {rows} rows held against {self.compared_with}: differ by {self.worst:.1e}, allowed {self.bar:.1e}",
            f"  {_JOINED[self.batches]}; model {self.model_sha256[:12]}",
        ]
        return "\n".join([*told, *(f"  note: {note}" for note in self.notes)])


_JOINED = {True: "requests may be joined: equal bits alone and among others", False: "requests are run one by one"}


def _listed(ends: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in ends)
