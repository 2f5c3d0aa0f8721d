"""GPT-2: LayerNorm, learned positions, biases everywhere; weights lie transposed (Conv1D)."""

from __future__ import annotations

from typing import Any

import torch

from ingest.models.decoder import Block, DecoderModel, Norm, Projection


class GPT2Model(DecoderModel):
    @property
    def body(self) -> Any:
        return self.network.transformer

    @property
    def embedding(self) -> Any:
        return self.body.wte

    @property
    def final_norm(self) -> Norm:
        return Norm.layer_norm(self.body.ln_f)

    def position_vectors(self, length: int) -> torch.Tensor:
        return self.body.wpe.weight[:length]

    def blocks(self) -> list[Block]:
        return [
            Block(
                layer=layer,
                attention_norm=Norm.layer_norm(layer.ln_1),
                attention=layer.attn,
                query=_third(layer.attn.c_attn, 0),
                key=_third(layer.attn.c_attn, 1),
                value=_third(layer.attn.c_attn, 2),
                output=layer.attn.c_proj,
                output_weight=layer.attn.c_proj.weight.T,
                output_bias=layer.attn.c_proj.bias,
                head_size=layer.attn.head_dim,
                mlp_norm=Norm.layer_norm(layer.ln_2),
                mlp=layer.mlp,
            )
            for layer in self.body.h
        ]


def _third(fused: Any, which: int) -> Projection:
    """Queries, keys and values lie one after the other in (d, 3 * d)."""
    width = fused.weight.shape[1] // 3
    columns = slice(which * width, (which + 1) * width)
    return Projection(fused, fused.weight[:, columns].T, fused.bias[columns], columns)
