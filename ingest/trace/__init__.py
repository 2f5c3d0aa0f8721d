"""Tracing: exact attribution graphs, pruning and scores.

`from ingest import trace; trace(atlas, "...", model=..., transcoders=...)` and `ingest.trace.attribute` both work: the
package itself can be called (docs/decisions/0003-callable-trace-package.md).
"""

import sys
from types import ModuleType

from ingest.trace.attribute import attribute
from ingest.trace.graph import FullGraph, NodeOrder
from ingest.trace.influence import graph_influence
from ingest.trace.make import trace_circuit
from ingest.trace.prune import Pruned, prune
from ingest.trace.run import prune_circuit, question, trace
from ingest.trace.scores import scores
from ingest.trace.targets import TargetSpec, parse_targets

__all__ = [
    "FullGraph",
    "NodeOrder",
    "Pruned",
    "TargetSpec",
    "attribute",
    "graph_influence",
    "parse_targets",
    "prune",
    "prune_circuit",
    "question",
    "scores",
    "trace",
    "trace_circuit",
]


class _CallablePackage(ModuleType):
    def __call__(self, *args, **kwargs):
        return trace(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
