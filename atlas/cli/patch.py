"""`atlas patch`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from atlas.causal_records import PatchRequest, Site
from atlas.cli import cases, causal
from atlas.cli.drawing import bar, component_name, patching_maps
from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, table
from atlas.errors import UsageError

if TYPE_CHECKING:
    from atlas.circuit import Circuit

STRONGEST = 10  # rows of the table under the heat maps


class Direction(StrEnum):
    denoise = "denoise"
    noise = "noise"


class Replacing(StrEnum):
    counterfactual = "counterfactual"
    mean = "mean"
    zero = "zero"
    resample = "resample"


@app.command()
def patch(
    model: cases.Model = None,
    profile: cases.Profile = None,
    pairs: cases.Pairs = None,
    clean: cases.Clean = None,
    corrupted: cases.Corrupted = None,
    answer: cases.Answer = None,
    wrong: cases.Wrong = None,
    template: cases.Template = None,
    count: cases.Count = 50,
    seed: cases.Seed = 0,
    metric: cases.Metric = "logit-difference",
    sites: Annotated[
        str, typer.Option(help="Which parts, comma-separated: resid, attn, mlp, head.")
    ] = "resid,attn,mlp,head",
    direction: Annotated[
        Direction,
        typer.Option(help="denoise: corrupted run with one part of the clean one; noise: the other way round."),
    ] = Direction.denoise,
    replacement: Annotated[
        Replacing,
        typer.Option(
            help="What comes in place: the other prompt's value, the mean over the cases, zero, another case's."
        ),
    ] = Replacing.counterfactual,
    collection: cases.Collection = None,
    device: causal.Device = None,
    dtype: causal.Dtype = None,
    queue: causal.Queue = False,
    json: Json = False,
) -> None:
    """Patch the activations of every layer and position, one by one: the heat map becomes a circuit of the atlas."""
    causal.not_with_queue(queue, device=device, dtype=dtype)
    asked = cases.on_cases(
        model=model,
        profile=profile,
        pairs=pairs,
        clean=clean,
        corrupted=corrupted,
        answer=answer,
        wrong=wrong,
        template=template,
        count=count,
        seed=seed,
        metric=metric,
        collection=collection,
        queue=queue,
    )
    request = PatchRequest(**asked, sites=_sites(sites), direction=direction.value, replacement=replacement.value)
    with opened() as atlas:
        if queue:
            queued = atlas.enqueue("patch", request)
            return emit(queued, json, show_queued(atlas, queued))
        with extra("ingest", "`atlas patch`"):
            from ingest.components.patching import patch as patch_model
            from ingest.worker.models import LoadedModels
        with progress_bar("Patching", json) as report:
            loaded = LoadedModels(atlas.settings, device, dtype).model(request)
            result = patch_model(atlas, request, model=loaded, progress=report)
        circuit = atlas.load(result.circuit)

    def show_text(console):
        state = "already in the atlas" if result.already else "measured"
        console.print(f"{result.circuit}: {result.nodes} parts patched, {state}")
        show_patched(console, circuit)

    emit(result, json, show_text)


def show_patched(console: Any, circuit: Circuit) -> None:
    """The heat maps and the parts with the largest effect."""
    console.print(about_cases(circuit))
    if warning := about_alignment(circuit):
        console.print(warning)
    for line in patching_maps(circuit):
        console.print(line)
    effect = circuit.extra["patching.effect"]
    order = (-abs(effect)).argsort(kind="stable")[:STRONGEST].tolist()
    largest = float(abs(effect[order]).max()) if order else 0.0
    rows = [(component_name(circuit, row), float(effect[row]), bar(float(effect[row]), largest)) for row in order]
    console.print("\nlargest effects (1 = all of the difference)")
    console.print(table(["part", "effect", ""], rows))


def about_cases(circuit: Circuit) -> str:
    """One line: how many cases, of what, measured how."""
    r = circuit.record
    number = len(r.examples)
    what = ", ".join(target.what for target in r.targets)
    first = f"; the first: {r.examples[0].text!r}" if number and r.examples[0].text else ""
    return f"{r.method.name} on {number} case{'' if number == 1 else 's'} ({what}){first}"


def about_alignment(circuit: Circuit) -> str:
    """What was left out because the prompts of a pair have different lengths; empty when all of them have the same."""
    asked = circuit.record.method.parameters
    pairs, clean, corrupted = (
        int(asked.get(name, 0)) for name in ("aligned_pairs", "left_out_clean", "left_out_corrupted")
    )
    if not pairs:
        return ""
    return (
        f"warning: the prompts of {pairs} pair{'' if pairs == 1 else 's'} have different lengths and were aligned; left out, "
        f"having no counterpart: {clean} position{'' if clean == 1 else 's'} of clean prompts, {corrupted} of corrupted ones"
    )


def _sites(text: str) -> list[Site]:
    known = get_args(Site)
    given = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [word for word in given if word not in known]
    if unknown or not given:
        raise UsageError(
            f"There is no site {unknown[0]!r} to patch." if unknown else "There is no site to patch.",
            f"Sites: {', '.join(known)}.",
        )
    return given  # type: ignore[return-value]
