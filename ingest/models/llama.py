"""The Llama family: pre-norm RMSNorm, rotary positions, grouped key/value heads, gated MLP, no post-norms.

Mistral, Qwen2 and Qwen3 have the same modules under the same names: their biases on q, k, v, q/k norms and windows
only shape the attention patterns, which are frozen, and a constant (the value bias).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ingest.models.decoder import Block, DecoderModel, Norm, Projection


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
                layer=layer,
                attention_norm=self.norm(layer.input_layernorm),
                attention=layer.self_attn,
                query=Projection.linear(layer.self_attn.q_proj),
                key=Projection.linear(layer.self_attn.k_proj),
                value=Projection.linear(layer.self_attn.v_proj),
                output=layer.self_attn.o_proj,
                output_weight=layer.self_attn.o_proj.weight,
                output_bias=layer.self_attn.o_proj.bias,
                head_size=layer.self_attn.head_dim,
                mlp=layer.mlp,
                **self.norms_around_mlp(layer),
            )
            for layer in self.body.layers
        ]

    @contextmanager
    def ungrouped(self) -> Iterator[None]:
        changed: list[tuple[Any, Any, Any, int]] = []
        try:
            for block in self.blocks():
                attention: Any = block.attention
                size = block.head_size
                group = block.query.weight.shape[0] // block.key.weight.shape[0]
                if group > 1:
                    changed.append((attention, attention.k_proj, attention.v_proj, group))
                    attention.k_proj = _Repeated(attention.k_proj, group, size)
                    attention.v_proj = _Repeated(attention.v_proj, group, size)
                    attention.num_key_value_groups = 1
            yield
        finally:
            for attention, key, value, group in changed:
                attention.k_proj, attention.v_proj, attention.num_key_value_groups = key, value, group


class _Repeated(nn.Module):
    """The same map with every head `group` times in a row, the order in which query heads share it.

    It is computed once per shared head; `weight` and `bias` are those of the repeated map.
    """

    def __init__(self, shared: nn.Linear, group: int, head_size: int) -> None:
        super().__init__()
        self.shared, self.group, self.head_size = shared, group, head_size
        self.weight = self._repeat(shared.weight)
        self.bias = None if shared.bias is None else self._repeat(shared.bias)

    def _repeat(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(0, (-1, self.head_size)).repeat_interleave(self.group, 0).flatten(0, 1)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        heads = self.shared(stream).unflatten(-1, (-1, self.head_size))
        return heads.repeat_interleave(self.group, -2).flatten(-2)
