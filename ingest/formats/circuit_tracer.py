"""Dialect B1: circuit-tracer with `schema_version: 1` (0.2 and newer), written by its command line or a notebook.

`feature` is the Cantor pairing of (layer, index); an error node's id is `0_{layer}_{position}` and collides with a
feature of layer 0; the logits' layer is the number of layers + 1.
"""

from ingest.formats.dialect import Dialect

DIALECT = Dialect("circuit-tracer")
