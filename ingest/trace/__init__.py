"""Tracing: exact attribution graphs, pruning and scores."""

from ingest.trace.attribute import attribute
from ingest.trace.graph import FullGraph, NodeOrder

__all__ = ["FullGraph", "NodeOrder", "attribute"]
