"""Decoder-only transformers, frozen. A family says which of its modules is which (`Block`); the linear algebra is here.

Everything that does not depend on the target is multiplied together once per prompt: norm denominators go into the
attention pattern (a scale per query and per key), norm weights and a LayerNorm's centring into the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ingest.models.base import Frozen, Model
from ingest.models.products import product, products

Seen = dict[tuple[str, int], torch.Tensor]
POSITIONS = 64  # at a time, of queries or of keys; what lies on the other side of all of them is left out


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


@dataclass
class Norm:
    """An RMSNorm, or with `centred` a LayerNorm. `weight` is what the normalised value is multiplied by."""

    module: nn.Module
    weight: torch.Tensor  # (d,)
    epsilon: float
    bias: torch.Tensor | None = None  # (d,)
    centred: bool = False

    @classmethod
    def layer_norm(cls, module: nn.LayerNorm) -> Norm:
        return cls(module, module.weight, module.eps, module.bias, centred=True)

    def to(self, device: torch.device) -> Norm:
        return replace(self, weight=self.weight.to(device), bias=_moved(self.bias, device))

    def centre(self, values: torch.Tensor) -> torch.Tensor:
        """(..., d) less its mean, which is also the transpose of that map; an RMSNorm leaves it."""
        return values - values.mean(dim=-1, keepdim=True) if self.centred else values

    def scale(self, stream: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., 1) one over the denominator, computed in float32 (float64 in a float64 model)."""
        wide = self.centre(stream if stream.dtype == torch.float64 else stream.float())
        return torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon).to(stream.dtype)

    def normalized(self, stream: torch.Tensor) -> torch.Tensor:
        """Before weight and bias."""
        return self.centre(stream) * self.scale(stream)


@dataclass
class Projection:
    """The queries, keys or values of all heads: some columns of what a module puts out (all, where it makes nothing else)."""

    module: nn.Module
    weight: torch.Tensor  # (heads * h, d)
    bias: torch.Tensor | None = None  # (heads * h,)
    columns: slice | torch.Tensor = field(default_factory=lambda: slice(None))  # of the module's output

    @classmethod
    def linear(cls, module: nn.Linear) -> Projection:
        return cls(module, module.weight, module.bias)

    def to(self, device: torch.device) -> Projection:
        return replace(self, weight=self.weight.to(device), bias=_moved(self.bias, device))


@dataclass
class Block:
    """The parts of one layer. n key/value heads of size h; query heads are a multiple of n. d width of the stream."""

    layer: nn.Module  # the stream in (first argument), the stream out
    attention_norm: Norm
    attention: nn.Module  # returns (output, pattern, ...)
    query: Projection
    key: Projection
    value: Projection
    output: nn.Module  # (heads * h) of all heads in (first argument), d out
    output_weight: torch.Tensor  # (d, heads * h)
    head_size: int
    mlp_norm: Norm
    mlp: nn.Module
    output_bias: torch.Tensor | None = None
    post_attention_norm: Norm | None = None
    post_mlp_norm: Norm | None = None

    def to(self, device: torch.device) -> Block:
        """The same modules; what the frozen map needs of their weights on this device, where it is not there already."""
        after_attention, after_mlp = self.post_attention_norm, self.post_mlp_norm
        return replace(
            self,
            value=self.value.to(device),
            output_weight=self.output_weight.to(device),
            output_bias=_moved(self.output_bias, device),
            attention_norm=self.attention_norm.to(device),
            mlp_norm=self.mlp_norm.to(device),
            post_attention_norm=None if after_attention is None else after_attention.to(device),
            post_mlp_norm=None if after_mlp is None else after_mlp.to(device),
        )


class DecoderModel(Model):
    """A family is one subclass. `parallel`: attention and MLP read the same stream and are added together."""

    parallel = False

    @property
    @abstractmethod
    def body(self) -> Any:
        """The module that turns token ids into the last residual stream, final norm included."""

    @property
    @abstractmethod
    def embedding(self) -> Any:
        """Its output are the token nodes' vectors, positions not included."""

    @property
    @abstractmethod
    def final_norm(self) -> Norm: ...

    @abstractmethod
    def blocks(self) -> list[Block]: ...

    def ungrouped(self) -> AbstractContextManager[None]:
        """Within it every query head has a key and a value head of its own; what the network computes stays the same."""
        return nullcontext()

    def position_vectors(self, length: int) -> torch.Tensor | None:
        """(P, d) learned positions as they enter the stream, None for a family without."""
        return None

    @torch.inference_mode()
    def freeze(self, token_ids: list[int], input_hook: str, output_hook: str) -> Frozen:
        seen: Seen = {}
        blocks, final = self.blocks(), self.final_norm
        handles = [
            self.embedding.register_forward_hook(_keep_output(seen, "embedding", 0)),
            final.module.register_forward_pre_hook(_keep_input(seen, "final", 0)),
            self.network.get_output_embeddings().register_forward_hook(_keep_output(seen, "uncapped", 0)),
        ]
        for i, block in enumerate(blocks):
            handles += [
                block.attention_norm.module.register_forward_pre_hook(_keep_input(seen, "pre", i)),
                block.attention.register_forward_hook(_keep_output(seen, "pattern", i, part=1)),
                block.attention.register_forward_hook(_keep_output(seen, "attention", i, part=0)),
                block.mlp_norm.module.register_forward_pre_hook(_keep_input(seen, "mid", i)),
                block.mlp_norm.module.register_forward_hook(_keep_output(seen, "in", i)),
                block.mlp.register_forward_hook(_keep_output(seen, "mlp", i)),
            ]
            if block.post_mlp_norm is not None:
                handles.append(block.post_mlp_norm.module.register_forward_hook(_keep_output(seen, "added", i)))
        try:
            ids = torch.tensor([token_ids], device=self.device)
            result = self.network(input_ids=ids, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()
        return FrozenDecoder(self, blocks, seen, result.logits[0, -1].float(), input_hook, output_hook)

    @torch.inference_mode()
    def feature_inputs(self, token_ids: torch.Tensor, input_hook: str) -> torch.Tensor:
        seen: Seen = {}
        handles, blocks = [], self.blocks()
        for i, block in enumerate(blocks):
            module = block.mlp_norm.module
            if input_hook == "mlp.hook_in":
                handles.append(module.register_forward_hook(_keep_output(seen, "in", i, batch=None)))
            else:
                handles.append(module.register_forward_pre_hook(_keep_input(seen, "mid", i, batch=None)))
        try:
            self.body(input_ids=token_ids.to(self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        at_hook = [_at_input_hook(seen, i, block.mlp_norm, input_hook) for i, block in enumerate(blocks)]
        return torch.stack([value.to(self.device) for value in at_hook])


class FrozenDecoder(Frozen):
    """See Frozen. `patterns`: (n, group, queries, keys) with the norms' scales in."""

    def __init__(
        self,
        model: DecoderModel,
        blocks: list[Block],
        seen: Seen,
        logits: torch.Tensor,
        input_hook: str,
        output_hook: str,
    ) -> None:
        # of a network over several devices all that is kept is brought to one; its other weights stay where they are
        if any(value.device != model.device for value in seen.values()):
            seen = {key: value.to(model.device) for key, value in seen.items()}
            blocks = [block.to(model.device) for block in blocks]
        self.model, self.blocks, self.parallel = model, blocks, model.parallel
        self.final_norm = model.final_norm.to(model.device)
        self.head = model.network.get_output_embeddings()
        self.input_hook = input_hook
        self.logits = logits.to(model.device)
        self._uncapped = seen["uncapped", 0][-1].float()
        self.token_vectors = seen["embedding", 0]
        self.position_vectors = _moved(model.position_vectors(len(self.token_vectors)), model.device)
        self.final = seen["final", 0]
        self._streams = [*(seen["pre", i] for i in range(len(blocks))), self.final]
        self.final_scale = self.final_norm.scale(self.final)  # (P, 1)
        before = output_hook == "mlp.hook_out"  # a post-norm, if there is one, lies between the hook and the stream
        self.outputs = torch.stack(
            [seen["mlp" if before or b.post_mlp_norm is None else "added", i] for i, b in enumerate(blocks)]
        )
        self.inputs = torch.stack([_at_input_hook(seen, i, b.mlp_norm, input_hook) for i, b in enumerate(blocks)])
        self.input_scales = [b.mlp_norm.scale(seen["mid", i]) for i, b in enumerate(blocks)]  # (P, 1)
        self.output_scales = [
            None
            if b.post_mlp_norm is None or not before
            else b.post_mlp_norm.scale(seen["mlp", i]) * b.post_mlp_norm.weight
            for i, b in enumerate(blocks)
        ]
        self.patterns, self.attention_constants = [], []
        for i, block in enumerate(blocks):
            norm, post = block.attention_norm, block.post_attention_norm
            pattern = seen["pattern", i] * norm.scale(seen["pre", i])[:, 0]
            after = None if post is None else post.scale(seen["attention", i])  # (P, 1) per query
            if after is not None:
                pattern = pattern * after
            kv_heads = block.value.weight.shape[0] // block.head_size
            self.patterns.append(pattern.unflatten(0, (kv_heads, -1)))
            self.attention_constants.append(_attention_constant(block, self.patterns[-1].shape[1], after))

    @torch.inference_mode()
    def logits_at(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        if position in (-1, len(self.final) - 1):
            capped, uncapped = self.logits, self._uncapped
        else:
            final = self.final[position].to(self.model.final_norm.weight.device)
            uncapped = self.head(self.model.final_norm.module(final)).float().to(self.model.device)
            cap = getattr(self.model.config, "final_logit_softcapping", None)
            capped = uncapped if cap is None else torch.tanh(uncapped / cap) * cap
        return capped, uncapped - uncapped.mean()

    def stream_after(self, layer: int) -> torch.Tensor:
        return self._streams[layer + 1]

    def unembed_rows(self, token_ids: torch.Tensor, position: int = -1) -> torch.Tensor:
        norm = self.final_norm
        rows = self._unembedding(token_ids) * norm.weight.to(torch.float32)
        return (norm.centre(rows) * self.final_scale[position].to(torch.float32)).to(self.model.dtype)

    def logit_constants(self, token_ids: torch.Tensor) -> torch.Tensor:
        constants = torch.zeros(len(token_ids), device=token_ids.device)
        norm_bias, head_bias = self.final_norm.bias, _moved(self.head.bias, token_ids.device)
        if norm_bias is not None:
            constants += self._unembedding(token_ids) @ norm_bias.float()
        if head_bias is not None:
            constants += head_bias[token_ids].float() - head_bias.float().mean()
        return constants

    def _unembedding(self, token_ids: torch.Tensor) -> torch.Tensor:
        head = self.model.unembedding
        rows = head[token_ids.to(head.device)].float() - self._mean_unembedding
        return rows.to(token_ids.device)

    @cached_property
    def _mean_unembedding(self) -> torch.Tensor:
        """(d,) float32, over the vocabulary: a pass over the model's largest matrix."""
        return self.model.unembedding.float().mean(dim=0)

    def output_back(self, layer: int, grad: torch.Tensor, positions: int | slice | torch.Tensor) -> torch.Tensor:
        scale = self.output_scales[layer]
        return grad if scale is None else grad * scale[positions]

    def input_back(self, layer: int, grad: torch.Tensor, positions: int | slice | torch.Tensor) -> torch.Tensor:
        if self.input_hook == "hook_resid_mid":
            return grad
        norm = self.blocks[layer].mlp_norm
        if self.input_hook == "mlp.hook_in":
            grad = grad * norm.weight
        return norm.centre(grad) * self.input_scales[layer][positions]

    def input_constant(self, layer: int) -> torch.Tensor | None:
        return self.blocks[layer].mlp_norm.bias if self.input_hook == "mlp.hook_in" else None

    # Weights with the norms' weights in are made where they are used: kept, they would take a good part of a model's memory again.

    def _values(self, layer: int) -> torch.Tensor:
        """(n * h, d) what all heads read."""
        norm, value = self.blocks[layer].attention_norm, self.blocks[layer].value
        return norm.centre(value.weight * norm.weight).contiguous()

    def _heads(self, layer: int) -> torch.Tensor:
        """(d, n * g * h) what all heads write."""
        block, post = self.blocks[layer], self.blocks[layer].post_attention_norm
        return block.output_weight if post is None else post.weight[:, None] * block.output_weight

    def attention_back(
        self, layer: int, grad: torch.Tensor, first: int = 0, alone: torch.Tensor | None = None
    ) -> torch.Tensor:
        rows, p, _ = grad.shape
        kv_heads, group = self.patterns[layer].shape[:2]
        # a key-value head's queries and group as one dimension, outermost: what comes after a key is then one slice
        here = slice(first, first + p)
        pattern = self.patterns[layer][:, :, here, here].transpose(1, 2).flatten(1, 2)  # (n, queries * g, keys)
        reads = self._values(layer)
        heads = self._gathered(layer, grad, alone).flatten(3).flatten(1, 2)  # (n, queries * g, rows * h)
        values = grad.new_empty(rows, p, kv_heads, len(reads) // kv_heads)  # (rows, keys, n, h)
        for start in range(0, p, POSITIONS):
            keys, after = slice(start, min(start + POSITIONS, p)), slice(start * group, None)
            for some, gathered in products(pattern[:, after, keys].transpose(1, 2), heads[:, after]):
                values[:, keys, some] = gathered.unflatten(2, (rows, -1)).permute(2, 1, 0, 3)
        return product(values.flatten(2), reads)

    def _gathered(self, layer: int, grad: torch.Tensor, alone: torch.Tensor | None) -> torch.Tensor:
        """(n, queries, g, rows, h) gradients of what heads gather, of gradients as `attention_back` gets them."""
        rows, p, width = grad.shape
        weight, shape = self._heads(layer), (*self.patterns[layer].shape[:2], self.blocks[layer].head_size)
        spread = rows if alone is None else rows - len(alone)
        gathered = grad.new_empty(shape[0], p, shape[1], rows, shape[2])
        if spread:
            heads = product(grad[:spread].reshape(-1, width), weight).view(spread, p, *shape)
            gathered[:, :, :, :spread] = heads.permute(2, 1, 3, 0, 4)
        if alone is not None and spread < rows:
            last = torch.arange(spread, rows, device=grad.device)
            gathered[:, :, :, spread:] = 0
            gathered[:, alone, :, last] = product(grad[last, alone], weight).view(-1, *shape)
        return gathered

    def attention_work(self, positions: int) -> float:
        group, (values, width) = self.patterns[0].shape[1], self.blocks[0].value.weight.shape
        return values * (width * (group + 1) + group * positions / 2)

    def pattern(self, layer: int) -> torch.Tensor:
        return self.patterns[layer]

    def attention_values(self, layer: int, stream: torch.Tensor) -> torch.Tensor:
        kv_heads = self.patterns[layer].shape[0]
        return product(stream, self._values(layer).T).unflatten(-1, (kv_heads, -1))

    def attention_write(self, layer: int, values: torch.Tensor, first: int = 0) -> torch.Tensor:
        rows, p, kv_heads, size = values.shape
        pattern = self.patterns[layer][:, :, first:, first:].transpose(1, 2)  # (n, queries, g, keys)
        group = pattern.shape[2]
        values = values.permute(2, 1, 0, 3).reshape(kv_heads, p, -1)  # (n, keys, rows * h)
        gathered = values.new_empty(rows, p, kv_heads, group, size)
        for start in range(0, p, POSITIONS):
            queries, before = slice(start, min(start + POSITIONS, p)), slice(0, min(start + POSITIONS, p))
            for some, read in products(pattern[:, queries, :, before].flatten(1, 2), values[:, before]):
                gathered[:, queries, some] = read.view(len(read), -1, group, rows, size).permute(3, 1, 0, 2, 4)
        return product(gathered.flatten(2), self._heads(layer).T)

    def head_gradients(self, layer: int, grad: torch.Tensor) -> torch.Tensor:
        kv_heads, group = self.patterns[layer].shape[:2]
        return (grad @ self._heads(layer)).view(len(grad), kv_heads, group, -1)

    def skip_forward(self, layer: int, stream: torch.Tensor, w_skip: torch.Tensor, first: int = 0) -> torch.Tensor:
        norm = self.blocks[layer].mlp_norm
        read = stream
        if self.input_hook != "hook_resid_mid":
            read = norm.centre(stream) * self.input_scales[layer][first:]
        if self.input_hook == "mlp.hook_in":
            read = read * norm.weight
        return self.output_back(layer, product(read, w_skip.T), slice(first, None))


def _at_input_hook(seen: Seen, layer: int, norm: Norm, input_hook: str) -> torch.Tensor:
    if input_hook == "mlp.hook_in":
        return seen["in", layer]
    mid = seen["mid", layer]
    return mid if input_hook == "hook_resid_mid" else norm.normalized(mid)


def _attention_constant(block: Block, group: int, after: torch.Tensor | None) -> torch.Tensor | None:
    """(1 or P, d) what biases add through attention at every position (a softmax row sums to 1); None without biases."""
    values = block.value.bias
    if block.attention_norm.bias is not None:
        through = block.value.weight @ block.attention_norm.bias
        values = through if values is None else values + through
    constant = block.output_bias
    if values is not None:
        heads = values.view(-1, 1, block.head_size).expand(-1, group, -1).reshape(-1)
        constant = block.output_weight @ heads + (0 if constant is None else constant)
    if constant is None:
        return None
    post = block.post_attention_norm
    return constant[None] if post is None or after is None else constant * post.weight * after


def _keep_output(seen: Seen, name: str, layer: int, part: int | None = None, batch: int | None = 0):
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        value = output if part is None else output[part]
        seen[name, layer] = value if batch is None else value[batch]

    return hook


def _keep_input(seen: Seen, name: str, layer: int, batch: int | None = 0):
    def hook(module: nn.Module, args: tuple) -> None:
        seen[name, layer] = args[0] if batch is None else args[0][batch]

    return hook
