"""Verdicts: which statistic of a trace tells a transcoder set from one that means nothing, and where to cut.

    python -m benchmarks.verdict [--held-out 8] [--seeds 10] [--large] [--write]
    python -m benchmarks.verdict --smollm2 --held-out 5 --seeds 1

Traces prompts with a trained set; with that set's decoders permuted within their layers, all of them, half or a quarter; and with
random sets (encoders and decoders, about 16 features active). The shipped model: its sample prompts and held-out ones. `--smollm2`: a real
language model with the set of `benchmarks.smollm2_set`, on facts, templates, and text it wrote that the set was not trained on. `--large`:
also one prompt of a random model of SmolLM2-135M's sizes with a random set, where replacement and completeness are high for nothing. Prints
the distribution of every statistic and its AUROC, real against the others; stores benchmarks/results/verdict.json (verdict-smollm2.json).
`--write` also writes the thresholds to atlas/verdict.json, which `atlas.verdict` reads, and every trace to
tests/data/verdict-measured.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from atlas.circuit import Scores
from atlas.verdict import STATISTICS, THRESHOLDS, coverage
from benchmarks import smollm2_set
from benchmarks.trace import SMOLLM2, random_model, random_transcoders
from ingest.components.templates import make_pairs
from ingest.models import Model, load_model
from ingest.organism import SAMPLE_PROMPTS, grammar, model_path, transcoders_path
from ingest.trace.attribute import attribute
from ingest.trace.diffusion import effective_paths, influence_lost
from ingest.trace.prompt import prompt_ids
from ingest.trace.prune import prune
from ingest.trace.scores import scores
from ingest.transcoders import TranscoderSet, load_transcoders
from ingest.transcoders.permuted import permuted_set

RESULTS = Path(__file__).parent / "results"
MEASURED = Path(__file__).parent.parent / "tests" / "data" / "verdict-measured.json"
TASKS = ("two_hop", "ioi", "agreement", "greater_than", "antonym", "city_to_state", "state_to_attribute")
COMMAND = "python -m benchmarks.verdict --large --write"
SHARES = {"permuted": 1.0, "half": 0.5, "quarter": 0.25}  # of every layer's decoders
KINDS = ("real", *SHARES, "random")
FACTS = (
    "The capital of France is the city of",
    "The opposite of hot is",
    "Water is made of hydrogen and",
    "The first month of the year is",
    "Two plus three equals",
    "In winter it is cold and in summer it is",
    "The Eiffel Tower stands in the city of",
    "A dog is an animal and a rose is a",
)
WRITTEN = 16  # tokens of a text that the model wrote


def shipped_prompts(model: Model, held_out: int) -> list[list[int]]:
    """The sample prompts and `held_out` of every task, in a fixed order, each once."""
    made = [example.prompt for task in TASKS for example in grammar.held_out_examples(task, held_out, seed=23)]
    texts = dict.fromkeys([sample.prompt for sample in SAMPLE_PROMPTS] + made)
    return [model.tokenizer.encode(text) for text in texts]


def smollm2_prompts(model: Model, held_out: int) -> list[list[int]]:
    """`held_out` each of facts, two templates, and beginnings of texts that the set was not trained on."""
    pairs = [pair.clean for task in ("ioi", "agreement") for pair in make_pairs(task, held_out, 1, model)]
    written = torch.load(smollm2_set.SET / "texts.pt", weights_only=True)[: smollm2_set.HELD_OUT]
    texts = [*FACTS[:held_out], *pairs]
    return [prompt_ids(model, text, None) for text in texts] + written[:held_out, :WRITTEN].tolist()


def statistics(model: Model, transcoders: TranscoderSet, ids: list[int]) -> dict[str, float]:
    """Every statistic of one trace."""
    graph = attribute(model, transcoders, ids, warn=lambda _: None)
    replacement, completeness = scores(graph)
    found = Scores(
        replacement=replacement,
        completeness=completeness,
        computed_on="full graph",
        explained_variance=graph.explained_variance,
        effective_paths=effective_paths(graph),
        influence_lost=influence_lost(graph, prune(graph)),
    )
    row = {name: getattr(found, name) for name in STATISTICS if name not in ("error_share", "coverage")}
    return row | {"error_share": 1 - replacement, "coverage": coverage(found)}


def auroc(better: np.ndarray, worse: np.ndarray) -> float:
    """Chance that one of `better` is above one of `worse`; ties count half."""
    return float(((better[:, None] > worse) + 0.5 * (better[:, None] == worse)).mean())


def quantiles(values: np.ndarray) -> dict[str, float]:
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    return dict(zip(names, np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist(), strict=True))


def measure(model: Model, real_set: TranscoderSet, prompts: list[list[int]], seeds: int, console: Console) -> dict:
    def traced(kind: str, transcoders: TranscoderSet | None) -> list[dict[str, float]]:
        """None: a random set for each prompt."""
        began = time.monotonic()
        found = [statistics(model, transcoders or random_transcoders(model, ids), ids) for ids in prompts]
        console.print(f"{kind}: {len(found)} traces, {time.monotonic() - began:.0f} s")
        return found

    rows = {"real": traced("real", real_set)}
    for kind, share in SHARES.items():
        rows[kind] = [row for seed in range(seeds) for row in traced(kind, permuted_set(real_set, seed, share))]
    rows["random"] = traced("random", None)
    columns = {kind: {name: np.array([r[name] for r in found]) for name in STATISTICS} for kind, found in rows.items()}
    real = columns["real"]
    return {
        "prompts": len(prompts),
        "seeds": seeds,
        "torch": torch.__version__,
        "distributions": {kind: {name: quantiles(v) for name, v in c.items()} for kind, c in columns.items()},
        # Where less is better the AUROC is of the opposite, so that above 0.5 always means "tells them apart this way".
        "auroc": {
            kind: {
                name: auroc(*((real[name], columns[kind][name]) if more else (-real[name], -columns[kind][name])))
                for name, more in STATISTICS.items()
            }
            for kind in KINDS[1:]
        },
        "rows": {kind: [_rounded(row) for row in found] for kind, found in rows.items()},
    }


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in row.items()}


def _large() -> dict[str, float]:
    model = random_model()
    ids = torch.randint(SMOLLM2["vocab_size"], (11,), generator=torch.Generator().manual_seed(2)).tolist()
    return statistics(model, random_transcoders(model, ids), ids)


def thresholds(found: dict) -> dict:
    """Cuts out of the measured distributions, with where they come from."""
    real, half = found["distributions"]["real"], found["distributions"]["half"]
    return {
        "diffuse_below": round(half["coverage"]["p95"], 3),
        "crisp_from": round(real["coverage"]["p5"], 3),
        "crisp_influence_lost": round(real["influence_lost"]["p95"], 3),
        "provenance": {
            "command": COMMAND,
            "model": "atlas-organism (4 layers, width 128, a small grammar)",
            "prompts": found["prompts"],
            "seeds": found["seeds"],
            "diffuse_below_is": "95th percentile of coverage with half of the decoders permuted",
            "crisp_from_is": "5th percentile of coverage with the real set",
            "crisp_influence_lost_is": "95th percentile with the real set, pruned at 0.8 and 0.98",
            "auroc_coverage_permuted": round(found["auroc"]["permuted"]["coverage"], 4),
            "auroc_coverage_random": round(found["auroc"]["random"]["coverage"], 4),
        },
    }


def show(found: dict, console: Console) -> None:
    table = Table(title=f"{found['prompts']} prompts, {found['seeds']} permuted sets; median (5 % to 95 %)")
    for head in ("statistic", *KINDS, *(f"AUROC {kind}" for kind in KINDS[1:])):
        table.add_column(head)
    for name in STATISTICS:
        quantile = [found["distributions"][kind][name] for kind in KINDS]
        cells = [f"{q['median']:.3g} ({q['p5']:.3g} to {q['p95']:.3g})" for q in quantile]
        table.add_row(name, *cells, *(f"{found['auroc'][kind][name]:.3f}" for kind in KINDS[1:]))
    console.print(table)


def columns(rows: dict[str, list[dict[str, float]]]) -> str:
    """JSON: kind -> statistic -> its values by trace, for what the others are made of."""
    names = [name for name in STATISTICS if name not in ("error_share", "coverage")]
    table = {kind: {name: [row[name] for row in found] for name in names} for kind, found in rows.items()}
    return json.dumps(table, separators=(",", ":"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=int, default=8, help="prompts of each task")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--smollm2", action="store_true", help="a real language model in place of the shipped one")
    parser.add_argument("--large", action="store_true", help="also a random model of a real size (1.5 GiB)")
    parser.add_argument("--write", action="store_true", help="write atlas/verdict.json")
    asked = parser.parse_args()
    if asked.smollm2 and asked.write:
        parser.error("the cuts come from the shipped model, which everybody has")
    console = Console(width=200)
    if asked.smollm2:
        model = load_model(smollm2_set.CACHE)
        real_set, asked_ids = load_transcoders(smollm2_set.SET, model), smollm2_prompts(model, asked.held_out)
    else:
        model = load_model(model_path())
        real_set, asked_ids = load_transcoders(transcoders_path(), model), shipped_prompts(model, asked.held_out)
    found = measure(model, real_set, asked_ids, asked.seeds, console)
    cuts = json.loads(THRESHOLDS.read_text()) if asked.smollm2 else thresholds(found)
    found["share_below_diffuse"] = {
        kind: float(np.mean([row["coverage"] < cuts["diffuse_below"] for row in found["rows"][kind]])) for kind in KINDS
    }
    found["large_random"] = _large() if asked.large else None
    show(found, console)
    shown = {name: found[name] for name in ("share_below_diffuse", "large_random")}
    console.print_json(data={"thresholds": cuts, **shown})
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / ("verdict-smollm2.json" if asked.smollm2 else "verdict.json")
    file.write_text(json.dumps(found | {"thresholds": cuts}, indent=1) + "\n")
    if asked.write:
        THRESHOLDS.write_text(json.dumps(cuts, indent=1) + "\n")
        MEASURED.write_text(columns(found["rows"]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
