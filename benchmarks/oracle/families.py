"""The tiny models of the comparison and the replacement parts each is given. Read by both scripts, so only the standard
library is imported: they run in two environments.

Configurations are written as transformers 4 writes them, which transformers 5 reads too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY, WIDTH, CONTEXT = 80, 32, 16
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED = _COMMON | {"num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
_GEMMA = _GATED | {
    "num_hidden_layers": 3,
    "head_dim": 12,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 16,
    "sliding_window": 4,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Family:
    architecture: str  # the transformers class
    config: dict[str, Any]


FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        _GATED | {"model_type": "llama", "head_dim": 8, "hidden_act": "silu", "tie_word_embeddings": False},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        _GATED
        | {
            "model_type": "mistral",
            "head_dim": 12,
            "hidden_act": "silu",
            "sliding_window": 4,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        _GATED
        | {"model_type": "qwen2", "hidden_act": "silu", "use_sliding_window": False, "tie_word_embeddings": True},
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _GATED
        | {
            "model_type": "qwen3",
            "num_hidden_layers": 3,
            "head_dim": 12,
            "hidden_act": "silu",
            "use_sliding_window": False,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA
        | {
            "model_type": "gemma2",
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        _GEMMA
        | {
            "model_type": "gemma3_text",
            "num_key_value_heads": 1,
            "rope_local_base_freq": 10000.0,  # the reference has one rotary table for all layers
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        {
            "model_type": "gpt2",
            "vocab_size": VOCABULARY,
            "n_positions": CONTEXT,
            "n_embd": WIDTH,
            "n_layer": 3,
            "n_head": 4,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        _COMMON
        | {
            "model_type": "gpt_neox",
            "num_hidden_layers": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.5,
            "rotary_emb_base": 10000,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
    ),
}


@dataclass(frozen=True)
class Parts:
    """A transcoder set. `features` per layer."""

    reads: str
    writes: str
    jump: bool = False
    skip: bool = False
    cross_layer: bool = False

    @property
    def features(self) -> int:
        return 40 if self.cross_layer else 64


_MLP = ("mlp.hook_in", "mlp.hook_out")
SETS = {
    "llama/clt_relu": Parts("hook_resid_mid", "hook_mlp_out", cross_layer=True),
    "mistral/plt_jumprelu": Parts(*_MLP, jump=True),
    "qwen2/plt_relu": Parts(*_MLP),
    "qwen3/plt_jumprelu_skip": Parts(*_MLP, jump=True, skip=True),
    "gemma2/plt_jumprelu": Parts("ln2.hook_normalized", "hook_mlp_out", jump=True),
    "gemma2/plt_skip_inner": Parts(*_MLP, skip=True),
    "gemma2/clt_relu": Parts("hook_resid_mid", "hook_mlp_out", cross_layer=True),
    "gemma3/plt_jumprelu_skip": Parts("mlp.hook_in", "hook_mlp_out", jump=True, skip=True),
    "gemma3/clt_jumprelu": Parts("mlp.hook_in", "hook_mlp_out", jump=True, cross_layer=True),
    "gpt2/plt_relu": Parts("ln2.hook_normalized", "hook_mlp_out"),
    "gpt2/plt_skip": Parts("hook_resid_mid", "hook_mlp_out", skip=True),
    "gpt2/clt_jumprelu": Parts("hook_resid_mid", "hook_mlp_out", jump=True, cross_layer=True),
    "gpt_neox/plt_relu": Parts(*_MLP),
    "gpt_neox/plt_skip": Parts("ln2.hook_normalized", "hook_mlp_out", skip=True),
}
PROMPTS = {  # `long` has no special token in front: the reference puts one there
    "short": [1, 42, 17, 63, 8, 29],
    "long": [55, 12, 71, 34, 5, 48, 77, 20, 66],
}
