"""The reference's graphs of the sets that make_sets.py wrote. Runs in the reference's own environment, not in this project's.

    PYTHON benchmarks/oracle/run_reference.py FOLDER [FAMILY/SET ...]

PYTHON: an interpreter with circuit-tracer 0.5.0. Writes FOLDER/<family>/<set>/<prompt>.npz as tests/ingest/data/README.md
describes. The reference wants hub names, so its model's configuration is built here from the Hugging Face one; weights go through
the library's converters and its loading step, with norms not folded and nothing centred.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from circuit_tracer import attribute
from circuit_tracer.graph import compute_graph_scores, compute_node_influence, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions as convert
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
from families import PROMPTS, SETS

CONVERTERS = {
    "llama": convert.convert_llama_weights,
    "mistral": convert.convert_mistral_weights,
    "qwen2": convert.convert_qwen2_weights,
    "qwen3": convert.convert_qwen3_weights,
    "gemma2": convert.convert_gemma_weights,
    "gemma3_text": convert.convert_gemma_weights,
    "gpt2": convert.convert_gpt2_weights,
    "gpt_neox": convert.convert_neox_weights,
}


def lens_config(hf: Any) -> HookedTransformerConfig:
    """The library's configuration of a Hugging Face model, as its own tables would have it."""
    kind = hf.model_type
    if kind == "gpt2":
        own = {
            "d_model": hf.n_embd,
            "d_head": hf.n_embd // hf.n_head,
            "n_heads": hf.n_head,
            "d_mlp": hf.n_embd * 4,
            "n_layers": hf.n_layer,
            "n_ctx": hf.n_positions,
            "eps": hf.layer_norm_epsilon,
            "act_fn": hf.activation_function,
            "normalization_type": "LN",
        }
    else:
        head = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
        own = {
            "d_model": hf.hidden_size,
            "d_head": head,
            "n_heads": hf.num_attention_heads,
            "d_mlp": hf.intermediate_size,
            "n_layers": hf.num_hidden_layers,
            "n_ctx": hf.max_position_embeddings,
            "positional_embedding_type": "rotary",
            "rotary_adjacent_pairs": False,
            "rotary_dim": head,
        }
        if kind == "gpt_neox":
            own |= {
                "eps": hf.layer_norm_eps,
                "act_fn": hf.hidden_act,
                "normalization_type": "LN",
                "rotary_dim": round(hf.rotary_pct * head),
                "rotary_base": hf.rotary_emb_base,
                "parallel_attn_mlp": hf.use_parallel_residual,
            }
        else:
            own |= {
                "eps": hf.rms_norm_eps,
                "act_fn": getattr(hf, "hidden_activation", None) or hf.hidden_act,
                "normalization_type": "RMS",
                "final_rms": True,
                "gated_mlp": True,
                "rotary_base": hf.rope_theta,
                "n_key_value_heads": hf.num_key_value_heads,
            }
    if kind in ("qwen3", "gemma3_text"):
        own |= {"use_qk_norm": True}
    if kind == "mistral" and hf.sliding_window:
        own |= _windows(hf, ["local"] * hf.num_hidden_layers)
    if kind.startswith("gemma"):
        own |= _windows(hf, ["local" if name == "sliding_attention" else "global" for name in hf.layer_types])
        own |= {"use_normalization_before_and_after": True, "attn_scale": hf.query_pre_attn_scalar**0.5}
    if kind == "gemma2":
        own |= {"attn_scores_soft_cap": hf.attn_logit_softcapping, "output_logits_soft_cap": hf.final_logit_softcapping}
    if kind == "gemma3_text":
        own |= {"rotary_base_local": hf.rope_local_base_freq}
    shared = {
        "model_name": kind,
        "original_architecture": hf.architectures[0],
        "d_vocab": hf.vocab_size,
        "dtype": torch.float32,
        "device": "cpu",
        "init_weights": False,
        "default_prepend_bos": False,
        "tie_word_embeddings": hf.tie_word_embeddings,
    }
    return HookedTransformerConfig.from_dict(own | shared)


def _windows(hf: Any, types: list[str]) -> dict[str, Any]:
    return {"use_local_attn": True, "window_size": hf.sliding_window, "attn_types": types}


def load_parts(folder: Path, lazy: bool = True) -> Any:
    """The set of a folder in the reference's layout. lazy: read encoders and decoders from the files whenever needed."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    hooks = {key: config[key] for key in ("feature_input_hook", "feature_output_hook", "scan")}
    own = {"device": torch.device("cpu"), "dtype": torch.float32}
    if config["model_kind"] == "cross_layer_transcoder":
        return load_clt(str(folder), **hooks, **own, lazy_encoder=False, lazy_decoder=lazy)
    files = {i: str(folder / f"layer_{i}.safetensors") for i in range(len(list(folder.glob("layer_*.safetensors"))))}
    return load_transcoder_set(files, **hooks, **own, lazy_encoder=lazy, lazy_decoder=lazy)


def load_replacement(model_folder: Path, parts: Any) -> Any:
    """The reference's replacement model of a folder with loaded parts."""
    network, report = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"], report
    network.eval()
    config = lens_config(network.config)
    model = TransformerLensReplacementModel(config, _tokenizer(model_folder), move_to_device=False)
    state = CONVERTERS[network.config.model_type](network, config)
    # copies: the converters hand out views of tied weights
    state = {name: tensor.detach().clone().float() for name, tensor in state.items()}
    model.load_and_process_state_dict(state, fold_ln=False, center_writing_weights=False, center_unembed=False)
    model._configure_replacement_model(parts)
    return model.eval(), network


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Without its class, which newer versions of transformers name otherwise. TransformerLens would load it anew by name if it
    did not claim to add a bos; ids are handed over, so it never does."""
    table = json.loads((folder / "tokenizer_config.json").read_text())
    special = {name: table[name] for name in ("pad_token", "bos_token", "eos_token", "unk_token") if table.get(name)}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), name_or_path=str(folder), add_bos_token=True, **special
    )


def arrays(model: Any, ids: list[int], **options: Any) -> dict[str, np.ndarray]:
    """Everything that is compared, of one prompt."""
    graph = attribute(
        torch.tensor(ids), model, **{"max_n_logits": 10, "desired_logit_prob": 0.95, "batch_size": 64} | options
    )
    pruned = prune_graph(graph, 0.8, 0.98)
    weights = torch.zeros(len(graph.adjacency_matrix))
    weights[-len(graph.logit_probabilities) :] = graph.logit_probabilities
    replacement, completeness = compute_graph_scores(graph)
    context = model.setup_attribution(graph.input_tokens)
    found = {
        "prompt_ids": np.array(ids, np.int32),
        "input_ids": graph.input_tokens.int(),
        "active_features": graph.active_features.int(),
        "activation_values": graph.activation_values,
        "selected_features": graph.selected_features.int(),
        "adjacency_matrix": graph.adjacency_matrix,
        "logit_token_ids": graph.logit_token_ids.int(),
        "logit_probabilities": graph.logit_probabilities,
        "node_influence": compute_node_influence(graph.adjacency_matrix, weights),
        "prune_node_mask": pruned.node_mask,
        "prune_edge_mask": np.packbits(pruned.edge_mask.numpy(), axis=1),
        "prune_cumulative_scores": pruned.cumulative_scores,
        "replacement_score": np.float32(replacement),
        "completeness_score": np.float32(completeness),
        "final_logits": context.logits[0, -1],
        "error_vectors": context.error_vectors,
    }
    return {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in found.items()}


def main() -> int:
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or SETS:
        family = name.split("/")[0]
        model, network = load_replacement(root / family / "model", load_parts(root / name))
        for prompt, ids in PROMPTS.items():
            graph = arrays(model, ids)
            with torch.no_grad():
                truth = network(torch.from_numpy(graph["input_ids"]).long()[None]).logits[0, -1].numpy()
            np.savez_compressed(root / name / f"{prompt}.npz", **graph)
            off = np.abs(graph["final_logits"] - truth).max()
            print(f"{name}/{prompt}: {len(graph['active_features'])} features, logits off by {off:.1e}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
