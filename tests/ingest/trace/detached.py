"""The frozen linear model by automatic differentiation of the real network, independent of the engine.

Attention probabilities and norm denominators are detached while the network runs, every MLP's output is replaced by its
value plus a leaf; what is left between leaves and MLP inputs is linear, and its gradient gives rows of the matrix.
"""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F


@contextmanager
def _detached():
    softmax, rsqrt = F.softmax, torch.rsqrt

    def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        return centred * rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps).detach() * weight + bias

    with (
        patch.object(F, "softmax", lambda *a, **k: softmax(*a, **k).detach()),
        patch.object(torch, "rsqrt", lambda x: rsqrt(x).detach()),
        patch.object(F, "layer_norm", layer_norm),
    ):
        yield


class DetachedNetwork:
    """Leaves: `embedding` (P, d) and, by layer, `written` (P, d) at the output hook. `read` (L, P, d) at the input hook."""

    def __init__(self, model, transcoders, token_ids: list[int]) -> None:
        blocks, width = model.blocks(), model.width
        self.transcoders = transcoders
        self.embedding = torch.zeros(len(token_ids), width, dtype=model.dtype, requires_grad=True)
        self.written = [torch.zeros_like(self.embedding, requires_grad=True) for _ in blocks]
        self.read: list = [None] * len(blocks)
        handles = [model.embedding.register_forward_hook(lambda m, a, out: out.detach() + self.embedding)]
        for i, block in enumerate(blocks):
            norm, hook = block.mlp_norm, transcoders.input_hook

            def mid(module, args, i=i):
                self.read[i] = args[0][0]

            def normalised(module, args, out, i=i, norm=norm):
                value = out[0]
                if transcoders.input_hook == "ln2.hook_normalized":
                    value = (value - (0 if norm.bias is None else norm.bias)) / norm.weight
                self.read[i] = value

            if hook == "hook_resid_mid":
                handles.append(norm.module.register_forward_pre_hook(mid))
            else:
                handles.append(norm.module.register_forward_hook(normalised))
            after = transcoders.output_hook == "hook_mlp_out" and block.post_mlp_norm is not None
            place = block.post_mlp_norm.module if after else block.mlp

            def write(module, args, out, i=i):
                fresh = out.detach() + self.written[i]
                skip = transcoders.layers[i].w_skip
                if skip is not None:
                    through = self.read[i] @ skip.T
                    fresh = fresh + through - through.detach()
                return fresh

            handles.append(place.register_forward_hook(write))
        seen = []
        handles.append(model.network.get_output_embeddings().register_forward_hook(lambda m, a, out: seen.append(out)))
        with _detached(), torch.enable_grad():
            model.network(input_ids=torch.tensor([token_ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        logits = seen[0][0, -1]
        self.logits = logits - logits.mean()

    def gradients(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, d) at the embedding and (L, P, d) at the output hooks."""
        found = torch.autograd.grad(target, [self.embedding, *self.written], retain_graph=True, allow_unused=True)
        zero = torch.zeros_like(self.embedding)
        first, *rest = [zero if g is None else g for g in found]
        return first, torch.stack(rest)
