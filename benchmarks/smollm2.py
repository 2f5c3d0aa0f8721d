"""A real language model: component circuits of SmolLM2-135M-Instruct for indirect objects and agreement.

    python scripts/smollm2.py                        # once: puts the model into .cache/smollm2
    python -m benchmarks.smollm2 [--tasks ioi,agreement] [--count 50] [--random 3] [--steps 5] [--heads 20]
                                [--curve-count N | --no-curves]

Per task: how well the model does it, edges scored by EAP-IG, the heads of the largest node scores with their roles, the measured
effect of ablating each of these heads (noising, exact) beside the score, and the faithfulness curves beside random circuits and
plain gradients. Stored task by task as benchmarks/results/smollm2.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from atlas.causal_records import CircuitFaithfulnessRequest
from atlas.circuit import SLOT
from ingest.components.curves import FRACTIONS
from ingest.components.eap import EdgeScores, edge_scores
from ingest.components.faithfulness_curves import curves_of
from ingest.components.metrics import metric
from ingest.components.network import Place, answer_logits, run
from ingest.components.pairs import Cases, make_cases, make_pairs
from ingest.components.roles import HeadRole, head_scores, roles
from ingest.components.split import SplitNetwork
from ingest.models import load_model
from ingest.models.decoder import DecoderModel

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "smollm2"
RESULTS = Path(__file__).parent / "results"
METRIC = metric("logit-difference")
CONSOLE = Console(width=120)


def behaviour(model: DecoderModel, cases: Cases) -> dict[str, float]:
    """Logit difference on clean and corrupted prompts, and how often the answer is the likelier of the two, and of all."""
    assert cases.corrupted is not None
    clean = answer_logits(model, cases.clean, cases.lengths)
    corrupted = answer_logits(model, cases.corrupted, cases.lengths)
    difference = METRIC(clean, cases)
    return {
        "clean": float(difference.mean()),
        "corrupted": float(METRIC(corrupted, cases).mean()),
        "right_of_two": float((difference > 0).float().mean()),
        "right_of_all": float((clean.argmax(-1) == cases.answers).float().mean()),
        "tokens": int(cases.lengths.max()),
    }


def by_head(scores: EdgeScores) -> tuple[np.ndarray, np.ndarray]:
    """(L, H) node scores, and (L, H, L, H) the score of the edge from a head to another head's query."""
    wiring = scores.wiring
    rows = np.array([[wiring.head(layer, head) for head in range(wiring.heads)] for layer in range(wiring.layers)])
    nodes = scores.node_scores
    table = np.zeros((wiring.n_sources + 1, wiring.n_sources + 1))
    queries = scores.slots == SLOT["q"]
    table[scores.sources[queries], scores.targets[queries]] = scores.scores.numpy()[queries]
    return nodes[rows], table[rows[:, :, None, None], rows[None, None]]


def ablated(model: DecoderModel, cases: Cases, heads: list[HeadRole], full: float, empty: float) -> list[float]:
    """Share of the metric that is lost when a head alone writes what it writes on the corrupted prompts, all else free."""
    assert cases.corrupted is not None
    places = [Place("head.out", found.layer) for found in heads]
    with torch.inference_mode():
        there = run(model, cases.corrupted, cases.lengths, reads=places).values
        lost = []
        for found, place in zip(heads, places, strict=True):

            def write(value: torch.Tensor, found=found, place=place) -> torch.Tensor:
                value = value.clone()
                value[:, :, found.head] = there[place][:, :, found.head]
                return value

            logits = run(model, cases.clean, cases.lengths, writes={place: write}).logits
            lost.append((full - float(METRIC(logits, cases).mean())) / (full - empty))
    return lost


def run_task(model: DecoderModel, task: str, options: argparse.Namespace) -> dict[str, Any]:
    cases = make_cases(model, make_pairs(task, options.count, 0, model), metric="logit-difference", corrupted=True)
    made: dict[str, Any] = {"task": task, "count": len(cases), "example": cases.pairs[0].model_dump()}
    made["behaviour"] = behaviour(model, cases)
    CONSOLE.print(task, made["behaviour"])
    began = time.process_time()
    scored = edge_scores(model, cases, METRIC, options.steps)
    made["cpu_seconds_eap_ig"] = round(time.process_time() - began, 1)
    CONSOLE.print(f"EAP-IG: {made['cpu_seconds_eap_ig']} CPU-seconds")
    effect, into_queries = by_head(scored)
    found = roles(head_scores(model, cases), effect, options.heads, into_queries if task == "ioi" else None)
    lost = ablated(model, cases, found, made["behaviour"]["clean"], made["behaviour"]["corrupted"])
    made["heads"] = [
        {
            "head": f"{head.layer}.{head.head}",
            "roles": head.roles,
            "score": head.effect,
            "lost_when_ablated": loss,
            **head.scores,
        }
        for head, loss in zip(found, lost, strict=True)
    ]
    made["spearman_score_ablation"] = float(spearmanr([head.effect for head in found], lost).statistic)
    wiring = scored.wiring
    made["mlps"] = {str(layer): float(scored.node_scores[wiring.mlp(layer)]) for layer in range(wiring.layers)}
    show_heads(made)
    if options.curves:
        few = cases.take(range(min(options.curve_count or len(cases), len(cases))))
        plain = edge_scores(model, cases, METRIC, 1).scores.numpy()
        network, began = SplitNetwork(model), time.process_time()

        def measure(keeps: np.ndarray) -> np.ndarray:
            return network.measure(few, torch.from_numpy(keeps), METRIC, progress=note).double().mean(1).numpy()

        asked = CircuitFaithfulnessRequest(circuit=task, random_circuits=options.random)
        result = curves_of(task, measure, scored.scores.numpy(), plain, asked)
        result.cases, result.metric = len(few), METRIC.name
        made["faithfulness"] = result.model_dump(mode="json")
        made["cpu_seconds_curves"] = round(time.process_time() - began, 1)
        show_curves(made)
    return made


_last_note = 0.0


def note(done: int, total: int, what: str) -> None:
    """A line a minute on standard error."""
    global _last_note
    if time.monotonic() - _last_note > 60:
        _last_note = time.monotonic()
        Console(stderr=True).print(f"{what}: {done} of {total}")


def show_heads(made: dict[str, Any]) -> None:
    columns = ("to_answer", "to_wrong", "to_changed", "copying")
    table = Table("head", "score", "lost when ablated", *columns, "roles", title=made["task"])
    for head in made["heads"]:
        numbers = [head["score"], head["lost_when_ablated"], *[head[name] for name in columns]]
        table.add_row(head["head"], *[f"{number:.2f}" for number in numbers], ", ".join(head["roles"]))
    CONSOLE.print(table)
    CONSOLE.print(f"Spearman of score and ablation over these heads: {made['spearman_score_ablation']:.2f}")


def show_curves(made: dict[str, Any]) -> None:
    result = made["faithfulness"]
    rows = [result["signed"], result["absolute"], result["damage"], *result["baselines"]]
    table = Table(
        "curve", *[f"{fraction:g}" for fraction in FRACTIONS], title=f"{made['task']}: f by fraction of edges"
    )
    for row in rows:
        table.add_row(row["name"], *[f"{value:.2f}" for value in row["values"]])
    CONSOLE.print(table)
    CONSOLE.print(
        f"CPR {result['cpr']:.3f} {result['baseline_cpr']}; CMD {result['cmd']:.3f} {result['baseline_cmd']}; "
        f"{result['total']} edges, {result['cases']} cases, {made['cpu_seconds_curves']} CPU-seconds"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CACHE)
    parser.add_argument("--tasks", default="ioi,agreement")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--heads", type=int, default=20, help="so many of the largest node scores are named and ablated"
    )
    parser.add_argument("--random", type=int, default=3, help="random circuits per size")
    parser.add_argument("--curve-count", type=int, help="curves on so many of the pairs; all of them by default")
    parser.add_argument("--no-curves", dest="curves", action="store_false")
    options = parser.parse_args()
    model = load_model(options.model, device="cpu")
    assert isinstance(model, DecoderModel)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "smollm2.json"
    made: dict[str, Any] = {"model": model.name, "threads": torch.get_num_threads(), "tasks": {}}
    if file.exists():  # of another run, for tasks that are not asked for now
        made["tasks"] = json.loads(file.read_text())["tasks"]
    for task in options.tasks.split(","):
        made["tasks"][task] = run_task(model, task, options)
        made["cpu_seconds"] = round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1)
        file.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
