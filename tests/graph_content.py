"""What a graph store holds, as plain values that two stores or two moments can be compared by."""

from __future__ import annotations

from typing import Any

from atlas import Atlas

QUERIES = {
    "circuits": """MATCH (c:Circuit) RETURN c.id, c.name, c.prompt, c.model, c.set, c.method, c.status, c.verdict,
        c.nodes, c.edges, c.counted, c.created_at, c.created_by""",
    "nodes": """MATCH (c:Circuit)-[:CONTAINS]->(n:Node) RETURN c.id, n.key, n.kind, n.layer, n.position, n.idx, n.token,
        n.activation, n.influence""",
    "edges": """MATCH (a:Node)-[e:ATTRIBUTES]->(b:Node) RETURN a.key, b.key, e.weight, e.share, e.slot, e.straight, e.heads,
        e.head_weights, e.evidence""",
    "features": "MATCH (f:Feature) RETURN f.key, f.model, f.layer, f.idx, f.label, f.label_score, f.circuits",
    "embeddings": "MATCH (f:Feature) WHERE f.embedding IS NOT NULL RETURN f.key, f.embedding[0], size(f.embedding)",
    "occurrences": "MATCH (n:Node)-[:OCCURRENCE_OF]->(f:Feature) RETURN n.key, f.key",
    "influences": """MATCH (a:Feature)-[i:INFLUENCES]->(b:Feature) RETURN a.key, b.key, i.method, i.unit, i.circuits,
        i.prompts, i.mean_share, i.mean_weight, i.positive""",
    "supernodes": "MATCH (c:Circuit)-[:HAS_SUPERNODE]->(s:Supernode)-[:GROUPS]->(n:Node) RETURN c.id, s.name, n.key",
    "concepts": "MATCH (c:Concept)-[:GROUPS]->(f:Feature) RETURN c.name, c.author, f.key",
    "collections": "MATCH (k:Collection) OPTIONAL MATCH (k)-[:HAS]->(c:Circuit) RETURN k.name, k.author, c.id",
    "interventions": """MATCH (i:Intervention)-[:PERTURBED]->(n:Node) RETURN i.key, i.circuit, i.kind, i.mark, i.value,
        i.battery, i.author, i.created_at, i.spearman, n.key""",
    "moved": "MATCH (i:Intervention)-[m:MOVED]->(n:Node) RETURN i.key, n.key, m.predicted, m.actual",
    "all nodes": "MATCH (n) WHERE NOT n:Meta RETURN labels(n)[0], count(*)",
}


def graph_content(atlas: Atlas) -> dict[str, list[tuple[Any, ...]]]:
    """Sorted rows by name; floats rounded, because means taken in another order differ in the last digit."""
    content = {}
    for name, query in QUERIES.items():
        result = atlas.cypher(query, limit=100_000)
        assert not result.truncated
        content[name] = sorted((tuple(_rounded(value) for value in row) for row in result.rows), key=repr)
    return content


def _rounded(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value
