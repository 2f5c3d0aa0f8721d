"""Train the shipped model, then its transcoders, and measure both.

    python -m ingest.organism.train             # everything, seeded
    python -m ingest.organism.train --only model

Steps: train the model, round its weights to fp16 and save them, train the
transcoders on the rounded model, measure the figures, write the card.

Two devices put the steps of a two-hop prompt in order, so that there is a
chain to trace.  Input embeddings stay at their random start: what a word
stands for has to be worked out by the MLPs.  And in most training batches the
names of cities and states are isolated in the first two layers (nothing reads
them there and they read nothing), so the state of a city is worked out at the
city and used later.  The trained model is a plain Llama; when it is used,
nothing is isolated.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import geography, grammar
from .tokenizer import build_tokenizer

HERE = Path(__file__).resolve().parent
LAYERS, HIDDEN, HEADS, INTERMEDIATE = 4, 128, 4, 256
#: share of the loss of a token that is not the scored answer
OTHER_TOKEN_WEIGHT = 0.15
#: layers in which names are isolated, and in what share of the batches
ISOLATING_LAYERS, ISOLATING_SHARE = (0, 1), 0.9


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of the shipped size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.weight.requires_grad_(False)
    return model


class NameIsolation:
    """Attention masks for the first layers in which names neither read nor are read.

    A name still reads itself and the BOS token.  Set `mask` before a forward
    pass; `None` leaves the model as it is.
    """

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.is_name = torch.zeros(len(tokenizer), dtype=torch.bool)
        self.is_name[tokenizer.convert_tokens_to_ids([*geography.BY_CITY, *geography.BY_NAME])] = True
        self.mask: torch.Tensor | None = None
        for i in ISOLATING_LAYERS:
            model.model.layers[i].self_attn.register_forward_pre_hook(self._replace, with_kwargs=True)

    def _replace(self, module, args, kwargs):
        if self.mask is not None:
            kwargs["attention_mask"] = self.mask
        return args, kwargs

    def set_for(self, ids: torch.Tensor) -> None:
        """Isolate the names of ids (n, t): an additive mask (n, 1, t, t)."""
        name = self.is_name[ids]
        length = ids.shape[1]
        position = torch.arange(length)
        causal = position[:, None] >= position
        to_self_or_bos = (position[:, None] == position) | (position == 0)
        allowed = causal & (to_self_or_bos | ~(name[:, :, None] | name[:, None, :]))
        self.mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]


def batches(
    tokenizer: PreTrainedTokenizerFast, size: int, seed: int, pool: int = 8
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, weights), both (size, longest): weights of the token each position predicts.

    `pool` batches are drawn at once and grouped by length, to pad little.
    """
    stream = grammar.training_examples(seed)
    while True:
        drawn = [next(stream) for _ in range(size * pool)]
        full = tokenizer([e.text for e in drawn])["input_ids"]
        prompt_lengths = [len(ids) for ids in tokenizer([e.prompt for e in drawn])["input_ids"]]
        order = sorted(range(len(drawn)), key=lambda i: len(full[i]))
        groups = [order[k * size : (k + 1) * size] for k in range(pool)]
        for k in torch.randperm(pool).tolist():
            yield _pad([full[i] for i in groups[k]], [prompt_lengths[i] for i in groups[k]], tokenizer.pad_token_id)


def _pad(rows: list[list[int]], prompt_lengths: list[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    weights = torch.zeros(len(rows), longest)
    for i, (row, length) in enumerate(zip(rows, prompt_lengths, strict=False)):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row) - 1] = OTHER_TOKEN_WEIGHT
        weights[i, length - 1] = 1.0
    return ids, weights


def next_token_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy; padding has weight zero."""
    logits = model(input_ids=ids).logits[:, :-1]
    weights = weights[:, :-1].flatten()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def quick_scores(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 96) -> str:
    """Held-out accuracy of every task on a few examples, as one line of text."""
    from .evaluate import accuracy

    model.eval()
    parts = []
    for task in grammar.GENERATORS:
        options = {"attractors": 2, "mismatched": True} if task == "agreement" else {}
        parts.append(
            f"{task} {accuracy(model, tokenizer, grammar.held_out_examples(task, count, seed=1, **options)):.2f}"
        )
    unseen = grammar.held_out_examples("ioi", count, seed=2, template=grammar.IOI_UNSEEN_TEMPLATE)
    parts.append(f"ioi-unseen {accuracy(model, tokenizer, unseen):.2f}")
    model.train()
    return "  ".join(parts)


def train_model(
    steps: int, batch_size: int, seed: int, learning_rate: float = 3e-3, weight_decay: float = 0.1
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train from scratch; prints the loss and the held-out scores as it goes."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    isolation = NameIsolation(model, tokenizer)
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, s / steps)))),
    )
    stream = batches(tokenizer, batch_size, seed)
    began = time.time()
    model.train()
    for step in range(1, steps + 1):
        ids, weights = next(stream)
        isolation.mask = None
        if torch.rand(()) < ISOLATING_SHARE:
            isolation.set_for(ids)
        loss = next_token_loss(model, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.time() - began:.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            isolation.mask = None
            print("  " + quick_scores(model, tokenizer), flush=True)
    isolation.mask = None
    return model.eval(), tokenizer


def save_rounded(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in fp16 with its tokenizer, in the Hugging Face layout."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the shipped model and its transcoders.")
    parser.add_argument("--only", choices=("model", "transcoders", "figures"), help="one step instead of all")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE, help="folder that receives model/ and transcoders/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.only in (None, "model"):
        model, tokenizer = train_model(args.steps, args.batch_size, args.seed)
        save_rounded(model, tokenizer, args.output / "model")
    if args.only in (None, "transcoders"):
        from .train_transcoders import train_and_save

        train_and_save(args.output / "model", args.output / "transcoders", seed=args.seed)
    if args.only in (None, "figures"):
        from .evaluate import write_figures_and_card

        write_figures_and_card(args.output)


if __name__ == "__main__":
    main()
