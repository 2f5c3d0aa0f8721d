"""Dialect B0: circuit-tracer before `schema_version` (until 2025-08), and the featured graphs made with it.

`feature` is layer * 100000 + index, or, in some exports, the index alone.
"""

from ingest.formats.dialect import Dialect

DIALECT = Dialect("circuit-tracer-0", encodings=("hundred_thousands", "plain", "cantor"))
