"""`atlas intervene`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.causal_records import InterventionRequest, InterventionRow, Moved
from atlas.cli import causal
from atlas.cli.drawing import SIGNS, bar
from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, table
from atlas.edges import SEPARATOR
from atlas.errors import InputRejected, UsageError
from atlas.plain import plain

MOST = 12  # downstream nodes that text output shows
NAME = 60  # characters of a node or prompt in a table
EXAMPLE = "For example: --node feature/1/4/33 --ablate, or --edge 'feature/0/7/49->logit/4/8/12'."


@app.command()
def intervene(
    circuit: causal.Circuit,
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="More node keys, after those of --edge or --path.", metavar="[KEY...]", show_default=False),
    ] = None,
    node: Annotated[list[str] | None, typer.Option(help="Node key; may be repeated: all of them at once.")] = None,
    supernode: Annotated[str | None, typer.Option(help="All nodes of this supernode at once.")] = None,
    edge: Annotated[
        str | None, typer.Option(help="Cut one edge, SOURCE->TARGET (or the two keys): path patching.")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Cut a path, A->B->C (or the keys): path patching.")] = None,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Set the value to 0; of heads and MLPs: to their output on the corrupted prompts."
        ),
    ] = False,
    scale: Annotated[float | None, typer.Option(help="Multiply the value by this.")] = None,
    steer: Annotated[float | None, typer.Option(help="Add this to the value.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Take the value of this prompt, as many tokens as the circuit's.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Do it on each prompt of this file (one a line; or .csv, .jsonl) in place of the circuit's."),
    ] = None,
    controls: Annotated[
        int, typer.Option(min=0, max=200, help="Other features of the layer, treated alike, to compare with.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of controls.")] = 0,
    model: causal.Model = None,
    transcoders: causal.Transcoders = None,
    device: causal.Device = None,
    dtype: causal.Dtype = None,
    queue: causal.Queue = False,
    json: Json = False,
) -> None:
    """Change nodes of a circuit in the real model, and keep what happened beside what the graph predicted."""
    where = {"model": model, "transcoders": transcoders, "device": device, "dtype": dtype}
    causal.not_with_queue(queue, **where)
    request = causal.checked(
        InterventionRequest,
        circuit=circuit,
        **_what(keys or [], node or [], supernode, edge, path),
        **_how(ablate, scale, steer, source, cut=edge is not None or path is not None),
        prompts=None if prompts is None else causal.texts(prompts),
        controls=controls,
        seed=seed,
    )
    with opened() as atlas:
        if queue:
            queued = atlas.enqueue("intervene", request)
            return emit(queued, json, show_queued(atlas, queued))
        with extra("ingest", "`atlas intervene`"):
            from ingest.interventions import intervene as change
        with progress_bar("Intervening", json) as report:
            loaded = causal.loaded(atlas, circuit, **where)
            row = change(atlas, request, **loaded, progress=report)

    emit(with_effect(row), json, lambda console: show_intervention(console, row))


def with_effect(row: InterventionRow) -> dict[str, Any]:
    """As JSON, with the predicted and the actual change of the first target on top."""
    first = row.targets[0] if row.targets else None
    effect = {"predicted": first.predicted if first else None, "actual": first.measured if first else None}
    return {**effect, **plain(row)}


def show_intervention(console: Any, row: InterventionRow) -> None:
    """What was done, the mark with its reason, what the targets and the nodes downstream did."""
    console.print(f"intervention {row.id}: {described(row)}")
    console.print(f"{SIGNS[row.mark]} {row.mark}: {row.reason}")
    c = row.controls
    if c.count:
        beyond = f"; 95% of them move the target by less than {c.quantile:.4g}" if c.quantile is not None else ""
        console.print(f"{c.count} controls, {c.same_position} of them at the same position{beyond}")
    if row.targets:
        console.print("\ntarget")
        console.print(moved_table(row.targets))
    if row.prompts:
        by_size = sorted(row.prompts, key=lambda moved: -abs(moved.measured))
        console.print(f"\nthe first target, {min(MOST, len(by_size))} of {len(by_size)} prompts")
        console.print(moved_table(by_size[:MOST]))
    above = {target.node for target in row.targets}
    downstream = [moved for moved in row.moved if moved.node not in above]
    if downstream:
        by_size = sorted(downstream, key=lambda moved: -max(abs(moved.measured), abs(moved.predicted or 0.0)))
        rank = "" if row.spearman is None else f"; rank correlation of predicted and measured {row.spearman:.3f}"
        console.print(f"\ndownstream, {min(MOST, len(by_size))} of {len(by_size)} nodes{rank}")
        console.print(moved_table(by_size[:MOST]))


def described(row: InterventionRow) -> str:
    """What was done, in words."""
    r = row.request
    names = f"the supernode {r.supernode}" if r.supernode else ", ".join(row.nodes[:4])
    if len(row.nodes) > 4 and not r.supernode:
        names += f" and {len(row.nodes) - 4} more"
    where = f" on {len(r.prompts)} prompts" if r.prompts else f" on {row.prompt!r}" if row.prompt else ""
    match r.kind:
        case "ablate":
            return f"{names} {'as on the corrupted prompts' if _pooled(row.nodes) else 'set to 0'}{where}"
        case "scale":
            return f"{names} times {r.factor:g}{where}"
        case "steer":
            return f"{r.value:+g} on {names}{where}"
        case "patch":
            return f"{names} as in {r.prompt!r}{where}"
        case _:
            return f"{f' {SEPARATOR} '.join(row.nodes)} cut{where}"


def _pooled(nodes: list[str]) -> bool:
    """Whether these are nodes of a component circuit: KIND/LAYER/-1/INDEX."""
    return bool(nodes) and nodes[0].split("/")[2:3] == ["-1"]


def moved_table(rows: list[Moved], before: bool = True) -> Any:
    """Predicted and measured change, with bars of one scale; `before`: with the value before."""
    largest = max((abs(value) for m in rows for value in (m.measured, m.predicted or 0.0)), default=0.0)
    cells = [
        (
            m.node if len(m.node) <= NAME else m.node[: NAME - 1] + "…",
            m.text[:30],
            *((m.before,) if before else ()),
            m.predicted,
            bar(m.predicted, largest),
            m.measured,
            bar(m.measured, largest),
        )
        for m in rows
    ]
    heads = ["node", "", *(("before",) if before else ()), "predicted", "", "measured", ""]
    return table(heads, cells)


# -- what is asked


def _what(
    keys: list[str], nodes: list[str], supernode: str | None, edge: str | None, path: str | None
) -> dict[str, Any]:
    given = [bool(nodes), supernode is not None, edge is not None, path is not None]
    if sum(given) != 1:
        raise UsageError("Pass exactly one of --node, --supernode, --edge and --path.", EXAMPLE)
    if keys and edge is None and path is None:
        raise UsageError(f"{keys[0]!r} belongs to nothing.", "Write --node before every node key.")
    if supernode is not None:
        return {"supernode": supernode}
    if nodes:
        return {"nodes": nodes}
    chain = [key.strip() for part in (edge or path or "", *keys) for key in part.split(SEPARATOR)]
    if not all(chain) or len(chain) < 2 or (edge is not None and len(chain) != 2):
        what = "an edge: SOURCE->TARGET" if edge is not None else "a path: A->B->C"
        raise UsageError(f"{SEPARATOR.join(chain)!r} is not {what}.", "Name node keys of the circuit.")
    return {"nodes": chain}


def _how(ablate: bool, scale: float | None, steer: float | None, source: str | None, *, cut: bool) -> dict[str, Any]:
    given = {"ablate": ablate or None, "scale": scale, "steer": steer, "from": source}
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if cut:
        if names:
            raise UsageError(f"An edge or a path is cut; {names[0]} changes nodes.", f"Leave {names[0]} out.")
        return {"kind": "cut"}
    if len(names) != 1:
        raise UsageError("Pass exactly one of --ablate, --scale, --steer and --from.", EXAMPLE)
    if ablate:
        return {"kind": "ablate"}
    if scale is not None:
        return {"kind": "scale", "factor": causal.finite("--scale", scale)}
    if steer is not None:
        return {"kind": "steer", "value": causal.finite("--steer", steer)}
    if not (source or "").strip():
        raise InputRejected("The prompt of --from is blank.", "Pass some text.")
    return {"kind": "patch", "prompt": source}
