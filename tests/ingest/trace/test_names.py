"""What models, sets and tokens are called, and what their content hashes to."""

from __future__ import annotations

import hashlib
import subprocess

from ingest.models import load_model
from ingest.models.files import content_hash
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_set


def test_a_model_folder_is_named_by_its_last_part_and_its_hash_never_by_its_path(tiny, tiny_model_folder):
    assert tiny.weights_hash == hashlib.sha256((tiny_model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert tiny.name == f"model-{tiny.weights_hash[:8]}"


def test_a_set_names_itself_and_the_model_it_was_trained_on(tiny, tmp_path):
    named = load_transcoders(write_set(tmp_path / "a"), tiny)
    assert (named.name, named.model_name) == ("tiny/random", "tiny")


def test_a_set_without_names_or_with_paths_for_names_is_named_by_its_folder_and_hash(tiny, tmp_path):
    for bad in (None, "", "/home/someone/set", "./set", "C:\\sets"):
        plain = load_transcoders(write_set(tmp_path / "my-set", scan=bad, model_name=bad), tiny)
        assert (plain.name, plain.model_name) == (f"my-set-{plain.hash[:8]}", tiny.name)


def test_the_hash_of_several_files_is_what_sha256sum_gives(tmp_path):
    folder = write_set(tmp_path / "set")
    command = "sha256sum *.safetensors | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert content_hash(list(folder.glob("*.safetensors"))) == printed.split()[0]


def test_the_hash_follows_the_content(tmp_path):
    first = content_hash(list(write_set(tmp_path / "set", seed=1).glob("*.safetensors")))
    again = content_hash(list(write_set(tmp_path / "other", seed=1).glob("*.safetensors")))
    changed = content_hash(list(write_set(tmp_path / "set", seed=2).glob("*.safetensors")))
    assert first == again != changed


def test_hashes_of_large_files_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ingest.models.files._REMEMBER_FROM", 10)
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"a" * 100)
    first = content_hash([file])
    store = tmp_path / "home" / "weight-hashes.json"
    store.write_text(store.read_text().replace(first, "f" * 64))
    assert content_hash([file]) == "f" * 64
    file.write_bytes(b"b" * 101)
    assert content_hash([file]) == hashlib.sha256(b"b" * 101).hexdigest()


def test_single_file_models_load_the_same_on_every_way(tiny_model_folder, tiny):
    assert load_model(str(tiny_model_folder), device="cpu").weights_hash == tiny.weights_hash
