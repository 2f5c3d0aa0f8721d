"""Tiny random models of every family in float64, the shipped model, and pairs of token ids as cases."""

from __future__ import annotations

import pytest
import torch

from atlas.causal_records import PromptPair
from ingest.components.pairs import Cases
from ingest.models import FAMILIES, load_model
from ingest.organism import model_path
from tests.ingest.trace.conftest import ORACLE, write_model

VOCABULARY = 50


@pytest.fixture(scope="session", params=FAMILIES)
def family_model(request, tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("components") / request.param, request.param)
    return load_model(folder, device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def shipped():
    return load_model(model_path(), device="cpu")


def random_cases(lengths: list[int], seed: int = 0, differ_from: int = 1) -> Cases:
    """Clean and corrupted ids that differ at positions from `differ_from` on."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    clean = torch.randint(1, VOCABULARY, (len(lengths), longest), generator=generator)
    corrupted = torch.randint(1, VOCABULARY, (len(lengths), longest), generator=generator)
    corrupted[:, :differ_from] = clean[:, :differ_from]
    answers = torch.randint(0, VOCABULARY // 2, (len(lengths),), generator=generator)
    return Cases(
        clean=clean,
        corrupted=corrupted,
        lengths=torch.tensor(lengths),
        answers=answers,
        wrong=answers + VOCABULARY // 2,
        pairs=tuple(PromptPair(clean="a", corrupted="b", answer="c", wrong="d") for _ in lengths),
    )


@pytest.fixture(scope="session")
def oracle_model():
    """A tiny random Llama whose tokenizer knows no English."""
    return load_model(ORACLE / "model", device="cpu")
