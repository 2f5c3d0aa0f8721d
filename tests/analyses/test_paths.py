"""Paths between named ends, on a real catalog; free text on a real graph server."""

from __future__ import annotations

import numpy as np
import pytest

from atlas import Atlas
from atlas.catalog import circuits, collections, concepts
from atlas.circuit import Provenance, Target
from atlas.errors import NotFound, UsageError
from atlas.path_search import between
from atlas.paths import find_paths, paths, resolve_end
from atlas.records import NewLabel
from atlas.significance import null_paths, p_values
from tests.analyses.graphs import draw, layered

TOKENS = ("<bos>", " Dallas", " dallas", " is")
# 0 <bos>, 1 Dallas, 2 dallas, 3 is, 4 feature Texas, 5 feature say Austin, 6 logit Austin, 7 logit austin
NODES = [
    *(("token", -1, p, 10 + p) for p in range(4)),
    ("feature", 0, 1, 6, 2.0),
    ("feature", 1, 3, 7, 4.0),
    ("logit", 2, 3, 90),
    ("logit", 2, 3, 91),
]
EDGES = [(1, 4, 3.0), (2, 4, -1.0), (4, 5, 2.0), (3, 5, 2.0), (5, 6, 1.0), (5, 7, 1.0), (4, 7, 1.0)]
TARGETS = [Target(what=" Austin", token_id=90, position=3), Target(what="austin", token_id=91, position=3)]
TEXAS, SAY = "toy/toy-set/0/6", "toy/toy-set/1/7"


def circuit(tokens=TOKENS, edges=EDGES, **record):
    return draw(NODES, edges, tokens, **({"targets": TARGETS} | record))


def keep(atlas: Atlas, *kept, collection: str | None = None) -> None:
    """Into the catalog alone: these questions need no graph server."""

    def work(session) -> None:
        for each in kept:
            circuits.insert_circuit(session, each)
            if collection is not None:
                collections.put(session, collection, each.id)

    atlas.catalog.write(atlas.actor, work)


@pytest.fixture
def atlas(catalog_settings):
    with Atlas.open(settings=catalog_settings) as opened:
        yield opened


def rows(atlas, end: str, of=None) -> list[int]:
    return resolve_end(atlas, of or circuit(), end).tolist()


def test_tokens_and_logits_are_compared_stripped_and_as_written_before_folded(atlas):
    assert rows(atlas, "token:Dallas") == [1]
    assert rows(atlas, "token:dallas") == [2]
    assert rows(atlas, "token: DALLAS ") == [1, 2]
    assert rows(atlas, "logit:Austin") == [6]
    assert rows(atlas, "logit:austin") == [7]
    assert rows(atlas, "logit:AUSTIN") == [6, 7]
    assert rows(atlas, "token:Austin") == []
    assert rows(atlas, "logit:Dallas") == []


def test_a_token_is_found_at_every_position(atlas):
    assert rows(atlas, "token:the", circuit((" the", "x", "the", " The"))) == [0, 2]


def test_a_feature_is_found_at_every_position_of_its_own_model_and_set_only(atlas):
    twice = draw([*NODES, ("feature", 0, 3, 6)], EDGES, TOKENS)
    assert rows(atlas, f"feature:{TEXAS}", twice) == [4, 8]
    assert rows(atlas, "feature:toy/other/0/6") == []
    assert rows(atlas, "feature:toy/toy-set/0/7") == []


def test_a_concept_stands_for_all_its_features(atlas):
    keep(atlas, circuit())
    atlas.catalog.write(atlas.actor, lambda session: concepts.define(session, "place", [TEXAS, SAY]))
    assert rows(atlas, "concept:place") == [4, 5]
    with pytest.raises(NotFound) as raised:
        rows(atlas, "concept:person")
    assert "place" in raised.value.hint


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("node:5", NotFound),
        ("Logit:Austin", NotFound),
        ("feature:Texas", NotFound),
        ("feature:toy/toy-set/0/12345", NotFound),
        ("concept:nothing", NotFound),
        ("token:", UsageError),
        ("logit: ", UsageError),
        ("feature:", UsageError),
        (" ", UsageError),
    ],
)
def test_an_end_that_cannot_be_is_refused_with_a_hint(atlas, end, error):
    keep(atlas, circuit())
    for ends in ((end, "logit:Austin"), ("token:Dallas", end)):
        with pytest.raises(error) as raised:
            paths(atlas, *ends, null_graphs=0)
        assert raised.value.hint


def test_a_path_says_its_nodes_share_effect_and_p(atlas):
    keep(atlas, circuit())
    (hit,) = paths(atlas, "token:Dallas", "logit:Austin", null_graphs=19)
    assert hit.circuit == circuit().id
    assert [(n.key, n.kind, n.layer, n.position, n.label, n.token) for n in hit.nodes] == [
        ("token/-1/1/11", "token", -1, 1, None, " Dallas"),
        ("feature/0/1/6", "feature", 0, 1, None, " Dallas"),
        ("feature/1/3/7", "feature", 1, 3, None, " is"),
        ("logit/2/3/90", "logit", 2, 3, None, " Austin"),
    ]
    # 3/4 of Texas from Dallas, 2/4 of say-Austin from Texas, all of Austin from say-Austin
    assert hit.share == pytest.approx(3 / 4 * 2 / 4)
    # 3, of Texas' activation 2, times 2, of say-Austin's activation 4, times 1
    assert hit.effect == pytest.approx(3 / 2 * 2 / 4 * 1)
    assert (hit.weights, hit.slots, hit.shares_known, hit.ignored_edges) == ([3.0, 2.0, 1.0], ["direct"] * 3, False, 0)
    assert hit.n_null == 19
    assert 1 / 20 <= hit.p_value <= 1


def test_without_null_graphs_there_is_no_p(atlas):
    keep(atlas, circuit())
    (hit,) = paths(atlas, f"feature:{TEXAS}", f"feature:{SAY}", null_graphs=0)
    assert (hit.p_value, hit.n_null) == (None, 0)


def test_circuits_are_ranked_together_and_those_without_an_end_left_out(atlas):
    weaker = circuit(edges=[(1, 4, 1.0), *EDGES[1:]], prompt="weaker", tokens=(*TOKENS[:3], " was"))
    elsewhere = circuit(("<bos>", " Paris", " paris", " is"))
    cut = circuit(edges=EDGES[:1], prompt="cut", tokens=(*TOKENS[:3], " now"))
    keep(atlas, weaker, elsewhere, circuit(), cut)
    hits = paths(atlas, "token:Dallas", "logit:Austin", null_graphs=9)
    assert [(hit.circuit, hit.share) for hit in hits] == [
        (circuit().id, pytest.approx(3 / 8)),
        (weaker.id, pytest.approx(1 / 4)),
    ]
    assert [hit.circuit for hit in paths(atlas, "token:Dallas", "logit:Austin", limit=1)] == [circuit().id]
    assert paths(atlas, "token:London", "logit:Austin") == []
    assert paths(atlas, "token:London", "logit:Austin").to_pandas().empty


def test_one_circuit_a_model_or_a_collection_may_be_asked(atlas):
    other = circuit(tokens=(*TOKENS[:3], " was"))
    keep(atlas, circuit())
    keep(atlas, other, collection="pasts")
    ask = ("token:Dallas", "logit:Austin")
    assert [hit.circuit for hit in paths(atlas, *ask, circuit=circuit().id[:12])] == [circuit().id]
    assert [hit.circuit for hit in paths(atlas, *ask, collection="pasts")] == [other.id]
    assert len(paths(atlas, *ask, model="toy")) == 2
    for scope in ({"circuit": "c1-nothing"}, {"model": "none"}, {"collection": "none"}):
        with pytest.raises(NotFound):
            paths(atlas, *ask, **scope)


def test_of_replicates_the_newest_is_asked_unless_one_is_named(atlas):
    first = circuit()
    second = circuit(edges=[(1, 4, 3.0000002), *EDGES[1:]], provenance=Provenance(created_at="later"))
    assert first.trace_key == second.trace_key
    keep(atlas, first)
    keep(atlas, second)
    newest = atlas.circuits()[0].id
    ask = ("token:Dallas", "logit:Austin")
    assert [hit.circuit for hit in paths(atlas, *ask)] == [newest]
    assert {paths(atlas, *ask, circuit=each.id)[0].circuit for each in (first, second)} == {first.id, second.id}


def test_p_of_a_path_does_not_depend_on_what_else_is_asked(atlas):
    kept = [circuit(tokens=(*TOKENS[:3], word)) for word in (" is", " was", " will")]
    keep(atlas, *kept)
    ask = ("token:dallas", "logit:AUSTIN")
    alone = {
        (hit.circuit, hit.nodes[-1].key): hit.p_value for each in kept for hit in paths(atlas, *ask, circuit=each.id)
    }
    together = {(hit.circuit, hit.nodes[-1].key): hit.p_value for hit in paths(atlas, *ask, limit=3)}
    assert len(together) == 3
    assert all(alone[key] == p for key, p in together.items())


def test_each_path_is_judged_at_its_own_rank(atlas):
    drawn = layered(3, 5, np.random.default_rng(0))
    keep(atlas, drawn)
    hits = paths(atlas, "token:t0", "logit:x7", limit=5, null_graphs=39, seed=3)
    logit = np.array([len(drawn.nodes) - 1])
    null = null_paths(drawn, between(drawn, np.array([0]), logit), 5, 39, 3)
    expected = p_values([hit.share for hit in hits], null).tolist()
    assert [hit.p_value for hit in hits] == expected
    assert len(set(expected)) > 1


def test_a_wrong_number_is_refused(atlas):
    for wrong in ({"limit": 0}, {"null_graphs": -1}):
        with pytest.raises(UsageError):
            paths(atlas, "token:Dallas", "logit:Austin", **wrong)


def test_comparing_finds_replicates_for_the_noise_floor(atlas):
    first, again = circuit(), circuit(edges=[(1, 4, 3.5), *EDGES[1:]])
    other = circuit(("<bos>", " Oakland", " oakland", " is"), edges=[(1, 4, 1.0), *EDGES[1:]])
    keep(atlas, first, again, other)
    result = atlas.compare(first.id, other.id)
    # Texas' share from the token: 3/4 and 3.5/4.5 in the replicates, 1/2 in the other circuit
    assert result.floor == pytest.approx(3.5 / 4.5 - 3 / 4)
    assert [edge.above_noise for edge in result.edges if edge.target == "feature/0/1/6"] == [True, True]
    assert (result.shared, result.only_a, result.only_b) == (len(EDGES), 0, 0)
    with pytest.raises(NotFound):
        atlas.compare(first.id, "nothing")


def test_free_text_means_the_features_whose_labels_fit(store_pair):
    with Atlas.open(settings=store_pair) as atlas:
        atlas.add(circuit())
        atlas.put_labels(
            [
                NewLabel(feature=TEXAS, text="cities in Texas", method="person"),
                NewLabel(feature=SAY, text="names of fruit", method="person"),
            ]
        )
        (hit,) = atlas.paths("cities in Texas", "names of fruit", null_graphs=0)
        assert [node.label for node in hit.nodes] == ["cities in Texas", "names of fruit"]
        (found,) = find_paths(atlas.load(hit.circuit), [4], [5]).paths
        assert found.share == pytest.approx(hit.share)


def test_an_atlas_without_circuits_has_no_paths(atlas):
    assert paths(atlas, "token:Dallas", "logit:Austin") == []
