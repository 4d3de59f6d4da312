"""For tests, ours and those of packages that add a source or a stage: small-file writers and contracts.

Nothing in the package imports this module. Invariant: `write_events` stores the same values and clusters in every
format, so that what is read may be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import Column, Jagged, Nested, kind_of
from mlaas4hep.testing_tables import write_table

if TYPE_CHECKING:
    from mlaas4hep.data.batches import Batch, BatchIterator
    from mlaas4hep.data.places import Place
    from mlaas4hep.data.source import Source

Format = Literal["ttree", "rntuple", "parquet", "csv", "json", "avro"]
ROOT_FORMATS: tuple[Format, ...] = ("ttree", "rntuple")
FORMATS: tuple[Format, ...] = (*ROOT_FORMATS, "parquet", "csv", "json", "avro")


def supports_jagged(format: Format) -> bool:
    """Whether a format can hold lists."""
    return format != "csv"


def ending(format: Format) -> str:
    """How names of files of a format end."""
    return ".root" if format in ROOT_FORMATS else f".{format}"


def write_events(
    path: str | Path,
    columns: Mapping[str, Column | Sequence[Any]],
    *,
    tree: str = "Events",
    format: Format = "ttree",
    cluster: int = 100,
    append: bool = False,
    extra: Mapping[str, Mapping[str, Column | Sequence[Any]]] | None = None,
) -> Path:
    """Write a small file.

    Parameters
    ----------
    path
        Where to.
    columns
        Arrays or lists [N], `Jagged` or lists of lists. Lists of a collection (``Jet_pt``) share the counter
        ``nJet``.
    tree
        Name of the TTree or RNTuple; other formats name none.
    format
        One of `FORMATS`. CSV holds no lists.
    cluster
        Entries a cluster; the last one may be smaller. CSV and JSON have none of their own, see
        `mlaas4hep.testing_tables.text_clusters`.
    append
        Add the tree to an existing file; ROOT alone.
    extra
        Further trees of the same file, by name, each in one cluster; ROOT alone.

    Returns
    -------
    The path.
    """
    target = Path(path)
    if format not in ROOT_FORMATS:
        if append or extra:
            raise ValueError(f"a {format} file is one table: append and extra are for ROOT files")
        write_table(target, {name: _as_column(column) for name, column in columns.items()}, format, cluster)
        return target
    import uproot

    with (uproot.update if append else uproot.recreate)(target) as file:
        _write_tree(file, tree, columns, format, cluster)
        for name, more in (extra or {}).items():
            _write_tree(file, name, more, format, max(len(next(iter(more.values()))), 1))
    return target


def _write_tree(
    file: Any, tree: str, columns: Mapping[str, Column | Sequence[Any]], format: Format, cluster: int
) -> None:
    arrays = {name: _as_column(column) for name, column in columns.items()}
    types = {name: _written_type(column) for name, column in arrays.items()}
    counters = {f"n{name.partition('_')[0]}": one for name, one in arrays.items() if isinstance(one, Jagged)}
    if format == "ttree":
        made = file.mktree(tree, types, counter_name=lambda counted: f"n{counted.partition('_')[0]}")
    else:
        made = file.mkrntuple(tree, {**types, **{name: np.dtype("int32") for name in counters}})
    length = len(next(iter(arrays.values())))
    for start in range(0, length, cluster):
        part = {name: one[start : start + cluster] for name, one in arrays.items()}
        counts = {name: one[start : start + cluster].counts.astype(np.int32) for name, one in counters.items()}
        made.extend({**{name: _to_written(one) for name, one in part.items()}, **counts})


def _as_column(column: Column | Sequence[Any]) -> Column:
    if isinstance(column, Jagged | Nested | np.ndarray):
        return column
    if column and isinstance(column[0], list | tuple):
        return Jagged.from_lists(column)
    return np.asarray(column)


def _written_type(column: Column) -> Any:
    return f"var * {column.dtype.name}" if isinstance(column, Jagged) else column.dtype


def _to_written(column: Column) -> Any:
    if not isinstance(column, Jagged):
        return column
    import awkward as ak

    values = ak.contents.NumpyArray(column.values)
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(column.offsets), values))


def make_events(num_entries: int, *, seed: int = 0, run: int = 1) -> dict[str, Column]:
    """Columns that look like a NanoAOD file in small: identity, weight, MET, jets; all values drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3.0, num_entries)
    total = int(counts.sum())
    return {
        "run": np.full(num_entries, run, dtype=np.uint32),
        "luminosityBlock": np.arange(num_entries, dtype=np.uint32) // 100 + 1,
        "event": np.arange(num_entries, dtype=np.uint64) + np.uint64(1_000_000 * seed),
        "genWeight": rng.normal(1.0, 0.1, num_entries).astype(np.float32),
        "MET_pt": rng.exponential(40.0, num_entries).astype(np.float32),
        "Jet_pt": Jagged.from_counts(counts, rng.exponential(60.0, total).astype(np.float32)),
        "Jet_eta": Jagged.from_counts(counts, rng.normal(0.0, 1.5, total).astype(np.float32)),
    }


def same_column(one: Column, other: Column) -> bool:
    """True where two columns have the same type, the same lists and the same bits."""
    if isinstance(one, Jagged) and isinstance(other, Jagged):
        return np.array_equal(one.offsets, other.offsets) and same_bits(one.values, other.values)
    if isinstance(one, Nested) and isinstance(other, Nested):
        return np.array_equal(one.offsets, other.offsets) and same_column(one.inner, other.inner)
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and same_bits(one, other)


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """True where two arrays have the same type, shape and bytes: NaN equals NaN, -0 does not equal 0."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def same_batch(one: Batch, other: Batch) -> bool:
    """True where two batches have the same bits in inputs, labels, weights, entries and targets."""
    targets = [batch.targets for batch in (one, other) if batch.targets is not None]
    return (
        len(targets) != 1
        and all(same_bits(targets[0], each) for each in targets)
        and list(one.inputs) == list(other.inputs)
        and all(same_bits(one.inputs[name], other.inputs[name]) for name in one.inputs)
        and same_bits(one.labels, other.labels)
        and same_bits(one.weights, other.weights)
        and np.array_equal(one.entries, other.entries)
    )


def assert_resumable(make: Callable[[], BatchIterator[Batch]], *, stops: Sequence[int]) -> None:
    """Stop anywhere, resume, get the same rest (law 3).

    Parameters
    ----------
    make
        Builds the iterator from its beginning; called twice for each stop.
    stops
        After how many batches to stop.
    """
    for stop in stops:
        with make() as first, make() as second:
            for _ in islice(first, stop):
                pass
            state = first.state_dict()
            rest = list(first)
            second.load_state_dict(state)
            resumed = list(second)
        assert len(rest) == len(resumed), f"stopped after {stop}: {len(rest)} batches against {len(resumed)}"
        assert all(map(same_batch, rest, resumed)), f"stopped after {stop}: another rest"


class SourceContract:
    """Rules that every `Source` keeps. Subclass it and give the fixture ``source`` and ``expected``.

    ``source`` is an open source with at least one flat column, one jagged one and three clusters; ``expected`` holds
    all its readable columns as they were written.
    """

    def ranges(self, source: Source) -> Iterator[tuple[int, int]]:
        """Entry ranges that have gone wrong before: whole, empty, aligned, across clusters, single."""
        middle = int(source.clusters[1])
        yield from ((0, source.num_entries), (0, 0), (0, middle), (middle - 1, middle + 2))
        yield from ((source.num_entries - 1, source.num_entries), (source.num_entries, source.num_entries))

    def test_it_is_a_source(self, source: Source) -> None:
        """Has all attributes of the protocol."""
        from mlaas4hep.data.source import Source as Protocol

        assert isinstance(source, Protocol)

    def test_clusters_rise_from_zero_to_the_number_of_entries(self, source: Source) -> None:
        """They cover the file without gaps."""
        assert source.clusters.dtype == np.int64
        assert source.clusters[0] == 0
        assert source.clusters[-1] == source.num_entries
        assert np.all(np.diff(source.clusters) > 0)

    def test_any_range_gives_the_written_events(self, source: Source, expected: Mapping[str, Column]) -> None:
        """In whatever order ranges are asked for."""
        for start, stop in [*self.ranges(source), *reversed(list(self.ranges(source)))]:
            read = source.read(list(expected), start, stop)
            assert list(read) == list(expected)
            for name, column in expected.items():
                assert same_column(read[name], column[start:stop]), (name, start, stop)

    def test_types_say_what_is_read(self, source: Source, expected: Mapping[str, Column]) -> None:
        """Kind and declared type fit the arrays."""
        from mlaas4hep.spec.columns import declared_dtype

        for name, column in expected.items():
            info = source.columns[name]
            assert info.type is not None
            assert info.type.kind == kind_of(column)
            assert info.type.dtype == declared_dtype(column.dtype)

    def test_an_unknown_column_is_refused_with_the_nearest_name(
        self, source: Source, expected: Mapping[str, Column]
    ) -> None:
        """The message says what was asked, where, and what comes close."""
        name = next(iter(expected))
        message = refusal(lambda: source.read([f"{name}x"], 0, 1))
        assert f"'{name}x'" in message
        assert f"'{name}'" in message
        assert source.path in message
        assert source.tree in message

    def test_a_range_outside_the_file_is_refused(self, source: Source, expected: Mapping[str, Column]) -> None:
        """Never shorter arrays than asked for."""
        names = list(expected)[:1]
        for start, stop in ((0, source.num_entries + 1), (-1, 1), (2, 1)):
            assert str(source.num_entries) in refusal(lambda a=start, b=stop: source.read(names, a, b))  # type: ignore[misc]


class PlaceContract:
    """Rules that every `Place` keeps. Subclass it and give the fixtures ``address``, ``content`` and ``rewrite``.

    ``address`` names a file that holds ``content``, of at least 1,000 bytes; ``rewrite`` puts other content there.
    """

    def place(self, address: str) -> Place:
        """Open it as everybody does."""
        from mlaas4hep.data.places import open_place

        return open_place(address)

    def test_it_is_a_place_of_the_size_of_its_content(self, address: str, content: bytes) -> None:
        """And gives all of it."""
        from mlaas4hep.data.places import Place as Protocol

        place = self.place(address)
        assert isinstance(place, Protocol)
        assert place.size == len(content)
        assert bytes(place.read([(0, len(content))])[0]) == content
        place.close()

    def test_ranges_come_in_the_order_asked_for(self, address: str, content: bytes) -> None:
        """Overlapping ones, empty ones, single bytes at both ends, many and far apart."""
        size, place = len(content), self.place(address)
        step = max(size // 50, 1)
        many = [(at, min(at + step // 2 + 1, size)) for at in range(0, size, step)]
        odd = [(size - 1, size), (5, 5), (3, 700), (0, 1), (10, 20), (3, 700), (size, size)]
        for ranges in (odd, many, many[::-1], [(0, size), (1, 2)], []):
            assert [bytes(one) for one in place.read(ranges)] == [content[start:stop] for start, stop in ranges]
        place.close()

    def test_ranges_outside_the_file_are_refused(self, address: str, content: bytes) -> None:
        """Never fewer bytes than asked for."""
        size, place = len(content), self.place(address)
        for one in ((0, size + 1), (size, size + 10), (size + 5, size + 10)):
            assert str(one[1]) in refusal(lambda one=one: place.read([(0, 1), one]))  # type: ignore[misc]
        place.close()

    def test_threads_may_share_it(self, address: str, content: bytes) -> None:
        """Each gets its own bytes."""
        from concurrent.futures import ThreadPoolExecutor

        size, place = len(content), self.place(address)
        ranges = [(at * size // 40, (at + 3) * size // 40) for at in range(37)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda one: bytes(place.read([one])[0]), ranges))
        assert found == [content[start:stop] for start, stop in ranges]
        place.close()

    def test_a_closed_place_reads_no_more(self, address: str) -> None:
        """An error, not old bytes."""
        place = self.place(address)
        place.read([(0, 10)])
        place.close()
        place.close()
        assert "closed" in refusal(lambda: place.read([(0, 10)]))

    def test_its_identity_changes_with_the_content(
        self, address: str, content: bytes, rewrite: Callable[[bytes], None]
    ) -> None:
        """And only then."""
        first, again = self.place(address), self.place(address)
        assert first.identity == again.identity
        rewrite(content[::-1] + b"more")
        changed = self.place(address)
        assert changed.identity != first.identity
        for one in (first, again, changed):
            one.close()
        rewrite(content)

    def test_a_file_that_is_not_there_is_refused_by_its_address(self, address: str) -> None:
        """At once, in words."""
        assert f"{address}-missing" in refusal(lambda: self.place(f"{address}-missing"))

    def test_as_a_file_it_reads_like_any_other(self, address: str, content: bytes) -> None:
        """Seeking from everywhere included."""
        import io

        from mlaas4hep.data.places.file import PlaceFile, buffered

        place = self.place(address)
        with buffered(place, block_bytes=4096) as file:
            assert file.read() == content
            file.seek(-7, io.SEEK_END)
            assert file.read(100) == content[-7:]
        assert PlaceFile(place).read(5) == content[:5]
        place.close()


def refusal(act: Callable[[], object]) -> str:
    """Message of the `DataError` that ``act`` raises; fails where it raises none."""
    from mlaas4hep.errors import DataError

    try:
        act()
    except DataError as error:
        return str(error)
    raise AssertionError("was not refused")
