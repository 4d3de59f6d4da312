"""How the table formats know their files.

Parquet and Avro by their first bytes; text by its name, JSON also by how it begins. Readers are imported when a file
is opened. Invariant: what is text for sure but of no known kind is left to the message of `format_of`.
"""

from __future__ import annotations

from mlaas4hep.data.places import Place
from mlaas4hep.data.source import ONLY_TABLE, Source, TreeInfo
from mlaas4hep.data.tables.text import BZIP2, GZIP, text_head

_HEAD_BYTES = 512
_DELIMITED = (".csv", ".tsv", ".psv", ".dat")
_JSON = (".json", ".jsonl", ".ndjson")
_PACKED = (".gz", ".bz2")


class _OneTable:
    """A format whose files are one table."""

    kind: str

    def trees(self, place: Place) -> tuple[TreeInfo, ...]:
        """The one table."""
        return (TreeInfo(ONLY_TABLE, self.kind),)


class ParquetFormat(_OneTable):
    """Apache Parquet."""

    kind = "Parquet"

    def matches(self, url: str, head: bytes) -> bool:
        """True for what begins with ``PAR1``."""
        return head.startswith(b"PAR1")

    def open(self, place: Place, tree: str | None) -> Source:
        """Open the table; needs pyarrow."""
        from mlaas4hep.data.tables.parquet import ParquetSource

        return ParquetSource(place)


class AvroFormat(_OneTable):
    """Apache Avro, object container files."""

    kind = "Avro"

    def matches(self, url: str, head: bytes) -> bool:
        """True for what begins with ``Obj`` and 1."""
        return head.startswith(b"Obj\x01")

    def open(self, place: Place, tree: str | None) -> Source:
        """Open the table."""
        from mlaas4hep.data.tables.avro import AvroSource

        return AvroSource(place)


class JsonFormat(_OneTable):
    """JSON: an object a line, or an array of objects; plain, or compressed by gzip or bzip2."""

    kind = "JSON"

    def matches(self, url: str, head: bytes) -> bool:
        """True for names of JSON, and for text that begins as objects do."""
        text = text_head(head).removeprefix(b"\xef\xbb\xbf").lstrip()
        if _plain_name(url).endswith(_JSON):
            return text.startswith((b"{", b"[")) or head.startswith((GZIP, BZIP2))
        inner = text[1:].lstrip() if text.startswith(b"[") else text
        return inner.startswith(b"{") and inner[1:].lstrip().startswith(b'"')

    def open(self, place: Place, tree: str | None) -> Source:
        """Open the table."""
        from mlaas4hep.data.tables.objects import JsonSource

        return JsonSource(place, _head(place))


class DelimitedFormat(_OneTable):
    """CSV, TSV and the like; plain, or compressed by gzip or bzip2."""

    kind = "CSV"

    def matches(self, url: str, head: bytes) -> bool:
        """True for names ending in .csv, .tsv, .psv or .dat, unless the bytes are no text."""
        if not _plain_name(url).endswith(_DELIMITED):
            return False
        return head.startswith((GZIP, BZIP2)) or not (b"\0" in head or head.lstrip().startswith(b"<"))

    def open(self, place: Place, tree: str | None) -> Source:
        """Open the table."""
        from mlaas4hep.data.tables.delimited import DelimitedSource

        return DelimitedSource(place, _head(place))


def _head(place: Place) -> bytes:
    return bytes(place.read([(0, min(_HEAD_BYTES, place.size))])[0])


def _plain_name(url: str) -> str:
    """The name of a file in small letters, without a query behind it and without the ending of a compressor."""
    name = url.partition("?")[0].lower()
    for ending in _PACKED:
        name = name.removesuffix(ending)
    return name
