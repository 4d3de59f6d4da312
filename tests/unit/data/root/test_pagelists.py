"""Page list envelopes, written here after the specification."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.pagelists import PageList, read_page_list

Pages = list[tuple[int, int, int]] | None
"""Elements, bytes and place of each page of a column; None where the column is suppressed."""


def frame(items: Sequence[bytes], extra: bytes = b"") -> bytes:
    body = b"".join(items) + extra
    return struct.pack("<qI", -(12 + len(body)), len(items)) + body


def envelope(clusters: Sequence[tuple[int, int]], columns: Sequence[Sequence[Pages]], kind: int = 3) -> bytes:
    summaries = [struct.pack("<qQQ", 24, first, entries) for first, entries in clusters]
    lists = [frame([column(pages) for pages in one]) for one in columns]
    body = bytes(8) + frame(summaries) + frame(lists)
    whole = struct.pack("<Q", kind | (len(body) + 16) << 16) + body
    return whole + xxhash.xxh3_64_intdigest(whole).to_bytes(8, "little")


def column(pages: Pages) -> bytes:
    if pages is None:
        return frame([], struct.pack("<q", -(2**63)))
    return frame([struct.pack("<iiQ", *page) for page in pages], struct.pack("<qI", 0, 505))


pages = st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1)))
some_clusters = st.lists(
    st.tuples(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**56 - 1)), st.lists(st.none() | pages, max_size=4)),
    max_size=4,
)


@given(some_clusters)
def test_what_was_written_is_read(clusters: list[tuple[tuple[int, int], list[Pages]]]) -> None:
    found = read_page_list(envelope([one[0] for one in clusters], [one[1] for one in clusters]))
    assert list(found.clusters) == [one[0] for one in clusters]
    assert [one.tolist() for one in found.counts] == [
        [-1 if pages is None else len(pages) for pages in one[1]] for one in clusters
    ]
    assert found.pages.tolist() == [page for one in clusters for pages in one[1] for page in pages or []]


WHOLE = envelope([(0, 10), (10, 5)], [[[(-10, 40, 100)], None], [None, [(3, 12, 200), (2, 8, 300)]]])


def forged(at: int, new: bytes) -> bytes:
    """Other bytes, with a checksum that fits."""
    body = WHOLE[:at] + new + WHOLE[at + len(new) : -8]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


@given(st.integers(8, len(WHOLE) - 9), st.binary(min_size=1, max_size=12))
def test_forged_bytes_are_refused_or_lead_nowhere_outside(at: int, new: bytes) -> None:
    bad = forged(at, new[: len(WHOLE) - 8 - at])
    try:
        found: PageList | None = read_page_list(bad)
    except DamageError:
        found = None
    assert found is None or len(found.pages) <= len(WHOLE) // 16


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"", "of 0 bytes"),
        (WHOLE[:-1], "was expected where"),
        (WHOLE[:-1] + b"\0", "checksum"),
        (envelope([], [], kind=2), "of kind 2"),
        (envelope([(0, 10)], []), "0 page lists are there for 1 clusters"),
        (envelope([(0, 10 | 1 << 56)], [[]]), "sharded"),
        (envelope([(0, 10)], [[[(1, -5, 0)]]]), "beyond 2 GB"),
        (forged(16, struct.pack("<q", -(2**62))), "announces 2 items"),
        (forged(24, struct.pack("<I", 2**32 - 1)), "announces 4294967295 items"),
        (forged(28, struct.pack("<q", 3)), "described in 3 bytes"),
    ],
)
def test_what_cannot_be_is_named(bad: bytes, says: str) -> None:
    with pytest.raises(DamageError, match=says):
        read_page_list(bad)
