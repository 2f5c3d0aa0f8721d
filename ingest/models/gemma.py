"""Gemma 2 and Gemma 3: RMSNorms with a weight of 1 + w before and after attention and MLP, scaled embeddings.

Soft caps, windows, q/k norms and per-layer rotary tables only shape the attention patterns, which are frozen. A final soft
cap (Gemma 2) is not part of the linear map: targets are the logits before it, probabilities are of those after it.
"""

from __future__ import annotations

from typing import Any

from ingest.models.decoder import Block, DecoderModel, Norm


class GemmaModel(DecoderModel):
    def constant_positions(self, set_model_name: str = "") -> int:
        # an instruction-tuned Gemma 3 begins with <bos><start_of_turn>user\n, whatever the prompt (circuit-tracer 0.5.0)
        names = (self.name, set_model_name)
        return 4 if any("gemma-3" in name and name.endswith("-it") for name in names) else 1

    @property
    def body(self) -> Any:
        model = self.network.model
        return getattr(model, "language_model", model)  # Gemma 3 with images keeps its text part there

    @property
    def embedding(self) -> Any:
        return self.body.embed_tokens  # its output is scaled already

    @property
    def final_norm(self) -> Norm:
        return _norm(self.body.norm)

    def blocks(self) -> list[Block]:
        return [
            Block(
                attention_norm=_norm(layer.input_layernorm),
                attention=layer.self_attn,
                value_weight=layer.self_attn.v_proj.weight,
                value_bias=layer.self_attn.v_proj.bias,
                output_weight=layer.self_attn.o_proj.weight,
                output_bias=layer.self_attn.o_proj.bias,
                head_size=layer.self_attn.head_dim,
                post_attention_norm=_norm(layer.post_attention_layernorm),
                mlp_norm=_norm(layer.pre_feedforward_layernorm),
                mlp=layer.mlp,
                post_mlp_norm=_norm(layer.post_feedforward_layernorm),
            )
            for layer in self.body.layers
        ]


def _norm(module: Any) -> Norm:
    return Norm(module, 1 + module.weight, module.eps)
