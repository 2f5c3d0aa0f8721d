"""The graph projection of the catalog: `GraphStore` over the Bolt protocol, on Neo4j or on the embedded server."""

from atlas.graph.projection import CircuitProjection
from atlas.graph.store import FeatureRow, GraphStore

__all__ = ["CircuitProjection", "FeatureRow", "GraphStore"]
