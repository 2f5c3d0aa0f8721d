"""A part of a pass: the real layers from one on, over the positions from one on.

Attention is causal, so what a patch at some layer and position changes lies above and behind it. The rest is what a whole
pass left: the streams into every layer, and every layer's keys and values. Nothing is approximated.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ingest.components.network import Edit, Place, head_logits, hooked
from ingest.models.decoder import Block, DecoderModel

_CACHES = ("past_key_values", "layer_past")  # how layers call the cache they are given


@dataclass
class Whole:
    """What one pass of the network over (b, P) token ids left."""

    logits: torch.Tensor  # (b, V) at the last position
    streams: list[torch.Tensor] = field(
        default_factory=list
    )  # L + 1 of (b, P, d): before each layer, and after the last
    values: dict[Place, torch.Tensor] = field(default_factory=dict)  # as `network` shapes them
    keys: list[torch.Tensor] = field(default_factory=list)  # by layer (b, n, P, h), positions already turned in
    attended: list[torch.Tensor] = field(default_factory=list)  # by layer (b, n, P, h) the values
    arguments: list[dict[str, Any]] = field(
        default_factory=list
    )  # by layer: what it was called with besides the stream


class Tail:
    """Runs parts of passes of one model. Rows are k copies of b prompts, copy by copy: row = copy * b + prompt."""

    def __init__(self, model: DecoderModel) -> None:
        self.model = model
        self.blocks: list[Block] = model.blocks()

    def whole(self, ids: torch.Tensor, reads: Iterable[Place] = ()) -> Whole:
        """One pass over (b, P) ids without padding, with all that parts of passes need of it."""
        left = Whole(logits=torch.empty(0))
        recorder = _Recorder(left)
        streams = [Place("resid.pre", layer) for layer in range(len(self.blocks))]
        handles = [
            block.layer.register_forward_pre_hook(_taking(left, recorder), with_kwargs=True) for block in self.blocks
        ]
        final: list[torch.Tensor] = []
        handles.append(
            self.model.final_norm.module.register_forward_pre_hook(lambda module, args: final.append(args[0]))
        )
        try:
            with hooked(self.model, [*streams, *reads], blocks=self.blocks) as seen:
                normed = self.model.body(input_ids=ids.to(self.model.device), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        left.logits = head_logits(self.model, normed[:, -1])
        left.streams = [*(seen[place] for place in streams), final[0]]
        left.values = seen
        return left

    def layer(
        self,
        whole: Whole,
        number: int,
        stream: torch.Tensor,
        start: int,
        writes: Mapping[Place, Edit] | None = None,
    ) -> torch.Tensor:
        """(k * b, p, d) streams into a layer at positions start .. start + p - 1 -> the same after it.

        Positions before `start` are as in the whole pass. Edits see (k * b, p, ...).
        """
        stop = start + stream.shape[1]
        arguments = dict(whole.arguments[number])
        cache = arguments.pop("cache name")
        if start:
            arguments[cache] = _Before(whole.keys[number][:, :, :start], whole.attended[number][:, :, :start])
        passed = {name: _cut(name, value, start, stop) for name, value in arguments.items()}
        with hooked(self.model, (), writes, blocks=self.blocks):
            made = self.blocks[number].layer(stream, **passed)
        return made[0] if isinstance(made, tuple) else made

    def logits(self, stream: torch.Tensor) -> torch.Tensor:
        """(rows, d) after the last layer -> (rows, V)."""
        return head_logits(self.model, self.model.final_norm.module(stream))


def _taking(left: Whole, recorder: _Recorder):
    """A hook that keeps what a layer is called with and gives it the recorder for a cache."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        cache = next(name for name in _CACHES if name in inspect.signature(module.forward).parameters)
        bound.arguments[cache] = recorder
        (stream_name, *_) = bound.arguments
        named = {name: value for name, value in bound.arguments.items() if name not in (stream_name, cache)}
        variable = [name for name, p in bound.signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
        for name in variable:
            named |= named.pop(name, {})
        left.arguments.append(named | {"cache name": cache})
        return bound.args, bound.kwargs

    return hook


def _cut(name: str, value: Any, start: int, stop: int) -> Any:
    """An argument of a layer for some of the positions. Rows of a whole pass are alike, so one stands for all of them."""
    if name == "attention_mask" and isinstance(value, torch.Tensor):
        return value[:1, :, start:stop, :stop]
    if name == "position_ids" and isinstance(value, torch.Tensor):
        return value[:1, start:stop]
    if name == "cache_position" and isinstance(value, torch.Tensor):
        return value[start:stop]
    if name == "position_embeddings" and isinstance(value, tuple):
        return tuple(part[:1, start:stop] for part in value)
    return value


class _Recorder:
    """Stands for a cache in a whole pass: keeps keys and values, changes nothing."""

    def __init__(self, left: Whole) -> None:
        self._left = left

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self._left.keys.append(keys)
        self._left.attended.append(values)
        return keys, values


class _Before:
    """Stands for a cache in a part of a pass: puts the earlier positions in front, for every copy."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._parts = (keys, values)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.cat([before.repeat(len(now) // len(before), 1, 1, 1), now], dim=2)
            for before, now in zip(self._parts, (keys, values), strict=True)
        )
