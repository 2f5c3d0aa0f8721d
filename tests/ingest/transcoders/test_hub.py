"""Hub names with a revision, from a cache in the Hugging Face layout: nothing is fetched. Not run on the real hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from atlas.errors import ModelRejected
from ingest.models import load_model
from ingest.models.files import locate
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_model
from tests.ingest.trace.test_refusals import refusal
from tests.ingest.transcoders import conftest as made

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def repository(cache: Path, name: str, **refs: str) -> Path:
    """The folder of snapshots of a repository whose branches and tags are `refs`."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    for ref, commit in refs.items():
        (place / "refs" / ref).write_text(commit)
    return place / "snapshots"


@pytest.fixture
def sets(cache, tmp_path) -> Path:
    """owner/set: two commits whose numbers differ; the later one has a second set in a folder."""
    snapshots = repository(cache, "owner/set", main=NEW, v1=OLD)
    made.plain(snapshots / OLD, "mlp.hook_in", "mlp.hook_out", seed=1, scan=None)
    made.plain(snapshots / NEW, "mlp.hook_in", "mlp.hook_out", seed=2, scan=None)
    made.plain(snapshots / NEW / "small" / "relu", "mlp.hook_in", "hook_mlp_out", seed=3, scan=None)
    return snapshots


def test_a_name_without_a_revision_is_its_main_branch(model, sets):
    loaded = load_transcoders("owner/set", model)
    assert (loaded.name, loaded.revision) == ("owner/set", NEW)


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_revision_is_a_branch_a_tag_or_a_commit_and_the_commit_is_recorded(model, sets, revision):
    loaded = load_transcoders(f"owner/set@{revision}", model)
    assert (loaded.name, loaded.revision) == ("owner/set", OLD)
    assert loaded.hash == load_transcoders(sets / OLD, model).hash != load_transcoders("owner/set", model).hash


def test_a_set_in_a_folder_of_a_repository(model, sets):
    loaded = load_transcoders("owner/set@main/small/relu", model)
    assert (loaded.name, loaded.revision, loaded.output_hook) == ("owner/set/small/relu", NEW, "hook_mlp_out")
    refusal(ModelRejected, "owner/set@v1/small has no folder small", load_transcoders, "owner/set@v1/small", model)


def test_what_is_not_in_the_cache_is_one_sentence(model, sets):
    for name in ("owner/set@v2", "owner/none@main", "owner/set@" + "c" * 40):
        refusal(ModelRejected, f"{name} is neither a folder nor a hub repository", load_transcoders, name, model)
    for name in ("owner/set@", "owner/set@v1/../x", "owner/set/small", "owner/set@v 1"):
        refusal(ModelRejected, "no transcoder set folder", load_transcoders, name, model)


def test_a_hub_that_does_not_answer_is_one_sentence_or_its_cache(model, sets, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    refusal(ModelRejected, "neither a folder nor a hub repository", load_transcoders, "owner/none@v1", model)
    assert load_transcoders("owner/set@v1", model).revision == OLD


def test_a_model_by_name_and_revision(cache):
    write_model(repository(cache, "owner/model", main=NEW, v1=OLD) / OLD)
    loaded = load_model("owner/model@v1", device="cpu")
    assert (loaded.name, loaded.revision, loaded.from_folder) == ("owner/model", OLD, False)
    assert locate("owner/model@v1", "model").folder.name == OLD


def test_a_folder_whose_name_has_an_at_sign_is_a_folder(tmp_path, cache, model):
    made.plain(tmp_path / "owner" / "set@v1", "mlp.hook_in", "mlp.hook_out")
    assert load_transcoders(tmp_path / "owner" / "set@v1", model).revision == "unknown"


def test_a_config_that_lists_files_of_a_repository_at_a_revision(model, cache, tmp_path):
    folder, layers = made.plain(tmp_path / "set", "ln2.hook_normalized", "hook_mlp_out", jump=True, scan=None)
    snapshots = repository(cache, "owner/weights", v1=OLD)
    made.gemma_scope(snapshots / OLD, layers)
    table = yaml.safe_load((folder / "config.yaml").read_text())
    files = [f"layer_{i}/width_16k/average_l0_{20 + i}/params.npz" for i in range(made.LAYERS)]
    table["transcoders"] = [f"hf://owner/weights/{file}?revision=v1" for file in files]
    listing = repository(cache, "owner/listing", main=NEW) / NEW
    listing.mkdir(parents=True)
    (listing / "config.yaml").write_text(yaml.safe_dump(table))
    loaded = load_transcoders("owner/listing", model)
    assert [Path(layer.place) for layer in loaded.layers] == [snapshots / OLD / file for file in files]
    assert (loaded.name, loaded.revision) == ("owner/listing", NEW)
    shutil.rmtree(snapshots / OLD / "layer_1")
    refusal(
        ModelRejected, "layer_1/.* of the hub repository owner/weights at v1", load_transcoders, "owner/listing", model
    )


@pytest.mark.parametrize(
    "files",
    [
        ["layer_{}/width_16k/average_l0_5/params.npz", "layer_{}/width_16k/average_l0_9/params.npz", "README.md"],
        [
            "transcoder/layer_{}_width_16k_l0_big/params.safetensors",
            "transcoder/layer_{}_width_16k_l0_small/params.safetensors",
        ],
    ],
)
def test_several_choices_in_a_repository_are_refused_before_they_are_fetched(model, cache, monkeypatch, files):
    listing = [f"sets/{file.format(layer)}" for layer in range(made.LAYERS) for file in files]
    monkeypatch.setattr(
        "huggingface_hub.model_info",
        lambda name, revision, timeout: SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in listing]),
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("fetched"))
    error = refusal(ModelRejected, "2 choices for layer 0", load_transcoders, "owner/scope@main/sets", model)
    assert "config.yaml" in error.hint
    listing.append("sets/config.yaml")
    with pytest.raises(pytest.fail.Exception, match="fetched"):
        load_transcoders("owner/scope@main/sets", model)
