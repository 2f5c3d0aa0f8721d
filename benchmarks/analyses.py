"""Paths and comparing on the real graphs: what one question costs on the arrays, without stores.

    python -m benchmarks.analyses [--repeat 3] [--null-graphs 199] [--only NAME]

Questions: `token to logit` = from the last input token that has edges to the most probable output (a typical one);
`all to all` = from every input token to every output (the largest a circuit can be asked). Every circuit is a sample, its
time the best of `--repeat` runs with cold caches of the circuit; compare runs over neighbours, by name, that are comparable.
Reads the graphs of ATLAS_SAMPLE_GRAPHS; prints a table and stores benchmarks/results/analyses.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from atlas.circuit import Circuit
from atlas.compare import compare, refuse_incomparable
from atlas.errors import AtlasError, UsageError
from atlas.path_search import between, paths_between
from atlas.significance import null_paths
from ingest.formats import find_files, read_graph

RESULTS = Path(__file__).parent / "results" / "analyses.json"
SAMPLES = Path(__file__).resolve().parent.parent.parent / "shared" / "graphs"


def fresh(circuit: Circuit) -> Circuit:
    """The same circuit without its cached properties."""
    return replace(circuit)


def best_of(repeat: int, run: Callable[[Circuit], object], circuit: Circuit) -> float:
    """Milliseconds."""
    times = []
    for _ in range(repeat):
        cold = fresh(circuit)
        begin = time.perf_counter()
        run(cold)
        times.append(1000 * (time.perf_counter() - begin))
    return min(times)


def ends(circuit: Circuit) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    tokens = np.flatnonzero(circuit.nodes.is_kind("token"))
    logits = np.flatnonzero(circuit.nodes.is_kind("logit"))
    used = tokens[np.isin(tokens, circuit.edges.source)]
    top = logits[np.argsort(-np.nan_to_num(circuit.nodes.probability[logits]), kind="stable")[:1]]
    return {"token to logit": (used[-1:], top), "all to all": (tokens, logits)}


def path_question(sources: np.ndarray, targets: np.ndarray, graphs: int) -> Callable[[Circuit], object]:
    def ask(circuit: Circuit) -> object:
        part = between(circuit, sources, targets)
        found = paths_between(circuit, part, 10)
        return found, null_paths(circuit, part, 10, graphs) if graphs else None

    return ask


def comparable(a: Circuit, b: Circuit) -> bool:
    try:
        refuse_incomparable(a, b)
    except UsageError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--null-graphs", type=int, default=199)
    parser.add_argument("--only", default="", help="part of the file names to use")
    options = parser.parse_args()
    folder = Path(os.environ.get("ATLAS_SAMPLE_GRAPHS") or SAMPLES)
    try:
        files = [file for file in find_files([folder]) if options.only in file.name]
        circuits = [(file.name, read_graph(file).circuit) for file in files if ".json" in file.name]
    except AtlasError as error:
        print(error, file=sys.stderr)
        return 1
    if not circuits:
        print(f"No graphs in {folder}: set ATLAS_SAMPLE_GRAPHS.", file=sys.stderr)
        return 1

    samples: dict[str, list[tuple[float, int, str]]] = {}  # milliseconds, edges, name
    for name, circuit in circuits:
        for question, (sources, targets) in ends(circuit).items():
            for graphs in (0, options.null_graphs):
                took = best_of(options.repeat, path_question(sources, targets, graphs), circuit)
                samples.setdefault(f"paths, {question}, {graphs} null graphs", []).append(
                    (took, len(circuit.edges), name)
                )
    for (name, a), (other, b) in itertools.pairwise(circuits):
        if comparable(a, b):
            took = best_of(options.repeat, lambda cold, b=b: compare(cold, fresh(b)), a)
            samples.setdefault("compare", []).append((took, len(a.edges) + len(b.edges), f"{name} {other}"))

    sizes = [(len(circuit.nodes), len(circuit.edges)) for _, circuit in circuits]
    rows = {question: summary(taken) for question, taken in samples.items()}
    report(rows, sizes)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "circuits": len(circuits),
                "repeat": options.repeat,
                "milliseconds": rows,
                "samples": samples,
            },
            indent=1,
        )
    )
    return 0


def summary(taken: list[tuple[float, int, str]]) -> dict[str, float]:
    times = np.array([took for took, _, _ in taken])
    slowest = max(taken)
    return {
        "samples": len(taken),
        "p50": float(np.median(times)),
        "p95": float(np.percentile(times, 95)),
        "max": slowest[0],
        "max_edges": slowest[1],
    }


def report(rows: dict[str, dict[str, float]], sizes: list[tuple[int, int]]) -> None:
    nodes, edges = (int(np.median(column)) for column in zip(*sizes, strict=True))
    title = f"Milliseconds over {len(sizes)} real graphs (median {nodes} nodes, {edges:,} edges)"
    table = Table("Question", title=title)
    for heading in ("samples", "p50", "p95", "slowest", "its edges"):
        table.add_column(heading, justify="right")
    for question, row in rows.items():
        numbers = (f"{row[name]:.1f}" for name in ("p50", "p95", "max"))
        table.add_row(question, str(row["samples"]), *numbers, f"{row['max_edges']:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
