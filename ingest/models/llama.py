"""The Llama family: pre-norm RMSNorm, rotary positions, grouped key/value heads, gated MLP, no post-norms.

Mistral, Qwen2 and Qwen3 have the same modules under the same names: their biases on q, k, v, q/k norms and windows
only shape the attention patterns, which are frozen, and a constant (the value bias).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ingest.models.base import Frozen, Model


class LlamaModel(Model):
    @torch.inference_mode()
    def freeze(self, token_ids: list[int], input_hook: str, output_hook: str) -> Frozen:
        body = self.network.model
        seen: dict[tuple[str, int], torch.Tensor] = {}
        handles = [
            body.embed_tokens.register_forward_hook(_keep_output(seen, "embedding", 0)),
            body.norm.register_forward_pre_hook(_keep_input(seen, "final", 0)),
        ]
        for i, layer in enumerate(body.layers):
            handles += [
                layer.input_layernorm.register_forward_pre_hook(_keep_input(seen, "pre", i)),
                layer.self_attn.register_forward_hook(_keep_output(seen, "pattern", i, part=1)),
                layer.post_attention_layernorm.register_forward_pre_hook(_keep_input(seen, "mid", i)),
                layer.post_attention_layernorm.register_forward_hook(_keep_output(seen, "in", i)),
                layer.mlp.register_forward_hook(_keep_output(seen, "out", i)),
            ]
        try:
            ids = torch.tensor([token_ids], device=self.device)
            result = self.network(input_ids=ids, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()
        return _FrozenLlama(self, seen, result.logits[0, -1].float(), input_hook)

    @torch.inference_mode()
    def feature_inputs(self, token_ids: torch.Tensor, input_hook: str) -> torch.Tensor:
        body = self.network.model
        seen: dict[tuple[str, int], torch.Tensor] = {}
        handles = []
        for i, layer in enumerate(body.layers):
            norm = layer.post_attention_layernorm
            if input_hook == "mlp.hook_in":
                handles.append(norm.register_forward_hook(_keep_output(seen, "in", i, batch=None)))
            else:
                handles.append(norm.register_forward_pre_hook(_keep_input(seen, "mid", i, batch=None)))
        try:
            body(input_ids=token_ids.to(self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(
            [_at_input_hook(seen, i, layer.post_attention_layernorm, input_hook) for i, layer in enumerate(body.layers)]
        )


class _FrozenLlama(Frozen):
    """See Frozen. No post-norm, so that both output hooks are the same place."""

    def __init__(
        self, model: LlamaModel, seen: dict[tuple[str, int], torch.Tensor], logits: torch.Tensor, input_hook: str
    ) -> None:
        body = model.network.model
        self.model = model
        self.logits = logits
        self.centred_logits = logits - logits.mean()
        self.token_vectors = seen["embedding", 0]
        self.final_scale = _scale(seen["final", 0], body.norm)
        self.outputs = torch.stack([seen["out", i] for i in range(model.n_layers)])
        self.inputs = torch.stack(
            [_at_input_hook(seen, i, layer.post_attention_layernorm, input_hook) for i, layer in enumerate(body.layers)]
        )
        self.input_scales: list[torch.Tensor | None] = []  # (P, d) or (P, 1): input hook -> residual stream
        self.patterns: list[torch.Tensor] = []  # (kv heads, group, queries, keys), times the norm's scale at the key
        self.value_weights: list[torch.Tensor] = []  # (kv heads * head size, d), times the norm's weight
        constants = []
        for i, layer in enumerate(body.layers):
            attention, norm = layer.self_attn, layer.post_attention_layernorm
            scale = _scale(seen["mid", i], norm)[:, None]
            self.input_scales.append(
                {"hook_resid_mid": None, "ln2.hook_normalized": scale, "mlp.hook_in": scale * norm.weight}[input_hook]
            )
            pattern = seen["pattern", i] * _scale(seen["pre", i], layer.input_layernorm)
            kv_heads = attention.v_proj.weight.shape[0] // attention.head_dim
            self.patterns.append(pattern.unflatten(0, (kv_heads, -1)))
            self.value_weights.append(attention.v_proj.weight * layer.input_layernorm.weight)
            constants.append(_attention_constant(attention, pattern.shape[0] // kv_heads))
        self.attention_constants = (
            torch.stack([torch.zeros_like(self.token_vectors[0]) if c is None else c for c in constants])
            if any(c is not None for c in constants)
            else None
        )

    def unembed_rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        head = self.model.unembedding
        rows = head[token_ids].float() - head.float().mean(dim=0)
        return (rows * self.model.network.model.norm.weight.float() * self.final_scale[-1].float()).to(self.model.dtype)

    def output_back(self, layer: int, grad: torch.Tensor) -> torch.Tensor:
        return grad

    def input_back(self, layer: int, grad: torch.Tensor, positions: int | slice) -> torch.Tensor:
        scale = self.input_scales[layer]
        return grad if scale is None else grad * scale[positions]

    def attention_back(self, layer: int, grad: torch.Tensor) -> torch.Tensor:
        rows, p, width = grad.shape
        kv_heads, group = self.patterns[layer].shape[:2]
        pattern = self.patterns[layer][:, :, :p, :p]
        heads = grad.reshape(-1, width) @ self.model.network.model.layers[layer].self_attn.o_proj.weight
        heads = heads.view(rows, p, kv_heads, group, -1)
        values = torch.einsum("bqngh,ngqk->bknh", heads, pattern)
        return torch.addmm(grad.reshape(-1, width), values.reshape(rows * p, -1), self.value_weights[layer]).view(
            rows, p, width
        )


def _scale(stream: torch.Tensor, norm: Any) -> torch.Tensor:
    """(P,) one over the RMSNorm's denominator, computed in float32 as the norm does."""
    return torch.rsqrt(stream.float().square().mean(dim=-1) + norm.variance_epsilon).to(stream.dtype)


def _at_input_hook(seen: dict, layer: int, norm: nn.Module, input_hook: str) -> torch.Tensor:
    if input_hook == "mlp.hook_in":
        return seen["in", layer]
    mid = seen["mid", layer]
    return mid if input_hook == "hook_resid_mid" else mid * _scale(mid, norm)[..., None]


def _attention_constant(attention: Any, group: int) -> torch.Tensor | None:
    """(d,) what the biases of values and output add at every position (a softmax row sums to 1); None without biases."""
    constant = attention.o_proj.bias
    if attention.v_proj.bias is not None:
        values = attention.v_proj.bias.view(-1, 1, attention.head_dim).expand(-1, group, -1).reshape(-1)
        through = attention.o_proj.weight @ values
        constant = through if constant is None else constant + through
    return constant


def _keep_output(seen: dict, name: str, layer: int, part: int | None = None, batch: int | None = 0):
    def hook(module: nn.Module, args: tuple, output) -> None:
        value = output if part is None else output[part]
        seen[name, layer] = value if batch is None else value[batch]

    return hook


def _keep_input(seen: dict, name: str, layer: int, batch: int | None = 0):
    def hook(module: nn.Module, args: tuple) -> None:
        seen[name, layer] = args[0] if batch is None else args[0][batch]

    return hook
