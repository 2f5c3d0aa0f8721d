"""The frozen linear model run forward, written out independently of the engine (which goes backward).

Patterns come from the model's own attention outputs, norm denominators from its hidden states; float64.
"""

from __future__ import annotations

import torch


class ForwardLinear:
    def __init__(self, model, transcoders, token_ids: list[int]) -> None:
        self.network, self.sets, self.hook = model.network, transcoders.layers, transcoders.input_hook
        body = self.network.model
        mids = []
        handles = [
            layer.post_attention_layernorm.register_forward_pre_hook(lambda m, args: mids.append(args[0][0]))
            for layer in body.layers
        ]
        out = self.network(torch.tensor([token_ids]), output_attentions=True, output_hidden_states=True)
        for handle in handles:
            handle.remove()
        self.patterns = [pattern[0] for pattern in out.attentions]
        self.pre = [self.denominator(h[0], body.norm) for h in out.hidden_states[: len(body.layers)]]
        self.mid = [self.denominator(mid, body.norm) for mid in mids]
        last = mids[-1] + body.layers[-1].mlp(body.layers[-1].post_attention_layernorm(mids[-1]))
        self.final = self.denominator(last, body.norm)

    @staticmethod
    def denominator(stream: torch.Tensor, norm) -> torch.Tensor:
        return (stream.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()

    def push(self, layer: int, position: int, vector: torch.Tensor):
        """Change the residual stream by `vector` after the MLP of `layer` (-1: the embedding) at `position`.

        Returns what moves, linearly: [(P, f) pre-activations per layer], (V,) centred logits.
        """
        body = self.network.model
        stream = torch.zeros(self.patterns[0].shape[-1], len(vector), dtype=vector.dtype)
        moved = []
        if layer < 0:
            stream[position] += vector
        for i, block in enumerate(body.layers):
            attention = block.self_attn
            values = (block.input_layernorm.weight * stream / self.pre[i]) @ attention.v_proj.weight.T
            values = values.view(len(stream), -1, attention.head_dim)
            group = self.patterns[i].shape[0] // values.shape[1]
            heads = [self.patterns[i][h] @ values[:, h // group] for h in range(self.patterns[i].shape[0])]
            stream = stream + torch.cat(heads, dim=1) @ attention.o_proj.weight.T
            read = stream
            if self.hook != "hook_resid_mid":
                read = read / self.mid[i]
            if self.hook == "mlp.hook_in":
                read = read * block.post_attention_layernorm.weight
            moved.append(read @ self.sets[i].w_enc.T)
            if self.sets[i].w_skip is not None:
                stream = stream + read @ self.sets[i].w_skip.T
            if i == layer:
                stream = stream.clone()
                stream[position] += vector
        logits = (stream[-1] / self.final[-1] * body.norm.weight) @ self.network.lm_head.weight.T
        return moved, logits - logits.mean()
