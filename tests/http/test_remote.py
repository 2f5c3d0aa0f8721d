"""The atlas of a server gives the answers that the atlas itself gives."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.embedded


@pytest.fixture
def asked(served):
    """Arguments for every question of the table."""
    first, second = served.circuits["a b"], served.circuits["a c"]
    return {
        "overview": {},
        "circuits": {"text": "a"},
        "resolve": {"circuit": first[:10]},
        "find_trace": {"trace_key": "nothing"},
        "show": {"circuit": first},
        "node_labels": {"circuit_id": first},
        "feature": {"key": "toy/toy-set/0/6"},
        "features_without_label": {},
        "concepts": {},
        "search": {"text": "cities", "layers": (0, 1)},
        "paths": {"source": "feature:toy/toy-set/0/6", "target": "logit:x", "null_graphs": 5},
        "compare": {"a": first, "b": second},
        "cypher": {"query": "MATCH (c:Circuit) RETURN c.id, c.nodes ORDER BY c.id", "params": {"x": [1, None, "é"]}},
    }


def test_search_and_circuits(served, asked) -> None:
    with served.remote() as remote:
        for name, given in asked.items():
            ours, theirs = getattr(served.local, name)(**given), getattr(remote, name)(**given)
            assert theirs == ours, name
            assert type(theirs) is type(ours), name
