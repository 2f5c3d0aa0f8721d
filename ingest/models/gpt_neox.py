"""GPT-NeoX and Pythia: LayerNorm, biases, one matrix for q, k and v (interleaved by head), usually a parallel residual:
attention and MLP read the same stream, so that `hook_resid_mid` is the stream at the layer's beginning."""

from __future__ import annotations

from typing import Any

from ingest.models.decoder import Block, DecoderModel, Norm


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
                attention_norm=Norm.layer_norm(layer.input_layernorm),
                attention=layer.attention,
                value_weight=_values(layer.attention.query_key_value.weight, layer.attention.head_size),
                value_bias=_values(layer.attention.query_key_value.bias, layer.attention.head_size),
                output_weight=layer.attention.dense.weight,
                output_bias=layer.attention.dense.bias,
                head_size=layer.attention.head_size,
                mlp_norm=Norm.layer_norm(layer.post_attention_layernorm),
                mlp=layer.mlp,
            )
            for layer in self.body.layers
        ]


def _values(fused: Any, head_size: int) -> Any:
    """The value rows of (heads * 3 * head_size, ...), by head."""
    return None if fused is None else fused.unflatten(0, (-1, 3, head_size))[:, 2].flatten(0, 1)
