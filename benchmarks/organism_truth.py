"""What the shipped model does per task, by exhaustive patching; and how well cheaper methods find it.

    python -m benchmarks.organism_truth            # measures and writes ingest/organism/truth.json (a minute or two on one core)
    python -m benchmarks.organism_truth --score    # scores EAP, EAP-IG and feature graphs against that file

Per task, on COUNT prompt pairs: the share of the logit difference that is lost when one part writes what it writes on the
corrupted prompt (noising), and the share that comes back when only that part is clean (denoising), for every head and MLP; the
share lost for every two of them at once; the share lost for every edge that is cut alone. All by exact runs of the network.

A part belongs to the circuit when it alone changes the metric by THRESHOLD or more either way, or is a backup: two of them
together lose THRESHOLD more than the sum of both alone. An edge belongs to it when its cut changes the metric by EDGE_THRESHOLD.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from atlas.causal_records import PromptPair
from ingest.components.curves import auroc
from ingest.components.eap import edge_scores
from ingest.components.metrics import metric
from ingest.components.network import Place, every_place, run
from ingest.components.pairs import Cases, make_cases, make_pairs
from ingest.components.path_patching import edge_effects
from ingest.components.wiring import Wiring
from ingest.models import load_model
from ingest.models.decoder import DecoderModel
from ingest.organism import lexicon, model_path, transcoders_path
from ingest.organism.geography import BY_CITY, CITIES
from ingest.trace import TargetSpec, question, trace_circuit
from ingest.transcoders import load_transcoders

FILE = Path(model_path()).parent / "truth.json"
RESULTS = Path(__file__).parent / "results"
COUNT, THRESHOLD, EDGE_THRESHOLD = 40, 0.05, 0.02
TASKS = ("city_to_state", "two_hop", "ioi", "agreement", "greater_than", "antonym")
GRAPHS = 10  # feature graphs per task
METRIC = metric("logit-difference")


def pairs_of(task: str, model: DecoderModel, count: int = COUNT) -> list[PromptPair]:
    """Prompt pairs of one frame, so that all have as many tokens; the same on every machine."""
    if task in ("ioi", "agreement", "greater_than"):
        return make_pairs(task.replace("_", "-"), count, 0, model)  # type: ignore[arg-type]
    rng = random.Random(f"truth-{task}")
    made: dict[tuple[str, str], PromptPair] = {}
    while len(made) < count:
        one, other, pair = _drawn(task, rng)
        if pair.answer != pair.wrong:
            made[one, other] = pair
    return list(made.values())


def _drawn(task: str, rng: random.Random) -> tuple[str, str, PromptPair]:
    if task == "antonym":
        (one, answer), (other, wrong) = (pair[:: rng.choice((1, -1))] for pair in rng.sample(lexicon.ANTONYMS, 2))
        frame = "The opposite of {} is"
    else:
        one, other = rng.sample(CITIES, 2)
        first, second = BY_CITY[one], BY_CITY[other]
        if task == "two_hop":
            frame, answer, wrong = "The capital of the state containing {} is", first.capital, second.capital
        else:
            frame, answer, wrong = "{} is a city in", first.name, second.name
    return one, other, PromptPair(clean=frame.format(one), corrupted=frame.format(other), answer=answer, wrong=wrong)


def cases_of(task: str, model: DecoderModel) -> Cases:
    return make_cases(model, pairs_of(task, model), metric=METRIC.name, corrupted=True)


class Exhaustive:
    """One task. N nodes: heads and MLPs, E edges, as in Wiring."""

    def __init__(self, model: DecoderModel, cases: Cases) -> None:
        self.model, self.cases, self.wiring = model, cases, Wiring.of(model)
        assert cases.corrupted is not None
        places = every_place(model, ("head.out", "mlp.out"))
        with torch.inference_mode():
            self.clean = run(model, cases.clean, cases.lengths, reads=places)
            self.corrupted = run(model, cases.corrupted, cases.lengths, reads=places)
        self.full, self.empty = (float(METRIC(end.logits, cases).mean()) for end in (self.clean, self.corrupted))

    @torch.inference_mode()
    def replaced(self, nodes: Sequence[int], denoise: bool = False) -> float:
        """The metric with the outputs of some nodes (source rows of Wiring) taken from the other run, all else free."""
        there = (self.clean if denoise else self.corrupted).values
        writes: dict[Place, Any] = {}
        for layer in range(self.wiring.layers):
            heads = [head for head in range(self.wiring.heads) if self.wiring.head(layer, head) in nodes]
            if heads:
                place = Place("head.out", layer)
                writes[place] = lambda value, heads=heads, place=place: _with_heads(value, there[place], heads)
            if self.wiring.mlp(layer) in nodes:
                place = Place("mlp.out", layer)
                writes[place] = lambda value, place=place: there[place]
        ids = self.cases.corrupted if denoise else self.cases.clean
        assert ids is not None
        return float(METRIC(run(self.model, ids, self.cases.lengths, writes=writes).logits, self.cases).mean())

    def lost(self, *nodes: int) -> float:
        """Share of the metric that is lost when these nodes write what they write on the corrupted prompts."""
        return (self.full - self.replaced(nodes)) / (self.full - self.empty)

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) lost by noising, and come back by denoising."""
        nodes = range(1, self.wiring.n_sources)
        back = [(self.replaced([node], denoise=True) - self.empty) / (self.full - self.empty) for node in nodes]
        return np.array([self.lost(node) for node in nodes]), np.array(back)

    def pairs(self) -> np.ndarray:
        """(N * (N - 1) / 2,) lost by noising two, in the order of itertools.combinations."""
        return np.array([self.lost(*two) for two in combinations(range(1, self.wiring.n_sources), 2)])

    def edges(self, which: np.ndarray | None = None) -> np.ndarray:
        """(E,) lost by cutting one, or of some."""
        effects = edge_effects(self.model, self.cases, METRIC, which)
        return effects.mean(1).numpy() / (self.full - self.empty)


def _with_heads(value: torch.Tensor, other: torch.Tensor, heads: list[int]) -> torch.Tensor:
    value = value.clone()
    value[:, :, heads] = other[:, :, heads]
    return value


def circuit(noised: np.ndarray, denoised: np.ndarray, together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: parts of the circuit, and those of them that are backups only."""
    alone = (np.abs(noised) >= THRESHOLD) | (np.abs(denoised) >= THRESHOLD)
    backup = np.zeros(len(noised), bool)
    for (a, b), both in zip(combinations(range(len(noised)), 2), together, strict=True):
        if both - noised[a] - noised[b] >= THRESHOLD:
            backup[[a, b]] = True
    return alone | backup, backup & ~alone


def measured(model: DecoderModel, task: str) -> dict[str, Any]:
    began = time.process_time()
    patched = Exhaustive(model, cases_of(task, model))
    noised, denoised = patched.components()
    together, cut = patched.pairs(), patched.edges()
    parts, backups = circuit(noised, denoised, together)
    keys = np.array(_keys(patched.wiring))
    source, target = keys[patched.wiring.edge_source], np.array([*keys, "logit"])[patched.wiring.edge_target]
    strong = np.flatnonzero(np.abs(cut) >= EDGE_THRESHOLD)
    slots = ("", "q", "k", "v")
    CONSOLE.print(
        f"{task}: {int(parts.sum())} of {len(parts)} parts ({int(backups.sum())} only as backups), {len(strong)} of "
        f"{len(cut)} edges, {time.process_time() - began:.0f} CPU-seconds"
    )
    return {
        "example": patched.cases.pairs[0].model_dump(),
        "cases": len(patched.cases),
        "full": round(patched.full, 4),
        "empty": round(patched.empty, 4),
        "circuit": keys[1:][parts].tolist(),
        "backups": keys[1:][backups].tolist(),
        "edges": [[source[i], target[i], slots[patched.wiring.edge_slot[i]], round(float(cut[i]), 4)] for i in strong],
        "noised": _round(noised),
        "denoised": _round(denoised),
        "noised_together": _round(together),
        "cut": _round(cut),
    }


def _keys(wiring: Wiring) -> list[str]:
    """Short names of sources: embeddings, then `layer.head` and `mlp layer`."""
    return [
        "embeddings",
        *[
            name
            for layer in range(wiring.layers)
            for name in [*(f"{layer}.{head}" for head in range(wiring.heads)), f"mlp {layer}"]
        ],
    ]


def _round(values: np.ndarray) -> list[float]:
    return np.round(values, 4).tolist()


def truth_of(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (E,) bool of a task in the file."""
    parts, _ = circuit(*(np.array(entry[name]) for name in ("noised", "denoised", "noised_together")))
    return parts, np.abs(np.array(entry["cut"])) >= EDGE_THRESHOLD


def graph_scores(model: DecoderModel, transcoders: Any, cases: Cases, count: int = GRAPHS) -> np.ndarray:
    """(N,) how much of the influence in the feature graphs of the first prompts goes through each head and MLP.

    MLP: influence of its features and errors. Head: of the strongest 1000 edges of a graph, the edge's share of influence times
    the head's part in the edge.
    """
    heads = model.blocks()[0].query.weight.shape[0] // model.blocks()[0].head_size
    table = np.zeros((model.n_layers, heads + 1))
    for row in range(min(count, len(cases))):
        assert cases.wrong is not None
        ids = cases.clean[row, : cases.lengths[row]].tolist()
        target = TargetSpec("difference", "answer − wrong", tokens=(int(cases.answers[row]), int(cases.wrong[row])))
        parameters = {"max_logits": None, "logit_mass": None, "max_features": None}
        asked = question(model, transcoders, ids, None, parameters, {"node": 1.0, "edge": 1.0})
        graph = trace_circuit(model, transcoders, asked, [target], actor="benchmark", opened_edges=1000)
        nodes, extra = graph.nodes, graph.extra
        mlps = nodes.is_kind("feature", "error")
        np.add.at(table[:, heads], nodes.layer[mlps], np.nan_to_num(nodes.influence[mlps]))
        reach = np.nan_to_num(nodes.influence) + nodes.is_kind("logit")
        strength = graph.edge_shares * reach[graph.edges.target]
        size = np.abs(extra["heads.weight"].astype(np.float64))
        whole = np.bincount(extra["heads.edge"], weights=size, minlength=len(graph.edges))
        real = extra["heads.head"] >= 0
        edge = extra["heads.edge"][real]
        np.add.at(
            table, (extra["heads.layer"][real], extra["heads.head"][real]), strength[edge] * size[real] / whole[edge]
        )
    return table.flatten()


def scored(model: DecoderModel, entry: dict[str, Any], task: str, transcoders: Any) -> dict[str, float]:
    """AUROC of every method against the truth, absolute scores."""
    cases = cases_of(task, model)
    parts, edges = truth_of(entry)
    found: dict[str, float] = {"parts in circuit": float(parts.sum()), "edges in circuit": float(edges.sum())}
    for name, steps in (("EAP", 1), ("EAP-IG", 5)):
        scores = edge_scores(model, cases, METRIC, steps)
        found[f"{name}, parts"] = auroc(np.abs(scores.node_scores[1:-1]), parts)
        found[f"{name}, edges"] = auroc(np.abs(scores.scores.numpy()), edges)
    found["feature graphs, parts"] = auroc(graph_scores(model, transcoders, cases), parts)
    return found


CONSOLE = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--tasks", default=",".join(TASKS))
    options = parser.parse_args()
    model = load_model(model_path(), device="cpu")
    assert isinstance(model, DecoderModel)
    tasks = options.tasks.split(",")
    if not options.score:
        kept = json.loads(FILE.read_text())["tasks"] if FILE.exists() else {}
        for task in tasks:
            kept[task] = measured(model, task)
            made = {
                "model": model.weights_hash,
                "threshold": THRESHOLD,
                "edge_threshold": EDGE_THRESHOLD,
                "tasks": kept,
            }
            FILE.write_text(_lines(made))
        return
    data = json.loads(FILE.read_text())
    transcoders = load_transcoders(transcoders_path(), model)
    rows = {task: scored(model, data["tasks"][task], task, transcoders) for task in tasks}
    columns = list(next(iter(rows.values())))
    table = Table("task", *columns, title="AUROC against exhaustive patching")
    for task, row in rows.items():
        table.add_row(task, *[f"{row[name]:.3g}" for name in columns])
    CONSOLE.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "organism_truth.json").write_text(json.dumps(rows, indent=1) + "\n")


def _lines(made: dict[str, Any]) -> str:
    """JSON with one line per list of numbers."""
    tasks = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items())
        + "\n  }"
        for name, entry in made["tasks"].items()
    )
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items() if key != "tasks")
    return f'{{\n{head},\n "tasks": {{\n{tasks}\n }}\n}}\n'


if __name__ == "__main__":
    main()
