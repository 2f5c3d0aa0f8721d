"""Dialect C: graphs made by Neuronpedia's server: B1 with `info`, `generation_settings` and `pruning_settings`."""

from ingest.formats.dialect import Dialect

DIALECT = Dialect("neuronpedia")
