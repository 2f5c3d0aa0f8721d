"""The options of `atlas patch` and `atlas components` that say on which cases: pairs of prompts, or a template of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.causal_records import PromptPair
from atlas.cli.main import extra
from atlas.errors import InputRejected, UsageError


class Templates(StrEnum):
    ioi = "ioi"
    agreement = "agreement"
    greater_than = "greater-than"


METRICS = ("logit-difference", "probability", "kl")
FUNCTION = "function:"

Model = Annotated[str | None, typer.Option(help="Folder or hub name of the model.")]
Profile = Annotated[str | None, typer.Option(help="Profile of atlas.toml; `demo` is the shipped model.")]
Pairs = Annotated[
    Path | None,
    typer.Option(help="File of cases, .jsonl or .csv, with clean, corrupted, answer and wrong (docs/components.md)."),
]
Clean = Annotated[str | None, typer.Option(help="One case: the prompt on which the model does what is studied.")]
Corrupted = Annotated[
    str | None,
    typer.Option(
        help="The same prompt changed so that it does not; as many tokens, or (patching) one stretch of another length."
    ),
]
Answer = Annotated[str | None, typer.Option(help="What the model answers to the clean prompt: one token.")]
Wrong = Annotated[str | None, typer.Option(help="What the answer is compared with: one token.")]
Template = Annotated[Templates | None, typer.Option(help="Make the cases from a template.")]
Count = Annotated[int, typer.Option(min=1, max=10_000, help="So many cases of the template.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the template, and of resampling.")]
Metric = Annotated[
    str, typer.Option(help="logit-difference, probability, kl, or function:MODULE:NAME, a function of your own.")
]
Collection = Annotated[str | None, typer.Option("--in", help="Collection to put the circuit in; made if it is new.")]


def on_cases(
    *,
    model: str | None,
    profile: str | None,
    pairs: Path | None,
    clean: str | None,
    corrupted: str | None,
    answer: str | None,
    wrong: str | None,
    template: Templates | None,
    count: int,
    seed: int,
    metric: str,
    collection: str | None,
    queue: bool,
) -> dict[str, Any]:
    """The fields that both requests have. Raises UsageError for options that do not go together, InputRejected (file)."""
    if (model is None) == (profile is None):
        raise UsageError(
            "Pass either --model or --profile." if model else "This needs a model.",
            "Leave one of the two out." if model else "Pass --model, or --profile demo for the shipped one.",
        )
    if sum(given is not None for given in (pairs, clean, template)) != 1:
        raise UsageError(
            "The cases come from exactly one of --pairs, --clean and --template.",
            "For example: --clean 'When A and B met, B gave it to' --corrupted ... --answer ' A' --wrong ' B'.",
        )
    one = {"--corrupted": corrupted, "--answer": answer, "--wrong": wrong}
    given = [name for name, value in one.items() if value is not None]
    if clean is None and given:
        raise UsageError(f"{given[0]} belongs to --clean.", "Pass --clean too, or put the cases into a file (--pairs).")
    if clean is not None and answer is None:
        raise UsageError("A clean prompt needs its answer.", "Pass --answer, one token.")
    if not (metric in METRICS or metric.startswith(FUNCTION)):
        raise UsageError(f"There is no metric {metric!r}.", f"Metrics: {', '.join(METRICS)}, function:MODULE:NAME.")
    if queue and metric.startswith(FUNCTION):
        raise UsageError(
            "A function of your own is not run by a worker.", "Leave --queue out, or choose another metric."
        )
    cases: list[PromptPair] | None = None
    if pairs is not None:
        cases = _read(pairs)
    elif clean is not None:
        cases = [PromptPair(clean=clean, corrupted=corrupted, answer=answer or "", wrong=wrong)]
    return {
        "model": placed(model, queue),
        "profile": profile,
        "pairs": cases,
        "template": template.value if template else None,
        "count": count,
        "seed": seed,
        "metric": metric,
        "collection": collection,
    }


def placed(name: str | None, queue: bool) -> str | None:
    """A folder for a worker, which runs in another folder than this command, must be named in full."""
    return str(Path(name).expanduser().resolve()) if queue and name and Path(name).expanduser().is_dir() else name


def _read(file: Path) -> list[PromptPair]:
    if not file.is_file():
        raise InputRejected(f"There is no file {file}.", "Pass a .jsonl or .csv file of cases.")
    with extra("ingest", "Reading a file of cases"):
        from ingest.components.pair_files import read_pairs
    return read_pairs(file)
