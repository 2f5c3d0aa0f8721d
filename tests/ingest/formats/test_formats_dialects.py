"""Every dialect's generated file is read into the same circuit, as far as the dialect tells it."""

import json
import math

import make_format_files as files
import numpy as np
import pytest

from atlas.errors import InputRejected
from atlas.records import ImportedLabel, ImportedSupernode
from ingest.formats import read_graph
from ingest.formats.logit_text import parse_logit, write_logit
from ingest.formats.nodes import cantor, cantor_decode


@pytest.fixture
def read(settings):
    def from_name_or_document(source, name="graph.json"):
        if isinstance(source, str):
            return read_graph(files.FOLDER / f"{source}.json", settings=settings)
        return read_graph(json.dumps(source).encode(), name, settings)

    return from_name_or_document


@pytest.mark.parametrize("name", files.FILES)
def test_the_committed_file_is_what_the_script_writes(name):
    assert (files.FOLDER / f"{name}.json").read_text(encoding="utf-8") == files.written(name)


SAME_KEYS = [
    "feature/0/2/113",
    "feature/1/2/7",
    "error/1/2/-1",
    "token/-1/0/2",
    "token/-1/1/573",
    "token/-1/2/4401",
    "logit/2/2/912",
    "logit/2/2/77",
]


@pytest.mark.parametrize("name", ["circuit-tracer", "circuit-tracer-0", "neuronpedia"])
def test_the_circuit_tracer_family_gives_one_and_the_same_circuit(read, name):
    graph = read(name)
    circuit = graph.circuit
    assert graph.dialect == name
    assert circuit.keys == SAME_KEYS
    assert circuit.edges.source.tolist() == [4, 5, 0, 3, 1, 2, 1]
    assert circuit.edges.target.tolist() == [0, 0, 1, 1, 6, 6, 7]
    assert circuit.edges.weight.tolist() == list(files.WEIGHTS)
    assert [(t.what, t.token_id, t.position, t.probability) for t in circuit.record.targets] == [
        (" sat", 912, 2, 0.75),
        (' "', 77, 2, 0.125),
    ]
    assert circuit.tokens == files.TOKENS
    assert circuit.record.examples[0].token_ids == [2, 573, 4401]
    assert circuit.record.model.name == "gemma-2-2b"
    assert circuit.record.model.layers == 2
    assert circuit.nodes.activation[0] == 2.5
    assert math.isnan(circuit.nodes.activation[2])
    assert circuit.nodes.influence_cumulative[:4].tolist() == [0.25, 0.25, 0.5, 0.75]
    assert circuit.node_tokens[6] == " sat"


def test_a_server_graph_brings_its_set_thresholds_and_claims(read):
    record = read("neuronpedia").circuit.record
    assert record.transcoders.name == "lab/clt-gemma-2-2b"
    assert record.thresholds == {"node": 0.6, "edge": 0.85}
    assert record.method.parameters["max_n_logits"] == 10
    assert record.scores.claimed == {"replacement": 0.625, "completeness": 0.875}
    assert record.scores.computed_on == "file"
    assert record.provenance.created_at == "2025-11-12T15:37:33+00:00"
    assert record.provenance.source_metadata["info"]["generator"]["version"] == "0.2.0 | abc"


def test_influence_and_scores_are_those_worked_out_by_hand(read):
    circuit = read("circuit-tracer").circuit
    # w = 0.75, 0.125; " sat" gets 3/4 from the feature and 1/4 from the error, the feature 2/2.25 from the other feature.
    first, second, error = 0.6875 * 8 / 9, 0.75 * 0.75 + 0.125, 0.75 * 0.25
    expected = [first, second, error, 0.6875 / 9, first / 4, first * 3 / 4, 0, 0]
    assert circuit.nodes.influence == pytest.approx(expected, rel=1e-6)
    scores = circuit.record.scores
    assert scores.replacement == pytest.approx(0.6875 / (0.6875 + 0.1875))
    mass = sum(expected) + 0.875
    assert scores.completeness == pytest.approx((mass - 0.75 * 0.25) / mass)


def test_saved_view_members_resolve_and_missing_ones_are_kept(read):
    graph = read("neuronpedia")
    assert graph.annotations.supernodes == [
        ImportedSupernode(name="cat", node_keys=["feature/0/2/113", "token/-1/2/4401"]),
        ImportedSupernode(name="cat", node_keys=["feature/1/2/7"], unresolved=["9_9_9"]),
        ImportedSupernode(name=' a / "b" * ', node_keys=["logit/2/2/912"]),
    ]
    assert graph.annotations.pins == ["feature/0/2/113"]
    assert graph.annotations.unresolved_pins == ["25_1_2"]
    assert graph.mended == {"unresolved_members": 1, "unresolved_pins": 1}


def test_a_view_taken_from_an_address_reads_the_same(read):
    document = files.neuronpedia()
    view = document["qParams"]
    view["pinnedIds"] = ",".join(view["pinnedIds"])
    view["supernodes"] = json.dumps(view["supernodes"])
    assert read(document).annotations == read("neuronpedia").annotations


def test_labels_of_a_page_download_belong_to_features_only(read):
    graph = read("neuronpedia-ui")
    assert graph.dialect == "neuronpedia-ui"
    assert graph.annotations.labels == [
        ImportedLabel(node_key="feature/0/2/113", text="cat words", source="interface download"),
        ImportedLabel(node_key="feature/1/2/7", text="animals", source="interface download"),
    ]
    assert graph.circuit.record.targets[0].what == " sat"  # behind `[supernode label] `


def test_labels_that_differ_between_positions_stay_at_their_position(read):
    document = files.neuronpedia_ui()
    document["nodes"][1]["clerp"] = "the word before"
    labels = read(document).annotations.labels
    assert [(x.node_key, x.text, x.position) for x in labels if "113" in x.node_key] == [
        ("feature/0/2/113", "cat words", 2),
        ("feature/0/1/113", "the word before", 1),
    ]


def test_saved_labels_resolve_by_number_node_and_layer_number_position(read):
    labels = read("circuit-tracer-0").annotations.labels
    assert [(x.node_key, x.text, x.position, x.source) for x in labels] == [
        ("feature/1/2/7", "animals", None, "saved view"),
        ("feature/0/2/113", "the word cat", 2, "saved view"),
        ("feature/1/2/7", "here an animal", 2, "saved view"),
    ]


@pytest.mark.parametrize("key", ["7777", "9_900007_2", "nonsense", ""])
def test_a_saved_label_of_a_node_that_is_not_here_is_counted(read, key):
    document = files.circuit_tracer() | {"qParams": files.view(clerps=[[key, "lost"]])}
    graph = read(document)
    assert graph.annotations.labels == []
    assert graph.mended == {"unresolved_labels": 1}


@pytest.mark.parametrize("clerp", ["F6555", "(fetch error: HTTP Error 404: Not Found)", "   "])
def test_placeholders_are_no_labels(read, clerp):
    document = files.circuit_tracer()
    document["nodes"][0]["clerp"] = clerp
    assert read(document).annotations.labels == []


def test_anthropic_keeps_opaque_numbers_and_recomputes_the_logit_layer(read):
    graph = read("anthropic")
    circuit = graph.circuit
    assert graph.dialect == "anthropic"
    assert circuit.keys == [
        "feature/0/3/16113113",
        "feature/1/3/16113113",
        "error/1/3/-1",
        "token/-1/1/-1",
        "token/-1/2/-1",
        "token/-1/3/-1",
        "logit/2/3/912",
        "logit/2/3/77",
    ]
    assert [(t.what, t.probability) for t in circuit.record.targets] == [(" sat", 0.75), (' "', 0.125)]
    assert circuit.record.model.name == "jackl-circuits-runs-1-4-sofa-v3_0"
    assert circuit.record.method.weight_unit != "target pre-activation"
    assert graph.mended == {"missing_activation": 2, "missing_influence": 6}
    assert graph.annotations.pins == ["feature/0/3/16113113"]
    assert graph.annotations.supernodes[0].node_keys == ["feature/0/3/16113113", "feature/1/3/16113113"]


def test_a_member_by_jsnodeid_stands_for_every_position_of_its_feature(read):
    document = files.neuronpedia_ui()
    document["qParams"]["supernodes"] = [["cat", "0_113-0"]]
    assert read(document).annotations.supernodes[0].node_keys == ["feature/0/2/113", "feature/0/1/113"]


def test_a_jsnodeid_of_a_feature_and_an_error_means_the_feature(read):
    document = files.circuit_tracer()
    document["nodes"][2]["jsNodeId"] = document["nodes"][1]["jsNodeId"]
    document["qParams"]["pinnedIds"] = ["1_7-0"]
    assert read(document).annotations.pins == ["feature/1/2/7"]


def test_openmoss_keeps_attention_and_mlp_features_apart(read):
    graph = read("openmoss")
    assert graph.dialect == "openmoss"
    assert graph.circuit.keys[:3] == ["feature.attn/0/2/113", "feature.mlp/1/2/113", "error.attn/2/2/-1"]
    assert graph.circuit.keys[6:] == ["logit/4/2/912", "logit/4/2/77"]
    assert graph.circuit.tokens == ["board"]
    assert graph.mended["positions_beyond_tokens"] == 7
    assert graph.circuit.record.transcoders.name == "lab/chess"


@pytest.mark.parametrize("name", ["llamascopium", "attribute"])
def test_a_known_dialect_that_is_not_read_yet_is_one_sentence(read, name):
    with pytest.raises(InputRejected, match="recognised but not read yet") as caught:
        read(name)
    assert caught.value.hint


def test_the_feature_coding_is_taken_from_the_ids_not_from_the_version_field(read):
    document = files.circuit_tracer()
    del document["metadata"]["schema_version"]
    assert read(document).circuit.keys == SAME_KEYS
    document = files.circuit_tracer_0()
    document["metadata"]["schema_version"] = 1
    assert read(document).circuit.keys == SAME_KEYS


def test_a_single_number_that_contradicts_its_id_is_counted(read):
    document = files.circuit_tracer()
    document["nodes"][0]["feature"] = 5
    graph = read(document)
    assert graph.circuit.keys == SAME_KEYS
    assert graph.mended == {"feature_number_disagrees": 1}


def test_without_a_usable_id_the_number_is_decoded(read):
    document = files.circuit_tracer()
    for link in document["links"]:
        link.update({end: "first" for end in ("source", "target") if link[end] == "0_113_2"})
    document["nodes"][0]["node_id"] = "first"
    graph = read(document)
    assert graph.circuit.keys == SAME_KEYS
    assert graph.mended == {}


@pytest.mark.parametrize("pair", [(0, 0), (25, 98303), (3, 2**33), (2**31 - 1, 2**40)])
def test_cantor_decoding_is_exact(pair):
    assert cantor_decode(cantor(*pair)) == pair


@pytest.mark.parametrize(
    ("clerp", "token", "probability"),
    [
        ('Output "tok" (p=0.450)', "tok", 0.45),
        ('Output """ (p=0.122)', '"', 0.122),
        ('Output " "" (p=0.028)', ' "', 0.028),
        ('output: "Austin" (p=0.984)', "Austin", 0.984),
        ('Logit " x" (p=1.000)', " x", 1.0),
        ('Output " (p=0.5)" (p=0.250)', " (p=0.5)", 0.25),
        ('[Output "big" or "large"] Output "large" (p=0.420)', "large", 0.42),
        ('Output "" (p=0.1)', "", 0.1),
        ("my own words", "my own words", None),
        ('Output "x" (p=7)', "x", None),
        ("(p=0.5)", "(p=0.5)", None),
    ],
)
def test_token_text_is_undecorated_from_the_right(clerp, token, probability):
    assert parse_logit(clerp) == (token, probability)


@pytest.mark.parametrize("token", ["tok", '"', ' "', "", " (p=0.5)", 'Output "a" (p=0.100)', "[x] "])
def test_a_written_logit_reads_back(token):
    assert parse_logit(write_logit(token, 0.125)) == (token, 0.125)


def test_nodes_of_one_id_are_both_kept_and_their_links_told_apart(read):
    graph = read("collision")
    circuit = graph.circuit
    assert circuit.keys[:3] == ["feature/0/2/1", "feature/1/2/7", "error/1/2/-1"]
    edges = [
        (circuit.keys[s].split("/")[0], circuit.keys[t], w)
        for s, t, w in zip(circuit.edges.source, circuit.edges.target, circuit.edges.weight.tolist(), strict=True)
    ]
    assert edges == [
        ("token", "feature/0/2/1", 0.5),  # an error has no inputs
        ("feature", "feature/1/2/7", 1.0),  # the error's layer is not below 1
        ("token", "feature/1/2/7", 1.5),
        ("feature", "logit/2/2/912", 2.0),  # written before feature 7's link, like the node
        ("feature", "logit/2/2/912", 3.0),
        ("error", "logit/2/2/912", -4.0),  # written after it
        ("feature", "logit/2/2/77", 5.0),  # nothing tells: the first node of that id
    ]
    assert graph.mended == {"ambiguous_links": 3, "colliding_node_ids": 1, "repeated_pairs": 1}
    assert circuit.extra["edges.ambiguous"].tolist() == [0, 0, 0, 1, 0, 1, 1]


def test_odd_links_are_kept_or_dropped_and_counted(read):
    document = files.circuit_tracer()
    document["links"] += [
        {"source": "0_113_2", "target": "1_7_2", "weight": 4},
        {"source": "1_7_2", "target": "1_7_2", "weight": 0},
        {"source": "nobody", "target": "1_7_2", "weight": 1.0},
        {"source": "1_7_2", "target": "", "weight": 1.0},
        {"source": "1_7_2", "target": "0_113_2", "weight": -1.0},
    ]
    graph = read(document)
    assert graph.mended == {"dangling_links_dropped": 2, "repeated_pairs": 1, "self_loops": 1, "zero_weights": 1}
    assert graph.circuit.edges.weight.tolist() == [*files.WEIGHTS, 4, 0, -1]
    assert np.isfinite(graph.circuit.nodes.influence).all()  # the cycle between the two features loses weight


def test_a_cycle_that_nothing_leaves_is_flagged_instead_of_counted(read):
    document = files.circuit_tracer()
    document["links"] = [
        {"source": "0_113_2", "target": "0_113_2", "weight": 1.0},
        {"source": "0_113_2", "target": "3_912_2", "weight": 1.0},
    ]
    graph = read(document)
    assert graph.mended["influence_not_converged"] == 1
    assert np.isnan(graph.circuit.nodes.influence).all()
    assert graph.circuit.record.scores.replacement is None
    assert graph.circuit.record.scores.computed_on == "none"


def test_the_same_node_twice_is_one_node(read):
    document = files.circuit_tracer()
    document["nodes"].append(document["nodes"][0])
    document["nodes"].append(document["nodes"][1] | {"node_id": "twin"})
    document["links"].append({"source": "twin", "target": "3_77_2", "weight": 9.0})
    graph = read(document)
    assert graph.circuit.keys == SAME_KEYS
    assert graph.mended == {"duplicate_nodes_dropped": 2, "repeated_pairs": 1}
    assert graph.circuit.edges.source.tolist()[-1] == 1


def test_nodes_without_an_index_stay_apart(read):
    document = files.circuit_tracer()
    drawn = {"feature": None, "feature_type": "supernode", "layer": "1", "ctx_idx": 1, "jsNodeId": "s"}
    document["nodes"] += [drawn | {"node_id": name} for name in ("s1", "s2")]
    graph = read(document)
    assert graph.circuit.keys[8:] == ["unknown/1/1/-1", "unknown/1/1/-2"]
    assert graph.mended == {"unknown_feature_types": 2, "missing_influence": 2}


def test_what_is_optional_may_be_missing_or_of_the_wrong_type(read):
    document = {"metadata": {}, "nodes": files.nodes_b1(), "links": []}
    for node in document["nodes"]:
        node.update(influence="0.5", activation=True, token_prob=None, clerp=7, jsNodeId=None)
    graph = read(document, "some file.json")
    circuit = graph.circuit
    assert circuit.keys == SAME_KEYS
    assert (circuit.record.name, circuit.record.prompt, circuit.tokens) == ("some file", "", [])
    assert circuit.record.model.name == circuit.record.transcoders.name == "unknown"
    assert graph.mended == {
        "missing_activation": 2,
        "missing_influence": 6,
        "missing_prompt_tokens": 1,
        "positions_beyond_tokens": 8,
    }


def test_nan_in_an_optional_number_is_unknown(read, settings):
    text = json.dumps(files.circuit_tracer()).replace('"activation": 2.5', '"activation": NaN')
    graph = read_graph(text.replace("0.75,", "Infinity,", 1).encode(), "x", settings)
    assert np.isnan(graph.circuit.nodes.activation).all()
    assert graph.mended["missing_activation"] == 2


@pytest.mark.parametrize(
    ("metadata", "model", "transcoders"),
    [
        ({"scan": "gemma-2-2b"}, "gemma-2-2b", "unknown"),
        ({"scan": "mntss/clt-llama-3.2-1b-524k"}, "llama-3.2-1b", "mntss/clt-llama-3.2-1b-524k"),
        ({"scan": "mntss/gemma-scope-transcoders"}, "gemma-2-2b", "mntss/gemma-scope-transcoders"),
        ({"scan": "lab/sets//plt@main"}, "unknown", "lab/sets//plt"),
        ({"scan": "./my/set"}, "unknown", "unknown"),
        ({"scan": "/home/me/set"}, "unknown", "unknown"),
        ({"scan": "custom--123456"}, "unknown", "unknown"),
        ({"scan": 5}, "unknown", "unknown"),
        ({"scan": "custom-1", "transcoder_list": ["a/qwen3-4b-l0", "a/l1"]}, "qwen3-4b", "a/qwen3-4b-l0,a/l1"),
    ],
)
def test_a_path_or_a_hash_is_never_a_name(read, metadata, model, transcoders):
    document = files.circuit_tracer()
    document["metadata"] |= metadata
    record = read(document).circuit.record
    assert (record.model.name, record.transcoders.name) == (model, transcoders)


@pytest.mark.parametrize(
    ("told", "layer", "mended"), [("3", 2, {}), ("9", 8, {}), ("2", 2, {"logit_layer_recomputed": 1})]
)
def test_the_logit_layer_is_the_files_own_where_it_is_possible(read, told, layer, mended):
    document = files.circuit_tracer()
    for node in document["nodes"][6:]:
        node["layer"] = told
    graph = read(document)
    assert graph.circuit.nodes.layer[6:].tolist() == [layer, layer]
    assert graph.mended == mended
