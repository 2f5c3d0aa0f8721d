"""Prompts for the workers: one, several or a file of them; how long it will take, and how far it is."""

from __future__ import annotations

import streamlit as st

from atlas.catalog.values import now
from atlas.errors import AtlasError, UsageError
from atlas.group_records import TraceRequest
from atlas.jobs import SHIPPED, check_request
from atlas.prompt_files import read_prompts
from ui import markup, work
from ui.shared import asked, begin, fragment, get_atlas, guarded, heading, note, problem, remember, show

LISTED = 20  # rows of a preview, and jobs that are followed one by one
CIRCUITS_FROM = 500  # circuits looked through for models and sets
EXAMPLE = 'prompt,targets,max_features\nThe capital of France is," Paris",2000\n"Paris, in France, is a",,'
begin("Trace")
with guarded():
    atlas = get_atlas()
    me = atlas.whoami()
    overview = atlas.overview()
    known = atlas.circuits(limit=CIRCUITS_FROM)


def choose_model() -> dict[str, str | None]:
    """Profile, or model and transcoders, as a request has them."""
    profiles = list(dict.fromkeys([*atlas.settings.profiles, SHIPPED]))
    wanted = asked("profile")
    profile = st.selectbox(
        "Model",
        [*profiles, ""],
        index=profiles.index(wanted) if wanted in profiles else len(profiles) if asked("model") else 0,
        format_func=lambda name: (
            "another model ..." if not name else f"{name} (the shipped model)" if name == SHIPPED else name
        ),
        help="Profiles are named in atlas.toml; each is a model with its transcoders.",
    )
    if profile:
        return {"profile": profile}
    left, right = st.columns(2)
    model = _or_new(left, "Model folder or hub name", [row.model for row in known], asked("model"))
    sets = [row.transcoders for row in known if row.model == model]
    return {"model": model, "transcoders": _or_new(right, "Transcoders", sets, asked("transcoders"))}


def _or_new(column, name: str, values: list[str], wanted: str) -> str | None:
    """One of those known in the atlas, or any other that the worker's machine has."""
    options = list(dict.fromkeys([*([wanted] if wanted else []), *(value for value in values if value)]))
    return column.selectbox(
        name, options, index=0 if wanted else None, accept_new_options=True, placeholder="Choose one, or write it"
    )


def choose_options() -> dict[str, object]:
    with st.expander("Options"):
        targets = st.text_input(
            "Target tokens",
            placeholder="the likeliest next tokens, to a mass of 0.95",
            help="Separated by commas; spaces count, because a token with a space in front is another token.",
        )
        left, middle, right = st.columns(3)
        node = left.number_input("Node threshold", 0.0, 1.0, 0.8, 0.01, help="1 keeps every node.")
        edge = middle.number_input("Edge threshold", 0.0, 1.0, 0.98, 0.01, help="1 keeps every edge.")
        most = right.number_input("Most features", 1, None, None, 100, placeholder="no limit")
        left, right, _ = st.columns(3)
        by = left.number_input(
            "Let the model write first",
            0,
            None,
            0,
            1,
            help="So many tokens, the likeliest each time; the first is explained.",
        )
        at = right.number_input(
            "Explain the token at",
            None,
            None,
            None,
            1,
            placeholder="the next token",
            help="A position of the text, counted from 0, or from the end: -1 is its last token.",
        )
        collection = st.selectbox(
            "Into the collection",
            overview.collections,
            index=None,
            accept_new_options=True,
            placeholder="None; choose one, or write a new name",
        )
        with st.container(horizontal=True):
            chat = st.checkbox("Chat", help="Put the prompt into the model's chat template.")
            again = st.checkbox("Again", help="Trace even if the same trace exists: gives a replicate.")
    return {
        "targets": [word for word in targets.split(",") if word] or None,
        "node_threshold": node,
        "edge_threshold": edge,
        "max_features": int(most) if most is not None else None,
        "continue_by": int(by),
        "at": int(at) if at is not None else None,
        "collection": collection,
        "chat": chat,
        "again": again,
    }


def written(given: dict) -> list[TraceRequest]:
    """The requests of the text area."""
    if st.session_state.pop("clear_prompts", False):
        st.session_state.prompts = ""
    if "prompts" not in st.session_state:
        st.session_state.prompts = asked("prompt")
    text = st.text_area(
        "Prompts", key="prompts", height=140, placeholder="The capital of France is\nThe capital of Italy is"
    )
    whole = st.checkbox("All lines are one prompt", help="Otherwise every line is a prompt of its own.")
    prompts = [text] if whole else text.split("\n")
    return [TraceRequest(prompt=prompt, **given) for prompt in prompts if prompt.strip()]


def outlook(requests: list[TraceRequest]) -> None:
    """How many, how long."""
    if not requests:
        return
    seconds = atlas.estimate_traces(requests)
    pieces = [markup.counted(len(requests), "prompt")]
    if seconds is None:
        pieces.append("no estimate: no trace with this model has ended yet")
    else:
        pieces.append(f"about {work.span(seconds)} of one worker's time")
    note(", ".join(pieces) + ".")


def enqueue(requests: list[TraceRequest], batch: str) -> bool:
    """Queue them and follow them from now on; several go as a batch of that name."""
    try:
        if not requests:
            raise UsageError("There is no prompt to enqueue.", "Write one, or several, each on a line of its own.")
        queued = atlas.enqueue_traces(
            requests, f"{batch} {now()[:19].replace('T', ' ')}" if len(requests) > 1 else None
        )
    except AtlasError as error:
        problem(error)
        return False
    remember(**({"batch": queued.batch} if queued.batch else {"job": queued.jobs[0]}))
    return True


def from_text(given: dict) -> None:
    requests = written(given)
    pressed = st.button("Enqueue", type="primary", disabled=not work.may_write(me.role), key="enqueue")
    outlook(requests)
    if pressed and enqueue(requests, me.name):
        st.session_state.clear_prompts = True
        st.rerun()


@st.cache_resource(max_entries=8, show_spinner="Reading the file ...")
def parsed(file_id: str, name: str, _data: bytes):
    """Read-only."""
    return read_prompts(name, _data)


def completed(requests: list[TraceRequest], given: dict) -> tuple[list[TraceRequest], list[tuple[str, str]]]:
    """What a row leaves out is as chosen on the page; and the prompts that no worker could do, with the reason."""
    good, bad = [], []
    for request in requests:
        own = request.model_fields_set
        names_model = own & {"profile", "model", "transcoders"}
        skipped = own | ({"profile", "model", "transcoders"} if names_model else set())
        full = request.model_copy(update={name: value for name, value in given.items() if name not in skipped})
        try:
            check_request(atlas.settings, full)
        except AtlasError as error:
            bad.append((f"“{_short(full)}”", str(error)))
        else:
            good.append(full)
    return good, bad


def _short(request: TraceRequest, most: int = 60) -> str:
    text = markup.visible(request.prompt if request.prompt is not None else f"tokens {request.token_ids}")
    return text if len(text) <= most else text[: most - 1] + "…"


def from_file(given: dict) -> None:
    file = st.file_uploader("File of prompts", type=["csv", "jsonl"], max_upload_size=64)
    if file is None:
        note("One prompt for each row. What a row leaves out is as chosen above: model, targets, thresholds ...")
        st.code(EXAMPLE, language=None)
        note(f"Columns, or keys in a .jsonl: {', '.join(TraceRequest.model_fields)}.")
        return
    try:
        requests, rejected = parsed(file.file_id, file.name, file.getvalue())
    except AtlasError as error:
        problem(error)
        return
    good, bad = completed(requests, given)
    faults = [*((f"Line {row.line}", row.reason) for row in rejected), *bad]
    if faults:
        heading(f"{markup.counted(len(faults), 'row')} cannot be used")
        show(markup.table(["Where", "Why"], faults[:LISTED]))
        _and_more(len(faults))
    if not good:
        return
    heading(f"{markup.counted(len(good), 'prompt')} can be enqueued")
    show(markup.table(["Prompt", "Model", "Options"], [_preview(request) for request in good[:LISTED]]))
    _and_more(len(good))
    pressed = st.button(
        "Enqueue these" if not faults else "Enqueue these, without the rows above",
        type="primary",
        disabled=not work.may_write(me.role),
        key="enqueue-file",
    )
    outlook(good)
    if pressed and enqueue(good, file.name[:60]):
        st.rerun()


def _and_more(count: int) -> None:
    if count > LISTED:
        note(f"And {count - LISTED:,} more.")


def _preview(request: TraceRequest) -> list[object]:
    usual = TraceRequest()
    options = []
    for name, value in request.model_dump().items():
        if name in {"prompt", "token_ids", "model", "transcoders", "profile"} or value == getattr(usual, name):
            continue
        said = "" if value is True else " " + (",".join(value) if isinstance(value, list) else str(value))
        options.append(name.replace("_", " ") + said)
    return [_short(request, 300), request.profile or request.model, "; ".join(options) or "–"]


@fragment(run_every=work.LOOKED)
def queue_now() -> None:
    """How full the queue is and who works."""
    with guarded():
        at = get_atlas()
        counts, workers = at.job_counts(), at.workers()
    alive = work.alive(workers)
    waiting = counts.get("queued", 0)
    show(
        markup.tag(
            "div",
            *(
                markup.tag("div", markup.tag("b", f"{n:,}"), markup.tag("span", what))
                for n, what in ((waiting, "waiting"), (counts.get("running", 0), "running"), (alive, "workers alive"))
            ),
            cls="ca-numbers",
        )
    )
    if not alive:
        work.nobody_works()


@fragment(run_every="1s")
def followed(job: str, batch: str) -> None:
    """What was enqueued last, as it goes on."""
    with guarded():
        at = get_atlas()
        if batch:
            counts, rows = at.job_counts(batch), at.jobs(batch=batch, limit=LISTED)
        else:
            rows = [at.job(job)]
            counts = {rows[0].state: 1}
    total, ended = sum(counts.values()), sum(counts.get(state, 0) for state in work.ENDED)
    if not total:
        note("There is no such batch.")
        return
    if batch:
        left = max((row.seconds_left for row in rows if row.seconds_left is not None), default=None)
        show(
            markup.tag("div", work.bar(ended, total, "progress of the batch"), cls="ca-progress"),
            markup.tag(
                "p",
                work.counted_states(counts),
                f", about {work.span(left)} left" if left is not None and ended < total else "",
                " · ",
                markup.link("jobs", "all of them", batch=batch),
                *(
                    [" · ", markup.link("jobs", "the failed", batch=batch, state="failed")]
                    if "failed" in counts
                    else []
                ),
                cls="ca-line",
            ),
        )
    show(*(work.job_card(row, brief=True) for row in rows))
    if total > len(rows):
        note(f"And {total - len(rows):,} more.")


left, right = st.columns([3, 2], gap="large")
with left, guarded():
    work.reader_note(me.role)
    given = {**choose_model(), **choose_options()}
    by_text, by_file = st.tabs(["Write prompts", "Upload a file"])
    with by_text:
        from_text(given)
    with by_file:
        from_file(given)
with right, st.container(key="ca-live"):
    heading("The queue")
    queue_now()
    show(markup.tag("p", markup.link("jobs", "All jobs and workers"), cls="ca-line"))
    if asked("job") or asked("batch"):
        heading(f"Enqueued: {asked('batch')}" if asked("batch") else "Enqueued")
        followed(asked("job"), asked("batch"))
