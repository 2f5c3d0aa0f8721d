"""What a user may pass that cannot be used: one sentence, exit 1 or 2, and the atlas as before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas import circuit_file
from tests.conftest import make_circuit

DEMO = ("--profile", "demo")
PROMPT = "The opposite of hot is"
UNUSABLE_MODELS = {
    "nothing in it": ("has no config.json", None),
    "config.json is no JSON": ("cannot be read", lambda folder: (folder / "config.json").write_text("{")),
    "unknown architecture": ("'mamba'", lambda folder: _configure(folder, model_type="mamba")),
    "a width in words": ("hidden_size", lambda folder: _configure(folder, hidden_size="many")),
    "no attention heads": ("cannot be loaded", lambda folder: _configure(folder, num_attention_heads=0)),
    "another width": ("of another shape", lambda folder: _configure(folder, hidden_size=64)),
    "more layers": ("model.layers.4", lambda folder: _configure(folder, num_hidden_layers=9)),
    "fewer layers": ("of a layer that the config leaves out", lambda folder: _configure(folder, num_hidden_layers=1)),
    "no weights": ("holds no *.safetensors", lambda folder: (folder / "model.safetensors").unlink()),
    "weights cut off": ("cannot be loaded", lambda folder: os.truncate(folder / "model.safetensors", 5000)),
    "NaN in a weight": ("NaN", lambda folder: _weights(folder / "model.safetensors", lambda w: w * float("nan"))),
    "no tokenizer": ("tokenizer", lambda folder: [file.unlink() for file in folder.glob("tokenizer*")]),
}
UNUSABLE_SETS = {
    "another width": ("width 256", lambda folder: _weights(folder / "layer_0.safetensors", _doubled)),
    "fewer layers": ("has 3 layers", lambda folder: (folder / "layer_3.safetensors").unlink()),
    "flat tensors": (
        "1 dimensions",
        lambda folder: _weights(folder / "layer_0.safetensors", lambda w: w.reshape(-1)),
    ),
    "whole numbers": ("no floating-point", lambda folder: _weights(folder / "layer_0.safetensors", lambda w: w.int())),
    "infinity": ("infinity", lambda folder: _weights(folder / "layer_1.safetensors", lambda w: w / 0)),
    "cut off": ("not a readable", lambda folder: os.truncate(folder / "layer_2.safetensors", 3000)),
    "config.yaml is no YAML": ("cannot be read", lambda folder: (folder / "config.yaml").write_text("a: [1\nb: }")),
    "no config.yaml": ("and no config.yaml beside them", lambda folder: (folder / "config.yaml").unlink()),
}


def _configure(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _weights(file: Path, change: Callable) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: change(tensor).contiguous() for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def _doubled(tensor):
    import torch

    return torch.cat([tensor, tensor], -1)


def _shipped(tmp_path: Path) -> tuple[Path, Path]:
    from ingest.organism import model_path, transcoders_path

    return (
        Path(shutil.copytree(model_path(), tmp_path / "model")),
        Path(shutil.copytree(transcoders_path(), tmp_path / "set")),
    )


def _refused(command, *arguments, code: int, type: str, text: str) -> None:
    """The failure in one sentence, in both forms of output, and nothing in the atlas."""
    plain = command(*arguments)
    assert (plain.code, plain.out) == (code, ""), plain.err
    assert len(plain.err.splitlines()) == 1, plain.err
    assert "unexpected" not in plain.err
    assert "Traceback" not in plain.err
    error = command(*arguments, "--json").json["error"]
    assert error["type"] == type
    assert error["hint"]
    assert text in error["message"]
    assert command("circuits", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "code", "type", "text"),
    [
        ([""], 1, "InputRejected", "empty"),
        ([" \n\t"], 1, "InputRejected", "empty"),
        (["hot " * 100], 1, "InputRejected", "context 64"),
        (["a\udcff b"], 1, "InputRejected", "no text"),
        (["a\0b"], 1, "InputRejected", "no text"),
        (["--token-ids", "1,999999"], 1, "InputRejected", "position 1"),
        (["--token-ids", "1,-5"], 1, "InputRejected", "outside the vocabulary"),
        (["--token-ids", ""], 2, "UsageError", "whole numbers"),
        ([PROMPT, "--targets", "xyzzy"], 1, "InputRejected", "not in the model's vocabulary"),
        ([PROMPT, "--targets", "cold hot"], 1, "InputRejected", "2 tokens"),
        ([PROMPT, "--targets", ""], 1, "InputRejected", "No target"),
        ([PROMPT, "--device", "cuda:77"], 2, "UsageError", "not here"),
        ([PROMPT, "--device", "meta"], 2, "UsageError", "not here"),
        ([PROMPT, "--device", "toaster"], 2, "UsageError", "not here"),
        ([PROMPT, "--dtype", "int3"], 2, "UsageError", "int3"),
        ([PROMPT, "--node-threshold", "nan"], 2, "UsageError", "--node-threshold"),
        ([PROMPT, "--edge-threshold", "1.5"], 2, "UsageError", "--edge-threshold"),
        ([PROMPT, "--max-features", "0"], 2, "UsageError", "--max-features"),
    ],
)
def test_what_cannot_be_traced_is_refused(atlas_command, arguments, code, type, text) -> None:
    _refused(atlas_command, "trace", *arguments, *DEMO, code=code, type=type, text=text)


@pytest.mark.parametrize("fault", UNUSABLE_MODELS)
def test_a_model_that_cannot_be_used_is_refused(atlas_command, tmp_path, fault) -> None:
    text, spoil = UNUSABLE_MODELS[fault]
    model, transcoders = _shipped(tmp_path)
    if spoil:
        spoil(model)
    else:
        shutil.rmtree(model)
        model.mkdir()
    arguments = ("trace", PROMPT, "--model", model, "--transcoders", transcoders)
    _refused(atlas_command, *arguments, code=1, type="ModelRejected", text=text)


@pytest.mark.parametrize("fault", UNUSABLE_SETS)
def test_transcoders_that_do_not_fit_are_refused(atlas_command, tmp_path, fault) -> None:
    text, spoil = UNUSABLE_SETS[fault]
    model, transcoders = _shipped(tmp_path)
    spoil(transcoders)
    arguments = ("trace", PROMPT, "--model", model, "--transcoders", transcoders)
    _refused(atlas_command, *arguments, code=1, type="ModelRejected", text=text)


@pytest.mark.embedded
def test_a_folder_of_good_and_bad_files_loads_the_good_ones(atlas_command, shared_home, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(shared_home))
    folder = tmp_path / "in"
    folder.mkdir()
    good = circuit_file.to_bytes(make_circuit("bad files", (0.5, 0.25, 2.0)))
    newer = good.replace(b'"schema_version":"1"', b'"schema_version":"2"')
    odd = good.replace(b'"schema_version":"1"', b'"schema_version":"\\')  # not even JSON any more
    path_for_name = circuit_file.to_bytes(make_circuit("bad files", model="/home/someone/model"))
    names = [
        "plain.circuit",
        "new\nline.circuit",
        "two words 🎉.circuit",
        "e\x1b[31mred.circuit",
        "n" * 240 + ".circuit",
    ]
    names.append(os.fsdecode(b"no-utf8-\xff.circuit"))
    for name in names:
        (folder / name).write_bytes(good)
    bad = {
        "newer.circuit": newer,
        "odd.circuit": odd,
        "cut.circuit": good[:-10],
        "named-by-path.circuit": path_for_name,
        "torch.pt": b"PK\x03\x04",
        "list.json": b"[]",
        "empty.json": b"",
        "parts.json": b'{"metadata": {}, "nodes": []}',
        "nan.json": b'{"metadata": {}, "nodes": [], "links": [{"source": "a", "target": "b", "weight": NaN}]}',
        os.fsdecode(b"no-utf8-\xfe.json"): b"{",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "fifo.json")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "dangling.json").symlink_to(folder / "nowhere")
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "itself").symlink_to(folder)
    expected = {*bad, "fifo.json", "loop.json", "dangling.json", "device.json"}

    result = atlas_command("import", folder, "--json")
    assert result.code == 1
    assert {Path(item["path"]).name for item in result.json["loaded"]} == set(names)
    assert len({item["circuit"] for item in result.json["loaded"]}) == 1
    assert [item["already"] for item in result.json["loaded"]].count(False) == 1
    assert {Path(item["path"]).name for item in result.json["rejected"]} == expected
    assert all(item["reason"] for item in result.json["rejected"])
    text = atlas_command("import", folder).out
    assert "\x1b" not in text
    assert "0 loaded, 6 already in the atlas, 14 rejected" in text
    assert atlas_command("delete", result.json["loaded"][0]["circuit"], "--yes").code == 0  # the home is shared


def test_nothing_to_import_says_what_is_looked_for(atlas_command, tmp_path) -> None:
    (tmp_path / "void").mkdir()
    result = atlas_command("import", tmp_path / "void", "--json")
    assert result.code == 1
    assert ".json" in result.json["rejected"][0]["reason"]


@pytest.mark.embedded
@pytest.mark.parametrize("output", ["", ".", "/", "folder", "nowhere/file", "/proc/file", "x" * 300])
def test_a_place_that_cannot_be_written_leaves_nothing_behind(filled_at_home, tmp_path, output) -> None:
    atlas_command, _ = filled_at_home
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    result = atlas_command("export", "a-b", "--format", "circuit", "-o", output, "--json")
    assert result.code == 1
    assert "cannot be written" in result.json["error"]["message"]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.embedded
def test_export_writes_through_a_link_and_into_a_pipe(filled_at_home, tmp_path) -> None:
    atlas_command, _ = filled_at_home
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    assert atlas_command("export", "a-b", "--format", "circuit", "-o", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    whole = (tmp_path / "old").read_bytes()
    assert circuit_file.from_bytes(whole).record.prompt == "a b"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert atlas_command("export", "a-b", "--format", "circuit", "-o", tmp_path / "pipe").code == 0
        assert (tmp_path / "pipe").is_fifo()
        assert circuit_file.from_bytes(os.read(reader, len(whole) + 1)).id == circuit_file.from_bytes(whole).id
    finally:
        os.close(reader)


@pytest.mark.embedded
def test_control_characters_of_a_file_never_reach_the_terminal(
    atlas_command, shared_home, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(shared_home))
    hostile = "\x1b]0;title\x07\x9b31m[red]:smile:"
    circuit = make_circuit(f"{hostile} b", model=f"m{hostile}", transcoders=f"s{hostile}")
    (tmp_path / "hostile.circuit").write_bytes(circuit_file.to_bytes(circuit))
    added = atlas_command("import", tmp_path / "hostile.circuit", "--json").json["loaded"][0]["circuit"]
    for verb in (
        ["show", added],
        ["circuits"],
        ["paths", "logit:x", "logit:x", "--circuit", added],
        ["cypher", "MATCH (c:Circuit) RETURN c.prompt AS `[/b]`, c.model"],
        ["show", hostile],
        ["delete", added, "--yes"],
    ):
        result = atlas_command(*verb)
        assert "unexpected" not in result.err
        shown = result.out + result.err
        assert not [char for char in shown if not char.isprintable() and char not in "\n\t"], verb
        if verb in (["show", added], ["circuits"]):
            assert "[red]:smile:" in shown
