"""Files of all formats in one place: how they are told apart, and one config for several."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.draft import draft_config
from mlaas4hep.data.inspect import survey
from mlaas4hep.data.source import formats, list_trees, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import FORMATS, Format, ending, make_events, write_events

TABLES: tuple[Format, ...] = ("parquet", "csv", "json", "avro")


def flat_events(seed: int) -> dict[str, np.ndarray]:
    return {name: one for name, one in make_events(60, seed=seed).items() if not isinstance(one, Jagged)}


@pytest.mark.parametrize("format", TABLES)
def test_a_table_is_opened_by_whatever_name(tmp_path: Path, format: Format) -> None:
    path = str(write_events(tmp_path / f"a{ending(format)}", flat_events(1), format=format))
    assert [one.name for one in list_trees(path)] == ["table"]
    for name in (None, "Events", "table"):
        with open_source(path, name) as source:
            assert (source.tree, source.num_entries) == ("table", 60)


@pytest.mark.parametrize("format", TABLES)
def test_tables_are_surveyed_and_drafted_like_trees(tmp_path: Path, format: Format) -> None:
    for name in ("signal", "background"):
        write_events(tmp_path / f"{name}{ending(format)}", flat_events(len(name)), format=format)
    paths = sorted(str(one) for one in tmp_path.iterdir())
    for tree in (None, "Events"):
        found = survey(paths, tree=tree)
        assert (found.tree, found.entries, found.left_out) == ("table", 120, {})
    draft = draft_config(found)
    config = parse_config(draft)
    assert (config.tree, config.classes) == (None, ("background", "signal"))
    assert "- MET_pt" in draft


def test_samples_of_several_formats_stand_in_one_config(tmp_path: Path) -> None:
    """Whatever their files are, with `tree` and without lists."""
    lines = []
    for seed, format in enumerate(FORMATS):
        path = tmp_path / f"{format}{ending(format)}"
        write_events(path, flat_events(seed), format=format)
        lines.append(f"  {format}: {{files: {path}, label: {'signal' if seed % 2 else 'background'}}}")
    more = "inputs: {event: [MET_pt, genWeight]}\nsplit: {by: [run, luminosityBlock, event]}"
    config = parse_config("tree: Events\nsamples:\n" + "\n".join(lines) + "\n" + more)
    catalogue = Catalogue.open(config)
    with EventDataset(catalogue, Preprocessor(config.features, catalogue.types), shuffle=True) as events:
        batches = list(events)
    assert sum(len(batch) for batch in batches) == 60 * len(FORMATS)
    found = np.sort(np.concatenate([batch.inputs["event"][:, 0] for batch in batches]))
    written = np.concatenate([flat_events(seed)["MET_pt"] for seed in range(len(FORMATS))])
    assert np.array_equal(found, np.sort(written).astype(np.float32))


@pytest.mark.parametrize(
    ("url", "head", "format"),
    [
        ("a.csv", b"root\0\0", "root"),
        ("a", b"PAR1", "parquet"),
        ("a.bin", b"Obj\x01", "avro"),
        ("a", b'{"a": 1}\n', "json"),
        ("a", b' [\n {\n  "a": 1', "json"),
        ("a.gz", gzip.compress(b'{"a": 1}\n', mtime=0), "json"),
        ("a.jsonl.bz2", bz2.compress(b'{"a": 1}\n'), "json"),
        ("https://host/a.CSV.gz?token", gzip.compress(b"a,b\n1,2\n", mtime=0), "csv"),
        ("a.tsv", b"a\tb\n", "csv"),
        ("a.json", b"<html>", None),
        ("a.csv", b"<!DOCTYPE html>", None),
        ("a.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), None),
        ("a.gz", b"\x1f\x8bnonsense", None),
        ("a.txt", b"a,b\n1,2\n", None),
    ],
)
def test_formats_know_their_files(url: str, head: bytes, format: str | None) -> None:
    found = [name for name, one in formats().items() if one.matches(url, head)]
    assert (found[0] if found else None) == format


def test_a_packed_file_without_a_telling_name_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"a,b\n1,2\n", mtime=0))
    with pytest.raises(DataError, match=r"a\.gz: .*a compressed table of text has a name ending in \.csv\.gz"):
        open_source(str(tmp_path / "a.gz"))
