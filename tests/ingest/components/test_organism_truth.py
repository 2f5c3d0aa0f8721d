"""The shipped model's circuits by exhaustive patching: the data are of this model, and cheaper methods are near them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import organism_truth
from benchmarks.organism_truth import FILE, TASKS, Exhaustive, cases_of, circuit, truth_of
from ingest.components.curves import auroc
from ingest.components.eap import edge_scores
from ingest.components.wiring import Wiring
from ingest.models import load_model
from ingest.organism import model_path

DATA = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def model():
    return load_model(model_path(), device="cpu")


def test_the_data_are_of_the_shipped_model_and_whole(model):
    wiring = Wiring.of(model)
    parts = wiring.n_sources - 1
    assert DATA["model"] == model.weights_hash
    assert list(DATA["tasks"]) == list(TASKS)
    for entry in DATA["tasks"].values():
        assert [len(entry[name]) for name in ("noised", "denoised", "noised_together", "cut")] == [
            parts,
            parts,
            parts * (parts - 1) // 2,
            wiring.n_edges,
        ]
        found, edges = truth_of(entry)
        assert (found.sum(), edges.sum()) == (len(entry["circuit"]), len(entry["edges"]))
        assert 0 < found.sum() < parts


@pytest.mark.parametrize("task", ["two_hop", "agreement"])
def test_numbers_of_the_file_are_measured_again(model, task):
    entry = DATA["tasks"][task]
    run = Exhaustive(model, cases_of(task, model))
    assert (run.full, run.empty) == pytest.approx((entry["full"], entry["empty"]), abs=1e-3)
    strongest = np.argsort(-np.abs(entry["noised"]))[:3]
    again = [run.lost(int(row) + 1) for row in strongest]
    assert again == pytest.approx(np.array(entry["noised"])[strongest], abs=1e-3)
    edges = np.argsort(-np.abs(entry["cut"]))[:3]
    assert run.edges(edges) == pytest.approx(np.array(entry["cut"])[edges], abs=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_integrated_gradients_rank_what_exhaustive_patching_finds_high(model, task):
    parts, edges = truth_of(DATA["tasks"][task])
    scores = edge_scores(model, cases_of(task, model), organism_truth.METRIC, 5)
    assert auroc(np.abs(scores.node_scores[1:-1]), parts) > 0.8
    assert auroc(np.abs(scores.scores.numpy()), edges) > 0.8


def test_two_parts_that_stand_in_for_each_other_are_backups():
    nothing, together = np.zeros(3), np.array([0.5, 0.0, 0.02])  # of parts 0 and 1, 0 and 2, 1 and 2
    found, backups = circuit(nothing, nothing, together)
    assert found.tolist() == backups.tolist() == [True, True, False]
    found, backups = circuit(np.array([0.9, 0.0, 0.0]), nothing, np.array([0.9, 0.9, 0.0]))
    assert (found.tolist(), backups.any()) == ([True, False, False], False)
