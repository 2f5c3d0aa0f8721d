"""`atlas trace --dry-run, --continue, --at, --keep-full`, `atlas prune` and `atlas show --edge`, with the shipped model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from atlas import Atlas, circuit_file
from atlas.circuit import Edges

DEMO = ("--profile", "demo")
PROMPT = "The opposite of hot is"

pytestmark = [pytest.mark.slow, pytest.mark.embedded]


@pytest.fixture
def command(atlas_command, shared_home, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(shared_home))
    return atlas_command


def traced(command, *arguments: str) -> dict:
    result = command("trace", *DEMO, *arguments, "--json")
    assert result.code == 0, result.err
    return result.json


def record(command, circuit: str) -> dict:
    return command("show", circuit, "--json").json["record"]


def test_a_dry_run_counts_and_leaves_nothing(atlas_command, tmp_path):
    result = atlas_command("trace", *DEMO, "--dry-run", PROMPT, "--json")
    assert result.code == 0, result.err
    found = result.json
    assert found["tokens"] == 6
    assert found["active_features"] == sum(found["largest_layers"]) > 100
    assert found["targets"] == 1
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 2**20
    assert 0.9 < found["explained_variance"] <= 1
    assert not (tmp_path / "home" / "atlas.db").exists()
    text = atlas_command("trace", *DEMO, "--dry-run", "--targets", "cold,hot", PROMPT).out
    assert text.startswith(f"6 tokens, {found['active_features']} active features, 2 targets: about ")


def test_a_dry_run_counts_what_the_trace_then_has(command):
    counted = command("trace", *DEMO, "--dry-run", PROMPT, "--json").json
    made = traced(command, PROMPT, "--node-threshold", "1", "--edge-threshold", "1")
    # 6 tokens, an error node for every layer and position but the first, the target
    assert counted["active_features"] <= made["nodes"] <= counted["nodes"]
    assert made["edges"] <= counted["edges_at_most"]


def test_a_token_in_the_middle_is_explained_from_what_stands_before_it(command):
    made = traced(command, "--at", "4", PROMPT)
    found = record(command, made["circuit"])
    assert found["examples"][0]["tokens"][1:] == ["The", "opposite", "of"]
    assert [(t["what"], t["position"]) for t in found["targets"]] == [("hot", 3)]
    assert traced(command, "--at", "-2", PROMPT)["circuit"] == made["circuit"]


def test_what_the_model_goes_on_to_write_is_explained(command):
    first = record(command, traced(command, "--continue", "1", PROMPT)["circuit"])
    assert first["targets"][0]["what"] == "cold"
    assert len(first["examples"][0]["tokens"]) == 6
    second = record(command, traced(command, "--continue", "2", "--at", "-1", PROMPT)["circuit"])
    assert second["examples"][0]["tokens"][-1] == "cold"
    assert second["targets"][0]["position"] == 6
    assert len(second["targets"]) == 1


def test_a_kept_full_graph_is_cut_anew_as_a_trace_would_cut_it(command):
    whole = traced(command, "--keep-full", "The opposite of tall is")
    made = whole["circuit"]
    cut = command("prune", made, "--node-threshold", "0.5", "--in", "cut", "--json")
    assert cut.code == 0, cut.err
    assert cut.json["nodes"] < whole["nodes"]
    assert not cut.json["already"]
    same = traced(command, "--node-threshold", "0.5", "The opposite of tall is")
    assert (same["circuit"], same["already"]) == (cut.json["circuit"], True)
    assert command("show", same["circuit"], "--json").json["collections"] == ["cut"]
    assert record(command, cut.json["circuit"])["name"] == "the-opposite-of-tall-is-pruned-0.5-0.98"
    # the new circuit can be cut again, and back to the first
    assert command("prune", cut.json["circuit"], "--json").json["circuit"] == made


def test_a_trace_that_was_not_kept_is_kept_when_asked_again(command):
    made = traced(command, "The opposite of young is")["circuit"]
    missing = command("prune", made)
    assert missing.code == 1
    assert missing.err == (
        f"The full graph of {made} was not kept on this machine. "
        "Trace again with --keep-full; then it can be pruned as often as you like. An imported circuit is as its file was.\n"
    )
    again = traced(command, "--keep-full", "The opposite of young is")
    assert (again["circuit"], again["already"]) == (made, True)
    assert command("prune", made, "--json").json["circuit"] == made


def test_a_damaged_full_graph_is_one_sentence(command, shared_home):
    made = traced(command, "--keep-full", "The opposite of big is")["circuit"]
    file = shared_home / "full" / f"{made}.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    result = command("prune", made)
    assert result.code == 1
    assert result.err == f"The full graph {file} is damaged. Trace again with --keep-full.\n"
    file.unlink()


def test_every_edge_is_shown_with_parts_that_sum_to_it_stored_or_computed(command, shared_home):
    made = traced(command, PROMPT, "--node-threshold", "1", "--edge-threshold", "1")["circuit"]
    with Atlas.open(shared_home) as atlas:
        circuit = atlas.load(made)
    opened = set(circuit.extra["heads.edge"].tolist())
    closed = next(row for row in range(len(circuit.edges)) if row not in opened)
    assert len(opened) == 200
    for row in (min(opened), closed):
        source, target = (circuit.keys[ends[row]] for ends in (circuit.edges.source, circuit.edges.target))
        result = command("show", made, "--edge", f"{source}->{target}", "--json")
        assert result.code == 0, result.err
        found = result.json
        assert found["parts"]
        assert sum(part["weight"] for part in found["parts"]) == pytest.approx(found["weight"], rel=1e-4, abs=1e-7)
        text = command("show", made, "--edge", f"{source} -> {target}").out
        assert text.startswith(f"{source} -> {target}: weight ")
        assert len(text.splitlines()) == 3 + len(found["parts"])  # the edge, its mark, the table


def test_a_model_of_the_name_with_other_weights_opens_no_edge(command, shared_home, tmp_path):
    made = traced(command, "The opposite of young is", "--node-threshold", "1", "--edge-threshold", "1")["circuit"]
    with Atlas.open(shared_home) as atlas:
        circuit = atlas.load(made)
    e = circuit.edges
    circuit = replace(
        circuit, edges=Edges(source=e.source, target=e.target, weight=e.weight * 2, slot=e.slot), extra={}
    )
    circuit.record.model.weights_hash = "0" * 64
    file = tmp_path / "other.safetensors"
    file.write_bytes(circuit_file.to_bytes(circuit))
    other = command("import", file, "--json").json["loaded"][0]["circuit"]
    edge = f"{circuit.keys[circuit.edges.source[0]]}->{circuit.keys[circuit.edges.target[0]]}"
    result = command("show", other, "--edge", edge)
    assert result.err.startswith("The parts of this edge are not stored, and the model atlas-organism here has other")
    assert len(result.err.splitlines()) == 1


def test_the_columns_of_a_file_of_prompts_are_the_options(command, tmp_path):
    file = tmp_path / "many.csv"
    file.write_text(
        "prompt,continue_by,at\n"
        f"{PROMPT},1,\n"
        f"{PROMPT},,4\n"
        f"{PROMPT},one,\n"
        f"{PROMPT},,2.5\n"
        f"{PROMPT},-1,\n"
        f"{PROMPT},,0\n"
        f"{PROMPT},,77\n"
    )
    result = command("trace", "--prompts", file, *DEMO, "--json")
    assert result.code == 1
    assert [record(command, row["circuit"])["targets"][0]["what"] for row in result.json["traced"]] == ["cold", "hot"]
    assert [(row["line"], row["reason"]) for row in result.json["rejected"]] == [
        (4, "continue_by is not a whole number"),
        (5, "at is not a whole number"),
        (6, "continue_by: input should be greater than or equal to 0"),
        (7, "The token at position 0 has nothing before it. Pass a position from 1 on."),
        (
            8,
            "There is no token at position 77 to explain: the text has 6 tokens, and the first explains itself. "
            "Pass a position from 1 to 5.",
        ),
    ]


def test_a_queued_trace_keeps_the_options(atlas_command):
    (job,) = atlas_command("trace", *DEMO, "--queue", "--continue", "2", "--at", "-1", PROMPT, "--json").json["jobs"]
    asked = atlas_command("jobs", "show", job, "--json").json["arguments"]
    assert asked == {"prompt": PROMPT, "profile": "demo", "continue_by": 2, "at": -1}


REFUSED = {
    "beyond the text": (("--at", "9"), 1, "There is no token at position 9 to explain: the text has 6 tokens"),
    "before the text": (("--at", "-7"), 1, "There is no token at position -7 to explain"),
    "the first token": (("--at", "0"), 1, "Pass a position from 1 to 5."),
    "no position": (("--at", "last"), 2, "Invalid value for '--at'"),
    "longer than the context": (("--continue", "99"), 1, "longer than the model's context 64. Shorten one of the two."),
    "less than nothing": (("--continue", "-1"), 2, "Invalid value for '--continue'"),
    "chat without a template": (("--chat",), 2, "has no chat template. Leave --chat out."),
    "a cap below the targets": (("--max-features", "0"), 2, "Invalid value for '--max-features'"),
    "kept by the queue": (("--keep-full", "--queue"), 2, "--keep-full and --dry-run are for one prompt, traced here."),
    "a dry run in the queue": (("--dry-run", "--queue"), 2, "Leave --queue and --prompts out."),
    "position 0 in the queue": (("--at", "0", "--queue"), 2, "The token at position 0 has nothing before it."),
    "a target that is not one": (("--dry-run", "--targets", "Oslo"), 1, "The target 'Oslo' is not in the model's"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(name, atlas_command):
    options, code, said = REFUSED[name]
    result = atlas_command("trace", *DEMO, PROMPT, *options)
    assert result.code == code
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.out
    assert json.loads(atlas_command("circuits", "--json").out) == []
    assert json.loads(atlas_command("jobs", "--json").out) == []


def test_an_edge_that_is_not_one_is_one_sentence(filled_at_home):
    command, ids = filled_at_home
    circuit = ids["a-b"]
    keys = ["token/-1/0/5", "feature/0/1/6", "feature/1/1/7"]
    for edge, said in {
        "somewhere": "'somewhere' is not an edge. Write it as SOURCE->TARGET, two node keys of the circuit.",
        "->": "'->' is not an edge.",
        f"nothing->{keys[1]}": "has no node 'nothing'.",
        f"{keys[0]}->{keys[2]}": f"The circuit {circuit} has no edge from {keys[0]} to {keys[2]}.",
        f"{keys[0]}->{keys[1]}": "The parts of this edge are not stored, and the model toy is not here to compute them.",
    }.items():
        result = command("show", circuit, "--edge", edge)
        assert result.code in (1, 2)
        assert said in result.err
        assert len(result.err.splitlines()) == 1
        assert not result.out
