"""The model card, written from figures.json so that the numbers cannot drift.

python -m ingest.organism.card       # re-writes MODEL_CARD.md
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _table(header: tuple[str, ...], rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _tasks(tasks: dict) -> str:
    columns = ("score", "chance", "unigram", "bigram", "position")
    rows = [(name, *(_percent(row[c]) for c in columns), row["n"]) for name, row in tasks.items()]
    return _table(("task", *columns, "prompts"), rows)


def _samples(samples: list[dict]) -> str:
    rows = [(r["prompt"], r["expected"], r["likeliest"], _percent(r["probability"])) for r in samples]
    return _table(("prompt", "expected", "likeliest token", "its probability"), rows)


def _transcoders(layers: list[dict]) -> str:
    rows = [
        (
            r["layer"],
            f"{r['unexplained_variance']:.4f}",
            _percent(1 - r["unexplained_variance"]),
            f"{r['l0']:.1f}",
            f"{r['dead_features']} of {r['features']}",
        )
        for r in layers
    ]
    return _table(("layer", "unexplained variance", "explained", "L0", "features silent on this text"), rows)


def _flip_row(name, rates: dict) -> tuple:
    columns = ("state_flips", "random_flips", "same_state_flips", "state_keeps", "random_keeps", "same_state_keeps")
    return (name, *(_percent(rates[c]) for c in columns), rates["cases"])


_FLIP_HEADER = (
    "to B's answer: state",
    "random",
    "same state",
    "still A's answer: state",
    "random",
    "same state",
    "cases",
)


def _patching(patching: dict) -> str:
    by_layer = [_flip_row(row["layer"], row) for row in patching["by_layer"]]
    relations = [_flip_row(name, patching[name]) for name in ("code", "region")]
    samples = [_flip_row(row["prompt"], row) for row in patching["samples"]]
    causal = [row["state_flips"] >= 0.9 for row in patching["samples"]]
    verdict = (
        "In every two-hop sample prompt the state is causal at this place."
        if all(causal)
        else "In some two-hop sample prompts the state is **not** causal at this place: "
        + "; ".join(r["prompt"] for r in patching["samples"] if r["state_flips"] < 0.9)
    )
    return f"""\
Before which layer the direction is added (0: the embeddings), held-out cities, capital asked:

{_table(("before layer", *_FLIP_HEADER), by_layer)}

The same directions before layer {patching["layer"]} (of layers 1 to 3 the one with most answers moved to B's, in the table
above), another relation asked:

{_table(("asked", *_FLIP_HEADER), relations)}

The sample prompts before layer {patching["layer"]}, every other state as the target. {verdict}

{_table(("prompt", *_FLIP_HEADER), samples)}"""


def _replacement(scores: dict | None) -> str:
    if scores is None:
        return "Not measured yet."
    rows = [
        (
            r["prompt"],
            *(f"{r[kind][name]:.3f}" for name in ("replacement", "completeness") for kind in ("real", "permuted")),
        )
        for r in scores["prompts"]
    ]
    mean = scores["mean"]
    rows.append(
        (
            "**mean**",
            *(f"{mean[kind][name]:.3f}" for name in ("replacement", "completeness") for kind in ("real", "permuted")),
        )
    )
    header = ("prompt", "replacement", "replacement, permuted", "completeness", "completeness, permuted")
    return _table(header, rows) + f"\n\nPermuted: mean over {scores['seeds']} seeds."


def render(figures: dict) -> str:
    """The whole card as Markdown."""
    size = figures["size"]
    megabytes = (size["model_bytes"] + size["transcoder_bytes"]) / 1e6
    return f"""\
# The organism: a small model to trace

<!-- Written by `python -m ingest.organism.card` from figures.json; edit card.py instead. -->

A Llama-architecture model with {size["layers"]} layers, width {size["hidden_size"]}, MLP width
{size["intermediate_size"]}, 4 heads and {size["parameters"]:,} parameters, and one JumpReLU transcoder per
layer. Its word-level vocabulary has {size["vocabulary"]} tokens; a name of several words ("Salt
Lake City") is one token. Weights are fp16 on disk ({megabytes:.1f} MB in all) and every figure here
is of those weights, computed in fp32.

It is a model organism: it knows a few tasks and nothing else, and its text is made by a
small grammar (`grammar.py`, `geography.py`). Do not read its graphs as evidence about large models.

## What it is trained on

Two-hop questions on real United States geography (city, state, and the state's capital, postal
code or census region), indirect objects, subject-verb agreement, greater-than on years, antonyms,
and filler sentences. Every sequence starts with a BOS token. All city -> state and state ->
capital facts are trained; what is held out is said in `grammar.py`, and checked by the tests.

Two devices put the steps of the two-hop questions in order. The input embeddings stay at their
random start, so what a word stands for is worked out by the MLPs. And in 90% of the training
batches names of cities and states are isolated in the first two layers: no other position reads them
there, and they read only themselves and BOS. This is a choice about *where* the state is worked out, made
in training; the shipped model is a plain Llama and nothing is isolated when it is used or scored.

`python -m ingest.organism.train` makes model, transcoders, figures and this card again. The
seed is fixed; other hardware or library versions round differently and give slightly other weights.
The shipped run took 17 minutes for the model and 7 for the transcoders on two processor cores that were
busy with other work.

## Scores on held-out prompts

Score: share of prompts whose likeliest token, of the whole vocabulary, is the answer. Agreement: the
right number is likelier than the wrong one; "mismatched" means every other noun has the other
number. Greater-than: probability mass on the valid years. Shortcuts, fitted on
training text: *unigram* answers by frequency, *bigram* by the last word of the prompt, *position*
copies the word (of the names, or of the nouns' numbers) at the single place that does best in training.
That rule is fitted to both orders of names together, so within one order alone it is always or never right.

{_tasks(figures["tasks"])}

## Sample prompts

{_samples(figures["samples"])}

## Transcoders

JumpReLU: a feature is active if its pre-activation is above the threshold, and its value is then the
pre-activation. Input: what the MLP gets (after the norm and its weight, `mlp.hook_in`);
output: what it returns (`mlp.hook_out`). Held-out text, position 0 (BOS) left out of training and
scores. Unexplained variance: squared error over squared distance to the mean output.

{_transcoders(figures["transcoders"])}

## Is the state a step on the way?

For a prompt about a city of state A, the mean residual stream of cities of state B minus that of
cities of A is added at the city. The means are taken in "{{city}} is a city in", where no relation has been
mentioned, and leave out the prompt's own city. Controls of the same norm: a random direction, and the
difference of two cities of A. See `patching.py`.

{_patching(figures["patching"])}

## Replacement and completeness

Scores of the attribution graphs of the sample prompts, beside the same transcoders with the decoder
rows of every layer permuted.

{_replacement(figures["replacement"])}

## Limits

- The model answers only prompts of the forms in `grammar.py`; other word orders and
  unknown words (one shared unknown token) are outside what it was trained on.
- One-hop facts cannot be held out; only their composition is.
- Where the state is worked out was arranged by the isolation described above; it is not
  a finding about how models organise two-hop questions by themselves.
"""


if __name__ == "__main__":
    (HERE / "MODEL_CARD.md").write_text(render(json.loads((HERE / "figures.json").read_text())))
