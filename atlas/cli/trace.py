"""`atlas trace`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, stderr
from atlas.errors import InputRejected, ModelRejected, UsageError
from atlas.group_records import RejectedRow, TraceRequest
from atlas.memory import LARGE_WHEN_TRACING, limit_fragmentation

if TYPE_CHECKING:
    from atlas.api import Atlas


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
        str | None,
        typer.Option(
            help="What to explain, comma-separated: tokens, diff:A|B, feature:LAYER/POSITION/INDEX, direction:FILE.npy, each "
            "with @POSITION if not the last; default: the likeliest tokens to a mass of 0.95."
        ),
    ] = None,
    max_features: Annotated[
        int | None,
        typer.Option(min=1, help="Trace at most this many features, chosen by influence; the others count as error."),
    ] = None,
    node_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of influence the kept nodes hold; 1 = every node.")
    ] = 0.8,
    edge_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The same for edges; 1 = every non-zero edge.")
    ] = 0.98,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    continue_by: Annotated[
        int, typer.Option("--continue", min=0, help="Let the model write so many tokens first.")
    ] = 0,
    at: Annotated[
        int | None,
        typer.Option(help="Explain the token at this position of the text; with --continue, of what the model wrote."),
    ] = None,
    keep_full: Annotated[
        bool, typer.Option("--keep-full", help="Keep the full graph on this machine for `atlas prune`.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the active features and estimate time and memory; trace nothing.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1 ..., auto: spread over all GPUs; default: the GPU if there is one."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16; default float32.")] = None,
    collection: Annotated[
        str | None, typer.Option("--in", help="Collection to put the circuit in; made if it is new.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Trace even if the same trace exists; gives a replicate.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts, .csv or .jsonl; columns are named as in docs/jobs.md and go before options."
        ),
    ] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to a worker (`atlas worker`).")] = False,
    batch: Annotated[
        str | None, typer.Option(help="With --queue: a name for these jobs; default: the file and the time.")
    ] = None,
    json: Json = False,
) -> int:
    """Trace a prompt, or a file of them: each attribution graph becomes a circuit of the atlas."""
    if batch is not None and not queue:
        raise UsageError("--batch names jobs of the queue.", "Pass --queue too, or leave it out.")
    if queue and (device or dtype):
        raise UsageError("The worker chooses device and dtype.", "Pass them to `atlas worker`, or leave --queue out.")
    common: dict[str, Any] = {
        "model": _place(model, queue),
        "transcoders": _place(transcoders, queue),
        "profile": profile,
        "targets": [word for word in targets.split(",") if word] if targets is not None else None,
        "max_features": max_features,
        "node_threshold": node_threshold,
        "edge_threshold": edge_threshold,
        "chat": chat,
        "continue_by": continue_by,
        "at": at,
        "collection": collection,
        "again": again,
    }
    limit_fragmentation(LARGE_WHEN_TRACING)
    if (keep_full or dry_run) and (queue or prompts is not None):
        raise UsageError(
            "--keep-full and --dry-run are for one prompt, traced here.", "Leave --queue and --prompts out."
        )
    if prompts is not None:
        if prompt is not None or token_ids is not None:
            raise UsageError("--prompts names the prompts already.", "Leave PROMPT and --token-ids out.")
        return _many(prompts, common, queue, batch, device, dtype, json)
    if queue:
        request = TraceRequest(prompt=prompt, token_ids=_numbers(token_ids), **common)
        with opened() as atlas:
            queued = atlas.enqueue_traces([request], batch=batch)
            text = show_queued(atlas, queued)
        emit(queued, json, text)
        return 0
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
        from ingest.transcoders import find_transcoders, load_transcoders
    find_transcoders(transcoders)  # a wrong name is said before a large model is read
    if common["targets"] == []:
        raise InputRejected("No target was named.", "Name at least one, or leave --targets out.")
    if dry_run:
        return _dry_run(model, transcoders, prompt, numbers, common, keep_full, device, dtype, json)
    with opened() as atlas, progress_bar("Tracing", json) as report:
        loaded = load_model(model, device=device, dtype=dtype)
        result = trace_prompt(
            atlas,
            prompt,
            model=loaded,
            transcoders=load_transcoders(transcoders, loaded),
            continue_by=continue_by,
            at=at,
            keep_full=keep_full,
            warn=stderr().print,
            token_ids=numbers,
            targets=common["targets"],
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
    return 0


def _dry_run(
    model: str,
    transcoders: str,
    prompt: str | None,
    token_ids: list[int] | None,
    common: dict[str, Any],
    keep_full: bool,
    device: str | None,
    dtype: str | None,
    json: bool,
) -> int:
    from ingest.models import load_model
    from ingest.trace.estimate import estimate_trace
    from ingest.trace.run import understood
    from ingest.transcoders import load_transcoders

    loaded = load_model(model, device=device, dtype=dtype)
    how = {name: common[name] for name in ("targets", "chat", "continue_by", "at")}
    ids, targets = understood(loaded, prompt, token_ids, **how)
    result = estimate_trace(
        loaded,
        load_transcoders(transcoders, loaded),
        ids,
        targets=targets,
        max_features=common["max_features"],
        node_threshold=common["node_threshold"],
        keep_full=keep_full,
    )

    def show_text(console):
        console.print(
            f"{result.tokens} tokens, {result.active_features} active features, "
            f"{result.targets} target{'' if result.targets == 1 else 's'}: about "
            f"{result.seconds:.1f} s and {result.memory_bytes / 2**30:.2f} GiB beside the model"
        )
        if result.streamed:
            console.print(
                "the full graph would not fit into the free memory: its rows are computed twice and not kept, and the circuit is the same"
            )
        console.print(f"explained variance of the MLPs on this prompt {result.explained_variance:.3f}")
        for warning in result.warnings:
            console.print(warning)

    emit(result, json, show_text)
    return 0


@app.command()
def prune(
    circuit: Annotated[str, typer.Argument(help="Circuit id, unique id prefix or unique name.")],
    node_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of influence the kept nodes hold; 1 = every node.")
    ] = 0.8,
    edge_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The same for edges; 1 = every non-zero edge.")
    ] = 0.98,
    collection: Annotated[str | None, typer.Option("--in", help="Collection to put the new circuit in.")] = None,
    json: Json = False,
) -> None:
    """Cut a circuit anew from its full graph, where `atlas trace --keep-full` kept it; nothing is traced again."""
    with extra("ingest", "`atlas prune`"):
        from ingest.trace import prune_circuit
    with opened() as atlas:
        result = prune_circuit(
            atlas, circuit, node_threshold=node_threshold, edge_threshold=edge_threshold, collection=collection
        )
    state = ", already in the atlas" if result.already else ""
    emit(
        result,
        json,
        lambda console: console.print(f"{result.circuit}: {result.nodes} nodes, {result.edges} edges{state}"),
    )


def _many(
    file: Path,
    common: dict[str, Any],
    queue: bool,
    batch: str | None,
    device: str | None,
    dtype: str | None,
    json: bool,
) -> int:
    """Trace or queue the prompts of a file; 1 when some row could not be used."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputRejected(
            f"{file} cannot be read: {(error.strerror or str(error)).lower()}.", "Pass a .csv or .jsonl file."
        ) from error
    with opened() as atlas:
        requests, rejected = _requests(atlas, file.name, data, common)
        if queue:
            name = batch or f"{file.stem} {datetime.now():%Y-%m-%d %H:%M:%S}"
            queued = atlas.enqueue_traces([request for _, request in requests], batch=name) if requests else None
            text = show_queued(atlas, queued) if queued else lambda console: console.print("queued nothing")
            result: dict[str, Any] = queued.model_dump() if queued else {"jobs": [], "batch": None, "waiting": 0}
        else:
            result, text = _trace_here(atlas, requests, rejected, device, dtype, json)
    rejected.sort(key=lambda row: row.line)
    result["rejected"] = [{"file": str(file), **row.model_dump()} for row in rejected]

    def show_text(console):
        text(console)
        for row in rejected:
            console.print(f"{file} line {row.line}: {row.reason}")

    emit(result, json, show_text)
    return 1 if rejected else 0


def _requests(
    atlas: Atlas, name: str, data: bytes, common: dict[str, Any]
) -> tuple[list[tuple[int, TraceRequest]], list[RejectedRow]]:
    """The usable rows with their lines, completed by the options, and the others."""
    from atlas.jobs import check_request
    from atlas.prompt_files import numbered_prompts

    rows, rejected = numbered_prompts(name, data)
    good = []
    for line, row in rows:
        own = row.model_dump(exclude_unset=True)
        rest = dict(common)
        if own.get("profile"):
            rest |= {"model": None, "transcoders": None}
        elif own.get("model") or own.get("transcoders"):
            rest["profile"] = None
        request = TraceRequest(**{**rest, **own})
        try:
            check_request(atlas.settings, request)
        except UsageError as error:
            rejected.append(RejectedRow(line=line, reason=str(error)))
        else:
            good.append((line, request))
    return good, rejected


def _trace_here(
    atlas: Atlas,
    requests: list[tuple[int, TraceRequest]],
    rejected: list[RejectedRow],
    device: str | None,
    dtype: str | None,
    json: bool,
) -> tuple[dict[str, Any], Any]:
    """Trace one after the other; a row that cannot be traced joins `rejected`. Run again, it finds what is done."""
    with extra("ingest", "`atlas trace`"):
        from ingest.trace import trace as trace_prompt
        from ingest.worker.models import LoadedModels, trace_arguments
    models = LoadedModels(atlas.settings, device, dtype)
    traced: list[dict[str, Any]] = []
    with progress_bar("Tracing", json) as report:
        for number, (line, request) in enumerate(requests):
            report(number, len(requests), f"line {line}")
            try:
                model, transcoders = models.get(request)
                rest = trace_arguments(request)
                result = trace_prompt(atlas, request.prompt, model=model, transcoders=transcoders, **rest)
            except (InputRejected, ModelRejected, UsageError) as error:
                rejected.append(RejectedRow(line=line, reason=str(error)))
            else:
                traced.append({"line": line, **result.model_dump(mode="json")})
    new = sum(not entry["already"] for entry in traced)

    def show_text(console):
        console.print(f"{new} traced, {len(traced) - new} already in the atlas, {len(rejected)} rejected")

    return {"traced": traced}, show_text


def _place(name: str | None, queue: bool) -> str | None:
    """A folder for a worker, which runs in another folder than this command, must be named in full."""
    return str(Path(name).expanduser().resolve()) if queue and name and Path(name).expanduser().is_dir() else name


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
