"""A bundle trained again from what it says of itself, and compared with itself, hash by hash.

The config, the user's own code and the identity of every file stand in the bundle; where the files lie is found out or
told. Invariant: what is compared was trained from nothing but the bundle and the files, with a scan of its own; a
difference of hashes is told with all that is known to differ.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.arguments import require
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.layout import NATIVE_FOLDER
from mlaas4hep.config import Config, parse_config
from mlaas4hep.config.addresses import is_address
from mlaas4hep.config.text import load_yaml
from mlaas4hep.errors import BundleError
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.train.differences import differences, files_differing, spec_differences
from mlaas4hep.train.document import dump
from mlaas4hep.train.origins import Origin
from mlaas4hep.train.provenance import HOOK_SOURCE, MODEL_SOURCE
from mlaas4hep.train.run import train
from mlaas4hep.train.whereabouts import Key, Whereabouts


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What came out.

    Parameters
    ----------
    bundle
        That was replayed.
    spec_sha256, model_sha256
        Of the training that was made again.
    differences
        What is not as it was: files, packages, code, machine; lines for people.
    run
        The new run directory; None where it was not kept.
    """

    bundle: Bundle
    spec_sha256: str
    model_sha256: str
    differences: tuple[str, ...]
    run: Path | None

    @property
    def equal(self) -> bool:
        """Whether contract and model have the hashes that they had."""
        return self.hashes["spec_sha256"][2] and self.hashes["model_sha256"][2]

    @property
    def hashes(self) -> dict[str, tuple[str, str, bool]]:
        """By name: then, now, and whether they are equal."""
        then = {"spec_sha256": self.bundle.spec_sha256, "model_sha256": self.bundle.model_sha256}
        now = {"spec_sha256": self.spec_sha256, "model_sha256": self.model_sha256}
        return {name: (then[name], now[name], then[name] == now[name]) for name in then}


def replay(
    bundle: Bundle,
    *,
    files: Sequence[str] = (),
    output: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Train a bundle's model again, and compare hashes. Runs the code that the bundle brings along.

    Parameters
    ----------
    bundle
        Loaded, so that its files are checked already.
    files
        Where files lie now: folders, or ``OLD=NEW`` for a file or a folder of them, as the bundle names it.
    output
        Folder of the new run; by default it is not kept.
    threads
        That read ahead; changes speed only.
    progress
        Told how far it is.

    Raises
    ------
    BundleError
        The bundle does not say enough of itself.
    DataError
        Files are not found, or cannot be read.
    UserError
        Whatever keeps a training from being made.
    """
    require(bundle, Bundle, "bundle", hint="load_bundle(path) loads one")
    told, record = progress or Silent(), _record(bundle)
    origins = [_origin(one, bundle) for one in record["files"]]
    found = Whereabouts(origins, files, run=_run_of(bundle)).find(progress=told)
    changed = tuple(files_differing(found))
    for line in changed:
        told.note(line)
    for name in _own_code(bundle):
        told.note(f"runs {NATIVE_FOLDER}/{name} of the bundle")
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-replay-") as folder:
        places = {key: one.path for key, one in found.items()}
        config = _config(bundle, record, places, scratch=Path(folder))
        result = train(
            config,
            output=Path(folder) / "run" if output is None else output,
            max_events=record["max_events"],
            threads=threads,
            progress=told,
            unfinished="refuse" if output is None else "restart",
            rescan=True,
        )
        again = load_bundle(result.bundle.path)
        lines = [*changed, *differences(record, again.spec.provenance)]
        if bundle.spec_sha256 != again.spec_sha256:
            lines += spec_differences(bundle.spec, again.spec)
        if bundle.model_sha256 != again.model_sha256:
            lines.append(_scores_differ(bundle, again))
    run = None if output is None else result.path
    return Replay(bundle, again.spec_sha256, again.model_sha256, tuple(lines), run)


def _record(bundle: Bundle) -> Mapping[str, Any]:
    """The provenance; `BundleError` where it is not enough to train again."""
    record = bundle.spec.provenance
    missing = [name for name in ("config", "files", "max_events", "versions") if name not in record]
    if missing:
        raise BundleError(
            f"{bundle.path}: cannot be replayed: its provenance has no {', '.join(missing)}. It was written by an "
            "earlier version, or not by 'mlaas4hep train'"
        )
    return record


def _origin(plain: Mapping[str, Any], bundle: Bundle) -> Origin:
    try:
        return msgspec.convert(plain, Origin)
    except msgspec.ValidationError as error:
        raise BundleError(f"{bundle.path}: its provenance tells a file in a way that is not known: {error}") from error


def _run_of(bundle: Bundle) -> Path | None:
    """The run directory that the bundle lies in, as ``RUN/model/NAME/1``."""
    run = bundle.path.parents[2]
    return run if (run / "config.yaml").is_file() and (run / "metrics.json").is_file() else None


def _own_code(bundle: Bundle) -> Iterator[str]:
    """Files of the user's own code in the bundle."""
    for name in (MODEL_SOURCE, HOOK_SOURCE):
        if f"{NATIVE_FOLDER}/{name}" in bundle.manifest.files:
            yield name


def _config(bundle: Bundle, record: Mapping[str, Any], places: Mapping[Key, str], *, scratch: Path) -> Config:
    """The config with the files where they are now, and the user's code as it is in the bundle."""
    where = f"{bundle.path / 'spec.json'}, provenance.config"
    plain = load_yaml(record["config"], where)
    native = bundle.path / NATIVE_FOLDER
    plain["samples"] = {
        name: {**sample, **_files_of(name, places, record["skipped"], scratch)}
        for name, sample in plain["samples"].items()
        if sample.get("kind") != "data"  # which no training opens
    }
    if isinstance(plain.get("model"), Mapping) and "file" in plain["model"]:
        plain["model"] = {**plain["model"], "file": str(native / MODEL_SOURCE)}
    if "preproc" in plain:
        plain["preproc"] = str(native / HOOK_SOURCE)
    if plain["training"].get("shuffle") == "exact":
        plain["cache"] = str(scratch / "rows")
    return parse_config(dump(plain), where=where)


def _files_of(
    sample: str, places: Mapping[Key, str], skipped: Sequence[Mapping[str, Any]], scratch: Path
) -> dict[str, list[str]]:
    """Files of a sample in their order, those that could not be opened in their gaps; and their friends."""
    own = {index: path for (name, index, number), path in places.items() if name == sample and not number}
    unopened = [one["file"] for one in skipped if one["sample"] == sample and one["tree"] is None]
    gaps = (index for index in itertools.count() if index not in own)
    files = own | dict(zip(gaps, unopened, strict=False))
    friends: dict[int, list[str]] = {}
    for (name, _, number), path in sorted(places.items()):
        if name == sample and number:
            friends.setdefault(number, []).append(path)
    found = {"files": [files[index] for index in sorted(files)]}
    if len(friends) < 2 or len(own) == 1:
        beside = [path for one in friends.values() for path in one]
    else:
        beside = [_gathered(paths, scratch / "friends" / sample / str(number)) for number, paths in friends.items()]
    return found | ({"friends": beside} if beside else {})


def _gathered(paths: Sequence[str], folder: Path) -> str:
    """One friend of several files as one pattern: links in a folder, in the order of the files."""
    folder.mkdir(parents=True)
    for place, path in enumerate(paths):
        if is_address(path):
            raise BundleError(f"{path}: of several friends, only local ones can be replayed: --files OLD=NEW")
        (folder / f"{place:08d}{Path(path).suffix}").symlink_to(path)
    return str(folder / "*")


def _scores_differ(bundle: Bundle, again: Bundle) -> str:
    """How far apart the two models are, by the rows whose scores every manifest keeps."""
    then, now = bundle.manifest.probe, again.manifest.probe
    if {len(row) for row in then} != {len(row) for row in now}:
        return "model: gives another number of scores"
    largest = max(abs(a - b) for old, new in zip(then, now, strict=True) for a, b in zip(old, new, strict=True))
    return f"model: scores of {len(then)} trial rows differ by at most {largest:.1e}"
