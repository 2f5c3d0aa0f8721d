"""From named tensors of a file to a `Transcoder`: shapes, finiteness, device and dtype. Shared by all layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from atlas.errors import ModelRejected
from ingest.memory import available
from ingest.models.base import Model
from ingest.transcoders.set import Transcoder

# below this share of the free memory a set is copied to the device in the model's dtype, else it stays in its files
RESIDENT_SHARE = 0.25
_REQUIRED = ("w_enc", "b_enc", "w_dec", "b_dec")


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, memory-mapped: nothing is read before it is used. Raises ModelRejected."""
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise ModelRejected(f"{file} is not a readable safetensors file.", "Fetch the set again.") from error


def fits_in_memory(files: Sequence[Path], model: Model) -> bool:
    """Whether all weights may be copied to the model's device: they are small beside its free memory."""
    total = sum(file.stat().st_size for file in files)
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = available()
    return total <= RESIDENT_SHARE * free


def build(
    file: Path,
    parts: dict[str, torch.Tensor],
    names: dict[str, str],
    model: Model,
    *,
    resident: bool,
    top_k: int | None = None,
    layers_written: int | None = None,
) -> Transcoder:
    """A layer of `parts`: w_enc (f, d), b_enc (f), w_dec (f, d) or (f, layers_written, d), b_dec (d) [, threshold (f)]
    [, w_skip (d, d)]. `names`: what the file calls them, for messages. resident: copy the matrices, and look for NaN now.
    Raises ModelRejected.
    """
    for name in _REQUIRED:
        if name not in parts:
            raise ModelRejected(f"{file} has no tensor {names[name]}.", "Fetch the set again.")
    encoder = parts["w_enc"]
    if encoder.ndim != 2:
        raise ModelRejected(
            f"{names['w_enc']} in {file} has {encoder.ndim} dimensions, not 2.",
            "docs/trace.md has the shapes of each layout.",
        )
    rows, width = encoder.shape
    if width != model.width:
        raise ModelRejected(
            f"The transcoders in {file} have width {width}, the model {model.name} has {model.width}.",
            "Pass the set that was trained on this model.",
        )
    decoder = (rows, width) if layers_written is None else (rows, layers_written, width)
    shapes = {"w_enc": (rows, width), "b_enc": (rows,), "w_dec": decoder, "b_dec": (width,)}
    shapes |= {"threshold": (rows,), "w_skip": (width, width)}
    if top_k is not None and not 1 <= top_k <= rows:
        raise ModelRejected(
            f"{file} keeps the {top_k} largest of {rows} features.", "Put a number from 1 to that into its config."
        )
    made: dict[str, torch.Tensor] = {}
    for name, tensor in parts.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ModelRejected(
                f"{names[name]} in {file} has the shape {tuple(tensor.shape)}, not {shapes[name]}.",
                "docs/trace.md has the shapes of each layout; or fetch the set again.",
            )
        if not tensor.is_floating_point():
            raise ModelRejected(
                f"{names[name]} in {file} holds no floating-point numbers.", "Save it as float32, float16 or bfloat16."
            )
        large = name in ("w_enc", "w_dec")
        if (resident or not large) and not torch.isfinite(tensor).all():
            raise ModelRejected(f"{names[name]} in {file} holds NaN or infinity.", "Fetch or train the set again.")
        if large and not resident:
            made[name] = tensor
        else:
            moved = tensor.to(model.device, model.dtype).contiguous()
            made[name] = moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved  # not the mapped file
    return Transcoder(**made, top_k=top_k, place=str(file))
