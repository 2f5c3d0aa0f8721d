"""Our patching against TransformerLens 3.2.1, whose heat maps benchmarks/oracle/patching_reference.py wrote, on every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atlas.causal_records import PromptPair
from ingest.components.metrics import metric
from ingest.components.pairs import Cases
from ingest.components.patching import patch_activations
from ingest.models import load_model

FAMILIES = Path(__file__).resolve().parent.parent / "data" / "oracle_families"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt_neox"])
def test_heat_maps_are_those_of_transformer_lens(family, direction):
    model = load_model(FAMILIES / family / "model", device="cpu")
    theirs = dict(np.load(FAMILIES / family / "patching.npz"))
    clean = torch.from_numpy(theirs["clean_ids"])
    cases = Cases(
        clean=clean,
        corrupted=torch.from_numpy(theirs["corrupted_ids"]),
        lengths=torch.full((len(clean),), clean.shape[1]),
        answers=torch.from_numpy(theirs["answers"]),
        wrong=torch.from_numpy(theirs["wrong"]),
        pairs=tuple(PromptPair(clean="", answer="") for _ in clean),
    )
    ours = patch_activations(
        model, cases, ["resid", "attn", "mlp", "head"], direction, "counterfactual", metric("logit-difference")
    )
    np.testing.assert_allclose(ours.clean, theirs["clean"], atol=1e-5)
    np.testing.assert_allclose(ours.corrupted, theirs["corrupted"], atol=1e-5)
    names = {"resid.pre": "resid", "attn.out": "attn", "mlp.out": "mlp", "head.out": "head"}
    compared = 0
    for (site, layer, position, head), values in zip(ours.parts, ours.values, strict=True):
        name = names[site] + ("_everywhere" if position < 0 else "")
        place = tuple(i for i in (layer, position, head) if i >= 0)
        np.testing.assert_allclose(values, theirs[f"{direction}.{name}"][(slice(None), *place)], atol=1e-5)
        compared += len(values)
    assert compared == sum(theirs[f"{direction}.{name}"].size for name in [*names.values(), "head_everywhere"])
