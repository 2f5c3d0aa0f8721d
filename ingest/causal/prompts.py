"""A prompt in the unchanged model: the features that fire, the errors, the embeddings, and controls among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from atlas.circuit import Circuit
from atlas.errors import InputRejected
from atlas.evidence import CONTROLS_NEEDED, check_length
from ingest.causal.network import Held, wide
from ingest.models.base import Model
from ingest.trace.prompt import prompt_ids
from ingest.trace.sources import find_sources
from ingest.transcoders.set import TranscoderSet

Feature = tuple[int, int, int]  # layer, position, feature


@dataclass
class OnPrompt:
    """L layers, P positions, F active features (none at the constant first positions), d width."""

    text: str
    ids: list[int]
    held: Held
    token_vectors: torch.Tensor  # (P, d)
    errors: torch.Tensor  # (L, P, d)
    features: np.ndarray  # (F, 3) layer, position, feature
    activations: np.ndarray  # (F,) float64

    @cached_property
    def _row(self) -> dict[Feature, int]:
        return {(l, p, f): row for row, (l, p, f) in enumerate(self.features.tolist())}

    def value(self, feature: Feature) -> float:
        """0 where it does not fire."""
        row = self._row.get(feature)
        return 0.0 if row is None else float(self.activations[row])

    def controls(self, tested: Feature, count: int, excluded: Collection[Feature]) -> list[Feature]:
        """Up to `count` other active features of the layer, the nearest in |activation| (by ratio) first.

        From the same position where at least 8 fire there; else those come first and the other positions fill up.
        """
        layer, position, _ = tested
        own = abs(self.value(tested))
        if own == 0:
            return []
        rows = np.flatnonzero(self.features[:, 0] == layer)
        rows = rows[[tuple(self.features[row].tolist()) not in excluded for row in rows]] if len(rows) else rows
        elsewhere = self.features[rows, 1] != position
        if (~elsewhere).sum() >= CONTROLS_NEEDED:
            rows = rows[~elsewhere]
            elsewhere = elsewhere[~elsewhere]
        distance = np.abs(np.log(np.maximum(np.abs(self.activations[rows]), 1e-30) / own))
        order = np.lexsort((distance, elsewhere))[:count]
        return [tuple(feature) for feature in self.features[rows[order]].tolist()]


def on_prompt(model: Model, transcoders: TranscoderSet, ids: Sequence[int], text: str) -> OnPrompt:
    """Run a prompt once, unchanged."""
    with torch.inference_mode():
        frozen = model.freeze(list(ids), transcoders.input_hook, transcoders.output_hook)
        sources = find_sources(frozen, transcoders, model.constant_positions(transcoders.model_name))
        values = []  # the pre-activations again, as wide as they are read in changed runs
        for layer, transcoder in enumerate(transcoders.layers):
            _, position, feature = sources.features[sources.features[:, 0] == layer].T.to(transcoder.b_enc.device)
            at = wide(frozen.inputs[layer].to(position.device)[position])
            pre = (at * wide(sources.encoders[layer])).sum(-1) + wide(transcoder.b_enc[feature])
            values.append(pre.double().cpu())
    return OnPrompt(
        text=text,
        ids=list(ids),
        held=Held(frozen.inputs, frozen.outputs),
        token_vectors=frozen.token_vectors,
        errors=sources.errors,
        features=sources.features.numpy().astype(np.int64),
        activations=torch.cat(values).numpy(),
    )


def circuit_ids(model: Model, circuit: Circuit) -> list[int]:
    """The token ids of a circuit's prompt: its own, else, of an imported one, those of its text.

    Raises InputRejected where the text gives another number of tokens than the circuit has.
    """
    example = circuit.record.examples[0] if circuit.record.examples else None
    if example is not None and example.token_ids is not None:
        return list(example.token_ids)
    text = circuit.record.prompt or "".join(circuit.tokens)
    ids = prompt_ids(model, text, None)
    if len(ids) != len(circuit.tokens):
        raise InputRejected(
            f"The circuit {circuit.id} does not say its token ids, and its text is {len(ids)} tokens here in place of {len(circuit.tokens)}.",
            "Trace the prompt again.",
        )
    return ids


def prompts_like(model: Model, circuit: Circuit, texts: Sequence[str], expected: int) -> list[list[int]]:
    """Token ids of other prompts, each as long as the circuit's. Raises InputRejected."""
    found = []
    for text in texts:
        ids = prompt_ids(model, text, None)
        check_length(len(ids), expected, text)
        found.append(ids)
    return found
