"""Patching by parts of passes is the same as patching in whole passes of the real network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.causal_records import PatchRequest
from atlas.errors import InputRejected, ModelRejected, UsageError
from atlas.graph import embedded
from ingest.components.metrics import metric
from ingest.components.network import Place, run
from ingest.components.pairs import make_cases, make_pairs, recorded_cases
from ingest.components.patching import patch, patch_activations
from ingest.components.tail import Tail
from tests.ingest.components.conftest import random_cases

SITES = ["resid", "attn", "mlp", "head"]


@pytest.fixture
def atlas(settings) -> Iterator[Atlas]:
    with Atlas.open(settings=settings) as opened:
        yield opened
    embedded.stop(settings.home)


def plainly(model, cases, direction, measure) -> dict[tuple[str, int, int, int], np.ndarray]:
    """(B,) metric by part, one whole pass of one case each."""
    base, source = (cases.corrupted, cases.clean) if direction == "denoise" else (cases.clean, cases.corrupted)
    found: dict[tuple[str, int, int, int], np.ndarray] = {}
    for case, length in enumerate(cases.lengths.tolist()):
        one = cases.take([case])
        ids, other = base[case : case + 1, :length], source[case : case + 1, :length]
        places = [
            Place(site, layer)
            for site in ("resid.pre", "attn.out", "mlp.out", "head.out")
            for layer in range(model.n_layers)
        ]
        values = run(model, other, reads=places).values
        for place in places:
            for head in range(values[place].shape[2]) if place.site == "head.out" else [-1]:
                for position in range(-1 if head >= 0 else 0, length):

                    def edit(value, place=place, head=head, position=position, values=values):
                        value = value.clone()
                        there = slice(None) if position < 0 else position
                        if head < 0:
                            value[:, there] = values[place][:, there]
                        else:
                            value[:, there, head] = values[place][:, there, head]
                        return value

                    logits = run(model, ids, writes={place: edit}).logits
                    row = found.setdefault((place.site, place.layer, position, head), np.full(len(cases), np.nan))
                    row[case] = float(measure(logits, one))
    return found


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@torch.inference_mode()
def test_every_patch_is_that_of_a_whole_pass(family_model, direction):
    cases = random_cases([5, 3, 5], differ_from=2)
    measure = metric("logit-difference")
    patched = patch_activations(family_model, cases, SITES, direction, "counterfactual", measure, tokens_at_once=40)
    expected = plainly(family_model, cases, direction, measure)
    assert set(patched.parts) == set(expected)
    np.testing.assert_allclose(patched.values, [expected[part] for part in patched.parts], rtol=1e-9, atol=1e-10)


@torch.inference_mode()
def test_ablations_replace_by_what_they_say(family_model):
    cases = random_cases([5, 5, 5, 4])
    measure = metric("probability")
    blocks = range(family_model.n_layers)
    everything = run(family_model, cases.clean[:3], reads=[Place("head.out", l) for l in blocks]).values
    short = run(family_model, cases.clean[3:, :4], reads=[Place("head.out", l) for l in blocks]).values
    for replacement in ("mean", "zero"):
        patched = patch_activations(family_model, cases, ["head"], "noise", replacement, measure)
        for layer, position, head in ((0, 2, 1), (2, -1, 3), (1, 4, 0)):

            def edit(value, layer=layer, position=position, head=head, replacement=replacement):
                value = value.clone()
                long, shorter = everything[Place("head.out", layer)], short[Place("head.out", layer)]
                mean = long.sum(0)
                mean[:4] += shorter[0]
                mean = mean / torch.tensor([4.0, 4, 4, 4, 3], dtype=mean.dtype)[:, None, None]
                there = slice(None) if position < 0 else position
                value[:, there, head] = mean[there, head] if replacement == "mean" else 0
                return value

            made = run(family_model, cases.clean[:3], writes={Place("head.out", layer): edit})
            row = patched.parts.index(("head.out", layer, position, head))
            np.testing.assert_allclose(patched.values[row, :3], measure(made.logits, cases.take([0, 1, 2])), atol=1e-10)


@torch.inference_mode()
def test_resampling_takes_another_case_of_as_many_tokens(shipped):
    cases = make_cases(shipped, make_pairs("agreement", 4, 0, shipped))
    measure = metric("logit-difference")
    patched = patch_activations(shipped, cases, ["resid"], "noise", "resample", measure, seed=5)
    last = int(cases.last[0])
    row = patched.values[patched.parts.index(("resid.pre", shipped.n_layers - 1, last, -1))]
    streams = run(shipped, cases.clean, reads=[Place("resid.pre", shipped.n_layers - 1)]).values
    taken = []
    for case in range(4):
        for other in range(4):
            stream = streams[Place("resid.pre", shipped.n_layers - 1)]

            def edit(value, stream=stream, other=other):
                value = value.clone()
                value[:, last] = stream[other, last]
                return value

            one = cases.take([case])
            made = run(shipped, one.clean, writes={Place("resid.pre", shipped.n_layers - 1): edit})
            if abs(float(measure(made.logits, one)) - row[case]) < 1e-4:
                taken.append((case, other))
    assert all(sum(case == c for c, _ in taken) for case in range(4))
    assert not all((case, case) in taken for case in range(4))
    again = patch_activations(shipped, cases, ["resid"], "noise", "resample", measure, seed=5)
    np.testing.assert_array_equal(again.values, patched.values)
    with pytest.raises(InputRejected, match="only one of"):
        patch_activations(shipped, cases.take([0]), ["resid"], "noise", "resample", measure)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_of_the_stream_is_all_of_the_difference(shipped, direction):
    cases = make_cases(shipped, make_pairs("ioi", 6, 0, shipped))
    patched = patch_activations(shipped, cases, ["resid"], direction, "counterfactual", metric("logit-difference"))
    differs = int((cases.clean != cases.corrupted).any(0).nonzero()[0])
    effect = dict(zip(patched.parts, patched.effects(), strict=True))
    assert effect["resid.pre", 0, differs, -1] == pytest.approx(1, abs=1e-4)
    assert effect["resid.pre", shipped.n_layers - 1, int(cases.last[0]), -1] > 0.3
    assert all(value == 0 for (_, _, position, _), value in effect.items() if position < differs)


@pytest.mark.parametrize("name", ["probability", "kl"])
def test_effects_are_shares_of_the_difference_under_each_metric(shipped, name):
    cases = make_cases(shipped, make_pairs("agreement", 4, 0, shipped))
    patched = patch_activations(shipped, cases, ["resid"], "denoise", "counterfactual", metric(name))
    effect = dict(zip(patched.parts, patched.effects(), strict=True))
    subject = int((cases.clean != cases.corrupted).any(0).nonzero()[0])
    assert effect["resid.pre", 0, subject, -1] == pytest.approx(1, abs=1e-3)


def test_without_corrupted_prompts_effects_are_shares_of_the_metric(shipped):
    pairs = [pair.model_copy(update={"corrupted": None}) for pair in make_pairs("agreement", 4, 0, shipped)]
    cases = make_cases(shipped, pairs)
    patched = patch_activations(shipped, cases, ["mlp"], "noise", "mean", metric("logit-difference"))
    np.testing.assert_allclose(patched.effects(), 1 - patched.metric / patched.clean.mean(), atol=1e-12)
    told = patch_activations(shipped, cases, ["mlp"], "noise", "mean", metric("kl"))
    np.testing.assert_allclose(told.effects(), -told.metric, atol=1e-6)


def test_what_cannot_be_patched_is_one_sentence(shipped):
    pair = make_pairs("agreement", 1, 0, shipped)[0]
    measure = metric("logit-difference")
    bare = make_cases(shipped, [pair.model_copy(update={"corrupted": None})])
    with pytest.raises(InputRejected, match="no corrupted prompt"):
        patch_activations(shipped, bare, SITES, "noise", "counterfactual", measure)
    with pytest.raises(UsageError, match="cannot denoise"):
        patch_activations(shipped, make_cases(shipped, [pair]), SITES, "denoise", "zero", measure)
    same = make_cases(shipped, [pair.model_copy(update={"corrupted": pair.clean})])
    with pytest.raises(InputRejected, match="nothing to explain"):
        patch_activations(shipped, same, SITES, "denoise", "counterfactual", measure)


def test_a_killed_run_goes_on_where_it_was(shipped, tmp_path):
    cases = make_cases(shipped, make_pairs("agreement", 10, 0, shipped))
    folder = tmp_path / "unfinished"
    asked = (shipped, cases, SITES, "denoise", "counterfactual", metric("logit-difference"))
    whole = patch_activations(*asked)
    steps: list[int] = []

    class Killed(Exception):
        pass

    def until(done: int, total: int, what: str) -> None:
        steps.append(done)
        assert done <= total
        if len(steps) == 5:
            raise Killed

    with pytest.raises(Killed):
        patch_activations(*asked, progress=until, resume_dir=folder)
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(files) == 5
    damaged = sorted(files)[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    finished = patch_activations(*asked, resume_dir=folder)
    np.testing.assert_allclose(finished.values, whole.values, rtol=0, atol=1e-12)
    kept = [file for file, time in files.items() if file.stat().st_mtime_ns == time]
    assert sorted(kept) == sorted(set(files) - {damaged})
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_whole_pieces_only(shipped, tmp_path):
    script = (
        "import sys, pathlib\n"
        "from ingest.components.metrics import metric\n"
        "from ingest.components.pairs import make_cases, make_pairs\n"
        "from ingest.components.patching import patch_activations\n"
        "from ingest.models import load_model\n"
        "from ingest.organism import model_path\n"
        "model = load_model(model_path(), device='cpu')\n"
        "cases = make_cases(model, make_pairs('ioi', 40, 0, model))\n"
        "say = lambda done, total, what: print(done, flush=True)\n"
        "asked = (['resid', 'head'], 'denoise', 'counterfactual', metric('logit-difference'))\n"
        "patch_activations(model, cases, *asked, progress=say, resume_dir=pathlib.Path(sys.argv[1]))\n"
    )
    folder = tmp_path / "unfinished"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline()
    process.kill()
    process.wait()
    assert 20 <= len(list(folder.glob("*.npy"))) < 5 * 16
    cases = make_cases(shipped, make_pairs("ioi", 40, 0, shipped))
    asked = (shipped, cases, ["resid", "head"], "denoise", "counterfactual", metric("logit-difference"))
    finished = patch_activations(*asked, resume_dir=folder)
    np.testing.assert_allclose(finished.values, patch_activations(*asked).values, atol=1e-9)


def test_memory_that_runs_out_halves_what_is_run_at_once(shipped, monkeypatch):
    cases = make_cases(shipped, make_pairs("agreement", 3, 0, shipped))
    asked = (shipped, cases, SITES, "noise", "counterfactual", metric("logit-difference"))
    whole = patch_activations(*asked)
    forward, tried = Tail.layer, []

    def small(self, whole, number, stream, *rest):
        tried.append(len(stream))
        if len(stream) > 12:
            raise torch.OutOfMemoryError("too much")
        return forward(self, whole, number, stream, *rest)

    monkeypatch.setattr(Tail, "layer", small)
    np.testing.assert_allclose(patch_activations(*asked).values, whole.values, atol=1e-4)
    assert max(tried) > 12

    def never(self, *args):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(Tail, "layer", never)
    with pytest.raises(ModelRejected, match="not enough memory"):
        patch_activations(*asked)


@pytest.mark.embedded
def test_heat_maps_are_kept_as_a_circuit_and_found_again(shipped, atlas):
    request = PatchRequest(profile="demo", template="agreement", count=3, sites=["resid", "head"])
    told = []
    added = patch(atlas, request, progress=lambda *said: told.append(said))
    circuit = atlas.load(added.circuit)
    cases = recorded_cases(shipped, circuit.record)
    layers, heads, length = shipped.n_layers, 4, int(cases.lengths[0])
    assert added.nodes == layers * length + layers * (length + 1) * heads
    assert told[-1][0] == told[-1][1]
    record = circuit.record
    assert record.transcoders.name == "components"
    assert record.method.weight_unit == "logits"
    assert record.provenance.source_metadata["template"] == "agreement"
    assert len(record.examples) == 3
    assert record.examples[0].corrupted_token_ids != record.examples[0].token_ids
    direct = patch_activations(
        shipped, cases, ["resid", "head"], "denoise", "counterfactual", metric("logit-difference")
    )
    effect = circuit.extra["patching.effect"]
    np.testing.assert_allclose(effect, direct.effects(), atol=1e-4)
    row = circuit.row("head.out/2/-1/3")
    assert circuit.nodes.influence[row] == abs(effect[row])
    assert "resid.pre/0/0/-1" in circuit.row_of_key
    assert patch(atlas, request, model=shipped).already
    other = patch(atlas, request.model_copy(update={"direction": "noise"}))
    assert other.circuit != added.circuit
    assert not list(atlas.settings.home.glob("unfinished/*"))


def test_bad_requests_are_refused_before_a_model_is_loaded(atlas, tmp_path):
    missing = {"model": str(tmp_path / "none"), "template": "ioi"}
    with pytest.raises(UsageError, match="no metric"):
        patch(atlas, PatchRequest(metric="guess", **missing))
    with pytest.raises(UsageError, match="only by a command on this machine"):
        patch(atlas, PatchRequest(metric="function:os:getcwd", **missing), origin={"job": "j"})
    with pytest.raises(UsageError, match="Name a model or a profile"):
        patch(atlas, PatchRequest(template="ioi"))
