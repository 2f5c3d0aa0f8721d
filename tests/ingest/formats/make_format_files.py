"""Makes the small graph files beside this script, one per dialect, from the description of the formats.

`python tests/ingest/formats/make_format_files.py` writes them; a test checks that the committed files are what it writes.
Every file is the same circuit, so that what the readers make of it can be compared: prompt "<bos> the cat", two tokens
feeding feature 113 of layer 0, that feeding feature 7 of layer 1 (and an error of layer 1), those feeding two logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "files"
TOKENS = ["<bos>", " the", " cat"]
LAYERS = 2
VOCABULARY = (2, 573, 4401)
LOGITS = ((912, " sat", 0.75), (77, ' "', 0.125))
WEIGHTS = (0.5, 1.5, -2.0, 0.25, 3.0, -1.0, 0.75)


def cantor(layer: int, index: int) -> int:
    return (layer + index) * (layer + index + 1) // 2 + index


def feature(layer: int, index: int, position: int, number: int, /, *, clerp: str = "", **more: Any) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{index}_{position}",
        "feature": number,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{index}-0",
        "clerp": clerp,
        "influence": 0.25,
        "activation": 2.5,
    } | more


def error(layer: int, position: int, /, **more: Any) -> dict[str, Any]:
    fields = {
        "node_id": f"0_{layer}_{position}",
        "jsNodeId": f"{layer}_{position}-0",
        "feature_type": "mlp reconstruction error",
        "activation": None,
        "influence": 0.5,
    }
    return feature(layer, 0, position, -1) | fields | more


def token(position: int, /, **more: Any) -> dict[str, Any]:
    vocabulary = VOCABULARY[position]
    fields = {
        "node_id": f"E_{vocabulary}_{position}",
        "jsNodeId": f"E_{vocabulary}-{position}",
        "layer": "E",
        "feature_type": "embedding",
        "activation": None,
        "influence": 0.75,
    }
    return feature(0, 0, position, position) | fields | more


def logit(number: int, layer: int = LAYERS + 1, /, **more: Any) -> dict[str, Any]:
    vocabulary, text, probability = LOGITS[number]
    fields = {
        "node_id": f"{layer}_{vocabulary}_2",
        "jsNodeId": f"L_{vocabulary}-2",
        "layer": str(layer),
        "feature_type": "logit",
        "clerp": f'Output "{text}" (p={probability:.3f})',
        "token_prob": probability,
        "is_target_logit": number == 0,
        "influence": None,
        "activation": None,
    }
    return feature(0, 0, 2, vocabulary) | fields | more


def links(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Among [feature 0, feature 1, error, token 0, token 1, token 2, logit 0, logit 1], grouped by target."""
    pairs = ((4, 0), (5, 0), (0, 1), (3, 1), (1, 6), (2, 6), (1, 7))
    ids = [node["node_id"] for node in nodes]
    return [{"source": ids[s], "target": ids[t], "weight": w} for (s, t), w in zip(pairs, WEIGHTS, strict=True)]


def view(**more: Any) -> dict[str, Any]:
    return {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""} | more


def metadata(**more: Any) -> dict[str, Any]:
    return {
        "slug": "the-cat",
        "scan": "gemma-2-2b",
        "transcoder_list": [],
        "prompt_tokens": TOKENS,
        "prompt": "".join(TOKENS),
        "node_threshold": 0.8,
    } | more


INFO = {
    "creator_name": "Anonymous (CT)",
    "source_urls": ["https://example.org/set"],
    "transcoder_set": "lab/clt-gemma-2-2b",
    "generator": {"name": "circuit-tracer", "version": "0.2.0 | abc", "url": "https://example.org"},
    "create_time_ms": 1762961853295,
}
SETTINGS = {
    "generation_settings": {
        "max_n_logits": 10,
        "desired_logit_prob": 0.95,
        "batch_size": 48,
        "max_feature_nodes": 5000,
    },
    "pruning_settings": {"node_threshold": 0.6, "edge_threshold": 0.85},
}


def nodes_b1(first: str = "", second: str = "") -> list[dict[str, Any]]:
    features = [feature(0, 113, 2, cantor(0, 113), clerp=first), feature(1, 7, 2, cantor(1, 7), clerp=second)]
    return [*features, error(1, 2), token(0), token(1), token(2), logit(0), logit(1)]


def circuit_tracer() -> dict[str, Any]:
    nodes = nodes_b1()
    return {"metadata": metadata(schema_version=1), "qParams": view(), "nodes": nodes, "links": links(nodes)}


def circuit_tracer_0() -> dict[str, Any]:
    nodes = [feature(0, 113, 2, 113), feature(1, 7, 2, 100_007), *nodes_b1()[2:]]
    return {
        "metadata": metadata(nodeThreshold=0.65),
        "qParams": view(clerps=[["100007", "animals"], ["0_113_2", "the word cat"], ["1_100007_2", "here an animal"]]),
        "nodes": nodes,
        "links": links(nodes),
    }


def neuronpedia() -> dict[str, Any]:
    nodes = nodes_b1()
    saved = view(
        pinnedIds=["0_113_2", "25_1_2"],
        supernodes=[["cat", "0_113_2", "E_4401_2"], ["cat", "1_7_2", "9_9_9"], [' a / "b" * ', "3_912_2"]],
    )
    scores = {"replacement_score": 0.625, "completeness_score": 0.875}
    return {
        "metadata": metadata(schema_version=1, info=INFO, **SETTINGS, **scores),
        "qParams": saved,
        "nodes": nodes,
        "links": links(nodes),
    }


def neuronpedia_ui() -> dict[str, Any]:
    document = neuronpedia()
    names = ["cat words", "animals", "cat words", 'Emb: " <bos>"', 'Emb: "  the"', 'Emb: "  cat"']
    for node, clerp in zip(document["nodes"], names, strict=False):
        node["clerp"] = clerp
    document["nodes"][6]["clerp"] = '[ a / "b" * ] ' + document["nodes"][6]["clerp"]
    document["nodes"].insert(1, feature(0, 113, 1, cantor(0, 113), clerp="cat words", activation=12))
    return document


def anthropic() -> dict[str, Any]:
    """Positions start at 1 behind an <EOT>; ids hold opaque feature numbers; the view names nodes by jsNodeId."""
    keep = (
        "node_id",
        "feature",
        "layer",
        "ctx_idx",
        "feature_type",
        "jsNodeId",
        "clerp",
        "token_prob",
        "is_target_logit",
    )

    def node(layer: str, number: int, position: int, kind: str, **more: Any) -> dict[str, Any]:
        fields = feature(0, number, position, number) | {
            "node_id": f"{layer}_{number}_{position}",
            "layer": layer,
            "feature_type": kind,
            "jsNodeId": f"{layer}_{number}_-{3 - position}",
            "reverse_ctx_idx": 3 - position,
        }
        return {key: value for key, value in (fields | more).items() if key in (*keep, "reverse_ctx_idx", "run_idx")}

    nodes = [
        node("0", 16_113_113, 3, "cross layer transcoder", clerp="cat"),
        node("1", 16_113_113, 3, "unexplored node"),
        node("1", 21_712_686, 3, "mlp reconstruction error", node_id="0_21712686_3"),
        *(node("E", 5_000 + i, i + 1, "embedding", clerp=f'"{TOKENS[i]}"') for i in range(3)),
        node("16", 912, 3, "logit", clerp='output: " sat" (p=0.750)', token_prob=0.75),
        node("16", 77, 3, "logit", clerp='output: " "" (p=0.125)', token_prob=0.125),
    ]
    about = {"slug": "cat", "scan": "jackl-circuits-runs-1-4-sofa-v3_0", "prompt": "<bos> the cat "}
    saved = view(pinnedIds=["0_16113113_-0"], supernodes=[["cat", "0_16113113_-0", "1_16113113_-0"]])
    return {
        "metadata": about | {"prompt_tokens": ["<EOT>", *TOKENS]},
        "qParams": saved,
        "nodes": nodes,
        "links": links(nodes),
    }


def openmoss() -> dict[str, Any]:
    """Layers doubled: attention 2k, MLP 2k+1; no scan, no saved view; a token list shorter than the positions."""
    nodes = [
        feature(0, 113, 2, cantor(0, 113), feature_type="lorsa", layer=0),
        feature(1, 113, 2, cantor(1, 113), layer=1),
        error(2, 2, feature_type="lorsa error", layer=2, node_id="2_error_2"),
        *(token(position, layer=-1) for position in range(3)),
        logit(0, 4, layer=4),
        logit(1, 4, layer=4),
    ]
    about = {"slug": "e4e5", "sae_series": "lab/chess", "prompt_tokens": ["board"], "prompt": "board"}
    scores = {"logit_moves": ["e4e5"], "target_move": "e4e5", "schema_version": 1}
    return {"metadata": about | scores, "nodes": nodes, "links": links(nodes), "activation_info": {"features": [1, 2]}}


def llamascopium() -> dict[str, Any]:
    nodes = [
        feature(0, 113, 2, cantor(0, 113), node_id="0_cro_113_2", layer=0),
        feature(1, 7, 2, cantor(1, 7), node_id="1_lor_7_2", layer=1, feature_type="lorsa"),
        error(1, 2, node_id="1_error_mlp_2", layer=1, feature=None),
        *nodes_b1()[3:],
    ]
    return {"metadata": metadata(), "qParams": view(), "nodes": nodes, "links": links(nodes)}


def attribute() -> dict[str, Any]:
    nodes = [*nodes_b1()[:6], logit(0, layer="-1"), logit(1, layer="-1")]
    about = metadata(title_prefix="", n_layers=2)
    return {"metadata": about, "qParams": {"linkType": "both"}, "nodes": nodes, "links": links(nodes)}


def collision() -> dict[str, Any]:
    """An error of layer 1 and feature 1 of layer 0 at one position: both are `0_1_2`."""
    nodes = [feature(0, 1, 2, cantor(0, 1)), feature(1, 7, 2, cantor(1, 7)), error(1, 2), *nodes_b1()[3:]]
    # By structure 0_1_2 -> 1_7_2 is the feature's; the two into the logit are told apart by their order around 1_7_2.
    pairs = (("E_573_1", "0_1_2", 0.5), ("0_1_2", "1_7_2", 1.0), ("E_2_0", "1_7_2", 1.5))
    pairs += (
        ("0_1_2", "3_912_2", 2.0),
        ("1_7_2", "3_912_2", 3.0),
        ("0_1_2", "3_912_2", -4.0),
        ("0_1_2", "3_77_2", 5.0),
    )
    made = [{"source": source, "target": target, "weight": weight} for source, target, weight in pairs]
    return {"metadata": metadata(schema_version=1), "qParams": view(), "nodes": nodes, "links": made}


FILES = {
    "circuit-tracer": circuit_tracer,
    "circuit-tracer-0": circuit_tracer_0,
    "neuronpedia": neuronpedia,
    "neuronpedia-ui": neuronpedia_ui,
    "anthropic": anthropic,
    "openmoss": openmoss,
    "llamascopium": llamascopium,
    "attribute": attribute,
    "collision": collision,
}


def written(name: str) -> str:
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(written(name), encoding="utf-8")


if __name__ == "__main__":
    main()
