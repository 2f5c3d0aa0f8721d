"""Where the reference is wrong, by numbers, and its graphs with each fault mended. Runs in the reference's own environment.

    PYTHON benchmarks/oracle/wrong.py FOLDER

FOLDER: what make_sets.py wrote. Prints how far the reference is from itself mended and writes the mended graphs to
FOLDER/mended/<case>.npz (`cases.py`), with `as_it_is` beside them where the reference gives a graph at all.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES, write_case
from run_reference import TransformerLensReplacementModel, arrays, load_parts, load_replacement


def mended(name: str, model_folder: Path, parts_folder: Path) -> tuple[Any, ExitStack]:
    """The reference's model without the fault, while the block is open."""
    block = ExitStack()
    parts = load_parts(parts_folder)
    if name == "two_rotary_bases":
        block.enter_context(
            patch.object(TransformerLensReplacementModel, "_deduplicate_attention_buffers", lambda self: None)
        )
    if name == "cross_layer_skip":
        files = [parts_folder / f"W_enc_{i}.safetensors" for i in range(parts.n_layers)]
        # in memory it multiplies by the matrix itself; in files of per-layer sets the transposed one lies
        weights = [load_file(file)[f"W_skip_{i}"].float().T for i, file in enumerate(files)]
        parts.W_skip = torch.nn.Parameter(torch.stack(weights), requires_grad=False)
        parts.skip_connection = True
    if name == "empty_last_position":
        block.enter_context(patch.object(CrossLayerTranscoder, "compute_reconstruction", _reconstruction))
    return load_replacement(model_folder, parts)[0], block


def _reconstruction(self: Any, positions: Any, layers: Any, vectors: Any, inputs: Any = None) -> torch.Tensor:
    """Its sum over decoders, with the number of positions taken from the inputs and not from the last active feature."""
    count = inputs.shape[1]
    total = torch.zeros(self.n_layers * count, self.d_model).index_add_(0, layers * count + positions, vectors)
    return total.reshape(self.n_layers, count, self.d_model) + self.b_dec[:, None]


def main() -> int:
    data = Path(sys.argv[1])
    (data / "mended").mkdir(exist_ok=True)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            model_folder, parts_folder = write_case(name, data, Path(place))
            model, network = load_replacement(model_folder, load_parts(parts_folder))
            print(f"{name}: {case.what}")
            broken = None
            try:
                broken = arrays(model, list(case.ids))
            except RuntimeError as error:
                print(f"  as it is: {str(error).splitlines()[0]}")
            model, block = mended(name, model_folder, parts_folder)
            with block:
                right = arrays(model, list(case.ids))
        with torch.no_grad():
            truth = network(torch.tensor([case.ids])).logits[0, -1].numpy()
        print(f"  mended: logits off by {np.abs(right['final_logits'] - truth).max():.1e}")
        if broken is not None:
            right["as_it_is_logits"] = broken["final_logits"]
            print(f"  as it is: logits off by {np.abs(broken['final_logits'] - truth).max():.1e}")
            print(f"  features: {len(broken['active_features'])} as it is, {len(right['active_features'])} mended")
            if np.array_equal(right["active_features"], broken["active_features"]):
                right["as_it_is"] = broken["adjacency_matrix"]
                off = right["adjacency_matrix"] - broken["adjacency_matrix"]
                relative = np.linalg.norm(off) / np.linalg.norm(right["adjacency_matrix"])
                print(
                    f"  as it is: edges off by {relative:.1e} (Frobenius norm, relative), {np.abs(off).max():.1e} at most"
                )
        np.savez_compressed(data / "mended" / f"{name}.npz", **right)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
