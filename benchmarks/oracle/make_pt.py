"""A `.pt` graph as circuit-tracer 0.5.0 writes it: the sample that the tests of the reader read.

    python benchmarks/oracle/make_pt.py FOLDER SET OUT.pt [--ids 1,17,...] [--max-features N]

Run it with the Python of an environment that holds circuit-tracer (it is no dependency of the project, and this script imports nothing
of the project). FOLDER: tests/ingest/data/oracle; SET: one of its transcoder sets. With `--max-features` the file also
names features that were active and are no nodes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer


def replacement_model(folder: Path, name: str) -> TransformerLensReplacementModel:
    """The tiny Llama with one of its transcoder sets; built by hand, because the reference loads hub names only."""
    network = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    c = network.config
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_attention_heads,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        eps=c.rms_norm_eps,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=c.hidden_size // c.num_attention_heads,
        rotary_adjacent_pairs=False,
        rotary_base=c.rope_theta,
        final_rms=True,
        original_architecture="LlamaForCausalLM",
        model_name="llama",
        tokenizer_name="llama",
        device="cpu",
    )
    told = yaml.safe_load((folder / name / "config.yaml").read_text())
    transcoders = load_transcoder_set(
        {i: str(folder / name / f"layer_{i}.safetensors") for i in range(c.num_hidden_layers)},
        scan=told["scan"],
        feature_input_hook=told["feature_input_hook"],
        feature_output_hook=told["feature_output_hook"],
        device=torch.device("cpu"),
    )
    model = TransformerLensReplacementModel(config, AutoTokenizer.from_pretrained(folder / "model"))
    model.load_and_process_state_dict(
        convert_llama_weights(network, config), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    model._configure_replacement_model(transcoders)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("set")
    parser.add_argument("out", type=Path)
    parser.add_argument("--ids", default="1,17,204,33,351")
    parser.add_argument("--max-features", type=int)
    asked = parser.parse_args()
    ids = [int(i) for i in asked.ids.split(",")]
    graph = attribute(
        ids, replacement_model(asked.folder, asked.set), max_feature_nodes=asked.max_features, batch_size=64
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    graph.to_pt(str(asked.out))
    shapes = {key: list(value.shape) for key, value in vars(graph).items() if isinstance(value, torch.Tensor)}
    print(json.dumps({"bytes": asked.out.stat().st_size, "shapes": shapes}, indent=1))


if __name__ == "__main__":
    main()
