"""Oracles for interventions, written without the engine's hooks: forward functions of modules are replaced one by one.

`Forward` is the whole network with vectors added to what MLPs write. `linear` turns a model into the graph's own linear model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from ingest.transcoders.set import Transcoder, TranscoderSet

LAYERS, WIDTH, FEATURES = 3, 24, 40


def random_set(kind: str, hooks: tuple[str, str] = ("mlp.hook_in", "mlp.hook_out"), seed: int = 1) -> TranscoderSet:
    """A random set of a kind, in float64: relu, jump, skip, top-k, cross-layer (with skips)."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = []
    for layer in range(LAYERS):
        written = (LAYERS - layer,) if kind == "cross-layer" else ()
        layers.append(
            Transcoder(
                w_enc=random(FEATURES, WIDTH, scale=0.3),
                b_enc=random(FEATURES, scale=0.3),
                w_dec=random(FEATURES, *written, WIDTH, scale=0.2),
                b_dec=random(WIDTH, scale=0.2),
                threshold=random(FEATURES, scale=0.1).abs() + 0.2 if kind == "jump" else None,
                w_skip=random(WIDTH, WIDTH, scale=0.1) if kind in ("skip", "cross-layer") else None,
                top_k=12 if kind == "top-k" else None,
            )
        )
    return TranscoderSet(f"random-{kind}", "unknown", "unknown", "tiny", *hooks, layers)


class Forward:
    """One run. added: by layer (P, d) at the output hook; embedded: (P, d) added to the embeddings. held: (L, P, d) what the
    MLPs write in place of their own, with what skips make of changed `held_inputs`.

    inputs: [L] (P, d) at the input hook. outputs: [L] (P, d) at the output hook. logits: (P, V) centred, before a soft cap.
    """

    def __init__(
        self,
        model,
        transcoders: TranscoderSet,
        ids: list[int],
        added: Mapping[int, torch.Tensor] | None = None,
        embedded: torch.Tensor | None = None,
        held: Forward | None = None,
    ) -> None:
        self.inputs: list = [None] * LAYERS
        self.outputs: list = [None] * LAYERS
        with ExitStack() as stack:
            for i, block in enumerate(model.blocks()):
                norm, mlp = block.mlp_norm, block.mlp
                post = block.post_mlp_norm if transcoders.output_hook == "hook_mlp_out" else None
                last = mlp if post is None else post.module

                def see_stream(x, i=i, norm=norm, plain=norm.module.forward):
                    if transcoders.input_hook == "hook_resid_mid":
                        self.inputs[i] = x[0]
                    elif transcoders.input_hook == "ln2.hook_normalized":
                        centred = x - x.mean(-1, keepdim=True) if norm.centred else x
                        self.inputs[i] = (centred / (centred.pow(2).mean(-1, keepdim=True) + norm.epsilon).sqrt())[0]
                    return plain(x)

                def see_input(x, i=i, plain=mlp.forward):
                    if transcoders.input_hook == "mlp.hook_in":
                        self.inputs[i] = x[0]
                    return plain(x)

                stack.enter_context(patch.object(norm.module, "forward", see_stream))
                stack.enter_context(patch.object(mlp, "forward", see_input))

                def write(x, i=i, plain=last.forward):
                    out = plain(x)
                    if held is not None:
                        out = held.outputs[i][None]
                        skip = transcoders.layers[i].w_skip
                        if skip is not None:
                            out = out + (self.inputs[i] - held.inputs[i]) @ skip.T
                    if added is not None and i in added:
                        out = out + added[i]
                    self.outputs[i] = out[0]
                    return out

                stack.enter_context(patch.object(last, "forward", write))
            embed = model.embedding.forward
            if embedded is not None:
                stack.enter_context(patch.object(model.embedding, "forward", lambda x: embed(x) + embedded))
            head, seen = model.network.get_output_embeddings(), []
            plain_head = head.forward
            stack.enter_context(patch.object(head, "forward", lambda x: seen.append(plain_head(x)) or seen[-1]))
            with torch.no_grad():
                model.network(input_ids=torch.tensor([ids]), use_cache=False)
        self.logits = seen[0][0] - seen[0][0].mean(-1, keepdim=True)
        self.transcoders = transcoders

    def pre(self, layer: int, position: int, feature: int) -> float:
        transcoder = self.transcoders.layers[layer]
        return float(self.inputs[layer][position] @ transcoder.w_enc[feature] + transcoder.b_enc[feature])

    def value(self, layer: int, position: int, feature: int) -> float:
        return float(self.transcoders.layers[layer].encode(self.inputs[layer][position])[feature])


def decoders(transcoders: TranscoderSet, positions: int, changes: list[tuple[int, int, int, float]]):
    """By layer (P, d): (layer, position, feature, change of its value), through its decoder(s)."""
    added: dict[int, torch.Tensor] = {}
    for layer, position, feature, change in changes:
        rows = transcoders.layers[layer].w_dec[feature]
        for above, row in enumerate(rows if rows.ndim == 2 else rows[None]):
            at = added.setdefault(layer + above, torch.zeros(positions, WIDTH, dtype=torch.float64))
            at[position] += change * row
    return added


@contextmanager
def linear(model, transcoders: TranscoderSet, ids: list[int], passing: bool) -> Iterator[None]:
    """The graph's own linear model: attention patterns and norm denominators as in the unchanged run; MLPs write what they did
    then. passing: and what changed pre-activations of the features that fire make of it (total effects).

    Only for checks of the engine: what is measured here equals the graph by construction and is evidence of nothing.
    """
    blocks, clean = model.blocks(), Forward(model, transcoders, ids)
    seen: dict = {}
    norms = [model.final_norm]
    for block in blocks:
        norms += [
            n for n in (block.attention_norm, block.mlp_norm, block.post_attention_norm, block.post_mlp_norm) if n
        ]
    parts = [(part.module, part.columns) for block in blocks for part in (block.query, block.key)]
    handles = [
        module.register_forward_hook(lambda m, a, out: seen.__setitem__(m, (a[0][:1], out[:1])))
        for module in {norm.module for norm in norms} | {module for module, _ in parts}
    ]
    with torch.no_grad():
        model.network(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()

    def frozen_norm(norm):
        at, out = seen[norm.module]
        scale = norm.scale(at)
        return lambda m, a, o: out + norm.centre(a[0] - at) * scale * norm.weight

    def frozen_columns(columns):
        def hook(module, args, out):
            out = out.clone()
            out[..., columns] = seen[module][1][..., columns]
            return out

        return hook

    handles = [norm.module.register_forward_hook(frozen_norm(norm)) for norm in norms]
    handles += [module.register_forward_hook(frozen_columns(columns)) for module, columns in parts]
    if passing:
        handles += list(_linear_mlps(model, transcoders, clean))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear_mlps(model, transcoders: TranscoderSet, clean: Forward):
    """Each MLP's output: the unchanged one, plus skip and active features' decoders times what moved at the inputs below."""
    live: dict[int, torch.Tensor] = {}
    for i, block in enumerate(model.blocks()):
        norm, post = block.mlp_norm, block.post_mlp_norm if transcoders.output_hook == "hook_mlp_out" else None

        def moved(value, i):
            live[i] = value - clean.inputs[i]

        if transcoders.input_hook == "mlp.hook_in":
            yield norm.module.register_forward_hook(lambda m, a, out, i=i: moved(out, i))
        else:
            assert transcoders.input_hook == "hook_resid_mid"
            yield norm.module.register_forward_pre_hook(lambda m, a, i=i: moved(a[0], i))

        def write(module, args, out, i=i):
            fresh = clean.outputs[i].expand_as(out).clone()
            for layer in range(i + 1):
                transcoder = transcoders.layers[layer]
                if layer == i and transcoder.w_skip is not None:
                    fresh += live[i] @ transcoder.w_skip.T
                if layer < i and transcoder.w_dec.ndim == 2:
                    continue
                firing = transcoder.encode(clean.inputs[layer]) != 0
                firing[: model.constant_positions()] = False
                rows = transcoder.w_dec if transcoder.w_dec.ndim == 2 else transcoder.w_dec[:, i - layer]
                fresh += (live[layer] @ transcoder.w_enc.T * firing) @ rows
            return fresh

        yield (block.mlp if post is None else post.module).register_forward_hook(write)
