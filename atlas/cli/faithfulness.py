"""`atlas faithfulness`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.causal_records import CircuitFaithfulnessRequest, FaithfulnessResult
from atlas.cli import causal
from atlas.cli.drawing import bar
from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, table

if TYPE_CHECKING:
    from atlas.causal_records import Curve


@app.command()
def faithfulness(
    circuit: causal.Circuit,
    random_circuits: Annotated[
        int, typer.Option(min=1, max=100, help="Random circuits of the same sizes to compare with.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random circuits.")] = 0,
    model: causal.Model = None,
    transcoders: causal.Transcoders = None,
    device: causal.Device = None,
    dtype: causal.Dtype = None,
    queue: causal.Queue = False,
    json: Json = False,
) -> None:
    """Measure how much of the metric the strongest edges of a circuit hold by themselves, beside random circuits."""
    where = {"model": model, "transcoders": transcoders, "device": device, "dtype": dtype}
    causal.not_with_queue(queue, **where)
    request = CircuitFaithfulnessRequest(circuit=circuit, random_circuits=random_circuits, seed=seed)
    with opened() as atlas:
        if queue:
            queued = atlas.enqueue("faithfulness", request)
            return emit(queued, json, show_queued(atlas, queued))
        with extra("ingest", "`atlas faithfulness`"):
            from ingest.components.faithfulness_curves import faithfulness as measure
        with progress_bar("Measuring", json) as report:
            loaded = causal.loaded(atlas, circuit, **where)
            result = measure(atlas, request, **loaded, progress=report)

    emit(result, json, lambda console: show_faithfulness(console, result))


def show_faithfulness(console: Any, result: FaithfulnessResult) -> None:
    """The curves as a table over the fractions, and their areas beside those of the baselines."""
    console.print(
        f"{result.circuit}: {result.metric} of the whole model {result.full:.4g}, "
        f"with {'all features off' if result.unit == 'features' else 'everything corrupted'} {result.empty:.4g}; "
        f"{result.cases} case{'' if result.cases == 1 else 's'}"
    )
    if result.circuit_faithfulness is not None:
        console.print(
            f"the circuit as it is stored: {result.circuit_size} of {result.total} {result.unit}, f {result.circuit_faithfulness:.3f}"
        )
    heads = [
        f"{result.unit} kept",
        "f (signed)",
        "",
        "f (absolute)",
        "damage",
        *(curve.name for curve in result.baselines),
    ]
    curves = [result.absolute, result.damage, *result.baselines]
    rows = [
        (
            f"{100 * fraction:g} %",
            result.signed.values[i],
            bar(result.signed.values[i], 1.0),
            *(_value(curve, i) for curve in curves),
        )
        for i, fraction in enumerate(result.fractions)
    ]
    console.print(table(heads, rows))
    rows = [("this circuit", result.cpr, result.cmd)] + [
        (name, value, result.baseline_cmd.get(name)) for name, value in result.baseline_cpr.items()
    ]
    console.print(table(["", "CPR (higher is better)", "CMD (lower is better)"], rows))


def _value(curve: Curve, i: int) -> str:
    text = f"{curve.values[i]:.3f}"
    return text if curve.low is None or curve.high is None else f"{text} ({curve.low[i]:.3f} to {curve.high[i]:.3f})"
