"""Every statement that is sent to a graph server, by name. The same text runs on Neo4j and on the embedded server.

Values are always parameters. Nothing here uses what the servers do differently (see dialect.py): vector functions, element
ids, lists of mixed types, GQL path selectors. What is deleted is collected first: the embedded server loses its place
when relationships are deleted while it walks along them.
"""

from __future__ import annotations

SCHEMA_VERSION = 2  # 2: every ATTRIBUTES says its evidence
BEING_CLEARED = 0  # as schema version in (:Meta) from the first to the last write of `clear`
LABELS = (
    "Circuit", "Node", "Feature", "Component", "Concept", "Supernode", "Collection", "Intervention", "Meta",
)  # fmt: skip
RELATIONSHIPS = (
    "CONTAINS", "ATTRIBUTES", "OCCURRENCE_OF", "INFLUENCES", "GROUPS", "HAS_SUPERNODE", "HAS", "PERTURBED", "MOVED",
)  # fmt: skip
VECTOR_INDEX = "feature_embedding"
FULL_TEXT_INDEX = "feature_label"

CONSTRAINTS = (
    "CREATE CONSTRAINT circuit_id IF NOT EXISTS FOR (n:Circuit) REQUIRE n.id IS UNIQUE",
    "CREATE CONSTRAINT node_key IF NOT EXISTS FOR (n:Node) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT feature_key IF NOT EXISTS FOR (n:Feature) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT component_key IF NOT EXISTS FOR (n:Component) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT concept_key IF NOT EXISTS FOR (n:Concept) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT supernode_key IF NOT EXISTS FOR (n:Supernode) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT collection_name IF NOT EXISTS FOR (n:Collection) REQUIRE n.name IS UNIQUE",
    "CREATE CONSTRAINT intervention_key IF NOT EXISTS FOR (n:Intervention) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT meta_key IF NOT EXISTS FOR (n:Meta) REQUIRE n.key IS UNIQUE",
)

PING = "RETURN 1 AS one"
COMPONENTS = "CALL dbms.components() YIELD name, versions RETURN name, versions"
META = """
MATCH (m:Meta {key: 'atlas'})
RETURN m.schema AS schema, m.encoder AS encoder, m.dimension AS dimension, m.catalog AS catalog
"""
ANY_NODE = "MATCH (n) RETURN labels(n) AS labels LIMIT 1"
PUT_META = """
MERGE (m:Meta {key: 'atlas'})
SET m.schema = $schema, m.encoder = $encoder, m.dimension = $dimension, m.written_at = $now,
    m.catalog = coalesce(m.catalog, $catalog)
"""
ADOPT = "MATCH (m:Meta {key: 'atlas'}) SET m.catalog = coalesce(m.catalog, $catalog)"
TAKE_OVER = "MATCH (m:Meta {key: 'atlas'}) SET m.catalog = $catalog"
MARK_META = "MATCH (m:Meta) SET m.schema = $schema"
DELETE_META = "MATCH (m:Meta) DELETE m"

# A circuit, in the order of its rows. `loaded` and `aggregated` count the rows that are in (see projection.py).
MAKE_CIRCUIT = """
MERGE (c:Circuit {id: $id})
ON CREATE SET c += $properties, c.status = 'loading', c.loaded = 0, c.aggregated = 0
SET c.writer = $writer
"""
LOCK_CIRCUIT = "MATCH (c:Circuit {id: $id}) SET c.writer = $writer"
CIRCUIT_PROGRESS = """
MATCH (c:Circuit {id: $id}) RETURN c.status AS status, c.loaded AS loaded, c.aggregated AS aggregated, c.method AS method, c.unit AS unit
"""
SET_LOADED = "MATCH (c:Circuit {id: $id}) SET c.loaded = $to"
SET_AGGREGATED = "MATCH (c:Circuit {id: $id}) SET c.aggregated = $to"
SET_STATUS = "MATCH (c:Circuit {id: $id}) SET c.status = $status"
SET_CIRCUIT = "MATCH (c:Circuit {id: $id}) SET c += $properties"
CIRCUIT_STATUSES = "MATCH (c:Circuit) RETURN c.id AS id, c.status AS status"

PUT = {
    "nodes": """
        MATCH (c:Circuit {id: $id})
        UNWIND $rows AS row
        CREATE (c)-[:CONTAINS]->(n:Node)
        SET n = row
        """,
    "attributes": """
        UNWIND $rows AS row
        MATCH (source:Node {key: $prefix + row[0]})
        MATCH (target:Node {key: $prefix + row[1]})
        CREATE (source)-[:ATTRIBUTES {weight: row[2], share: row[3], slot: row[4], evidence: 'untested'}]->(target)
        """,
    "features": """
        UNWIND $rows AS row
        MERGE (f:Feature {key: row.feature})
        ON CREATE SET f += row.properties, f.circuits = 0
        WITH f, row
        UNWIND row.nodes AS key
        MATCH (n:Node {key: $prefix + key})
        CREATE (n)-[:OCCURRENCE_OF]->(f)
        """,
    "components": """
        UNWIND $rows AS row
        MERGE (f:Component {key: row.component})
        ON CREATE SET f += row.properties
        WITH f, row
        UNWIND row.nodes AS key
        MATCH (n:Node {key: $prefix + key})
        CREATE (n)-[:OCCURRENCE_OF]->(f)
        """,
    "heads": """
        UNWIND $rows AS row
        MATCH (source:Node {key: $prefix + row[0]})
        MATCH (target:Node {key: $prefix + row[1]})
        MATCH (source)-[e:ATTRIBUTES {slot: row[2], weight: row[3]}]->(target)
        SET e.straight = row[4], e.heads = row[5], e.head_weights = row[6]
        """,
    "counts": "UNWIND $rows AS key MATCH (f:Feature {key: key}) SET f.circuits = f.circuits + 1",
}
# A MERGE per pair would do as well, but grows several times slower with the number of pairs a feature has (measured on the
# embedded server). The sources are locked first, so that two writers cannot both miss a pair and both make it. What locks must not
# read what is to be added to: Neo4j may read it before it waits for the lock, and then an old count would be written back.
LOCK_FEATURES = "UNWIND $rows AS key MATCH (f:Feature {key: key}) SET f.key = key"
ADD_TO_INFLUENCES = """
UNWIND $rows AS row
MATCH (source:Feature {key: row[0]})
MATCH (target:Feature {key: row[1]})
MATCH (source)-[i:INFLUENCES {method: $method, unit: $unit}]->(target)
SET i.mean_share = (i.mean_share * i.circuits + row[2]) / (i.circuits + 1),
    i.mean_weight = (i.mean_weight * i.circuits + row[3]) / (i.circuits + 1),
    i.positive = (i.positive * i.circuits + row[4]) / (i.circuits + 1),
    i.prompts = i.prompts + 1,
    i.circuits = i.circuits + 1
RETURN row[5] AS place
"""
NEW_INFLUENCES = """
UNWIND $rows AS row
MATCH (source:Feature {key: row[0]})
MATCH (target:Feature {key: row[1]})
CREATE (source)-[:INFLUENCES {method: $method, unit: $unit, mean_share: row[2], mean_weight: row[3], positive: row[4],
    prompts: 1, circuits: 1}]->(target)
"""
# The exact reverse of the last two; pairs that only this circuit had go.
TAKE = {
    "counts": "UNWIND $rows AS key MATCH (f:Feature {key: key}) SET f.circuits = f.circuits - 1",
    "influences": """
        UNWIND $rows AS row
        MATCH (source:Feature {key: row[0]})
        MATCH (target:Feature {key: row[1]})
        MATCH (source)-[i:INFLUENCES {method: $method, unit: $unit}]->(target)
        SET i.prompts = i.prompts - 1,
            i.mean_share = CASE i.circuits WHEN 1 THEN 0.0 ELSE (i.mean_share * i.circuits - row[2]) / (i.circuits - 1) END,
            i.mean_weight = CASE i.circuits WHEN 1 THEN 0.0 ELSE (i.mean_weight * i.circuits - row[3]) / (i.circuits - 1) END,
            i.positive = CASE i.circuits WHEN 1 THEN 0.0 ELSE (i.positive * i.circuits - row[4]) / (i.circuits - 1) END,
            i.circuits = i.circuits - 1
        WITH i WHERE i.circuits = 0
        WITH collect(i) AS gone
        FOREACH (i IN gone | DELETE i)
        """,
}

# What a circuit added to the aggregates, read back from the graph itself (one row per edge between features).
FEATURES_OF_CIRCUIT = """
MATCH (c:Circuit {id: $id})-[:CONTAINS]->(n:Node)-[:OCCURRENCE_OF]->(f:Feature) RETURN DISTINCT f.key AS key
"""
INFLUENCES_OF_CIRCUIT = """
MATCH (c:Circuit {id: $id})-[:CONTAINS]->(a:Node)-[:OCCURRENCE_OF]->(source:Feature)
MATCH (a)-[e:ATTRIBUTES]->(b:Node)-[:OCCURRENCE_OF]->(target:Feature)
RETURN source.key AS source, target.key AS target, e.share AS share, e.weight AS weight
"""

DELETE_SUPERNODES = "MATCH (c:Circuit {id: $id})-[:HAS_SUPERNODE]->(s:Supernode) DETACH DELETE s"
PUT_SUPERNODES = """
MATCH (c:Circuit {id: $id})
UNWIND $rows AS row
CREATE (c)-[:HAS_SUPERNODE]->(s:Supernode {key: row.key, name: row.name})
WITH s, row
UNWIND row.nodes AS key
MATCH (n:Node {key: key})
CREATE (s)-[:GROUPS]->(n)
"""
# Evidence. What an intervention is never changes; the mark of an edge is that of its newest test.
PUT_EVIDENCE = {
    "interventions": """
        UNWIND $rows AS row
        MERGE (i:Intervention {key: row.key})
        SET i += row.properties
        """,
    "perturbed": """
        UNWIND $rows AS row
        MATCH (i:Intervention {key: row[0]})
        MATCH (n:Node {key: $prefix + row[1]})
        MERGE (i)-[:PERTURBED]->(n)
        """,
    "moved": """
        UNWIND $rows AS row
        MATCH (i:Intervention {key: row[0]})
        MATCH (n:Node {key: $prefix + row[1]})
        MERGE (i)-[m:MOVED]->(n)
        SET m.predicted = row[2], m.actual = row[3]
        """,
    "marks": """
        UNWIND $rows AS row
        MATCH (source:Node {key: $prefix + row[0]})
        MATCH (target:Node {key: $prefix + row[1]})
        MATCH (source)-[e:ATTRIBUTES]->(target)
        SET e.evidence = row[2]
        """,
}
DELETE_INTERVENTIONS = """
MATCH (i:Intervention {circuit: $id})
WITH i LIMIT $limit
WITH collect(i) AS gone
FOREACH (i IN gone | DETACH DELETE i)
RETURN size(gone) AS deleted
"""
INTERVENTION_KEYS = "MATCH (i:Intervention) RETURN i.key AS key, i.circuit AS circuit"
MARKS = """
UNWIND $rows AS row
MATCH (source:Node {key: row[0]})
MATCH (target:Node {key: row[1]})
MATCH (source)-[e:ATTRIBUTES]->(target)
RETURN row[0] AS source, row[1] AS target, e.evidence AS mark
"""
NODES_TO_DELETE = """
MATCH (c:Circuit {id: $id})-[:CONTAINS]->(n:Node)
WITH n LIMIT $limit
OPTIONAL MATCH (n)-[:OCCURRENCE_OF]->(shared)
RETURN n.key AS node, shared.key AS shared
"""
DELETE_NODES = """
UNWIND $rows AS key
MATCH (n:Node {key: key})
WITH collect(n) AS gone
FOREACH (n IN gone | DETACH DELETE n)
"""
DELETE_CIRCUIT = "MATCH (c:Circuit {id: $id}) DETACH DELETE c"
DELETE_UNUSED_FEATURES = """
UNWIND $rows AS key
MATCH (f:Feature {key: key})
WHERE f.label IS NULL AND NOT EXISTS { (f)--() }
DELETE f
"""
DROP_LABELS = "UNWIND $rows AS key MATCH (f:Feature {key: key}) REMOVE f.label, f.label_score, f.embedding"
DELETE_UNUSED_COMPONENTS = "UNWIND $rows AS key MATCH (k:Component {key: key}) WHERE NOT EXISTS { (k)--() } DELETE k"

PUT_FEATURES = """
UNWIND $rows AS row
MERGE (f:Feature {key: row.key})
ON CREATE SET f.model = row.model, f.set = row.set, f.layer = row.layer, f.idx = row.idx, f.circuits = 0
SET f.label = row.label, f.label_score = row.label_score
"""
PUT_EMBEDDINGS = "UNWIND $rows AS row MATCH (f:Feature {key: row.key}) SET f.embedding = row.embedding"
DROP_EMBEDDINGS = "UNWIND $rows AS key MATCH (f:Feature {key: key}) REMOVE f.embedding"
FEATURES = """
UNWIND $keys AS key
MATCH (f:Feature {key: key})
RETURN f.key AS key, f.label AS label, f.label_score AS label_score, f.circuits AS circuits, f.layer AS layer, f.model AS model
"""
NEAREST = f"""
CALL db.index.vector.queryNodes('{VECTOR_INDEX}', $k, $embedding) YIELD node, score
RETURN node.key AS key, score
ORDER BY score DESC, key
"""
FULL_TEXT = f"""
CALL db.index.fulltext.queryNodes('{FULL_TEXT_INDEX}', $text) YIELD node, score
RETURN node.key AS key, score
ORDER BY score DESC, key
LIMIT $k
"""
INPUTS = """
MATCH (f:Feature {key: $key})<-[i:INFLUENCES]-(other:Feature)
RETURN other.key AS feature, other.label AS label, i.method AS method, i.unit AS unit, i.circuits AS circuits,
    i.prompts AS prompts, i.mean_share AS mean_share, i.mean_weight AS mean_weight, i.positive AS positive
ORDER BY i.mean_share * i.circuits DESC, feature
LIMIT $limit
"""
OUTPUTS = """
MATCH (f:Feature {key: $key})-[i:INFLUENCES]->(other:Feature)
RETURN other.key AS feature, other.label AS label, i.method AS method, i.unit AS unit, i.circuits AS circuits,
    i.prompts AS prompts, i.mean_share AS mean_share, i.mean_weight AS mean_weight, i.positive AS positive
ORDER BY i.mean_share * i.circuits DESC, feature
LIMIT $limit
"""
ALL_INFLUENCES = """
MATCH (source:Feature)-[i:INFLUENCES]->(target:Feature)
RETURN source.key AS source, target.key AS target, i.method AS method, i.unit AS unit, i.circuits AS circuits,
    i.prompts AS prompts, i.mean_share AS mean_share, i.mean_weight AS mean_weight, i.positive AS positive
"""

CONCEPT_FEATURES = "MATCH (:Concept {key: $key})-[:GROUPS]->(f:Feature) RETURN f.key AS key"
DELETE_CONCEPT = "MATCH (c:Concept {key: $key}) DETACH DELETE c"
PUT_CONCEPT = """
CREATE (c:Concept {key: $key, name: $name, author: $author})
WITH c
UNWIND $features AS key
MATCH (f:Feature {key: key})
CREATE (c)-[:GROUPS]->(f)
"""
DELETE_COLLECTION = "MATCH (c:Collection {name: $name}) DETACH DELETE c"
PUT_COLLECTION = """
CREATE (k:Collection {name: $name, author: $author})
WITH k
UNWIND $circuits AS id
MATCH (c:Circuit {id: id})
CREATE (k)-[:HAS]->(c)
"""

NODE_COUNTS = " UNION ALL ".join(f"MATCH (n:{name}) RETURN '{name}' AS name, count(n) AS count" for name in LABELS)
RELATIONSHIP_COUNTS = " UNION ALL ".join(
    f"MATCH ()-[r:{name}]->() RETURN '{name}' AS name, count(r) AS count" for name in RELATIONSHIPS
)
CLEAR_RELATIONSHIPS = {
    name: f"MATCH ()-[r:{name}]->() WITH r LIMIT $limit WITH collect(r) AS gone FOREACH (r IN gone | DELETE r) RETURN size(gone) AS deleted"
    for name in RELATIONSHIPS
}
CLEAR_NODES = {
    name: f"MATCH (n:{name}) WITH n LIMIT $limit WITH collect(n) AS gone FOREACH (n IN gone | DETACH DELETE n) RETURN size(gone) AS deleted"
    for name in LABELS
}
