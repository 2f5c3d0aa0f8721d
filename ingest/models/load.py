"""Load a model from a folder or by hub name, and refuse what cannot be traced before any long work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from atlas.circuit import UNKNOWN
from atlas.errors import ModelRejected
from ingest.models.base import Model
from ingest.models.devices import SPREAD, choose_device, choose_dtype
from ingest.models.files import content_hash, locate
from ingest.models.gemma import GemmaModel
from ingest.models.gpt2 import GPT2Model
from ingest.models.gpt_neox import GPTNeoXModel
from ingest.models.llama import LlamaModel

FAMILIES: dict[str, type[Model]] = {
    "gemma2": GemmaModel,
    "gemma3": GemmaModel,
    "gemma3_text": GemmaModel,
    "gpt2": GPT2Model,
    "gpt_neox": GPTNeoXModel,
    "llama": LlamaModel,
    "mistral": LlamaModel,
    "qwen2": LlamaModel,
    "qwen3": LlamaModel,
}


def load_model(
    name_or_folder: str | Path, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Model:
    """Load a Hugging Face causal language model with eager attention.

    A folder holds `config.json`, `*.safetensors` and a tokenizer. A hub name is resolved by huggingface_hub, which needs a
    connection or a filled cache; that way is not run in this project's tests. `device`: cuda if present, else cpu; `auto`
    spreads the layers over all GPUs (accelerate's device map; not run on several real ones), tracing itself uses the first.
    `dtype`: float32. Raises ModelRejected (missing, damaged or unknown model) or UsageError (device, dtype).
    """
    spread = device == SPREAD
    device, dtype = choose_device(None if spread else device), choose_dtype(dtype)
    place = locate(name_or_folder, "model")
    family = FAMILIES.get(_model_type(place.folder))
    if family is None:
        raise ModelRejected(
            f"The model {name_or_folder} has the architecture {_model_type(place.folder)!r}, which is not known.",
            f"Known architectures: {', '.join(sorted(FAMILIES))}; docs/trace.md says how to add one.",
        )
    files = sorted(place.folder.glob("*.safetensors"))
    if not files:
        raise ModelRejected(
            f"The model folder {place.folder} holds no *.safetensors.", "Save the weights as safetensors."
        )
    weights_hash = content_hash(files)
    network, tokenizer = _read(place.folder, dtype, SPREAD if spread else None)
    for name, weight in network.named_parameters():
        if weight.is_meta:  # accelerate keeps on disk or in main memory what fits on no device
            raise ModelRejected(
                f"The model {name_or_folder} does not fit on the devices of this machine in {str(dtype).removeprefix('torch.')}.",
                "Choose a narrower dtype such as bfloat16, or a machine with more memory.",
            )
        if not torch.isfinite(weight).all():
            raise ModelRejected(
                f"The weight {name} of the model {name_or_folder} holds NaN or infinity.",
                "Fetch or train the model again.",
            )
    return family(
        name=place.hub_name or f"{place.folder.name}-{weights_hash[:8]}",
        revision=place.revision or UNKNOWN,
        weights_hash=weights_hash,
        from_folder=place.hub_name is None,
        network=(network if spread else network.to(device)).eval().requires_grad_(False),
        tokenizer=tokenizer,
        device=network.get_input_embeddings().weight.device if spread else device,
        dtype=dtype,
    )


def _model_type(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text())
        return str(config["model_type"])
    except FileNotFoundError as error:
        raise ModelRejected(
            f"The model folder {folder} has no config.json.", "Pass a folder in the Hugging Face layout."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRejected(
            f"config.json of the model folder {folder} cannot be read or has no model_type.", "Fetch the model again."
        ) from error


def _read(folder: Path, dtype: torch.dtype, device_map: str | None) -> tuple[Any, Any]:
    """(network, tokenizer). Raises ModelRejected, also for weights that transformers would fill in at random."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    what = "model"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below by name
            local_files_only=True,
        )
        what = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged folder makes the libraries below raise errors of any type
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, KeyError):  # whose text is the bare key
            reason = f"{reason} is unknown or missing"
        raise ModelRejected(
            f"The {what} in {folder} cannot be loaded: {reason}.", "Fetch or train the model again."
        ) from error
    network, report = loaded
    missing = sorted(report["missing_keys"])
    if missing or report.get("mismatched_keys"):
        # transformers would go on with random weights in their place
        which = missing[0] if missing else sorted(report["mismatched_keys"])[0][0]
        raise ModelRejected(
            f"The weights in {folder} do not fit its config.json: {which} is missing or of another shape.",
            "Fetch the model again.",
        )
    beyond = next(
        (
            key
            for key in sorted(report["unexpected_keys"])
            if _layer(key) >= network.config.get_text_config().num_hidden_layers
        ),
        None,
    )
    if beyond is not None:
        raise ModelRejected(
            f"The weights in {folder} do not fit its config.json: {beyond} is of a layer that the config leaves out.",
            "Fetch the model again.",
        )
    return network, tokenizer


def _layer(key: str) -> int:
    """The number of the layer that a weight belongs to; -1: of none."""
    found = re.search(r"\.(?:layers|h)\.(\d+)\.", f".{key}")
    return int(found[1]) if found else -1
