"""`atlas trace`."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar
from atlas.errors import UsageError


@app.command()
def trace(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; or pass --token-ids.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub name of the model.")] = None,
    transcoders: Annotated[str | None, typer.Option(help="Folder or hub name of the transcoder set.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of atlas.toml that names both; `demo` is the shipped model.")
    ] = None,
    token_ids: Annotated[str | None, typer.Option(help="Exact token ids, as 1,2,3; nothing is put in front.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Target tokens, comma-separated; default: the likeliest to a mass of 0.95.")
    ] = None,
    max_features: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many features, by influence.")
    ] = None,
    node_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of influence the kept nodes hold; 1 = every node.")
    ] = 0.8,
    edge_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The same for edges; 1 = every non-zero edge.")
    ] = 0.98,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: the GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default float32.")] = None,
    collection: Annotated[
        str | None, typer.Option("--in", help="Collection to put the circuit in; made if it is new.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Trace even if the same trace exists; gives a replicate.")
    ] = False,
    json: Json = False,
) -> None:
    """Trace one prompt: its attribution graph becomes a circuit of the atlas."""
    if (prompt is None) == (token_ids is None):
        raise UsageError(
            "Pass either a PROMPT or --token-ids.", "For example: atlas trace --profile demo 'the opposite of hot is'"
        )
    numbers = _numbers(token_ids)
    if profile is not None:
        if model or transcoders:
            raise UsageError(
                "--profile names the model and its transcoders already.",
                "Leave --model and --transcoders out, or --profile.",
            )
        model, transcoders = _profile(profile)
    if not model or not transcoders:
        raise UsageError(
            "A trace needs a model and its transcoders.", "Pass --model and --transcoders, or --profile demo."
        )
    with extra("ingest", "`atlas trace`"):
        from ingest.models import load_model
        from ingest.trace import trace as trace_prompt
        from ingest.transcoders import load_transcoders
    with opened() as atlas, progress_bar("Tracing", json) as report:
        loaded = load_model(model, device=device, dtype=dtype)
        result = trace_prompt(
            atlas,
            prompt,
            model=loaded,
            transcoders=load_transcoders(transcoders, loaded),
            token_ids=numbers,
            targets=[word for word in targets.split(",") if word] if targets is not None else None,
            max_features=max_features,
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
            collection=collection,
            chat=chat,
            again=again,
            progress=report,
        )

    def show_text(console):
        s = result.scores
        state = "already in the atlas" if result.already else f"traced in {result.seconds:.1f} s"
        console.print(f"{result.circuit}: {result.nodes} nodes, {result.edges} edges, {state}")
        unknown = result.settings.get("unknown_tokens")
        if unknown:
            console.print(
                f"Words of the prompt outside the model's vocabulary: {unknown}; it saw its unknown token instead."
            )
        if s.replacement is not None and s.completeness is not None:
            console.print(
                f"replacement {s.replacement:.3f} ({s.replacement_pruned:.3f} after pruning), "
                f"completeness {s.completeness:.3f} ({s.completeness_pruned:.3f} after pruning)"
            )

    emit(result, json, show_text)


def _profile(name: str) -> tuple[str, str]:
    from atlas.settings import load_settings

    settings = load_settings()
    if name == "demo" and name not in settings.profiles:
        from ingest.organism import model_path, transcoders_path

        return str(model_path()), str(transcoders_path())
    chosen = settings.profile(name)
    return chosen.model, chosen.transcoders


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--token-ids {text!r} is not a list of whole numbers.", "Write it as 1,2,3.") from None
