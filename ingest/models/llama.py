"""The Llama family: pre-norm RMSNorm, rotary positions, grouped key/value heads, gated MLP, no post-norms.

Mistral, Qwen2 and Qwen3 have the same modules under the same names: their biases on q, k, v, q/k norms and windows
only shape the attention patterns, which are frozen, and a constant (the value bias).
"""

from __future__ import annotations

from typing import Any

from ingest.models.decoder import Block, DecoderModel, Norm


class LlamaModel(DecoderModel):
    @property
    def body(self) -> Any:
        return self.network.model

    @property
    def embedding(self) -> Any:
        return self.body.embed_tokens

    @property
    def final_norm(self) -> Norm:
        return self.norm(self.body.norm)

    def norm(self, module: Any) -> Norm:
        return Norm(module, module.weight, module.variance_epsilon)

    def norms_around_mlp(self, layer: Any) -> dict[str, Norm]:
        return {"mlp_norm": self.norm(layer.post_attention_layernorm)}

    def blocks(self) -> list[Block]:
        return [
            Block(
                attention_norm=self.norm(layer.input_layernorm),
                attention=layer.self_attn,
                value_weight=layer.self_attn.v_proj.weight,
                value_bias=layer.self_attn.v_proj.bias,
                output_weight=layer.self_attn.o_proj.weight,
                output_bias=layer.self_attn.o_proj.bias,
                head_size=layer.self_attn.head_dim,
                mlp=layer.mlp,
                **self.norms_around_mlp(layer),
            )
            for layer in self.body.layers
        ]
