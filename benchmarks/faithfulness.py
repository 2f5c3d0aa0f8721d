"""Faithfulness of the shipped model's circuits: CPR and CMD beside random circuits and plain gradients.

    python -m benchmarks.faithfulness [--random 5] [--count 20] [--steps 5]

Feature graphs of every sample prompt as `atlas trace` makes them, and component circuits by EAP-IG on templates. Prints a table and stores
benchmarks/results/faithfulness.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from atlas.causal_records import CircuitFaithfulnessRequest, ComponentsRequest, FaithfulnessResult, Template
from ingest.components.circuit import METHOD, made_circuit
from ingest.components.faithfulness_curves import of_components, of_features
from ingest.components.metrics import metric
from ingest.components.pairs import make_cases, make_pairs
from ingest.components.record import question as components_question
from ingest.models import Model, load_model
from ingest.models.decoder import DecoderModel
from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
from ingest.trace import question, trace_circuit
from ingest.transcoders import TranscoderSet, load_transcoders

RESULTS = Path(__file__).parent / "results"
DEFAULTS = {"targets": None, "max_logits": 10, "logit_mass": 0.95, "max_features": None}


def of_prompt(model: Model, transcoders: TranscoderSet, prompt: str, random: int) -> FaithfulnessResult:
    """A feature graph with the default thresholds."""
    ids = model.tokenizer(prompt)["input_ids"]
    asked = question(model, transcoders, ids, prompt, DEFAULTS, {"node": 0.8, "edge": 0.98})
    circuit = trace_circuit(model, transcoders, asked, actor="benchmark", opened_edges=0)
    request = CircuitFaithfulnessRequest(circuit=circuit.id, random_circuits=random)
    return of_features(circuit, model, transcoders, request)


def of_template(model: DecoderModel, template: Template, count: int, steps: int, random: int) -> FaithfulnessResult:
    """A component circuit with the default faithfulness target."""
    chosen = metric("logit-difference")
    cases = make_cases(model, make_pairs(template, count, 0, model), metric=chosen.name, corrupted=True)
    asked = components_question(model, model.name, cases, METHOD, chosen, {"steps": steps})
    circuit = made_circuit(model, cases, chosen, asked, ComponentsRequest(template=template, steps=steps))
    request = CircuitFaithfulnessRequest(circuit=circuit.id, random_circuits=random)
    return of_components(circuit, model, request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=5, help="random circuits per size")
    parser.add_argument("--count", type=int, default=20, help="prompt pairs per template")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    model = load_model(model_path(), device="cpu")
    assert isinstance(model, DecoderModel)
    transcoders = load_transcoders(transcoders_path(), model)
    made = {sample.prompt: of_prompt(model, transcoders, sample.prompt, options.random) for sample in SAMPLE_PROMPTS}
    for template in get_args(Template):
        made[f"template {template}"] = of_template(model, template, options.count, options.steps, options.random)
    columns = ("of", "circuit", "f", "CPR", "random", "gradient", "CMD", "random", "gradient")
    table = Table("", *columns, title="Faithfulness: CPR higher, CMD lower is better")
    for name, result in made.items():
        shares = [
            result.circuit_faithfulness or 0.0,
            result.cpr,
            *result.baseline_cpr.values(),
            result.cmd,
            *result.baseline_cmd.values(),
        ]
        table.add_row(
            name[:50],
            f"{result.total} {result.unit}",
            str(result.circuit_size),
            *[f"{share:.2f}" for share in shares],
        )
    Console(width=140).print(table)
    RESULTS.mkdir(exist_ok=True)
    stored = {name: result.model_dump(mode="json") for name, result in made.items()}
    (RESULTS / "faithfulness.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
