"""Patching by parts of passes is the same as patching in whole passes of the real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingest.components.metrics import metric
from ingest.components.network import Place, run
from ingest.components.patching import patch_activations
from tests.ingest.components.conftest import random_cases

SITES = ["resid", "attn", "mlp", "head"]


def plainly(model, cases, direction, measure) -> dict[tuple[str, int, int, int], np.ndarray]:
    """(B,) metric by part, one whole pass of one case each."""
    base, source = (cases.corrupted, cases.clean) if direction == "denoise" else (cases.clean, cases.corrupted)
    found: dict[tuple[str, int, int, int], np.ndarray] = {}
    for case, length in enumerate(cases.lengths.tolist()):
        one = cases.take([case])
        ids, other = base[case : case + 1, :length], source[case : case + 1, :length]
        places = [
            Place(site, layer)
            for site in ("resid.pre", "attn.out", "mlp.out", "head.out")
            for layer in range(model.n_layers)
        ]
        values = run(model, other, reads=places).values
        for place in places:
            for head in range(values[place].shape[2]) if place.site == "head.out" else [-1]:
                for position in range(-1 if head >= 0 else 0, length):

                    def edit(value, place=place, head=head, position=position, values=values):
                        value = value.clone()
                        there = slice(None) if position < 0 else position
                        if head < 0:
                            value[:, there] = values[place][:, there]
                        else:
                            value[:, there, head] = values[place][:, there, head]
                        return value

                    logits = run(model, ids, writes={place: edit}).logits
                    row = found.setdefault((place.site, place.layer, position, head), np.full(len(cases), np.nan))
                    row[case] = float(measure(logits, one))
    return found


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@torch.inference_mode()
def test_every_patch_is_that_of_a_whole_pass(family_model, direction):
    cases = random_cases([6, 4, 6], differ_from=2)
    measure = metric("logit-difference")
    patched = patch_activations(family_model, cases, SITES, direction, "counterfactual", measure, tokens_at_once=40)
    expected = plainly(family_model, cases, direction, measure)
    assert set(patched.parts) == set(expected)
    np.testing.assert_allclose(patched.values, [expected[part] for part in patched.parts], rtol=1e-9, atol=1e-10)
