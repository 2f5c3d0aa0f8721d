"""Each verb on a real embedded server, as a user types it."""

from __future__ import annotations

import json

import pytest

from atlas import circuit_file


def test_import_goes_on_past_a_bad_file_and_says_so(filled, tmp_path) -> None:
    atlas_command, _ = filled
    (tmp_path / "bad.json").write_text('{"nodes": 3}')
    result = atlas_command("import", tmp_path, tmp_path / "absent.json", "--json")
    assert result.code == 1
    assert all(item["already"] for item in result.json["loaded"])
    assert len(result.json["loaded"]) == 3
    reasons = {item["path"].rsplit("/", 1)[-1]: item["reason"] for item in result.json["rejected"]}
    assert set(reasons) == {"bad.json", "absent.json"}
    text = atlas_command("import", tmp_path)
    assert "0 loaded, 3 already in the atlas, 1 rejected" in text.out


def test_circuits_filters_by_text_collection_and_limit(filled) -> None:
    atlas_command, ids = filled
    rows = atlas_command("circuits", "--in", "toys", "--json").json
    assert {row["id"] for row in rows} == set(ids.values())
    assert set(rows[0]) >= {"id", "name", "prompt", "model", "nodes", "edges", "verdict", "created_at"}
    assert [row["id"] for row in atlas_command("circuits", "--text", "D E", "--json").json] == [ids["d-e-f"]]
    assert len(atlas_command("circuits", "--limit", "1", "--json").json) == 1
    assert "a b" in atlas_command("circuits").out


def test_show_takes_id_prefix_and_name(filled) -> None:
    atlas_command, ids = filled
    for argument in (ids["a-b"], ids["a-b"][:12], "a-b"):
        shown = atlas_command("show", argument, "--json")
        assert shown.code == 0, shown.err
        assert shown.json["id"] == ids["a-b"]
    text = atlas_command("show", "a-b").out
    assert "toy-set" in text
    assert "feature/1/1/7" in text


def test_delete_export_and_import_again_give_the_same_circuit(filled, tmp_path) -> None:
    atlas_command, ids = filled
    out = tmp_path / "out" / "copy.safetensors"
    out.parent.mkdir()
    assert atlas_command("export", "a-c", "--format", "circuit", "-o", out, "--json").json == {"path": str(out)}
    assert circuit_file.from_bytes(out.read_bytes()).id == ids["a-c"]
    assert atlas_command("delete", "a-c", "--yes", "--json").json == {"deleted": ids["a-c"]}
    assert atlas_command("show", ids["a-c"]).code == 1
    again = atlas_command("import", out, "--json").json["loaded"][0]
    assert (again["circuit"], again["already"]) == (ids["a-c"], False)


@pytest.mark.parametrize("form", ["neuronpedia", "graphml"])
def test_export_in_other_formats(filled, tmp_path, form: str) -> None:
    atlas_command, ids = filled
    out = tmp_path / f"copy.{form}.json"
    assert atlas_command("export", "a-b", "--format", form, "-o", out).code == 0
    assert out.stat().st_size > 100
    if form == "neuronpedia":
        assert len(json.loads(out.read_text())["links"]) == 3
        assert atlas_command("import", out, "--json").json["loaded"][0]["circuit"] == ids["a-b"]


def test_export_to_a_place_that_is_not_there_is_one_sentence(filled, tmp_path) -> None:
    atlas_command, _ = filled
    result = atlas_command("export", "a-b", "--format", "circuit", "-o", tmp_path / "no" / "file", "--json")
    assert result.code == 1
    assert "cannot be written" in result.json["error"]["message"]


def test_delete_without_a_terminal_asks_for_yes(filled) -> None:
    atlas_command, _ = filled
    result = atlas_command("delete", "a-b")
    assert result.code == 2
    assert "--yes" in result.err


def test_paths_between_a_token_and_a_logit(filled) -> None:
    atlas_command, ids = filled
    hits = atlas_command("paths", "token:a", "logit:x", "--circuit", "a-b", "--json").json
    assert [node["key"] for node in hits[0]["nodes"]] == [
        "token/-1/0/5",
        "feature/0/1/6",
        "feature/1/1/7",
        "logit/2/1/3",
    ]
    assert hits[0]["circuit"] == ids["a-b"]
    assert hits[0]["share"] == pytest.approx(0.5**3)
    # 0.5 into feature 0 (activation 2), times -1/2, times 2/1
    assert hits[0]["effect"] == pytest.approx(0.5 * (-1 / 2) * (2 / 1))
    assert hits[0]["n_null"] == 199
    assert "p = (1 + exceedances)" in atlas_command("paths", "token:a", "logit:x").out


def test_compare_says_that_there_is_no_noise_floor_without_replicates(filled) -> None:
    atlas_command, _ = filled
    result = atlas_command("compare", "a-b", "a-c", "--json").json
    assert result["shared"] == 3
    assert result["floor"] is None
    assert all(edge["above_noise"] is None for edge in result["edges"])
    assert "no noise floor" in atlas_command("compare", "a-b", "a-c").out


def test_cypher_reads_and_refuses_to_write(filled) -> None:
    atlas_command, ids = filled
    query = "MATCH (c:Circuit)-[:CONTAINS]->(n:Node) WHERE c.id = $id RETURN count(n) AS nodes"
    result = atlas_command("cypher", query, "--params", json.dumps({"id": ids["a-b"]}), "--json").json
    assert result == {"columns": ["nodes"], "rows": [[4]], "truncated": False}
    refused = atlas_command("cypher", "MATCH (n) DETACH DELETE n", "--json")
    assert refused.code == 1
    assert refused.json["error"]["type"] == "QueryRefused"
    assert atlas_command("cypher", query, "--params", json.dumps({"id": ids["a-b"]}), "--json").json["rows"] == [[4]]
    assert atlas_command("cypher", "MATCH (n", "--json").code == 1
    limited = atlas_command("cypher", "MATCH (n:Node) RETURN n.key", "--limit", "2", "--json").json
    assert (len(limited["rows"]), limited["truncated"]) == (2, True)


def test_rebuild_up_and_doctor(filled) -> None:
    atlas_command, _ = filled
    there = len(atlas_command("circuits", "--json").json)  # the home is that of all tests of verbs
    before = atlas_command("cypher", "MATCH (n:Node) RETURN count(n) AS n", "--json").json
    rebuilt = atlas_command("rebuild", "--json")
    assert rebuilt.json["circuits"] == there >= 3
    assert atlas_command("cypher", "MATCH (n:Node) RETURN count(n) AS n", "--json").json == before
    assert "127.0.0.1" in atlas_command("up", "--json").json["address"]
    checks = atlas_command("doctor", "--json")
    assert checks.code == 0, checks.out
    assert {check["name"] for check in checks.json} >= {"catalog", "graph", "encoder", "disk"}


def test_search_in_an_unknown_model_is_not_an_empty_answer(filled) -> None:
    atlas_command, _ = filled
    result = atlas_command("search", "x", "--model", "nope", "--json")
    assert (result.code, result.json["error"]["type"]) == (1, "NotFound")
    assert "toy" in result.json["error"]["hint"]
    assert atlas_command("search", "x", "--model", "toy", "--json").json == []
