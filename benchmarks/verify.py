"""Verification: what it costs and what it says, on every sample prompt of the shipped model and on component circuits.

    python -m benchmarks.verify [--prompts 10] [--features 20] [--paths 10] [--controls 20] [--permuted 3]
    python -m benchmarks.verify --smollm2 [--count 50] [--task ioi]      after scripts/smollm2.py
    python -m benchmarks.verify --components [--count 20]                the shipped model's heads and MLPs
    python -m benchmarks.verify --why                                    what makes graph and model differ

The atlas is a real one in a temporary folder, with its graph server: seconds are those of `atlas verify` without loading the model.
Beside the score over the strongest features stands that over every active feature of the unpruned trace, ablated and scaled
by 0.95: what the frozen graph knows of small changes. Stored as benchmarks/results/verify.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from atlas import Atlas
from atlas.causal_records import ComponentsRequest, InterventionRequest, VerifyRequest, VerifyResult
from atlas.evidence import rank_correlation
from atlas.graph import embedded
from atlas.settings import Settings
from ingest.causal.laboratory import Laboratory
from ingest.components.circuit import component_circuit
from ingest.models import Model, load_model
from ingest.models.decoder import DecoderModel, Norm, Projection
from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
from ingest.trace import trace
from ingest.transcoders import TranscoderSet, load_transcoders
from ingest.verification import strongest_nodes, verify

RESULTS = Path(__file__).parent / "results" / "verify.json"
SMOLLM2 = Path(__file__).resolve().parent.parent / ".cache" / "smollm2"
CONSOLE = Console(width=170)


def timed(atlas: Atlas, request: VerifyRequest, **models: Any) -> tuple[VerifyResult, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = verify(atlas, request, **models)
    return result, {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def row_of(result: VerifyResult, **more: Any) -> dict[str, Any]:
    kept = result.model_dump(
        include={
            *("spearman", "interval", "interval_over", "p_value", "tested", "confirmed", "refuted", "inconclusive"),
            *("controls", "edges_confirmed", "edges_refuted", "edges_inconclusive", "verdict"),
        }
    )
    kept["baselines"] = {one.name: one.spearman for one in result.baselines}
    kept["spearman_of_sizes"] = rank_correlation(
        [abs(point.predicted or 0) for point in result.points], [abs(point.measured) for point in result.points]
    )
    signs = [point.measured * (point.predicted or 0) > 0 for point in result.points]
    return more | kept | {"same_sign": float(np.mean(signs)) if signs else None}


FACTORS = {"ablated": 0.0, "scaled by 0.95": 0.95}


def every_feature(
    atlas: Atlas, model: Model, transcoders: TranscoderSet, prompt: str, factors: dict[str, float] = FACTORS
) -> dict[str, Any]:
    """All features of the trace with nothing cut away that have a path to the target: rank correlations and share of equal signs."""
    whole = trace(atlas, prompt, model=model, transcoders=transcoders, node_threshold=1.0, edge_threshold=1.0)
    circuit = atlas.load(whole.circuit)
    laboratory = Laboratory(model, transcoders, circuit)  # type: ignore[arg-type]
    rows = strongest_nodes(circuit, ("feature",), len(circuit.nodes))
    found: dict[str, Any] = {}
    for name, factor in factors.items():
        trials = [
            laboratory.trial(
                InterventionRequest(
                    circuit=circuit.id, kind="scale", factor=factor, nodes=[circuit.keys[row]], controls=0
                ),
                [row],
            )
            for row in rows
        ]
        results = [result.targets[0] for result in laboratory.results(trials)]
        results = [one for one in results if one.predicted]  # the others cannot reach the target, in graph and model
        found["features"] = len(results)
        predicted = np.array([one.predicted for one in results])
        measured = np.array([one.measured for one in results])
        found[name] = {
            "spearman": rank_correlation(predicted, measured),
            "spearman_of_sizes": rank_correlation(np.abs(predicted), np.abs(measured)),
            "same_sign": float(np.mean(predicted * measured > 0)),
        }
    return found


def organism(atlas: Atlas, asked: argparse.Namespace) -> list[dict[str, Any]]:
    model = load_model(model_path())
    transcoders = load_transcoders(transcoders_path(), model)
    rows = []
    for sample in SAMPLE_PROMPTS[: asked.prompts]:
        made = trace(atlas, sample.prompt, model=model, transcoders=transcoders)
        request = VerifyRequest(
            circuit=made.circuit,
            features=asked.features,
            paths=asked.paths,
            controls=asked.controls,
            permuted=asked.permuted,
        )
        result, cost = timed(atlas, request, model=model, transcoders=transcoders)
        rows.append(row_of(result, task=sample.task, prompt=sample.prompt, nodes=made.nodes, edges=made.edges) | cost)
        rows[-1]["every_feature"] = every_feature(atlas, model, transcoders, sample.prompt)
        CONSOLE.print(rows[-1])
    return rows


@contextmanager
def frozen(model: DecoderModel, ids: list[int], norms: list[Norm], attention: bool) -> Iterator[None]:
    """Denominators of these norms, and attention patterns if asked, as in the unchanged run. What is measured within is no
    evidence: it only says which of the graph's assumptions fails."""
    parts = [part for block in model.blocks() for part in (block.query, block.key)] if attention else []
    clean: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(module: Any, args: tuple, output: torch.Tensor) -> None:
        clean[module] = args[0][:1], output[:1]

    def hold_norm(norm: Norm) -> Any:
        at, output = clean[norm.module]
        return lambda module, args, _: output + norm.centre(args[0] - at) * norm.scale(at) * norm.weight

    def hold_columns(part: Projection) -> Any:
        def hook(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[..., part.columns] = clean[module][1][..., part.columns]
            return output

        return hook

    handles = [m.register_forward_hook(note) for m in {*(n.module for n in norms), *(p.module for p in parts)}]
    with torch.inference_mode():
        model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    for handle in handles:
        handle.remove()
    handles = [norm.module.register_forward_hook(hold_norm(norm)) for norm in norms]
    handles += [part.module.register_forward_hook(hold_columns(part)) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def why(atlas: Atlas, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Rank correlation over all features that reach the target, with parts of the model held as the graph holds them."""
    model = load_model(model_path())
    assert isinstance(model, DecoderModel)
    transcoders = load_transcoders(transcoders_path(), model)
    blocks = model.blocks()
    every = [model.final_norm, *(norm for block in blocks for norm in (block.attention_norm, block.mlp_norm))]
    ways = {
        "nothing held": ([], False),
        "attention": ([], True),
        "final norm": (every[:1], False),
        "all norms": (every, False),
        "norms and attention": (every, True),
    }
    rows = []
    for sample in SAMPLE_PROMPTS[: asked.prompts]:
        ids = model.tokenizer.encode(sample.prompt)
        row: dict[str, Any] = {"task": sample.task, "prompt": sample.prompt}
        for name, (norms, attention) in ways.items():
            with frozen(model, ids, norms, attention):
                row[name] = every_feature(atlas, model, transcoders, sample.prompt, {"ablated": 0.0})["ablated"]
        rows.append(row)
        CONSOLE.print(sample.prompt[:40], {name: round(row[name]["spearman"], 2) for name in ways})
    return rows


def components(atlas: Atlas, folder: Path, tasks: list[str], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """EAP-IG node scores against the measured effect of each node's output on the corrupted prompts."""
    model = load_model(folder)
    rows = []
    for task in tasks:
        began = time.process_time()
        added = component_circuit(
            atlas, ComponentsRequest(model=str(folder), template=task, count=asked.count), model=model
        )
        finding = round(time.process_time() - began, 1)
        request = VerifyRequest(
            circuit=added.circuit, features=asked.features, paths=asked.paths, controls=asked.controls
        )
        result, cost = timed(atlas, request, model=model)
        rows.append(row_of(result, task=task, cases=asked.count, cpu_seconds_finding=finding) | cost)
        rows[-1]["points"] = [
            point.model_dump(include={"node", "text", "predicted", "measured"}) for point in result.points
        ]
        CONSOLE.print({name: value for name, value in rows[-1].items() if name != "points"})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]["baselines"])
    table = Table(
        title="rank correlation of predicted and measured effect; marks are confirmed / refuted / inconclusive"
    )
    for head in ("prompt", "score", "95%", "p", "nodes", "edges", *names, "seconds", "CPU"):
        table.add_column(head)
    for row in rows:
        marks = [
            "/".join(str(row[f"{of}{mark}"]) for mark in ("confirmed", "refuted", "inconclusive"))
            for of in ("", "edges_")
        ]
        interval = "" if row["interval"] is None else "{:.2f} to {:.2f}".format(*row["interval"])
        numbers = [row["spearman"], *(row["baselines"].get(name) for name in names)]
        shown = ["" if number is None else f"{number:.2f}" for number in numbers]
        chance = "" if row["p_value"] is None else f"{row['p_value']:.3f}"
        what = str(row.get("prompt", row["task"]))[:38]
        table.add_row(
            what, shown[0], interval, chance, *marks, *shown[1:], str(row["seconds"]), str(row["cpu_seconds"])
        )
    CONSOLE.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=len(SAMPLE_PROMPTS))
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--paths", type=int, default=10)
    parser.add_argument("--controls", type=int, default=20)
    parser.add_argument("--permuted", type=int, default=3)
    parser.add_argument("--count", type=int, default=50, help="cases of a component circuit")
    parser.add_argument("--task", choices=("ioi", "agreement", "greater-than"), action="append")
    parser.add_argument("--smollm2", action="store_true", help="component circuits of SmolLM2-135M-Instruct")
    parser.add_argument("--why", action="store_true", help="hold parts of the model as the graph does")
    parser.add_argument("--components", action="store_true", help="component circuits of the shipped model")
    asked = parser.parse_args()
    part = next((name for name in ("smollm2", "components", "why") if getattr(asked, name)), "organism")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        try:
            with Atlas.open(settings=Settings(home=home, actor="benchmark")) as atlas:
                _ = atlas.graph  # started here, so that no verification pays for it
                if part in ("organism", "why"):
                    rows = (why if part == "why" else organism)(atlas, asked)
                else:
                    place = SMOLLM2 if asked.smollm2 else model_path()
                    rows = components(atlas, place, asked.task or ["ioi", "agreement"], asked)
        finally:
            embedded.stop(home)
    if part != "why":
        show(rows)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {part: {"settings": vars(asked), "rows": rows}}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
