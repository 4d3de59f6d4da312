"""Files that are one table of events: Parquet, CSV and other delimited text, JSON, Avro.

Each is read by ranges of its own clusters (row groups, rows of text, blocks), never as a whole. Invariant: the type of
a column hangs on the whole file, never on the range that is read (law 6).
"""

from mlaas4hep.data.tables.formats import AvroFormat, DelimitedFormat, JsonFormat, ParquetFormat

__all__ = ["AvroFormat", "DelimitedFormat", "JsonFormat", "ParquetFormat"]
