"""What edge attribution patching costs above the least it could: its forward and backward passes.

    python -m benchmarks.eap [--steps 5] [--cases 8] [--tokens 20] [--repeat 3]

A random Llama of SmolLM2-135M's sizes (30 layers of 9 heads: 123,211 edges), random prompts, metric logit difference at the last
token. The least: as many forward and backward passes of the plain network on the same batch as there are steps, gradients to the
embeddings only and the output head at the answer only. CPU-seconds of the process, median of the repeats, one and the other in
turn. Also the split network: one circuit against one forward pass. Stores benchmarks/results/eap.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from atlas.causal_records import PromptPair
from benchmarks.trace import SMOLLM2, random_model
from ingest.components.eap import edge_scores
from ingest.components.metrics import Metric, metric
from ingest.components.pairs import Cases
from ingest.components.split import SplitNetwork, answers_only, with_hooks
from ingest.models.decoder import DecoderModel

RESULTS = Path(__file__).parent / "results" / "eap.json"


def random_cases(count: int, tokens: int) -> Cases:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, SMOLLM2["vocab_size"], (2, count, tokens), generator=generator)
    return Cases(
        clean=ids[0],
        corrupted=ids[1],
        lengths=torch.full((count,), tokens),
        answers=ids[0, :, 0],
        wrong=ids[1, :, 0],
        pairs=(PromptPair(clean="", answer=""),) * count,
    )


def passes(model: DecoderModel, cases: Cases, measured: Metric, steps: int) -> None:
    """Forward and backward, `steps` times."""
    for _ in range(steps):
        point = model.embedding(cases.clean).detach().requires_grad_()
        hooks = [(model.embedding, "after", lambda module, args, output, point=point: point)]
        with with_hooks([*hooks, answers_only(model, cases.lengths)]):
            logits = model.network(input_ids=cases.clean, use_cache=False).logits[:, 0]
        measured(logits, cases).sum().backward()


@torch.no_grad()
def forward(model: DecoderModel, cases: Cases) -> None:
    with with_hooks([answers_only(model, cases.lengths)]):
        model.network(input_ids=cases.clean, use_cache=False)


def in_turn(repeat: int, **functions: Callable[[], object]) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of each, median; the first round is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeat + 1):
        for name, function in functions.items():
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {kind: statistics.median(run[i] for run in runs[1:]) for i, kind in enumerate(("cpu_s", "wall_s"))}
        for name, runs in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    model, cases, measured = (
        random_model(),
        random_cases(arguments.cases, arguments.tokens),
        metric("logit-difference"),
    )
    assert isinstance(model, DecoderModel)
    split = SplitNetwork(model)
    everything = torch.ones(split.wiring.n_edges)
    result = in_turn(
        arguments.repeat,
        edge_scores=lambda: edge_scores(model, cases, measured, arguments.steps),
        passes=lambda: passes(model, cases, measured, arguments.steps),
        circuit=lambda: split.run(cases, everything),
        forward=lambda: forward(model, cases),
    )
    cpu = {name: times["cpu_s"] for name, times in result.items()}
    document = {
        "command": f"python -m benchmarks.eap --steps {arguments.steps} --cases {arguments.cases} --tokens {arguments.tokens}",
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "edges": split.wiring.n_edges,
        "seconds": result,
        "eap_over_passes": cpu["edge_scores"] / cpu["passes"],
        "circuit_over_forward": cpu["circuit"] / cpu["forward"],
    }
    table = Table("", "CPU-seconds", "ratio")
    table.add_row(f"EAP-IG, {arguments.steps} steps, {split.wiring.n_edges} edges", f"{cpu['edge_scores']:.2f}", "")
    ratio = f"{document['eap_over_passes']:.2f}"
    table.add_row(f"{arguments.steps} forward and backward passes", f"{cpu['passes']:.2f}", ratio)
    table.add_row("one circuit, with its corrupted run", f"{cpu['circuit']:.2f}", "")
    table.add_row("one forward pass", f"{cpu['forward']:.2f}", f"{document['circuit_over_forward']:.2f}")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
