"""Transcoder sets: one file per on-disk layout; another layout is one more module with `fits` and `load` in `LAYOUTS`."""

from ingest.transcoders.load import LAYOUTS, find_transcoders, load_transcoders
from ingest.transcoders.set import Transcoder, TranscoderSet

__all__ = ["LAYOUTS", "Transcoder", "TranscoderSet", "find_transcoders", "load_transcoders"]
