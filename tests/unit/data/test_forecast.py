"""What a run will cost: counted from the files, measured on a part, with warnings where it will go badly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from mlaas4hep.config import Cache, Config, parse_config
from mlaas4hep.data.cache import require_folder
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.forecast import forecast
from mlaas4hep.data.kept_statistics import StatisticsStore, scan_key
from mlaas4hep.data.pace import FAR_THREADS
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.rows import SIDE_BYTES
from mlaas4hep.data.scan import scan_files
from mlaas4hep.data.source import Weighed, open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import Format, make_events, write_events
from tests.fault_server import fault_server
from tests.unit.data.test_quarantine import break_cluster


def declared(folder: Path, *, window: int = 100, more: str = "") -> Config:
    return parse_config(
        "tree: Events\nsamples: {signal: {files: signal.root}, background: {files: background.root}}\n"
        "inputs: {event: [MET_pt], jets: {vars: [Jet_pt, Jet_eta], length: 3}}\n"
        f"training: {{shuffle_window: {window}{more}}}\n",
        folder=folder,
    )


def written(folder: Path, *, cluster: int = 50, format: Format = "ttree", size: int = 1000) -> Path:
    for seed, name in enumerate(("signal", "background")):
        write_events(folder / f"{name}.root", make_events(size, seed=seed), cluster=cluster, format=format)
    return folder


def test_counts_are_those_of_files_plan_and_declaration(tmp_path: Path) -> None:
    found = forecast(declared(written(tmp_path)))
    assert (found.files, found.remote_files, found.entries, found.width) == (2, 0, 2000, 7)
    assert found.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (found.clusters.count, found.clusters.smallest, found.clusters.median, found.clusters.largest) == (
        40,
        50,
        50,
        50,
    )
    assert (found.order.window, found.order.windows) == (100, 20)
    assert found.order.fewest_clusters >= 4
    assert found.cache_bytes == 2000 * (4 * 7 + SIDE_BYTES)
    assert found.memory.windows == 2 * 100 * (4 * 7 + SIDE_BYTES)
    assert found.measured_entries == 50
    assert found.epoch_seconds > 0


def test_far_files_are_forecast_with_the_line_to_them(tmp_path: Path) -> None:
    config = declared(written(tmp_path, size=20_000, cluster=1000))
    near = forecast(config)
    assert near.network is None
    with fault_server(tmp_path, rtt_s=0.02, mb_per_s=2) as server:
        far = replace(
            config,
            samples={
                name: replace(sample, files=(f"{server.url}/{name}.root",)) for name, sample in config.samples.items()
            },
        )
        found = forecast(far, threads=2)
        assert found.remote_files == 2
        network = found.network
        assert network is not None
        assert network.epoch_bytes == found.stored_bytes == near.stored_bytes
        assert network.threads == found.threads == FAR_THREADS
        assert 1 <= network.measured_clusters <= FAR_THREADS
        assert network.measured_bytes > 0
        assert network.bytes_per_s < 2.2e6, "no faster than the line"
        assert network.epoch_seconds == pytest.approx(network.epoch_bytes / network.bytes_per_s)
        assert found.epoch_seconds == network.epoch_seconds, "the line is what takes longest here"
        mixed = replace(far, samples={**far.samples, "background": config.samples["background"]})
        half = forecast(mixed, threads=2).network
        assert half is not None
        assert half.epoch_bytes == pytest.approx(network.epoch_bytes / 2, rel=0.1)


def test_of_formats_that_tell_no_bytes_the_network_is_taken_from_what_was_read(tmp_path: Path) -> None:
    for seed, name in enumerate(("signal", "background")):
        write_events(tmp_path / f"{name}.avro", {"x": np.arange(3000.0) + seed}, format="avro", cluster=100)
    with fault_server(tmp_path) as server:
        text = f"samples: {{signal: {{files: {server.url}/signal.avro}}, b: {{files: {server.url}/background.avro}}}}\n"
        found = forecast(parse_config(text + "inputs: {event: [x]}\nsplit: {by: [x]}\n"))
    assert found.stored_bytes is None
    assert found.network is not None
    assert found.network.epoch_bytes == found.file_bytes, "small files come whole when they are opened"


def test_targets_of_a_regression_ride_in_the_rows(tmp_path: Path) -> None:
    config = parse_config(
        "samples: {signal: {files: signal.root}}\ninputs: {event: [MET_pt]}\ntargets: {ht: sum(Jet_pt), n: nJet}\n",
        folder=written(tmp_path),
    )
    found = forecast(config)
    assert found.width == 1
    assert found.cache_bytes == 1000 * (4 * 3 + SIDE_BYTES)


@pytest.mark.parametrize("format", ["ttree", "rntuple", "parquet"])
def test_bytes_are_those_of_the_columns_that_are_read(tmp_path: Path, format: Format) -> None:
    folder = written(tmp_path, format=format)
    few = forecast(declared(folder))
    assert few.stored_bytes is not None
    assert few.inflated_bytes is not None
    assert 0 < few.stored_bytes < few.file_bytes
    with open_source(str(folder / "signal.root"), "Events") as source:
        assert isinstance(source, Weighed)
        readable = [name for name, one in source.columns.items() if one.type is not None]
        parts = [source.weigh([name], 0, 1000) for name in readable]
        assert source.weigh(readable, 0, 1000).stored <= sum(one.stored for one in parts)
        assert 4 * 1000 <= source.weigh(["MET_pt"], 0, 1000).inflated <= 8 * 1000
        half = source.weigh(readable, 0, 500).stored
        assert half <= source.weigh(readable, 0, 1000).stored
        assert source.weigh(readable, 0, 0).stored == 0


@pytest.mark.parametrize(
    ("name", "tree"),
    [("ntuples/cms_muons_100k.root", "Events"), ("higgs/Higgs_data.root", "sig_tree")],
)
def test_baskets_that_were_never_flushed_weigh_too(test_data: Path, name: str, tree: str) -> None:
    path = test_data / name
    with open_source(str(path), tree) as source:
        assert isinstance(source, TTreeSource)
        names, entries = list(source.table.plans), source.num_entries
        weight = source.weigh(names, 0, entries)
        embedded = sum(len(basket.data) for branch in source.table.branches.values() for basket in branch.embedded)
        flushed = sum(int(branch.stored.sum()) for branch in source.table.branches.values())
        assert embedded > 0
        assert flushed + embedded / 4 < weight.stored < flushed + embedded
        assert weight.stored < path.stat().st_size
        assert source.weigh(names, entries - 1, entries).stored > source.weigh(names, entries, entries).stored == 0


def test_formats_that_do_not_tell_bytes_are_said_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        pass

    monkeypatch.setattr("mlaas4hep.data.forecast.Weighed", Plain)
    found = forecast(declared(written(tmp_path)))
    assert (found.stored_bytes, found.inflated_bytes, found.weighed_files) == (None, None, 0)


def test_bytes_of_many_files_are_taken_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forecast(declared(written(tmp_path)))
    monkeypatch.setattr("mlaas4hep.data.forecast._MOST_WEIGHED", 1)
    part = forecast(declared(tmp_path))
    assert (part.weighed_files, whole.weighed_files) == (1, 2)
    assert part.stored_bytes == pytest.approx(whole.stored_bytes, rel=0.1)


def test_kept_statistics_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = declared(written(tmp_path))
    assert not forecast(config).statistics_kept
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    key = scan_key(catalogue, preprocessor, duplicates=True)  # as a config asks that says nothing of them
    assert key is not None
    StatisticsStore.of_user().keep(key, scan_files(catalogue, preprocessor), note=pytest.fail)
    assert forecast(config).statistics_kept


def stream_of(config: Config) -> EventDataset:
    catalogue = Catalogue.open(config)
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), shuffle=True, cache=config.cache)


def test_a_cache_is_known_by_what_it_keeps_and_nothing_is_written_to_tell(tmp_path: Path) -> None:
    config = replace(declared(written(tmp_path)), cache=Cache(str(tmp_path / "rows"), "1 GB"))
    found = forecast(config).cache
    assert found is not None
    assert (found.kept_entries, found.lacking_entries, found.lacking_files, found.is_whole) == (0, 2000, 2, False)
    assert not (tmp_path / "rows").exists(), "a plan makes no folder"
    with stream_of(replace(config, samples={"signal": config.samples["signal"]})) as stream:
        assert sum(map(len, stream)) == 1000
    before = sorted(tmp_path.glob("rows/*"))
    half = forecast(config)
    assert half.cache is not None
    assert (half.cache.kept_entries, half.cache.lacking_entries, half.cache.lacking_files) == (1000, 1000, 1)
    assert half.cache.lacking_share == 0.5
    with stream_of(config) as stream:
        assert sum(map(len, stream)) == 2000
        kept = sum(path.stat().st_size for path in tmp_path.glob("rows/[0-9a-f]*.*.*"))
    full = forecast(config)
    assert full.cache is not None
    assert full.cache.is_whole
    assert full.cache.own_bytes >= kept
    assert full.cache.own_bytes <= full.cache.needed_bytes <= 1.05 * full.cache.own_bytes
    assert full.measured_entries == full.cache.measured_entries > 0
    assert full.warnings == half.warnings, "the limit is far"
    assert before == [path for path in sorted(tmp_path.glob("rows/*")) if path in before]


@pytest.mark.parametrize("shuffle", ["window", "exact"])
def test_a_cache_that_is_too_small_says_what_is_enough(tmp_path: Path, shuffle: str) -> None:
    config = replace(declared(written(tmp_path), window=2000), cache=Cache(str(tmp_path / "rows"), "1 GB"))
    config = replace(config, training=replace(config.training, shuffle=shuffle))
    assert not [line for line in forecast(config).warnings if "cache" in line]
    small = replace(config, cache=Cache(str(tmp_path / "rows"), "10 kB"))
    [line] = [line for line in forecast(small).warnings if "cache" in line]
    assert "cache.limit is 10 kB" in line
    assert line.startswith("the run would stop") == (shuffle == "exact")
    enough = re.search(r"([\d.]+ \w+) is enough", line)
    assert enough is not None
    fits = replace(config, cache=Cache(str(tmp_path / "rows"), enough[1]))
    assert not [line for line in forecast(fits).warnings if "cache" in line]
    with stream_of(fits) as stream:
        assert sum(map(len, stream)) == 2000
        assert not stream.not_cached


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = replace(declared(written(tmp_path)), cache=Cache(str(tmp_path / "file" / "rows")))
    found = forecast(config)
    reason = "cannot be written: Not a directory; choose another folder, or leave cache out"
    wanted = f"the run would stop: cache {tmp_path}/file/rows: {reason}"
    assert [line for line in found.warnings if "cache" in line] == [wanted]
    with pytest.raises(DataError, match=reason):
        require_folder(tmp_path / "file" / "rows")


def warnings(folder: Path, **settings: object) -> str:
    return "\n".join(forecast(declared(folder, **settings)).warnings)  # type: ignore[arg-type]


def test_good_files_give_no_warning(tmp_path: Path) -> None:
    assert warnings(written(tmp_path, cluster=1500, size=15_000), window=8000) == ""


def test_one_giant_cluster_is_warned_of(tmp_path: Path) -> None:
    found = warnings(written(tmp_path, cluster=1000), window=100)
    assert "the largest cluster has 1000 entries, more than a window of 100" in found
    assert "sample 'signal' lies in 1 cluster" in found
    assert "entries are read before their window comes" in found


def test_tiny_clusters_are_warned_of_where_larger_ones_can_be_written(tmp_path: Path) -> None:
    found = warnings(written(tmp_path, cluster=500, size=5001), window=2000)
    assert "half of the clusters have 500 entries or fewer" in found
    assert "half of the clusters" not in warnings(written(tmp_path, cluster=500, size=5000), window=2000)


def test_a_window_that_does_not_fit_is_warned_of(tmp_path: Path) -> None:
    found = warnings(written(tmp_path), window=1000, more=", max_memory: 50 kB")
    assert "the run would stop: shuffle_window 1000 needs" in found
    assert "the largest window that fits is 178; max_memory" in found
    enough = re.search(r"max_memory ([\d.]+ \w+) is enough", found)
    assert enough is not None
    assert "the run would stop" not in warnings(tmp_path, window=1000, more=f", max_memory: {enough[1]}")


def test_files_that_cannot_be_used_are_refused_as_by_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        forecast(declared(tmp_path))


def test_what_is_left_out_is_told_and_another_cluster_is_measured(tmp_path: Path) -> None:
    break_cluster(written(tmp_path) / "signal.root", 10)
    (tmp_path / "empty.root").write_bytes(b"")
    text = (
        "samples: {signal: {files: [signal.root, empty.root]}, background: {files: background.root}}\n"
        "inputs: {event: [MET_pt], jets: {vars: [Jet_pt], length: 3}}\non_error: skip\n"
    )
    found = forecast(parse_config(text, folder=tmp_path))
    assert found.measured_entries == 50
    whole, place = found.skipped
    assert (whole.path, whole.tree, whole.sample) == (str(tmp_path / "empty.root"), None, "signal")
    assert (place.path, place.start, place.stop) == (str(tmp_path / "signal.root"), 500, 550)


def test_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = SourcePool.close

    def counted(self: SourcePool) -> None:
        closed.append(1)
        close(self)

    monkeypatch.setattr(SourcePool, "close", counted)
    forecast(declared(written(tmp_path)))
    assert len(closed) >= 2
    assert np.all(np.array(closed) == 1)
