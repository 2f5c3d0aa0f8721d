"""GPT-NeoX and Pythia: LayerNorm, biases, one matrix for q, k and v (interleaved by head), usually a parallel residual:
attention and MLP read the same stream, so that `hook_resid_mid` is the stream at the layer's beginning."""

from __future__ import annotations

from typing import Any

import torch

from ingest.models.decoder import Block, DecoderModel, Norm, Projection


class GPTNeoXModel(DecoderModel):
    @property
    def parallel(self) -> bool:  # type: ignore[override]
        return bool(self.config.use_parallel_residual)

    @property
    def body(self) -> Any:
        return self.network.gpt_neox

    @property
    def embedding(self) -> Any:
        return self.body.embed_in

    @property
    def final_norm(self) -> Norm:
        return Norm.layer_norm(self.body.final_layer_norm)

    def blocks(self) -> list[Block]:
        return [
            Block(
                layer=layer,
                attention_norm=Norm.layer_norm(layer.input_layernorm),
                attention=layer.attention,
                query=_part(layer.attention, 0),
                key=_part(layer.attention, 1),
                value=_part(layer.attention, 2),
                output=layer.attention.dense,
                output_weight=layer.attention.dense.weight,
                output_bias=layer.attention.dense.bias,
                head_size=layer.attention.head_size,
                mlp_norm=Norm.layer_norm(layer.post_attention_layernorm),
                mlp=layer.mlp,
            )
            for layer in self.body.layers
        ]


def _part(attention: Any, which: int) -> Projection:
    """Queries, keys and values of one head lie one after the other: (heads * 3 * head_size, d)."""
    fused, size = attention.query_key_value, attention.head_size
    columns = torch.arange(fused.weight.shape[0], device=fused.weight.device).view(-1, 3, size)[:, which].flatten()
    bias = None if fused.bias is None else fused.bias[columns]
    return Projection(fused, fused.weight[columns], bias, columns)
