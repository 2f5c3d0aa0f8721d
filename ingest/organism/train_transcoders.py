"""Train one transcoder per layer on the rounded model.

One JumpReLU threshold per layer is moved during training so that the wanted
mean number of features is active; an extra loss wakes features that stopped
firing.  In the last part of training the threshold stays where it is.
"""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import grammar
from .transcoder import CONFIG_YAML, Transcoder, collect, measure

FEATURES = 1024
#: wanted mean number of active features per token
L0_TARGET = 10
STEPS, BATCH, LEARNING_RATE = 1500, 1024, 1e-2
SENTENCES = 15_000
#: steps without firing after which a feature counts as dead
DEAD_AFTER = 100


def train_layer(
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    seed: int,
    l0: float = L0_TARGET,
    features: int = FEATURES,
    steps: int = STEPS,
) -> Transcoder:
    """Fit one transcoder to (n_tokens, d) inputs and outputs of one MLP."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens, width = inputs.shape
    in_mean, out_mean = inputs.mean(0), outputs.mean(0)
    in_scale = (inputs - in_mean).square().sum(1).mean().sqrt()
    out_scale = (outputs - out_mean).square().sum(1).mean().sqrt()
    x_all, y_all = (inputs - in_mean) / in_scale, (outputs - out_mean) / out_scale

    # start from directions that really occur: each feature from the input and output of one token
    picked = spread_out(x_all, features, generator)
    w_enc = torch.nn.functional.normalize(x_all[picked], dim=1).requires_grad_()
    w_dec = torch.nn.functional.normalize(y_all[picked], dim=1).requires_grad_()
    b_enc = torch.zeros(features, requires_grad=True)
    b_dec = torch.zeros(width, requires_grad=True)
    parameters = [w_enc, w_dec, b_enc, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99))
    silent_for = torch.zeros(features)
    threshold = 0.3
    settled = steps - steps // 5

    for step in range(steps):
        rate = LEARNING_RATE * min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(n_tokens, (BATCH,), generator=generator)
        x, y = x_all[rows], y_all[rows]
        before = x @ w_enc.T + b_enc
        mask = before > threshold
        missed = y - ((before * mask) @ w_dec + b_dec)
        loss = missed.square().sum(1).mean()
        if step < settled:
            wanted = l0 + 20 * max(0.0, 1 - step / (0.3 * steps))
            threshold *= min(1.05, max(0.95, (mask.sum().item() / BATCH / wanted) ** 0.05))
            silent_for = torch.where(mask.any(0), 0, silent_for + 1)
            dead = silent_for > DEAD_AFTER
            if dead.any():
                loss = loss + _waking_loss(before[:, dead], w_dec[dead], missed.detach()) / 16
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            w_dec /= w_dec.norm(dim=1, keepdim=True)

    with torch.no_grad():  # fold the scales and means into the weights
        encoder = w_enc / in_scale
        return Transcoder(
            w_enc=encoder.clone(),
            b_enc=(b_enc - encoder @ in_mean).clone(),
            w_dec=(w_dec * out_scale).clone(),
            b_dec=(b_dec * out_scale + out_mean).clone(),
            threshold=torch.full((features,), threshold),
        )


def spread_out(points: torch.Tensor, count: int, generator: torch.Generator, pool: int = 8192) -> torch.Tensor:
    """Indices (count,) of points (n, d) far from one another.

    Each is drawn with probability proportional to the squared distance to the
    nearest one already drawn (the k-means++ rule), out of `pool` random points.
    """
    candidates = torch.randint(len(points), (pool,), generator=generator)
    among = points[candidates]
    squares = among.square().sum(1)
    nearest = torch.full((pool,), torch.inf)
    chosen = torch.randint(pool, (count,), generator=generator)
    for i in range(count):
        if i:
            chosen[i] = torch.multinomial(nearest + 1e-9, 1, generator=generator)
        distance = squares + squares[chosen[i]] - 2 * among @ among[chosen[i]]
        nearest = torch.minimum(nearest, distance.clamp(min=0))
    return candidates[chosen]


def _waking_loss(before: torch.Tensor, w_dec: torch.Tensor, missed: torch.Tensor, kept: int = 32) -> torch.Tensor:
    """How badly the silent features alone, their `kept` largest per token, explain what was missed.

    before (n, dead), w_dec (dead, d), missed (n, d).
    """
    top = torch.relu(before).topk(min(kept, before.shape[1]), dim=1)
    waking = torch.zeros_like(before).scatter(1, top.indices, top.values)
    return (missed - waking @ w_dec).square().sum(1).mean()


def train_and_save(
    model_folder: Path, output: Path, seed: int = 0, sentences: int = SENTENCES, steps: int = STEPS
) -> None:
    """Train every layer on the saved fp16 model and write the transcoder folder."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    stream = itertools.islice(grammar.training_examples(seed + 1), sentences)
    inputs, outputs = collect(model, tokenizer, [example.text for example in stream])
    test_inputs, test_outputs = collect(model, tokenizer, grammar.held_out_sentences(2000, seed=1))
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(CONFIG_YAML.format(model="atlas-organism", set="atlas-organism-jumprelu"))
    print(f"{inputs[0].shape[0]:,} tokens for the transcoders", flush=True)
    for i in range(len(inputs)):
        began = time.time()
        path = output / f"layer_{i}.safetensors"
        train_layer(inputs[i], outputs[i], seed=seed + i, steps=steps).save(path)
        figures = measure(Transcoder.load(path), test_inputs[i], test_outputs[i])
        print(
            f"layer {i}  unexplained {figures['unexplained_variance']:.4f}  L0 {figures['l0']:.1f}"
            f"  dead {figures['dead_features']}/{figures['features']}  {time.time() - began:.0f} s",
            flush=True,
        )
